"""Any llama.cpp server program as an engine: how it is found and asked, and what happens when it breaks.

The programs are a stand-in, which xllamacpp serves behind, and the real one where it was made (SWARM_TEST_ENGINES).
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from swarm.engines.engine import EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.llama_cpp import llama_server
from swarm.engines.llama_cpp.llama_program import LlamaProgram
from swarm.engines.llama_cpp.llama_server_host import answers_while_embedding, makes_several, refuse_too_old
from swarm.engines.llama_cpp.server_engine import EngineHost, LlamaServerEngine, host_environment
from swarm.engines.llama_cpp.server_host import Batching, order_to_json
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import EngineDied, EngineFailed, UnknownArchitecture
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.llama_server_program import HELP, write_program
from tests.doubles.made_engines import made_engine
from tests.doubles.wedges import QUICK
from tests.e2e.asking import rambling

SEEN_S = 60.0  # far above what any of it takes


def spec(path: Path, build: EngineBuild | None, slots: int = 2) -> EngineSpec:
    return EngineSpec("demo", path, 1024, slots, threads=1, build=build)


def stand_in(folder: Path, **said: object) -> EngineBuild:
    return EngineBuild("llama-server", "b5432", program=write_program(folder / "llama-server", **said))


@pytest.fixture(params=["stand-in", "llama-server"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> EngineBuild:
    return stand_in(tmp_path) if request.param == "stand-in" else made_engine(request.param)


def chat(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0.0, **fields}
    )


async def answer(engine: LlamaServerEngine, request: GenerationRequest, n: int = 1) -> list[Delta | Finish]:
    async with asyncio.timeout(SEEN_S), aclosing(engine.candidates(request, n)) as events:
        return [event async for event in events]


def processes() -> tuple[psutil.Process, psutil.Process]:
    """The host, and the program that it runs."""
    (host,) = psutil.Process().children()
    (program,) = host.children()
    return host, program


def has_ended(process: psutil.Process) -> bool:
    """Whoever is to be told of it in the end."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def cmdline_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def all_gone(*gone: psutil.Process) -> bool:
    async with asyncio.timeout(SEEN_S):
        while not all(map(has_ended, gone)):  # noqa: ASYNC110 - others end them
            await asyncio.sleep(0)
    return True


async def test_a_program_serves_with_a_key_that_ps_does_not_show(build: EngineBuild, demo_model: Path) -> None:
    async with aclosing(await llama_server.load(spec(demo_model, build))) as engine:
        host, program = processes()
        events = await answer(engine, chat("What is the capital of France?", max_tokens=4), n=2)
        assert {event.choice for event in events if isinstance(event, Finish)} == {0, 1}
        key = program.environ()["LLAMA_API_KEY"]
        assert len(key) == 32
        assert key not in " ".join([*program.cmdline(), *host.cmdline()])
        assert program.environ()["OMP_WAIT_POLICY"] == "passive"
        assert str(engine.computation) == f"llama-server {build.version} on the CPU"
        assert engine.name == "llama-server"
        assert (engine.taken_bytes or 0) > 2**20
    assert await all_gone(host, program)


async def test_options_of_another_server_are_not_this_ones(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_API_PREFIX", "/elsewhere")
    async with aclosing(await llama_server.load(spec(demo_model, stand_in(tmp_path)))):
        _, program = processes()
        assert not {name for name in program.environ() if name.startswith("LLAMA_")} - {"LLAMA_API_KEY"}


async def test_a_program_that_is_killed_ends_the_answer_and_the_engine(build: EngineBuild, demo_model: Path) -> None:
    roomy = EngineSpec("demo", demo_model, 8192, 1, threads=1, build=build)
    async with aclosing(await llama_server.load(roomy)) as engine:
        host, program = processes()
        asked = chat("word " * 50, **{**await asyncio.to_thread(rambling), "max_tokens": 7000})
        async with asyncio.timeout(SEEN_S), aclosing(engine.candidates(asked, 1)) as events:
            assert isinstance(await anext(events), Delta)
            program.kill()
            with pytest.raises(EngineDied):
                _ = [event async for event in events]
        reason = await asyncio.wait_for(engine.failed, SEEN_S)
        assert "killed, as the system does where memory runs out" in reason
        assert await all_gone(host, program)


async def test_a_program_that_freezes_is_ended_and_reported(build: EngineBuild, demo_model: Path) -> None:
    async with aclosing(await llama_server.load(spec(demo_model, build), limits=QUICK)) as engine:
        host, program = processes()
        program.suspend()
        reason = await asyncio.wait_for(engine.failed, SEEN_S)
        assert "was ended" in reason
        assert await all_gone(host, program)


async def test_a_host_that_is_killed_takes_its_program_along(build: EngineBuild, demo_model: Path) -> None:
    async with aclosing(await llama_server.load(spec(demo_model, build))) as engine:
        host, program = processes()
        host.kill()
        assert "ended with -9" in await asyncio.wait_for(engine.failed, SEEN_S)
        assert await all_gone(host, program)


NODE = """
import asyncio, sys
from pathlib import Path
from tests.engines.test_llama_server import *
async def main():
    program, model = map(Path, sys.argv[1:])
    engine = await llama_server.load(spec(model, EngineBuild("llama-server", "b1", program=program)))
    print(*(one.pid for one in processes()), flush=True)
    await engine.failed
asyncio.run(main())
"""


async def test_a_node_that_is_killed_leaves_nothing_behind(build: EngineBuild, demo_model: Path) -> None:
    assert build.program is not None
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NODE, str(build.program), str(demo_model),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert node.stdout is not None
    async with asyncio.timeout(SEEN_S):
        left = [psutil.Process(int(pid)) for pid in (await node.stdout.readline()).split()]
    assert len(left) == 2
    node.send_signal(signal.SIGKILL)
    await node.wait()
    assert await all_gone(*left)


async def test_a_program_that_its_host_has_left_ends_with_the_engine() -> None:
    """As where the system does not end it with its host."""
    host = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 1000 > /dev/null & echo $!; exit 1",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert host.stdout is not None
    program = psutil.Process(int(await host.stdout.readline()))
    await EngineHost(host).unload()
    assert await all_gone(program)


HOST = """
import sys
from pathlib import Path
from swarm.engines.llama_cpp.server_host import Serving, serve
def start(spec, batching):
    (spec.saves / "state").touch()
    if sys.argv[1:]:
        raise OSError("no more processes")
    return Serving("http://127.0.0.1:1", "key")
serve(start, lambda: None, Path("stopped").touch)
"""


@pytest.mark.parametrize("fails", [False, True])
async def test_a_host_that_nobody_hears_or_that_breaks_off_ends_its_program(tmp_path: Path, fails: bool) -> None:
    """The node is gone while the model is loaded, or the start fails in a way that nobody thought of."""
    read_end, write_end = os.pipe()
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, *(["fails"] if fails else []), stdin=asyncio.subprocess.PIPE, stdout=write_end,
        stderr=asyncio.subprocess.DEVNULL, cwd=tmp_path, env=host_environment(None),
    )  # fmt: skip
    os.close(read_end)
    os.close(write_end)
    order = replace(spec(tmp_path / "m.gguf", None), saves=tmp_path)
    async with asyncio.timeout(SEEN_S):
        await host.communicate(order_to_json(order, Batching.of(order, None)).encode() + b"\n")
    assert host.returncode == 1
    assert (tmp_path / "stopped").exists()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600, "what it writes is its user's alone"


async def test_a_program_that_cannot_choose_a_port_is_given_one(tmp_path: Path, demo_model: Path) -> None:
    async with aclosing(await llama_server.load(spec(demo_model, stand_in(tmp_path, any_port=False)))) as engine:
        assert await answer(engine, chat("hello", max_tokens=2))


def foreign_model(folder: Path, demo_model: Path) -> Path:
    """The embedded model, of an architecture that nothing knows."""
    path = folder / "foreign.gguf"
    whole = demo_model.read_bytes()
    assert whole.count(b"qwen2") > 1, "its keys begin with its architecture"
    path.write_bytes(whole.replace(b"qwen2", b"xxama"))
    return path


async def test_an_unknown_architecture_is_told_apart_and_named(tmp_path: Path, demo_model: Path) -> None:
    foreign = foreign_model(tmp_path, demo_model)
    with pytest.raises(UnknownArchitecture, match=r"'xxama'.*another engine or a newer build may"):
        await load_xllamacpp(EngineSpec("m", foreign, 256, 1, 1), "always")
    recorded = "E llama_model_load: error loading model: unknown model architecture: 'xxama'"
    with pytest.raises(UnknownArchitecture, match="'xxama'"):
        await llama_server.load(spec(foreign, stand_in(tmp_path, dies=recorded, code=1)))
    with pytest.raises(UnknownArchitecture, match="'xxama'"):
        await llama_server.load(spec(foreign, made_engine("llama-server")))


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("ggml_aligned_malloc: insufficient memory (attempted to allocate 43.75 MB)", 1, "does not fit into memory"),
        (
            "error while loading shared libraries: libcudart.so.12: cannot open",
            127,
            "cannot run here .*install it anew",
        ),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", 1, "update the GPU's driver"),
    ],
)
async def test_a_load_that_fails_says_why_and_the_remedy(
    tmp_path: Path, demo_model: Path, said: str, code: int, words: str
) -> None:
    with pytest.raises(EngineFailed, match=words):
        await llama_server.load(spec(demo_model, stand_in(tmp_path, dies=said, code=code)))
    assert not psutil.Process().children()


async def test_a_program_that_ends_over_the_first_request_says_why(tmp_path: Path, demo_model: Path) -> None:
    """A GPU's memory runs out when it computes for the first time."""
    program = stand_in(tmp_path, dies_when_asked="CUDA error: out of memory")
    with pytest.raises(EngineFailed, match=r"does not fit into memory \(CUDA error: out of memory\)"):
        await llama_server.load(spec(demo_model, program))
    assert not psutil.Process().children()


def shortened(model: Path, copy: Path) -> Path:
    copy.write_bytes(model.read_bytes()[:-100_000])
    return copy


async def test_a_draft_model_that_cannot_be_loaded_is_named(tmp_path: Path, demo_model: Path) -> None:
    with pytest.raises(EngineFailed, match=r"no draft model at .*none\.gguf"):
        await load_xllamacpp(replace(spec(demo_model, None), draft=tmp_path / "none.gguf"), "always")
    damaged = shortened(demo_model, tmp_path / "damaged.gguf")
    with pytest.raises(EngineFailed, match=r"with its draft model .*damaged\.gguf"):
        await load_xllamacpp(replace(spec(demo_model, None, slots=1), draft=damaged), "always")


async def test_what_is_no_model_is_refused_by_name(build: EngineBuild, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(EngineFailed, match=r"bad\.gguf"):
        await llama_server.load(spec(bad, build))


async def test_a_load_that_takes_too_long_leaves_nothing_behind(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = stand_in(tmp_path, hangs=True)
    with pytest.raises(EngineFailed, match="was not loaded within 1 s"):
        await llama_server.load(spec(demo_model, hanging), load_least_s=0.5)
    assert await all_gone(*(one for one in psutil.process_iter() if str(hanging.program) in cmdline_of(one)))


# Finding and asking


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of this machine itself."""
    monkeypatch.setattr(llama_server, "known_places", lambda *_: (tmp_path / "known",))
    monkeypatch.setattr(llama_server, "_of_package", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))


@pytest.mark.usefixtures("nothing_else")
def test_programs_are_found_in_the_order_of_who_wants_them_each_once(tmp_path: Path) -> None:
    for name in ("named", "path", "known", "engines/llama-server-native/bin"):
        (tmp_path / name).mkdir(parents=True)
    named = write_program(tmp_path / "named" / "llama-server", version="version: 1 (a)")
    write_program(tmp_path / "known" / "llama-server", version="version: 4 (a)")
    (tmp_path / "path" / "llama-server").symlink_to(named)
    write_program(tmp_path / "engines/llama-server-native/bin/llama-server", version="version: 0 (unknown)")
    (tmp_path / "engines/llama-server-native/engine.json").write_text(
        '{"engine": "llama-server", "flavour": "native", "version": "b3", "native": true, '
        '"program": "bin/llama-server", "packages": null}'
    )
    places = EnginePlaces(tmp_path / "engines", named, answers=tmp_path / "engines.json")
    builds = llama_server.builds(places)
    assert [(one.version, one.native) for one in builds] == [("b1", False), ("b3", True), ("b4", False)]
    assert builds[0].source == "--llama-server"
    named.write_text("#!/bin/sh\nexit 1\n")
    assert [one.version for one in llama_server.builds(EnginePlaces(answers=tmp_path / "engines.json"))] == ["b4"]
    assert llama_server.why_not_available() is None


@pytest.mark.usefixtures("nothing_else")
def test_what_was_found_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    program = write_program(tmp_path / "path" / "llama-server")
    places = EnginePlaces(answers=tmp_path / "engines.json")
    first = llama_server.builds(places)
    stamp = program.stat()
    program.write_text(f"#!/bin/sh\nexit 1\n{'#' * (stamp.st_size - 18)}\n")
    os.utime(program, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert llama_server.builds(places) == first, "it was not run again"


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"version": "nginx version: nginx/1.24", "help": "usage"}, r"is no llama.cpp server \(it prints 'nginx"),
        ({"version": "usage: x", "help": "usage: x", "exit": 2}, "is no llama.cpp server"),
        ({"help": HELP.replace("--jinja", "--ninja")}, "too old.*has no --jinja.*update it"),
        ({"hangs": True}, "did not answer --version within 1 s.*take it off the PATH"),
        ({"version": "error while loading shared libraries: libx.so", "exit": 127}, "cannot run here.*libx.so"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_remedy(tmp_path: Path, said: dict[str, object], words: str) -> None:
    limit_s = 1.0 if "hangs" in said else SEEN_S
    named = write_program(tmp_path / "llama-server", **said)
    (problem,) = llama_server.problems(EnginePlaces(llama_server=named), limit_s)
    with pytest.raises(EngineFailed, match=words):
        raise EngineFailed(problem)
    assert llama_server.builds(EnginePlaces(llama_server=named), limit_s) == ()


@pytest.mark.usefixtures("nothing_else")
def test_what_cannot_be_run_at_all_is_said(tmp_path: Path) -> None:
    text, missing = tmp_path / "notes.txt", tmp_path / "none"
    text.write_text("hello")
    for path in (text, missing):
        (problem,) = llama_server.problems(EnginePlaces(llama_server=path))
        assert f"{path} cannot be run" in problem
    assert "`swarm engines install native`" in (llama_server.why_not_available() or "")


async def test_without_any_program_the_remedy_is_named(nothing_else: None, demo_model: Path) -> None:
    with pytest.raises(EngineFailed, match=r"engine llama-server: no llama-server is on the PATH.*install native"):
        await llama_server.load(spec(demo_model, None))


def test_a_gpu_that_a_program_does_not_find_is_a_problem_and_the_program_is_used(tmp_path: Path) -> None:
    said = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
    named = write_program(tmp_path / "llama-server", **{"list-devices": said})
    places = EnginePlaces(llama_server=named)
    assert llama_server.builds(places)[0].program == named
    assert "finds no GPU (failed to initialize CUDA" in llama_server.problems(places)[0]


@pytest.mark.parametrize(
    ("files", "native"),
    [
        ({"CMakeCache.txt": "GGML_NATIVE:BOOL=ON\n"}, True),
        ({"CMakeCache.txt": "GGML_NATIVE:BOOL=OFF\n"}, False),
        ({"bin/libggml-cpu-haswell.so": ""}, True),
        ({"libexec/libggml-cpu-zen4.so": ""}, True),
        ({}, False),
    ],
)
def test_what_is_made_for_this_processor_is_told_by_what_lies_around_it(
    tmp_path: Path, files: dict[str, str], native: bool
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "libexec").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert llama_server.is_native(tmp_path / "bin" / "llama-server") is native


# What older servers cannot do


def asked(**answers: tuple[int, str]) -> Callable[..., tuple[int, str]]:
    return lambda path, _=None: answers.get(str(path).rpartition("/")[2].replace("-", "_"), (404, ""))


WHOLE = {
    "props": (200, '{"total_slots": 2}'),
    "metrics": (200, "llamacpp:n_decode_total 1"),
    "apply_template": (200, '{"prompt": "a"}'),
    "tokenize": (200, '{"tokens": [{"id": 1, "piece": "a"}]}'),
}


@pytest.mark.parametrize("without", WHOLE)
def test_a_server_without_a_part_that_is_needed_is_too_old(without: str) -> None:
    program = LlamaProgram("b1", (), frozenset())
    refuse_too_old(asked(**WHOLE), program)
    refuse_too_old(asked(**{**WHOLE, "apply_template": (400, "this model has none")}), program)
    for answer in ((404, ""), (200, "{}")):
        with pytest.raises(EngineFailed, match=rf"\(b1\) is too old: its /{without.replace('_', '-')} does not"):
            refuse_too_old(asked(**{**WHOLE, without: answer}), program)


def test_what_an_older_server_cannot_do_is_found_out(demo_model: Path) -> None:
    refusal = '{"error": {"message": "This server does not support completions. Start it without `--embeddings`"}}'
    assert not answers_while_embedding(asked(completion=(501, refusal)))
    assert answers_while_embedding(asked(completion=(200, "{}")))
    two = asked(completions=(200, '{"choices": [{"index": 0}, {"index": 1}]}'))
    one = asked(completions=(200, '{"choices": [{"index": 0}]}'))
    assert makes_several(two, spec(demo_model, None))
    assert not makes_several(one, spec(demo_model, None))
