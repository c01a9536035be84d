"""A relay between a node and its engine that notes when requests and first tokens pass.

    python benchmarks/relay.py http://127.0.0.1:PORT

What a gateway adds to the time to first token is a few milliseconds; what an engine takes for it varies by far more,
above all with other streams running. So the two are told apart: with the instants of this file and of the client (the
clock is the system's, see `time.perf_counter`), the way there and the way back are the gateway's, the time in between
the engine's. Prints its own address, then a JSON line for each request whose first content came. The cost of the relay
itself, two copies over loopback, counts as the gateway's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from load import CONTENT

from federation.tasks import cancel_and_wait

SEED = re.compile(rb'"seed": ?(\d+)')  # the client gives each request its own, and the gateway passes it on
READ_BYTES = 2**16


@dataclass(slots=True)
class Passage:
    """One request on its way through. `asked` is when its last byte came."""

    request: bytes = b""
    asked: float = 0.0
    answered: float | None = None


async def _onward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage) -> None:
    while data := await reader.read(READ_BYTES):
        passage.asked = time.perf_counter()
        writer.write(data)
        passage.request += data


async def _back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage) -> None:
    seen = b""
    while data := await reader.read(READ_BYTES):
        now = time.perf_counter()
        writer.write(data)
        if passage.answered is None:
            seen += data
            if CONTENT.search(seen):
                passage.answered = now
                report(passage)


def report(passage: Passage) -> None:
    """One line for the benchmark, told apart by the request's seed."""
    found = SEED.search(passage.request)
    if found:
        line = {"seed": int(found[1]), "asked": passage.asked, "answered": passage.answered}
        print(json.dumps(line), flush=True)


async def serve(host: str, port: int) -> None:
    """Relay until standard input ends, then end the process as it is: what is still open was broken off by design."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = Passage()
        up_reader, up_writer = await asyncio.open_connection(host, port)
        ways = {
            asyncio.create_task(_onward(reader, up_writer, passage)),
            asyncio.create_task(_back(up_reader, writer, passage)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)  # either side's end, or reset, is the other's
        await cancel_and_wait(*ways)
        for side in (writer, up_writer):
            side.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    listening = server.sockets[0].getsockname()
    print(f"http://{listening[0]}:{listening[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    engine = urlsplit(sys.argv[1])
    assert engine.hostname is not None
    assert engine.port is not None
    asyncio.run(serve(engine.hostname, engine.port))
