"""A node from start to stop: its limit of open files, the signals that end it, and an end that nothing can hold up."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys

from federation.tasks import cancel_and_wait
from swarm.engines.llama_cpp.xllamacpp import engines_left, leave_engines_to_exit
from swarm.node.console import Console
from swarm.node.leaving import GONE_S
from swarm.node.node import Node
from swarm.node.settings import Settings

OPEN_FILES = 8192  # clients (at most 2,048 requests, each with a connection to its engine or a peer), peers, models


def serve(settings: Settings, console: Console) -> None:
    """Run a node in this process until it is stopped, then `end_process()`. Raises SetupError if it cannot start."""
    raise_limit()
    asyncio.run(run_node(settings, console))


async def run_node(settings: Settings, console: Console) -> None:
    """Run a node until SIGINT or SIGTERM; a second signal ends it at once. Raises SetupError if it cannot start.

    From the first signal on a timer in C, which needs no GIL, ends the process after GONE_S, whatever a library does.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if number == signal.SIGINT:
            console.interrupted()
        console.ends()
        if stop.is_set():
            os._exit(1)
        faulthandler.dump_traceback_later(GONE_S, exit=True)  # code 1, after telling what each thread was doing
        leave_engines_to_exit()
        stop.set()

    def watch_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, number)

    watch_signals()
    starting = asyncio.create_task(_started(settings, console), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await cancel_and_wait(starting)
        stopping.cancel()
        return
    node = await starting
    watch_signals()  # llama.cpp's server may have installed its own while it loaded; ours must be the last
    try:
        await stopping
    finally:
        await node.__aexit__()


def end_process() -> None:
    """After everything of ours is closed. Returns where Python's own way to end is safe.

    It is not while engines are loaded in this process: their destructors wait for threads that may never end.
    """
    if engines_left():
        logging.shutdown()
        os._exit(0)
    faulthandler.cancel_dump_traceback_later()


async def _started(settings: Settings, console: Console) -> Node:
    node = Node(settings, console)
    await node.__aenter__()
    return node


def raise_limit(wanted: int = OPEN_FILES) -> int | None:
    """Raise the soft limit towards `wanted`, as far as the hard one allows; never lowers it.

    Linux starts programs with 1,024 and macOS with 256. Returns the limit now; None where there is none to raise.
    """
    if sys.platform == "win32":
        return None
    import resource  # only where there is one

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    aim = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))
    except (ValueError, OSError):  # macOS has a kernel limit below its own hard one
        return soft
    return aim
