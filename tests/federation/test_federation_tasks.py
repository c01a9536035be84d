"""Background tasks end once, in peace, whoever waits for them; what crashes is reported."""

from __future__ import annotations

import asyncio
import logging

import pytest

from federation.tasks import cancel_and_wait, finished, report_crash, tell_each


class Worker:
    """Works until cancelled, then cleans up until `may_end`; counts how often it was cancelled."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.cleans_up = asyncio.Event()
        self.cancelled = 0
        self.is_clean = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.cleans_up.set()
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.is_clean = True
            raise


async def begun(worker: Worker) -> asyncio.Task[None]:
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    return task


async def test_it_returns_when_the_tasks_are_over() -> None:
    worker = Worker()
    task = await begun(worker)
    ending = asyncio.create_task(cancel_and_wait(task, None))
    await worker.cleans_up.wait()
    assert not ending.done()
    worker.may_end.set()
    assert await ending == ()
    assert worker.is_clean
    assert task.cancelled()


async def test_the_cancelled_waiter_leaves_the_task_its_cleaning_up_and_is_cancelled_itself() -> None:
    worker = Worker()
    task = await begun(worker)
    ending = asyncio.create_task(cancel_and_wait(task))
    await worker.cleans_up.wait()
    for _ in range(3):
        ending.cancel()
        await asyncio.sleep(0)
    assert not ending.done()
    worker.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert worker.cancelled == 1
    assert worker.is_clean


async def test_a_timeout_around_it_is_a_timeout() -> None:
    worker = Worker()
    task = await begun(worker)

    async def end_soon() -> None:
        async with asyncio.timeout(0):
            await cancel_and_wait(task)

    ending = asyncio.create_task(end_soon())
    await worker.cleans_up.wait()
    worker.may_end.set()
    with pytest.raises(TimeoutError):
        await ending
    assert worker.is_clean


async def test_the_cancellation_of_one_waiter_does_not_reach_another() -> None:
    worker = Worker()
    task = await begun(worker)
    one, other = asyncio.create_task(cancel_and_wait(task)), asyncio.create_task(cancel_and_wait(task))
    await worker.cleans_up.wait()
    one.cancel()
    worker.may_end.set()
    assert await other == ()
    assert worker.cancelled == 1
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_errors_are_returned_and_raised_nowhere() -> None:
    async def fail() -> None:
        raise ValueError("a defect")

    failed, done = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait([failed, done])
    (error,) = await cancel_and_wait(failed, done)
    assert isinstance(error, ValueError)


async def test_a_task_cannot_wait_for_itself() -> None:
    own = asyncio.current_task()
    assert own is not None
    with pytest.raises(RuntimeError, match="its own end"):
        await cancel_and_wait(own)
    assert not own.cancelling()


async def test_a_crash_is_reported_with_its_traceback_and_a_cancellation_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("a defect")

    failing, ended = asyncio.create_task(fail()), asyncio.create_task(asyncio.Event().wait())
    for task in (failing, ended):
        report_crash(task, logging.getLogger("test"), "nobody looks any more")
    await asyncio.wait([failing])
    await cancel_and_wait(failing, ended)
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == "nobody looks any more: restart this node and report this"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_timeout_that_ends_in_the_same_moment_swallows_no_cancellation() -> None:
    limits: list[asyncio.Timeout] = []

    async def look_again_and_again() -> None:
        while True:
            try:
                async with asyncio.timeout(None) as limit:
                    limits.append(limit)
                    await asyncio.Event().wait()
            except TimeoutError:
                continue

    task = asyncio.create_task(look_again_and_again())
    await asyncio.sleep(0)
    limits[0].reschedule(asyncio.get_running_loop().time())
    await asyncio.sleep(0)
    assert task.cancelling(), "the time is up, and the task has not run since"
    ending = cancel_and_wait(task)
    ending.send(None)  # now, not in a later turn of the loop, up to where it waits
    ending.close()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert len(limits) == 1


async def test_a_task_that_takes_its_cancellation_back_is_cancelled_again(caplog: pytest.LogCaptureFixture) -> None:
    async def goes_on_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
        await asyncio.Event().wait()

    task = asyncio.create_task(goes_on_once(), name="stubborn")
    await asyncio.sleep(0)
    assert await cancel_and_wait(task) == ()
    assert task.cancelled()
    assert "task stubborn went on" in caplog.text


async def test_work_is_finished_although_who_waits_for_it_is_cancelled_twice() -> None:
    may_end, is_done = asyncio.Event(), False

    async def work() -> None:
        nonlocal is_done
        await may_end.wait()
        is_done = True

    working = asyncio.create_task(work())
    waiting = [asyncio.create_task(finished(working)) for _ in range(2)]
    await asyncio.sleep(0)
    for _ in range(2):
        waiting[0].cancel()
        await asyncio.sleep(0)
    assert not waiting[0].done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await waiting[1]
    assert is_done


async def test_what_work_ended_with_is_raised_for_everybody_who_waits() -> None:
    async def work() -> None:
        raise OSError("no disk")

    working = asyncio.create_task(work())
    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            await finished(working)


def test_a_subscriber_that_fails_keeps_no_news_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def fails(news: str) -> None:
        raise OSError(f"no space left for {news}")

    tell_each([fails, heard.append, fails, heard.append], "news")
    assert heard == ["news", "news"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
