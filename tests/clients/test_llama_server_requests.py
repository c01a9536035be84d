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
from typing import Any, Final, cast

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
    (r"/lora-adapters", "", 404, "every node answers alike for a name: there are no adapters"),
    (r"/v1/stream.*", "", 404, "answers of an earlier connection are not kept"),
    (r"/$", "", 200, "a node says what it is"),
    (r".*", '"grammar": ', 400, "a grammar's cost cannot be bounded: it is refused"),
    (r".*", '"schema": 123', 400, "no schema"),
    (r"/v1/messages", '"messages": \\[\\]', 400, "Anthropic refuses it, too"),
    (r"/completion", '"return_tokens": true', 400, "tokens are one model's: /tokenize has them"),
    (r"/completion", '"prompt": (\\[\\[|\\[\\d|\\{)', 400, "tokens need the name of their model; no mixed prompts"),
    (r"/v1/embeddings", '"string"|\\{"(prompt_string|content)": ', 400, "texts or tokens, as OpenAI has it, not mixed"),
    (r"/completion", '"logit_bias": (\\[\\[|\\{)"', 400, "by a token's number only: texts differ by model"),
    (r".*", '"post_sampling_probs": true', 400, "probabilities are told before sampling"),
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


# What of llama-server's answers a node's have not, by path, and why.
LACKING: Final[dict[str, frozenset[str]]] = {
    "/completion": frozenset({
        "id_slot", "prompt", "has_new_line",  # another node's, and what was sent
        "generation_settings",  # of samplers that each engine has in its own way
    }),
    "/v1/chat/completions": frozenset({"system_fingerprint"}),  # of one program: `swarm` says who answered
    "/v1/completions": frozenset({"system_fingerprint", "content"}),  # log-probabilities are in OpenAI's own lists
    "/slots": frozenset({
        "chat_format", "generation_prompt", "reasoning_format", "samplers", "speculative.types", "lora",
    }),  # texts: only numbers and switches are told
    "/props": frozenset({
        "model_path", "model_ftype", "media_marker", "ui", "ui_settings", "endpoint_slots", "endpoint_props",
        "endpoint_metrics", "chat_template_caps", "is_sleeping", "cors_proxy_enabled",  # of a process, and its files
        "params",  # of sampling, which is the request's
    }),
    "/v1/models": frozenset({
        "models",  # Ollama's list is at /api/tags
        "aliases", "tags",  # where there are some
        "size",  # of `swarm`, which is listed first, and is several models
        "vocab_type", "n_vocab", "n_ctx_train", "n_embd", "n_params", "ftype",  # of a file
    }),
}  # fmt: skip
SHOWN: Final[tuple[tuple[str, str, dict[str, Any] | None], ...]] = (
    ("POST", "/completion", {"prompt": "One day a", "n_predict": 3, "n_probs": 2}),
    ("POST", "/v1/completions", {"prompt": "One day a", "max_tokens": 3, "logprobs": 2}),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
    ("POST", "/embedding", {"content": "a text"}),
    ("POST", "/v1/embeddings", {"input": "a text"}),
    ("POST", "/tokenize", {"content": "a text", "with_pieces": True}),
    ("POST", "/detokenize", {"tokens": [70, 71]}),
    ("POST", "/apply-template", {"messages": [{"role": "user", "content": "hi"}]}),
    ("POST", "/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
    ("GET", "/slots", None),
    ("GET", "/props", None),
    ("GET", "/health", None),
    ("GET", "/v1/models", None),
)


def answer_of(url: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    """The JSON of an answer, or that of each event of a stream."""
    sent = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url + path, sent, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        text = answer.read().decode()
        if "event-stream" not in answer.headers["Content-Type"]:
            return json.loads(text)
    events = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(event) for event in events if event != "[DONE]"]


def missing(theirs: Any, ours: Any, lacking: frozenset[str], at: str = "") -> list[str]:
    """Where `ours` lacks a field of `theirs`, or has it of another type. A null says nothing of a type."""
    match theirs, ours:
        case (None, _) | (_, None) | (bool(), bool()) | (str(), str()):
            return []
        case (int() | float(), int() | float()) if not isinstance(theirs, bool) and not isinstance(ours, bool):
            return []
        case ([first, *_], [other, *_]):
            return missing(first, other, lacking, f"{at}[0]")
        case ([], list()) | (list(), []):
            return []
        case (dict(), dict()):
            fields = cast("dict[str, Any]", theirs)
            return [
                lack
                for name, value in fields.items()
                if name not in lacking
                for lack in (missing(value, ours[name], lacking, f"{at}.{name}") if name in ours else [f"{at}.{name}"])
            ]
        case _:
            return [f"{at}: {ours!r:.80} for {theirs!r:.80}"]


@pytest.mark.parametrize(("method", "path", "body"), SHOWN, ids=[path for _, path, _ in SHOWN])
def test_answers_have_llama_servers_fields(
    reference: str, node: NodeProcess, method: str, path: str, body: dict[str, Any] | None
) -> None:
    theirs, ours = answer_of(reference, method, path, body), answer_of(node.url, method, path, body)
    assert missing(theirs, ours, LACKING.get(path, frozenset())) == []


@pytest.mark.parametrize("counted", [False, True], ids=["plain", "with usage"])
@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
def test_streams_end_as_llama_servers_do(reference: str, node: NodeProcess, path: str, counted: bool) -> None:
    body = dict(next(body or {} for _, shown, body in SHOWN if shown == path))
    body |= {"stream": True, "n_probs": 0} | ({"stream_options": {"include_usage": True}} if counted else {})
    body.pop("logprobs", None)
    theirs, ours = answer_of(reference, "POST", path, body), answer_of(node.url, "POST", path, body)
    lacking = LACKING[path] | {"usage", "logprobs"}  # plain completions have the first there unasked
    assert missing(theirs[-1], ours[-1], lacking) == []
    assert [("timings" in chunk) for chunk in theirs[-2:]] == [("timings" in chunk) for chunk in ours[-2:]]


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
