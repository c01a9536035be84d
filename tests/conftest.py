"""Guards over every test: a warning, a leaked task, a leaked process or a blocked event loop fails it."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from swarm.registry.embedded import embedded_model_path

pytest_plugins = ["tests.all_skipped"]

MAX_BLOCKED_S = 0.5  # a blocking call in the loop is seconds; half a second leaves room for a busy two-core machine
HEARTBEAT_S = 0.02
MOST_S = 300.0  # that a test may take which is not marked slow; a defect must fail one, not hang them all
SETTLE_S = 2.0  # for connection handlers that notice a closed client


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
        if type(handler) is logging.StreamHandler:  # pytest's own are of other types
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


def waited_for_cpu_s() -> float:
    """How long this thread has waited for a processor so far (Linux; 0 elsewhere): no fault of its own."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def guarded(test: Callable[..., Awaitable[None]], most_s: float | None) -> Callable[..., Awaitable[None]]:
    """`test`, failing when it leaves tasks behind, blocks its event loop or takes longer than `most_s`."""

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        worst_s = 0.0

        async def heartbeat() -> None:
            nonlocal worst_s
            last, waited = time.perf_counter(), waited_for_cpu_s()
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                now, waited_now = time.perf_counter(), waited_for_cpu_s()
                worst_s = max(worst_s, now - last - HEARTBEAT_S - (waited_now - waited))
                last, waited = now, waited_now

        before = asyncio.all_tasks()
        pulse = asyncio.create_task(heartbeat())
        try:
            async with asyncio.timeout(most_s):
                await test(*args, **kwargs)
        finally:
            await asyncio.sleep(0)  # lets a pulse that is overdue measure what the last step took
            pulse.cancel()
        left = asyncio.all_tasks() - before - {pulse}
        if left:
            _, left = await asyncio.wait(left, timeout=SETTLE_S)
        assert not left, f"tasks left running: {left}"
        assert worst_s < MAX_BLOCKED_S, f"the event loop was blocked for {worst_s:.2f} s"

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = guarded(item.obj, None if item.get_closest_marker("slow") else MOST_S)


def pytest_collection_finish() -> None:
    """What was imported stays: looking at all of it for garbage would block the loop of some test half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """And what thousands of tests leave behind (reports, caches) stays, too: it is looked at once for each folder."""
    if nextitem is not None and nextitem.path.parent != item.path.parent:
        gc.collect()
        gc.freeze()
