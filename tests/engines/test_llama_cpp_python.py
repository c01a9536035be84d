"""Engine llama-cpp-python: where its cache keeps what, which builds are used, and the real one where it was made."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.engines.engine import Device, EnginePlaces, EngineSpec
from swarm.engines.hosted.answer_text import sampling_of
from swarm.engines.hosted.generator import Job
from swarm.engines.hosted.hosted_engine import HostedEngine
from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.engines.llama_cpp_python import engine as llama_cpp_python
from swarm.engines.llama_cpp_python.library import VERSION
from swarm.engines.llama_cpp_python.sequences import CacheSequence, SequenceTable
from swarm.engines.registry import load_engine
from swarm.errors import BadRequest, EngineFailed, UnknownArchitecture
from swarm.generation import Delta, Finish, GenerationRequest, JsonObject
from swarm.registry.embedded import embedded_model_path
from tests.doubles.chat_templates import TEMPLATES
from tests.doubles.made_engines import made_engine
from tests.doubles.tiny_models import write_encoder, write_reranker, write_templated_model
from tests.engines.test_chat_templates import CONVERSATIONS, TOOLS, asked

NAME = "llama-cpp-python"


def filled(table: SequenceTable, *prompts: list[int]) -> list[CacheSequence]:
    """Sequences that hold `prompts`, idle, in this order of use."""
    sequences = [table.place(prompt).sequence for prompt in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        sequence.tokens = array("i", prompt)
        table.leave(sequence)
    return sequences


SYSTEM = [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("prompt", "rewinds", "kept", "sequence", "copied_from"),
    [
        ([*SYSTEM, 6, 7, 8], True, 7, 0, None),  # the first conversation goes on
        ([*SYSTEM, 9, 9, 9], True, 7, 1, None),  # the second one
        ([*SYSTEM, 6, 7], True, 6, 2, 0),  # its last token is read in any case
        ([*SYSTEM, 8, 8], True, 5, 2, 0),  # another one with the same beginning: a copy of that
        ([9, 9, 9], True, 0, 2, None),
        ([*SYSTEM, 6, 7, 8], False, 7, 0, None),  # a recurrent state that is continued
        ([*SYSTEM, 8, 8], False, 0, 2, None),  # and one that would have to go back
    ],
)
def test_a_prompt_is_read_where_most_of_it_is(
    prompt: list[int], rewinds: bool, kept: int, sequence: int, copied_from: int | None
) -> None:
    table = SequenceTable(3, rewinds)
    filled(table, [*SYSTEM, 6, 7], [*SYSTEM, 9, 9])
    placed = table.place(prompt)
    assert (placed.sequence.id, placed.kept) == (sequence, kept)
    assert (placed.copied_from and placed.copied_from.id) == copied_from


def test_a_running_answer_lends_its_beginning_and_keeps_its_sequence() -> None:
    table = SequenceTable(2)
    [running] = filled(table, [*SYSTEM, 6])
    placed = table.place([*SYSTEM, 6, 7])
    assert placed.sequence is running
    running.tokens = array("i", [*SYSTEM, 6, 7])
    other = table.place([*SYSTEM, 6, 8])
    assert (other.sequence.id, other.kept, other.copied_from) == (1, 6, running)


def test_what_was_used_longest_ago_gives_way() -> None:
    table = SequenceTable(3)
    first, second, third = filled(table, [1, 1], [2, 2], [3, 3])
    assert table.to_forget() is first
    assert table.place([7, 7, 7]).sequence is first
    assert table.another() is second
    assert table.to_forget() is third
    third.busy = True
    assert table.to_forget() is None


def test_what_another_sequence_has_too_is_not_kept_twice() -> None:
    table = SequenceTable(3)
    short, other = filled(table, [1, 2], [3])
    longer = table.place([9]).sequence
    longer.tokens = array("i", [1, 2, 3])
    assert table.leave(longer) == [short]
    assert other not in table.leave(longer)


def installed(folder: Path, version: str) -> Path:
    made = folder / f"{NAME}-native"
    made.mkdir(parents=True)
    about = {"engine": NAME, "flavour": "native", "version": version, "native": True, "packages": "."}
    (made / "engine.json").write_text(json.dumps(about))
    return folder


def saying(answer: object) -> Callable[[object], object]:
    """A function that answers this, whatever it is asked."""
    return lambda _: answer


def test_a_build_is_asked_what_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device("CUDA0", "NVIDIA GeForce RTX 4090", 24 << 30, 20 << 30)
    said = {
        "devices": [{"name": gpu.name, "description": gpu.description, "total_bytes": 24 << 30, "free_bytes": 20 << 30}]
    }
    monkeypatch.setattr(llama_cpp_python, "asked", saying(said))
    places = EnginePlaces(installed(tmp_path, VERSION))
    [build] = llama_cpp_python.builds(places)
    assert (build.engine, build.version, build.devices, build.native) == (NAME, VERSION, (gpu,), True)
    assert build.packages == tmp_path / f"{NAME}-native"
    assert llama_cpp_python.problems(places) == ()


@pytest.mark.parametrize(
    ("version", "said", "words"),
    [
        ("0.2.1", {"devices": []}, f"has llama-cpp-python 0.2.1, and this program knows {VERSION}"),
        (VERSION, {"error": "libcuda.so.1: no such file"}, "cannot be used: libcuda.so.1: no such file"),
    ],
)
def test_a_build_that_cannot_be_used_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, said: dict[str, object], words: str
) -> None:
    monkeypatch.setattr(llama_cpp_python, "asked", saying(said))
    places = EnginePlaces(installed(tmp_path, version))
    assert llama_cpp_python.builds(places) == ()
    [problem] = llama_cpp_python.problems(places)
    assert words in problem
    assert "swarm engines install llama-cpp" in problem


def test_a_package_of_another_version_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_python, "find_spec", saying(object()))
    monkeypatch.setattr(llama_cpp_python, "version", saying("9.9.9"))
    why = llama_cpp_python.why_not_available()
    assert why is not None
    assert "9.9.9" in why
    assert VERSION in why


def test_a_library_that_is_not_there_says_so_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise RuntimeError('libcudart.so.12 was not found')")
    assert "libcudart.so.12 was not found" in llama_cpp_python.asked(tmp_path)["error"]
    (tmp_path / "llama_cpp.py").write_text("import os; os.abort()")
    assert "ended with -6" in llama_cpp_python.asked(tmp_path)["error"]


def chat(*turns: str, **fields: object) -> GenerationRequest:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": messages, "temperature": 0.0, "seed": 3, "max_tokens": 12, **fields}
    )


async def read(engine: HostedEngine, request: GenerationRequest, n: int = 1) -> tuple[list[str], list[Finish]]:
    texts, finishes = [""] * n, dict[int, Finish]()
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            if isinstance(event, Delta):
                texts[event.choice] += event.text
            else:
                finishes[event.choice] = event
    return texts, [finishes[choice] for choice in range(n)]


@pytest.fixture
async def engine(demo_model: Path) -> AsyncIterator[HostedEngine]:
    spec = EngineSpec("demo", demo_model, 512, 3, threads=1, build=made_engine(NAME))
    loaded = await llama_cpp_python.load(spec)
    yield loaded
    await loaded.aclose()


async def test_conversations_that_take_turns_are_not_read_twice(engine: HostedEngine) -> None:
    conversations = [["one " * 100], ["two " * 100]]
    for turn in range(3):
        for turns in conversations:
            [text], [finish] = await read(engine, chat(*turns))
            usage = finish.usage
            assert turn == 0 or usage.prompt_tokens - usage.cached_tokens < 40
            turns += [text, "and then?"]


async def test_answers_beside_others_are_those_that_they_are_alone(engine: HostedEngine) -> None:
    """Each draws by a seed of its own, whoever else is in the batch."""
    together, _ = await read(engine, chat("Say something nice", temperature=1.2), n=3)
    alone = [
        (await read(engine, chat("Say something nice", temperature=1.2, seed=3 + choice)))[0][0] for choice in range(3)
    ]
    assert together == alone


async def test_more_than_the_cache_holds_pushes_out_what_is_idle(engine: HostedEngine) -> None:
    """Its 1,536 cells are for three answers; eight conversations of 300 tokens leave their traces in them."""
    for number in range(8):
        _, [finish] = await read(engine, chat(f"{number} " * 140))
        assert finish.usage.completion_tokens
    answers = await asyncio.gather(*(read(engine, chat(f"{number} again " * 90)) for number in range(3)))
    assert all(finish.usage.completion_tokens for _, [finish] in answers)


async def test_an_answer_keeps_its_schema(engine: HostedEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 3, "maximum": 5}, "tag": {"enum": ["a", "b"]}},
        "required": ["count", "tag"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    texts, _ = await read(engine, chat("Fill in", response_format=wanted, temperature=1.5, max_tokens=60), n=3)
    for text in texts:
        made = json.loads(text)
        assert made.keys() == {"count", "tag"}
        assert made["count"] in (3, 4, 5)
    [chosen], _ = await read(engine, chat("Fill in", response_format={"type": "choice", "choice": ["yes", "no"]}))
    assert chosen in ("yes", "no")


@pytest.mark.parametrize(("schema", "words"), [({"type": "wat"}, "wat"), ({"const": "\ud800"}, "hex escape")])
async def test_a_schema_that_no_grammar_can_be_made_of_is_refused(
    engine: HostedEngine, schema: JsonObject, words: str
) -> None:
    connection = engine._connection  # pyright: ignore[reportPrivateUsage] - what is asked of an engine was checked
    job = Job(connection.new_job(), (1, 2), 1, sampling_of(chat("x"), 1), 4, schema=schema)
    with pytest.raises(BadRequest, match=rf"the schema cannot be kept: .*{words}"):
        async for _ in connection.events(job):
            pass
    assert (await read(engine, chat("What is the capital of France?")))[0][0]


async def test_other_embedded_models_are_run_too(engine: HostedEngine, demo_model: Path) -> None:
    for name in ("demo-b.gguf", "demo-c.gguf"):
        other = await llama_cpp_python.load(replace(engine.spec, path=demo_model.with_name(name)))
        try:
            assert (await read(other, chat("What is the capital of France?")))[0][0]
        finally:
            await other.aclose()


ABORTED = """
import sys
from pathlib import Path
from swarm.engines.hosted.generator import Ended, Job, JobSampling, LoadOrder, Read
from swarm.engines.llama_cpp_python.generator import load
generator = load(LoadOrder(Path(sys.argv[1]), 1024, 2, 1, 1))
greedy = JobSampling(0, 1, 0, 0, 1, 0, 0, 1)
prompt = tuple(generator.tokenize("one two three " * 200, True, True))
generator.begin(Job(1, prompt, 1, greedy, 4))
generator.abort(1)
assert generator.step() == [], "a step of a prompt that nobody waits for ends at once"
assert len(generator.embed(prompt[:8])), "what ended that step ends nothing else"
generator.stop(1)
generator.begin(Job(2, prompt, 1, greedy, 4))
events = []
while not any(isinstance(event, Ended) for event in events):
    events += generator.step()
assert events[0] == Read(2, 0), "nothing of the step was kept"
print(events[-1].completion_tokens)
"""


def test_reading_a_prompt_can_be_ended_within_a_step(demo_model: Path) -> None:
    packages = made_engine(NAME).packages
    ran = subprocess.run(
        [sys.executable, "-c", ABORTED, str(demo_model)],
        env=host_environment(packages),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "4"


@pytest.mark.parametrize(
    "kind",
    [
        "roles alternate, no system",
        "takes short ids and one call a turn",
        "roles alternate but for calls",
        "reads the schemas of tools",
    ],
)
async def test_every_conversation_is_said_whole_by_its_templates(tmp_path: Path, kind: str) -> None:
    write_templated_model(tmp_path / "other.gguf", TEMPLATES[kind])
    spec = EngineSpec("other", tmp_path / "other.gguf", 1024, 1, threads=1, build=made_engine(NAME))
    engine = await llama_cpp_python.load(spec)
    try:
        for messages, said in CONVERSATIONS.values():
            for tools in ([], TOOLS):
                text = await engine.prompt_text(asked(messages, tools=tools))
                assert all(mark in text for mark in said)
                assert all(f"about {tool['function']['name']}" in text for tool in tools)
    finally:
        await engine.aclose()


async def test_an_encoder_makes_the_vectors_that_llama_cpp_makes(tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder.gguf")
    spec = EngineSpec("encoder", tmp_path / "encoder.gguf", 512, 3, threads=1)
    texts, made = ["the cat", "a dog the cat"], list[tuple[float, ...]]()
    for name, build in ((NAME, made_engine(NAME)), ("xllamacpp", None)):
        engine = await load_engine(name, replace(spec, build=build))
        try:
            assert not engine.capabilities.generates
            made += (await engine.embed(texts)).vectors
        finally:
            await engine.aclose()
    assert made[0] == pytest.approx(made[2], abs=1e-4)
    assert made[1] == pytest.approx(made[3], abs=1e-4)
    assert made[0] != pytest.approx(made[1], abs=1e-2)


async def test_a_model_that_it_does_not_run_is_refused_in_words(tmp_path: Path) -> None:
    write_reranker(tmp_path / "rank.gguf")
    (tmp_path / "new.gguf").write_bytes(embedded_model_path().read_bytes().replace(b"qwen2", b"qwenX"))
    spec = EngineSpec("x", tmp_path / "rank.gguf", 512, 1, threads=1, build=made_engine(NAME))
    with pytest.raises(EngineFailed, match="is a reranking model, which engine llama-cpp-python does not run"):
        await llama_cpp_python.load(spec)
    with pytest.raises(UnknownArchitecture, match="unknown model architecture: 'qwenX'"):
        await llama_cpp_python.load(replace(spec, path=tmp_path / "new.gguf"))
