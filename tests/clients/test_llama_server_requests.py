"""What llama.cpp's own server tests ask of llama-server works through a node.

Their requests are recorded against a real llama-server with the embedded model, then sent to a node with the same one.
What the one answers the other does, but for `DIFFERENT`. The tests are those of the sources of the very build; they
were written by others, for another purpose.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from swarm.registry.embedded import embedded_model_path
from tests.doubles.llama_cpp_sources import llama_cpp_sources
from tests.doubles.made_engines import made_engine
from tests.e2e.node_process import NodeProcess

FILES: Final = (
    "basic", "chat_completion", "completion", "embedding", "ignore_eos", "infill", "template", "tokenize", "rerank",
    "compat_anthropic", "compat_oai_responses", "ctx_shift", "tool_call", "stream", "metrics",
)  # fmt: skip
LEAST_REQUESTS: Final = 150  # distinct ones: 273 at build 11434
# Where a node differs on purpose, by path and a part of the body: the status that it answers, and why.
DIFFERENT: Final = (
    (r"/slots", "", 404, "the slots of one server; a swarm has /v1/models and /v1/federation/health"),
    (r"/v1/stream.*", "", 404, "answers of an earlier connection are not kept"),
    (r"/$", "", 200, "a node says what it is"),
    (r".*", '"grammar": ', 400, "a grammar's cost cannot be bounded: it is refused"),
    (r".*", '"schema": 123', 400, "no schema"),
    (r"/v1/messages", '"messages": \\[\\]', 400, "Anthropic refuses it, too"),
    (r"/completion", '"return_tokens": true', 400, "tokens are one model's: /tokenize has them"),
    (r"/completion", '"prompt": (\\[\\[|\\[\\d|\\{)', 400, "tokens need the name of their model; no mixed prompts"),
    (r"/v1/embeddings", '"string"|\\{"(prompt_string|content)": ', 400, "texts or tokens, as OpenAI has it, not mixed"),
    (r"/completion", '"logit_bias": ', 400, "by the number of a token only, as OpenAI has it"),
)  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> Iterator[str]:
    """A real llama-server with the embedded model."""
    program = made_engine("llama-server").program
    assert program is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(program), "-m", str(embedded_model_path("demo")), "-a", "demo", "--port", str(port), "-c", "2048",
        "-np", "2", "-t", "1", "--metrics", "--slots", "--props", "--jinja", "--embeddings", "--pooling", "mean",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        while status(url, "GET", "/health", "") != 200:
            assert server.poll() is None, "llama-server ended"
        yield url
        server.terminate()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess("kitchen", tmp_path_factory.mktemp("node"), arguments=["--answer-any-model"]) as running:
        asyncio.run(running.ready())
        yield running


def status(url: str, method: str, path: str, body: str) -> int:
    """The status of the answer, once all of it has come; 0 where nobody answers."""
    asked = urllib.request.Request(
        url + path, body.encode() or None, {"Content-Type": "application/json"}, method=method
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        error.read()
        error.close()
        return error.code
    except OSError:
        return 0


def recorded(sources: Path, reference: str, folder: Path) -> list[dict[str, Any]]:
    """The distinct requests of llama.cpp's tests, with the status that llama-server answered each with."""
    with tarfile.open(sources) as archive:
        inside = [member for member in archive.getmembers() if "/tools/server/tests/" in member.name]
        archive.extractall(folder, inside, filter="data")
    tests = next(folder.glob("*/llama.cpp/tools/server/tests"))
    shutil.copy(Path(__file__).parent / "llama_server" / "llama_requests_recorder.py", tests)
    (tests / "wget.py").write_text("")  # they would fetch models by it
    record = folder / "requests.jsonl"
    command = [sys.executable, "-O", "-m", "pytest", "-p", "llama_requests_recorder", "--assert=plain", "-q"]
    files = [f"unit/test_{name}.py" for name in FILES if (tests / f"unit/test_{name}.py").exists()]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "RECORD": str(record), "REFERENCE": reference}
    subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        cwd=tests,
        env=environment | {"PYTHONPATH": str(tests)},
        capture_output=True,
        check=False,  # many of them fail: they want models of their own
        timeout=280,
    )
    distinct: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in record.read_text().splitlines():
        request = json.loads(line)
        distinct.setdefault((request["method"], request["path"], request["body"]), request)
    return list(distinct.values())


def differs_on_purpose(request: dict[str, Any], answered: int) -> bool:
    return any(
        answered == expected and re.match(path, request["path"]) and re.search(part, request["body"])
        for path, part, expected, _ in DIFFERENT
    )


def test_what_llama_server_answers_a_node_answers(
    reference: str, node: NodeProcess, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    requests = recorded(llama_cpp_sources(request), reference, tmp_path)
    assert len(requests) >= LEAST_REQUESTS
    wrong: list[str] = []
    for asked in requests:
        answered = status(node.url, asked["method"], asked["path"], asked["body"])
        assert answered not in (0, 500), f"{asked['test']}: {answered}"
        if asked["status"] == 200 and answered != 200 and not differs_on_purpose(asked, answered):
            wrong.append(f"{asked['method']} {asked['path']} {asked['body'][:300]}: {answered} ({asked['test']})")
    assert not wrong, "\n".join(wrong)
