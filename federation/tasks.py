"""Background tasks: ending them so that no cancellation is lost, reporting those that crash, telling subscribers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

LOST_S = 1.0  # then a task that was cancelled and is at work again is taken to have lost it

log = logging.getLogger(__name__)
_ending: WeakSet[asyncio.Task[Any]] = WeakSet()  # `cancelling()` does not tell: `asyncio.timeout` cancels its task, too


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> tuple[Exception, ...]:
    """Cancel `tasks` (None counts for nothing) and return when all are over; the errors that some ended with.

    A task is cancelled once, however many wait for its end here, since a second time would keep it from cleaning up.
    For the same reason whoever waits here may be cancelled, and the tasks still clean up in peace:
    CancelledError is raised when they are over. One that takes its cancellation back (`uncancel`) and goes on is
    cancelled again after LOST_S, with a warning in the log: it would be waited for for ever.

    Do not pass a task that others await the result of, unless they are to be cancelled, too. A task cannot wait for
    itself: RuntimeError.
    """
    given = tuple(task for task in tasks if task is not None)
    if asyncio.current_task() in given:
        raise RuntimeError("a task cannot wait for its own end")
    for task in given:
        if task not in _ending:
            _ending.add(task)
            task.cancel()
    interrupted: asyncio.CancelledError | None = None
    while running := [task for task in given if not task.done()]:
        try:
            await asyncio.wait(running, timeout=LOST_S)
        except asyncio.CancelledError as error:
            interrupted = error
        for task in running:
            if not task.done() and not task.cancelling():
                log.warning("task %s went on after it was cancelled: it is cancelled again", task.get_name())
                task.cancel()
    errors = [task.exception() for task in given if not task.cancelled()]  # asked for, so that asyncio reports none
    if interrupted is not None:
        raise interrupted
    return tuple(error for error in errors if isinstance(error, Exception))


async def finished(task: asyncio.Task[None]) -> None:
    """Return when `task` is over, raising what it ended with. For work that must not be left half done.

    Whoever waits here may be cancelled, and `task` still comes to its end: CancelledError is raised when it has.
    """
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    task.result()


def report_crash(task: asyncio.Task[Any], log: logging.Logger, consequence: str) -> None:
    """From now on: should `task` end with an error, which is a defect, `log` says so at once, with the traceback.

    The node goes on without it; `consequence` is what that means, such as "peers are not watched any more".
    """

    def report(ended: asyncio.Task[Any]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.critical("%s: restart this node and report this", consequence, exc_info=error)

    task.add_done_callback(report)


def tell_each(callbacks: Iterable[Callable[..., None]], *news: object) -> None:
    """Call each with `news`. One that raises, which is a defect, is logged: the others and the caller go on."""
    for callback in tuple(callbacks):
        try:
            callback(*news)
        except Exception:
            log.exception(
                "%s failed on %.200r; what follows goes on", getattr(callback, "__qualname__", callback), news
            )
