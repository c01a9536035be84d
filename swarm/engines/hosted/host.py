"""The process of one engine: a library with its model, spoken to in lines of JSON. Run as a module, this is it.

    python -m swarm.engines.hosted.host MODULE < lines of `wire.py`, the order first

Three threads. The main one is the library's: it loads, computes, and looks between two steps for what came meanwhile.
A second makes prompts. A third reads: it gives each line to one of the two, and ends the process when its standard
input ends, so that it never outlives the node, not even one killed with SIGKILL, and not even while it loads. One that
hangs while it loads ends by a timer in C. JSON on pipes only: no pickle.

Libraries print where they like. What is said to the node goes to a copy of file descriptor 1, and whatever is written
to that itself goes to the log.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import BinaryIO, NoReturn, Protocol, cast

from swarm.engines.free_memory import trim_from_time_to_time
from swarm.engines.hosted.generator import Broke, Ended, Generator, GeneratorEvent, LoadOrder
from swarm.engines.hosted.wire import (
    HostMessage,
    error_message,
    event_message,
    facts_message,
    job_in,
    line_of,
    order_in,
    pieces_message,
)
from swarm.errors import BadRequest, EngineFailed, SwarmError, UnknownArchitecture

BY_THE_LIBRARY = frozenset({"begin", "stop", "embed", "steps"})


class GeneratorModule(Protocol):
    """A module that this process is run with."""

    def load(self, order: LoadOrder) -> Generator:
        """The library with its model. Raises EngineFailed with the reason and a remedy. Blocks."""
        ...


class GeneratorHost:
    """One generator, and what is asked of it. `tell` writes one message to the node; any thread calls it."""

    def __init__(self, generator: Generator, tell: Callable[[HostMessage], None]) -> None:
        self._generator = generator
        self._tell = tell
        self._for_library: queue.SimpleQueue[HostMessage] = queue.SimpleQueue()
        self._for_texts: queue.SimpleQueue[HostMessage] = queue.SimpleQueue()
        self._wanted: set[int] = set()  # calls that wait, but for those that nobody waits for any more
        self._unfinished: dict[int, set[int]] = {}  # answers of each job in progress
        self._steps = 0

    def hear(self, message: HostMessage) -> None:
        """Take in one line of the node's. By the thread that reads."""
        done = message["do"]
        if done == "forget":
            self._wanted.discard(message["call"])
            return
        if "call" in message:
            self._wanted.add(message["call"])
        if done in BY_THE_LIBRARY:
            self._for_library.put(message)
            if done == "stop" and message["choice"] is None:  # after it: nobody comes between the step's end and that
                self._generator.abort(message["job"])
        else:
            self._for_texts.put(message)

    def make_texts(self) -> NoReturn:
        """Whatever needs no more than the tokenizer, for ever."""
        while True:
            self.make_text()

    def make_text(self) -> None:
        """The next of those; waits for it."""
        message = self._for_texts.get()
        self._answer(message, lambda: self._text(message))

    def compute(self) -> NoReturn:
        """Whatever needs the model, for ever. By the thread that loaded it."""
        while True:
            self.advance()

    def advance(self) -> None:
        """Do what came meanwhile, and make one step if there is work; waits for some where there is none."""
        waits = not self._unfinished
        while True:
            try:
                message = self._for_library.get(block=waits)
            except queue.Empty:
                break
            self._do(message)
            waits = False
            if message["do"] == "embed":
                break  # which is a step
        if self._unfinished:
            self._note(self._generator.step())

    def _do(self, message: HostMessage) -> None:
        match message["do"]:
            case "begin":
                self._begin(message["job"])
            case "stop":
                self._stop(message["job"], message["choice"])
            case "embed":
                self._answer(message, lambda: list(self._generator.embed(message["tokens"])))
                self._steps += 1
            case _:
                self._answer(message, lambda: [self._steps, len(self._unfinished)])

    def _begin(self, fields: HostMessage) -> None:
        try:
            job = job_in(fields)
            self._generator.begin(job)
        except BadRequest as error:
            self._tell({"events": [event_message(Broke(fields["id"], "bad request", str(error)))]})
            return
        self._unfinished[job.id] = set(range(job.n))

    def _stop(self, job: int, choice: int | None) -> None:
        self._generator.stop(job, choice)
        unfinished = self._unfinished.get(job, set())
        unfinished.discard(choice or 0)
        if choice is None or not unfinished:
            self._unfinished.pop(job, None)

    def _note(self, events: Sequence[GeneratorEvent]) -> None:
        self._steps += 1
        told: list[object] = []
        for event in events:
            told.append(event_message(event))
            if isinstance(event, Ended):
                unfinished = self._unfinished.get(event.job, set())
                unfinished.discard(event.choice)
                if not unfinished:
                    self._unfinished.pop(event.job, None)
            elif isinstance(event, Broke):
                self._unfinished.pop(event.job, None)
        if told:
            self._tell({"events": told})

    def _text(self, message: HostMessage) -> object:
        """Whatever a tokenizer makes of a stranger's text, it ends no answer that is being computed."""
        try:
            return self._made_text(message)
        except (SwarmError, RecursionError):
            raise
        except Exception as error:
            traceback.print_exc()
            raise EngineFailed(f"the engine could not {message['do']} this: {error or type(error).__name__}") from error

    def _made_text(self, message: HostMessage) -> object:
        match message["do"]:
            case "render":
                return self._generator.render(message["messages"], message["tools"], message["variables"])
            case "tokenize":
                return self._generator.tokenize(message["text"], message["add_special"], message["parse_special"])
            case "pieces":
                return pieces_message(self._generator.pieces(message["tokens"]))
            case unknown:
                raise EngineFailed(f"the engine's process does not know {unknown!r}")

    def _answer(self, message: HostMessage, make: Callable[[], object]) -> None:
        call: int = message["call"]
        if call not in self._wanted:
            return
        self._wanted.discard(call)
        try:
            self._tell({"call": call, "result": make()})
        except SwarmError as error:
            self._tell({"call": call, "error": error_message(error)})
        except RecursionError as error:  # by a conversation that is nested too deep for its template
            self._tell({"call": call, "error": error_message(BadRequest(str(error)))})


def _voice() -> Callable[[HostMessage], None]:
    """What writes messages to the node, and is the only one that does: the library's own words go to the log."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(message: HostMessage) -> None:
        line = memoryview(line_of(message))
        with lock:
            try:
                while line:
                    line = line[out.write(line) or 0 :]
            except OSError:
                os._exit(1)  # the node is gone

    return tell


def _listen(source: BinaryIO, hosts: queue.SimpleQueue[GeneratorHost]) -> NoReturn:
    """Read lines for as long as the node is there. Never returns, as leaving would unload the model, which may hang."""
    host: GeneratorHost | None = None
    for line in source:
        host = host or hosts.get()  # the node says nothing before it is told that the model is loaded
        host.hear(json.loads(line))
    os._exit(0)


def _started(run: Callable[[], NoReturn], name: str) -> None:
    """Run `run` in a thread of its own; an error in it, which is a defect, ends the process."""

    def guarded() -> None:
        try:
            run()
        except BaseException:  # noqa: BLE001 - the others would go on, and nobody would notice
            _end_by_a_defect()

    threading.Thread(target=guarded, name=name, daemon=True).start()


def _end_by_a_defect() -> NoReturn:
    """The node reads of it in its log, and loads the model again."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def serve(module: GeneratorModule) -> NoReturn:
    """Load what standard input says, report its facts, and compute until the node is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the node drains first
    tell = _voice()
    source = sys.stdin.buffer
    order, load_limit_s = order_in(json.loads(source.readline()))
    faulthandler.dump_traceback_later(load_limit_s, exit=True)
    hosts: queue.SimpleQueue[GeneratorHost] = queue.SimpleQueue()
    _started(lambda: _listen(source, hosts), "reader")
    try:
        generator = module.load(order)
    except EngineFailed as error:
        tell({"error": str(error), "unknown_architecture": isinstance(error, UnknownArchitecture)})
        os._exit(1)
    host = GeneratorHost(generator, tell)
    hosts.put(host)
    _started(host.make_texts, "texts")
    faulthandler.cancel_dump_traceback_later()
    trim_from_time_to_time()
    tell(facts_message(generator.facts))
    host.compute()


if __name__ == "__main__":
    try:
        serve(cast("GeneratorModule", importlib.import_module(sys.argv[1])))
    except BaseException:  # noqa: BLE001 - its threads would keep a process that computes nothing
        _end_by_a_defect()
