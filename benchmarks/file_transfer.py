"""What giving a model file to peers costs a stream of tokens that runs meanwhile.

    python benchmarks/file_transfer.py [--quick] [--json FILE]

One node serves the embedded model, whose tokens come fast and so compete with everything else for the event loop, and
shares a file of random bytes. A stream is timed alone, and beside one peer that copies that file over two connections,
A B, B A, ... The copying is done by another process on this machine: its own cost is in the figure, too, which a real
peer's would not be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from load import Endpoint, Json, RunError, fresh_prompt, special_tokens, streams
from measure import Figure, Target, interleaved, ratios
from nodes import command_line_node
from report import parser, progress, publish, read_environment

from federation import wire
from swarm.registry.shared_files import SharedFiles

TARGET = Target("at least", 0.95)
FILE_BYTES = 256 << 20
TOKENS = 1500  # about a second of the embedded model; within its context
STREAMS = 4  # one after another, timed together
UNDER_WAY_S = 1.0  # until the copy runs at its pace
CONNECTIONS = 2
# Reads a file over and over, so many connections at once, and says how many bytes came when told to stop.
READER = """
import sys, threading, urllib.request
url, count, stop, total = sys.argv[1], int(sys.argv[2]), threading.Event(), [0]
def read():
    while not stop.is_set():
        request = urllib.request.Request(url, headers={"Range": "bytes=0-"})
        with urllib.request.urlopen(request) as response:
            while not stop.is_set() and (data := response.read(1 << 20)):
                total[0] += len(data)
threads = [threading.Thread(target=read) for _ in range(count)]
[thread.start() for thread in threads]
sys.stdin.read()
stop.set()
[thread.join() for thread in threads]
print(total[0])
"""


def shared_file(data_dir: Path) -> str:
    """A file of random bytes in the models folder, hashed already; its sha256."""
    path = data_dir / "models" / "bench--file" / "random.gguf"
    path.parent.mkdir(parents=True)
    content = os.urandom(FILE_BYTES)
    path.write_bytes(content)
    files = SharedFiles(data_dir / "models")
    while files.hash_one(threading.Event()):
        pass
    return hashlib.sha256(content).hexdigest()


@contextmanager
def copying(url: str, rates: list[float]) -> Generator[None]:
    """A peer copies from the node within the block; its bytes per second are noted."""
    child = subprocess.Popen(
        [sys.executable, "-c", READER, url, str(CONNECTIONS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    began = time.perf_counter()
    try:
        yield
    finally:
        assert child.stdout is not None
        took_s = time.perf_counter() - began
        said, _ = child.communicate()
        rates.append(int(said) / took_s)


def measure(options: argparse.Namespace) -> list[Figure]:
    dice, rates = random.Random(1), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        sha256 = shared_file(Path(folder))
        node_options = ("--federation", "--host", "127.0.0.1", "--model", "demo", "--threads", "1")
        with command_line_node(*node_options, "--data-dir", folder) as node:
            endpoint, url = Endpoint.at(node.url), f"{node.url}{wire.MODELS_PATH}/{sha256}"
            with urllib.request.urlopen(node.url + wire.MODELS_PATH) as listing:
                if sha256 not in {file["sha256"] for file in json.load(listing)["files"]}:
                    raise RunError("the node does not share the file")
            bias = special_tokens(endpoint)

            def body() -> Json:
                return {
                    "model": "demo", "messages": fresh_prompt(dice), "max_tokens": TOKENS, "stream": True,
                    "stream_options": {"include_usage": True}, "logit_bias": bias, "temperature": 0,
                    "swarm": {"votes": 1},
                }  # fmt: skip

            def tokens_per_s() -> float:
                answers = [streams(endpoint, [body()])[0] for _ in range(STREAMS)]
                took_s = sum(answer.last - answer.first_content for answer in answers)
                return STREAMS * (TOKENS - 1) / took_s

            def beside_a_copy() -> float:
                with copying(url, rates):
                    time.sleep(UNDER_WAY_S)
                    return tokens_per_s()

            progress(f"{options.rounds} rounds of {STREAMS} x {TOKENS} tokens")
            found = interleaved({"alone": tokens_per_s, "beside": beside_a_copy}, options.rounds)
    beside, alone = tuple(found["beside"]), tuple(found["alone"])
    return [
        Figure("a stream alone", "tokens/s", alone),
        Figure("the same beside a copy", "tokens/s", beside),
        Figure("**share of its speed that a stream keeps**", "", ratios(beside, alone), TARGET),
        Figure("the copy", "MB/s", tuple(rate / 1e6 for rate in rates[-len(beside) :])),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 15")
    options = made.parse_args()
    if options.rounds is None:
        options.rounds = 3 if options.quick else 15
    environment = read_environment()
    publish(environment, measure(options), options.json)


if __name__ == "__main__":
    main()
