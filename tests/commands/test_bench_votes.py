"""`swarm bench votes` as a person runs it: against a real node, against a strict server, with what can go wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from swarm.cli import main
from swarm.commands.bench import as_voted_on
from swarm.commands.bench_endpoint import MeasuredEndpoint
from swarm.commands.bench_options import without_key
from swarm.evaluation.questions import read_questions, shipped_questions
from swarm.evaluation.samples import Sample, SampleKey, sampling_seed
from swarm.registry.weights_file import WEIGHTS_FILE, read_weights
from tests.commands.benches import bench, demo_node
from tests.e2e.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 6
SAMPLES = 5
DRAWN_S = 60.0  # a second alone; beside other tests on two cores it may take ten


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots go where the command is run, unless it is told."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def six_questions(tmp_path: Path) -> Path:
    """Three sums and three calls of tools, in one file."""
    path = tmp_path / "six.jsonl"
    folder = ROOT / "swarm" / "evaluation" / "question_sets"
    lines = [
        line for name in ("arithmetic", "tools") for line in (folder / f"{name}.jsonl").read_text().splitlines()[:3]
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_a_real_node_is_measured_on_six_questions(
    six_questions: Path, demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, report, figures = (tmp_path / name for name in ("samples.jsonl", "votes.md", "votes.json"))
    words = ("--questions", six_questions, "--samples", SAMPLES, "--max-tokens", 128, "--store", store)
    weights = ("--save-weights", "--data-dir", tmp_path)
    async with demo_node(demo_model, context=1024, slots=8) as node:
        code = await bench("votes", "--url", node.url, *words, "--report", report, "--json", figures, *weights)
        assert code == 0
        assert f"{QUESTIONS * (SAMPLES + 1)} samples of demo to draw" in capsys.readouterr().err
        assert await bench("votes", "--url", node.url, *words, "--limit", 2, "--report", report) == 0
    assert "0 samples of demo to draw" in capsys.readouterr().err, "what is in the store is not drawn again"
    samples = [json.loads(line) for line in store.read_text().splitlines()]
    assert len(samples) == QUESTIONS * (SAMPLES + 1)
    assert all(sample["completion_tokens"] > 0 for sample in samples)
    took = {(sample["key"]["problem"], sample["elapsed_ms"]) for sample in samples if sample["key"]["index"] >= 0}
    assert len(took) == QUESTIONS, "those of a question came with one answer"
    [found] = json.loads(figures.read_text())["sets"]
    assert found["kinds"] == {"number": 3, "tool_calls": 3}
    assert found["problems"] == QUESTIONS
    member = found["members"][0]
    assert member["model"] == "demo"
    assert all(0 <= member["votes"][k]["value"] <= member["any_of"][k]["value"] <= 1 for k in ("1", "5"))
    assert all(stop["changed"] == 0 for stop in found["stops"])
    assert found["measured"]["demo"]["number"]["asked"] == 3
    saved = read_weights(tmp_path / WEIGHTS_FILE).models["demo"]
    assert {kind: counts.asked for kind, counts in saved.items()} == {"number": 3, "tool_calls": 3}
    assert "2 problems (2 number)" in report.read_text()


async def test_an_unknown_model_is_named_with_those_there_are(
    demo_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with demo_node(demo_model, context=1024, slots=8) as node:
        assert await bench("votes", "--url", node.url, "--models", "gpt-9") == 1
    assert "model 'gpt-9' is not served here; available: demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--url", "http://127.0.0.1:9"], 1, "no endpoint answers at http://127.0.0.1:9/v1"),
        (["--url", "nonsense"], 1, "no endpoint answers at nonsense/v1"),
        (["--questions", "/no/such.jsonl"], 2, "cannot read the questions in /no/such.jsonl"),
        (["--samples", "2"], 2, "--samples 2 is out of range: use 3 to 64"),
        (["--temperature", "0"], 2, "--temperature 0.0 is out of range"),
        (["--max-tokens", "0"], 2, "--max-tokens 0 is out of range"),
        (["--embedded", "--models", "demo:z"], 1, "model 'demo:z' is not served here"),
    ],
)
def test_what_cannot_be_measured_is_said(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "votes", *words]) == code
    assert said in capsys.readouterr().err


def test_a_bad_line_is_named_by_its_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "1+1?", "answer": 2}\n{"question": "2+2?"}\n')
    assert main(["bench", "votes", "--questions", str(path)]) == 2
    assert f"{path} line 2: answer: Field required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "temperature"), [([4, 5], 0.5), ([4, "B"], 0.5), (["yes it is", "so"], 0.7), ([4, "yes it is"], 0.7)]
)
def test_questions_of_ones_own_are_sampled_as_votes_on_them_are(
    answers: list[int | str], temperature: float, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": said}) + "\n" for n, said in enumerate(answers)))
    assert as_voted_on(read_questions(path)) == temperature


def test_a_key_is_never_part_of_the_report() -> None:
    words = ["bench", "--api-key", "secret", "votes", "--api-key=secret", "--seed", "1"]
    assert without_key(words) == ["bench", "votes", "--seed", "1"]


def test_the_embedded_models_need_no_node(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped questions, the model in this process, and the targets with their verdicts."""
    words = ["--embedded", "--models", "demo", "demo:b", "--questions", "arithmetic", "--limit", "2", "--samples", "3"]
    assert main(["bench", "votes", *words]) == 0
    said = capsys.readouterr()
    assert "| arithmetic: 3 votes of 2 models against 3 of the best | at least -1 point |" in said.out
    assert "2 of 300" not in said.out
    assert "embedded models, each behind a node" in said.out


@contextmanager
def bench_process(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`swarm bench votes WORDS` in a process of its own."""
    command = [sys.executable, "main.py", "bench", "votes", "--no-plot", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        yield process


async def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    store = tmp_path / "samples.jsonl"
    with bench_process("--embedded", "--models", "demo", "--samples", "3", "--store", str(store)) as process:

        async def drawn() -> int:
            return store.read_bytes().count(b"\n") if store.exists() else 0

        await eventually(drawn, DRAWN_S, "some samples are in the store", until=lambda count: count >= 40)
        process.send_signal(signal.SIGINT)
        out, errors = await asyncio.to_thread(process.communicate)
    assert process.returncode == 1, errors
    assert "swarm: interrupted; " in errors
    assert f"The same command continues from them ({store})" in errors
    assert "of 300 (interrupted) problems" in out


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Where the API of `app` is, on a loopback port."""
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def strict_server() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """An endpoint that, as OpenAI's own, knows neither top_k nor min_p, and is busy once; and what it was sent."""
    taken: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        strange = sorted(body.keys() & {"top_k", "min_p", "swarm"})
        if strange:
            error = {"error": {"message": f"Unrecognized request argument supplied: {strange[0]}"}}
            return web.json_response(error, status=400)
        if len(taken) == 3:
            taken.append({})
            return web.json_response({"error": {"message": "busy"}}, status=429)
        taken.append(body)
        message = {"role": "assistant", "content": "Answer: 4"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        return web.json_response({"id": "x", "choices": [choice], "usage": usage})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "cloud-1"}]})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models)])
    async with served(app) as url:
        yield url, taken


async def test_an_endpoint_that_knows_only_openais_fields_is_asked_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "2+2?", "answer": 4}\n{"question": "3+3?", "answer": 6}\n')
    async with strict_server() as (url, taken):
        assert await bench("votes", "--url", url, "--questions", path, "--samples", 3, "--parallel", 1) == 0
    said = capsys.readouterr()
    assert "top_k and min_p as the endpoint has them" in said.out
    assert "| cloud-1 | 50.0 %" in said.out
    sent = [body for body in taken if body][2:]  # the first two asked how it may be asked
    assert len(sent) == 2 * (3 + 1)
    assert not any("n" in body for body in sent), "it gives one answer whatever n says"
    assert {body["temperature"] for body in sent} == {0.0, 0.5}
    assert len({body["seed"] for body in sent}) == len(sent)


async def drawn_from(
    chat: Callable[[web.Request], Awaitable[web.Response]], *, wanted: int = 9, have: int = 0
) -> tuple[list[Sample], MeasuredEndpoint, str]:
    """Samples `have` to `wanted` of one question, drawn from a server that answers by `chat`."""
    [problem] = shipped_questions("arithmetic").problems[:1]
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat)])
    keys = [
        SampleKey(source="", problem=problem.key, model="m", index=i, temperature=1.0, max_tokens=64, seed=7)
        for i in range(have, wanted)
    ]
    async with served(app) as url, MeasuredEndpoint(url, None) as endpoint:
        note = await endpoint.settle(problem, "m", 64)
        return [sample async for sample in endpoint.samples(problem, keys)], endpoint, note


@dataclass
class NumberedAnswers:
    """A server that numbers its answers. `most`: it refuses more at once; `gives`: what it makes of `n`."""

    most: int = 128
    gives: Callable[[int], int] = lambda n: n
    one_seed: bool = False
    with_logprobs: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    said: int = 0

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("logprobs") and not self.with_logprobs:
            return web.json_response({"error": {"message": "no logprobs"}}, status=400)
        self.asked.append(body)
        n = body.get("n", 1)
        if n > self.most:
            return web.json_response({"error": {"message": f"n is {n}"}}, status=400)
        choices = [self._choice(at) for at in range(self.gives(n))]
        usage = {"prompt_tokens": 9, "completion_tokens": sum(range(2, 2 + len(choices))), "total_tokens": 99}
        return web.json_response({"id": "x", "choices": choices, "usage": usage})

    def _choice(self, at: int) -> dict[str, Any]:
        if at == 0 or not self.one_seed:
            self.said += 1
        entry = {"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}
        entries = [entry] * (2 if self.one_seed else 2 + at)
        choice = {"index": at, "message": {"role": "assistant", "content": f"no. {self.said}"}, "finish_reason": "stop"}
        return choice | ({"logprobs": {"content": entries}} if self.with_logprobs else {})

    def sizes(self) -> list[int]:
        """What `n` each request for samples had: not the two by which the server was found out."""
        return [body.get("n", 1) for body in self.asked[2:]]


@pytest.mark.parametrize(
    ("server", "sizes", "note"),
    [
        (NumberedAnswers(), [9], "(top_p 1, top_k 0, min_p 0)."),
        (NumberedAnswers(most=5), [9, 4, 4, 1], "(top_p 1, top_k 0, min_p 0)."),
        (NumberedAnswers(gives=lambda n: min(n, 4)), [9, 4, 1], "(top_p 1, top_k 0, min_p 0)."),
        (NumberedAnswers(gives=lambda n: n + 3), [1] * 9, "one sample a request."),
        (NumberedAnswers(most=1), [1] * 9, "one sample a request."),
        (NumberedAnswers(gives=lambda _: 1), [1] * 9, "one sample a request."),
        (NumberedAnswers(one_seed=True), [1] * 9, "one sample a request."),
    ],
    ids=["takes n", "up to 5", "gives 4", "gives more", "refuses n", "ignores n", "one seed for all"],
)
async def test_samples_of_one_question_are_drawn_with_as_few_requests_as_the_endpoint_allows(
    server: NumberedAnswers, sizes: list[int], note: str
) -> None:
    samples, _, said = await drawn_from(server.chat)
    assert server.sizes() == sizes
    assert said.endswith(note)
    assert [sample.key.index for sample in samples] == list(range(9)), "each once, in order"
    if not server.one_seed:
        assert len({sample.text for sample in samples}) == 9, "no answer is two samples"


async def test_a_request_has_the_seed_of_its_first_sample_and_each_answer_its_own_tokens() -> None:
    server = NumberedAnswers()
    samples, _, _ = await drawn_from(server.chat, have=3)
    assert server.asked[-1]["seed"] == sampling_seed(samples[0].key)
    assert server.asked[-1]["logprobs"] is True
    assert [sample.completion_tokens for sample in samples] == [2, 3, 4, 5, 6, 7]
    assert {sample.prompt_tokens for sample in samples} == {9}


async def test_tokens_are_shared_out_where_nothing_tells_whose_they_are() -> None:
    server = NumberedAnswers(with_logprobs=False)
    samples, _, note = await drawn_from(server.chat, wanted=4)
    assert [sample.completion_tokens for sample in samples] == [4, 4, 3, 3], "2 + 3 + 4 + 5"
    assert "tokens of each answer are its share of its request's" in note


def test_the_shipped_questions_fit_the_embedded_context() -> None:
    longest = max(len(one.asked.model_dump_json()) for one in shipped_questions("tools").problems)
    assert longest < 2500
