"""Runs the node of a checkout and notes which functions a walk passes. Started by `walks.py`.

    python walk_tracer.py FOLDER ROOT ARGUMENTS...        `python ROOT/main.py ARGUMENTS`, watched

FOLDER is how the two talk: `follow` holds the client's port whose connection is followed, `peer` the address of a peer
that is looked out for; at each SIGUSR2 what was passed since the last one is written to `trail-1.json`, and so on.

A walk is followed by its context, which asyncio copies to every task, callback and thread that comes of it: so what the
node does besides (probes, the watch over its engine, other clients) does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import itertools
import json
import os
import re
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGES = ("swarm", "federation", "hardware")
FUNCTION = inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS  # what modules and class bodies do not have both
PART = re.compile(r"(\.<locals>)?\.<\w+>$")  # a comprehension or lambda is a part of the function that it is in
IMPORT = "<frozen importlib"
TURN = (asyncio.events.__file__, "_run")  # of the event loop: above it is who runs the loop, not who asked for this
CONTEXTS = contextlib.__file__
ANNOUNCED = "walk "  # begins the name of the service that is announced for the walk; others may be on this network

WALK, LOOKING = "walk", "looking"  # what a context belongs to: the walk itself, or a look at whom this node would ask

Function = tuple[str, str, str]  # its file, its name, and its kind: "coroutine", "generator" or ""


class Trail:
    """What was passed."""

    def __init__(self) -> None:
        self.calls: set[tuple[Function | None, Function]] = set()  # who called whom; None: the event loop or a thread
        self.starts: set[tuple[str, str]] = set()  # whose task or thread begins where
        self.held: set[Function] = set()  # at work when it began, or handing on what it is about
        self.generators: dict[
            str, tuple[str, ...]
        ] = {}  # most generators inside each other, by the task's first function

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": sorted(self.calls, key=str),
            "starts": sorted(self.starts),
            "held": sorted(self.held),
            "generators": self.generators,
        }


class Tracer:
    """The profile function of every thread, and the patches that carry a walk from one task to the next."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._root = f"{root}{os.sep}"
        self._functions: dict[CodeType, Function | None] = {}  # None: not of the packages
        self._mark: contextvars.ContextVar[str | None] = contextvars.ContextVar("walk", default=None)
        self._origin: contextvars.ContextVar[str | None] = contextvars.ContextVar("origin", default=None)
        self._thread = threading.local()
        self._numbers = itertools.count(1)
        self._woken: set[int] = set()
        self.walk, self.everything = Trail(), Trail()

    # What is noted

    def on_event(self, frame: FrameType, event: str, value: object) -> None:
        if event == "return" and self._mark.get() == LOOKING:
            self._hands_on(frame, value)
        if event != "call" or (function := self._function(frame.f_code)) is None:
            return
        self._note(self.everything, frame, function)
        if WALK in (self._mark.get(), getattr(self._thread, "mark", None)):
            self._note(self.walk, frame, function)

    def _note(self, trail: Trail, frame: FrameType, function: Function) -> None:
        codes = [above.f_code for above in _frames_above(frame)][1:]
        callers = [caller for code in codes if (caller := self._function(code)) is not None]
        caller = callers[0] if callers else None
        if (caller, function) not in trail.calls and not any(code.co_filename.startswith(IMPORT) for code in codes):
            trail.calls.add((caller, function))
            is_begun = caller is None and function[2] == "coroutine"
            origin = self._origin.get() if is_begun else getattr(self._thread, "origin", None)
            if caller is None and origin is not None:
                trail.starts.add((origin, function[0]))
        if trail is self.walk and function[2] == "generator":
            self._note_chain(frame)

    def _note_chain(self, frame: FrameType) -> None:
        """Those that an item passes; not those that open and close something around a block."""
        found = [(each, function) for each in _frames_above(frame) if (function := self._function(each.f_code))]
        chain = tuple(
            name
            for each, (_, name, kind) in found
            if kind == "generator" and each.f_back is not None and each.f_back.f_code.co_filename != CONTEXTS
        )
        _, first, kind = found[-1][1]
        if kind != "generator" and len(chain) > len(self.walk.generators.get(first, ())):  # else: a chain's inner end
            self.walk.generators[first] = chain

    def _hands_on(self, frame: FrameType, value: object) -> None:
        """A function that was not given what stands for the peer looked out for, but gives it, hands it on."""
        if not isinstance(value, tuple | list) or (function := self._function(frame.f_code)) is None:
            return
        peer = (self._folder / "peer").read_text()
        arguments = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[: frame.f_code.co_argcount]]
        given = {id(item) for each in arguments if isinstance(each, tuple | list) for item in each}
        if any(getattr(item, "url", None) == peer and id(item) not in given for item in value):
            self.walk.held.add(function)

    def _function(self, code: CodeType) -> Function | None:
        if code not in self._functions:
            self._functions[code] = self._read(code)
        return self._functions[code]

    def _read(self, code: CodeType) -> Function | None:
        file = code.co_filename.removeprefix(self._root)
        is_ours = file != code.co_filename and Path(file).parts[0] in PACKAGES
        if not is_ours or code.co_flags & FUNCTION != FUNCTION:
            return None
        name = code.co_qualname
        while (whole := PART.sub("", name)) != name:
            name = whole
        if code.co_flags & inspect.CO_COROUTINE:
            return file, name, "coroutine"
        return file, name, "generator" if code.co_flags & inspect.CO_ASYNC_GENERATOR else ""

    def _file_above(self, frame: FrameType) -> str | None:
        """The file whose function is at work."""
        functions = (self._function(above.f_code) for above in _frames_above(frame))
        return next((function[0] for function in functions if function is not None), None)

    # What carries a walk on

    def patch(self) -> None:
        self._follow_connections()
        self._follow_tasks()
        signal.signal(signal.SIGUSR2, lambda *_: self._write())

    def _follow_connections(self) -> None:
        accept = socket.socket.accept

        def followed(listener: socket.socket) -> tuple[socket.socket, Any]:
            self._mark.set(None)  # what was taken in before is a walk of its own
            connection, address = accept(listener)
            follow = self._folder / "follow"
            if follow.exists():
                port, mark = follow.read_text().split()
                if int(port) == address[1]:
                    self._mark.set(mark)
                    if mark == WALK:
                        self._hold_stack(sys._getframe(1))
            return connection, address

        socket.socket.accept = followed

    def _hold_stack(self, frame: FrameType) -> None:
        """The functions that are at work when a walk begins are of it."""
        self.walk.held |= {found for each in _frames_above(frame) if (found := self._function(each.f_code))}

    def _follow_tasks(self) -> None:
        base = asyncio.base_events.BaseEventLoop
        create_task, run_in_executor = base.create_task, base.run_in_executor
        tracer = self

        def create(loop: Any, work: Any, *, name: Any = None, context: contextvars.Context | None = None) -> Any:
            if context is None:
                context = contextvars.copy_context()
                context.run(tracer._origin.set, tracer._file_above(sys._getframe()))
            return create_task(loop, work, name=name, context=context)

        def run(loop: Any, executor: Any, work: Callable[..., Any], *arguments: Any) -> Any:
            mark, origin = tracer._mark.get(), tracer._file_above(sys._getframe())

            def carried(*arguments: Any) -> Any:
                tracer._thread.mark, tracer._thread.origin = mark, origin
                try:
                    return work(*arguments)
                finally:
                    tracer._thread.mark = tracer._thread.origin = None

            return run_in_executor(loop, executor, carried, *arguments)

        base.create_task, base.run_in_executor = create, run

    def follow_announcements(self) -> None:
        """A walk begins where a service is heard of, and goes on in whoever waited for an event that it sets."""
        zeroconf = importlib.import_module("zeroconf.asyncio")
        tracer, browser = self, zeroconf.AsyncServiceBrowser
        set_event, wait = asyncio.Event.set, asyncio.Event.wait

        class Browser(browser):
            def __init__(self, network: Any, service: Any, handlers: Any, **more: Any) -> None:
                super().__init__(network, service, handlers=[tracer._marked(each) for each in handlers], **more)

        def set_followed(event: asyncio.Event) -> None:
            if tracer._mark.get() == WALK:
                tracer._woken.add(id(event))
            set_event(event)

        async def wait_followed(event: asyncio.Event) -> bool:
            done = await wait(event)
            if id(event) in tracer._woken:
                tracer._mark.set(WALK)
            return done

        zeroconf.AsyncServiceBrowser = Browser
        asyncio.Event.set, asyncio.Event.wait = set_followed, wait_followed

    def _marked(self, heard: Callable[..., None]) -> Callable[..., None]:
        def walk(**what: Any) -> None:
            context = contextvars.copy_context()
            if what["name"].startswith(ANNOUNCED):
                context.run(self._mark.set, WALK)
            context.run(heard, **what)

        return walk

    def _write(self) -> None:
        trail = {"walk": self.walk.as_json(), "everything": self.everything.as_json()}
        self.walk, self.everything = Trail(), Trail()
        self._woken.clear()
        whole = self._folder / f"trail-{next(self._numbers)}.json"
        part = whole.with_suffix(".part")
        part.write_text(json.dumps(trail))
        part.rename(whole)


def _frames_above(frame: FrameType) -> Iterator[FrameType]:
    """`frame` and those above it, up to the event loop's turn."""
    above: FrameType | None = frame
    while above is not None and (above.f_code.co_filename, above.f_code.co_name) != TURN:
        yield above
        above = above.f_back


def main() -> None:
    folder, root = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    tracer = Tracer(folder, root)
    tracer.patch()
    if "--federation" in sys.argv:
        tracer.follow_announcements()
    sys.argv = [str(root / "main.py"), *sys.argv[3:]]
    sys.path[0] = str(root)
    threading.setprofile(tracer.on_event)
    sys.setprofile(tracer.on_event)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
