"""Guards over every test: a warning, a leaked task, a leaked process or a blocked event loop fails it."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import os
import signal
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from swarm.logs import LineHandler
from swarm.registry.embedded import embedded_model_path
from tests.doubles.loop_watch import watching_the_loop

pytest_plugins = ["tests.all_skipped", "tests.doubles.real_models", "tests.doubles.client_results"]

for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[variable]  # tests ask nodes on this machine, some by libraries that would ask a proxy for them
for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE"):
    os.environ.pop(variable, None)  # tests find no models but their own

MAX_BLOCKED_S = 0.5  # a blocking call in the loop is seconds; half a second leaves room for a busy two-core machine
MOST_S = 300.0  # that a test may take which is not marked slow; a defect must fail one, not hang them all
SETTLE_S = 2.0  # for connection handlers that notice a closed client


def pytest_configure() -> None:
    """Programs that tests start can be interrupted, also where these tests run behind `nohup` or `&`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    return embedded_model_path("demo")


@pytest.fixture(autouse=True)
def log_goes_where_it_went() -> Iterator[None]:
    """A command that sets logging up within this process writes to a stream that ends with its test."""
    root = logging.getLogger()
    level, before = root.level, set(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - before:
        if isinstance(handler, LineHandler):
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def no_leaked_processes() -> Iterator[None]:
    """A test leaves no child process behind, except those that longer-lived fixtures own."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=SETTLE_S)
    commands = []
    for child in alive:
        commands.append(child.cmdline())
        child.kill()
    assert not alive, f"left running: {commands}"


def guarded(test: Callable[..., Awaitable[None]], most_s: float | None) -> Callable[..., Awaitable[None]]:
    """`test`, failing when it leaves tasks behind, blocks its event loop or takes longer than `most_s`."""

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        before = asyncio.all_tasks()
        async with watching_the_loop() as watch, asyncio.timeout(most_s):
            await test(*args, **kwargs)
        left = asyncio.all_tasks() - before
        if left:
            _, left = await asyncio.wait(left, timeout=SETTLE_S)
        assert not left, f"tasks left running: {left}"
        assert watch.worst_s < MAX_BLOCKED_S, f"the event loop was blocked for {watch.worst_s:.2f} s"

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # of pytest-xdist: those that take longest begin first
        items.sort(key=lambda item: scope_of(item.nodeid) != PROCESSES)
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = guarded(item.obj, None if item.get_closest_marker("slow") else MOST_S)


PROCESSES = "node processes"


def scope_of(nodeid: str) -> str:
    """Which tests share a worker of pytest-xdist: a file's, and with it their fixtures.

    Those of node processes all share one: several swarms at once would be too much for two cores.
    """
    path = nodeid.partition("::")[0]
    return PROCESSES if path.startswith(("tests/e2e/", "tests/faults/")) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Each worker takes one scope after the other, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling  # only where several workers were asked for

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByScope(config, log)


def pytest_collection_finish() -> None:
    """What was imported stays: looking at all of it for garbage would block the loop of some test half a second."""
    gc.collect()
    gc.freeze()


class OpenedSessions:
    """aiohttp's client sessions that a test opens itself: of one it leaves open, some later test would be told."""

    def __init__(self) -> None:
        self._opened: list[weakref.ref[aiohttp.ClientSession]] = []
        original = aiohttp.ClientSession.__init__

        @functools.wraps(original)
        def noted(session: aiohttp.ClientSession, *args: object, **kwargs: object) -> None:
            original(session, *args, **kwargs)  # type: ignore[arg-type]
            self._opened.append(weakref.ref(session))

        aiohttp.ClientSession.__init__ = noted  # type: ignore[method-assign]

    def forget(self) -> None:
        """What was opened until now belongs to fixtures, which may live on."""
        self._opened.clear()

    def left_open(self) -> list[aiohttp.ClientSession]:
        return [session for opened in self._opened if (session := opened()) is not None and not session.closed]


sessions = OpenedSessions()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    sessions.forget()
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The fixtures have ended, and with them what the test opened."""
    left = sessions.left_open()
    sessions.forget()
    for session in left:
        session.detach()  # it has been told of here
    assert not left, f"client sessions left open: {left}"
    look_for_garbage_between_folders(item, nextitem)


def look_for_garbage_between_folders(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What thousands of tests leave behind (reports, caches) stays: it is looked at once for each folder."""
    if nextitem is not None and nextitem.path.parent != item.path.parent:
        gc.collect()
        gc.freeze()
