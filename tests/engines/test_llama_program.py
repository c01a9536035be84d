"""What llama.cpp server programs print, old and new, and the command that each is given. Nothing is started.

The texts are recorded from b11434 unless they say otherwise, and cut; those of GPUs are llama.cpp's own formats.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swarm.engines.engine import Device, EngineBuild, EnginePart, EngineSpec
from swarm.engines.llama_cpp.llama_program import (
    REQUIRED,
    LlamaProgram,
    Placed,
    build_words,
    command,
    devices_in,
    listening_port,
    old_devices_in,
    options_in,
    placed,
    said_by_program,
    shared_out,
    why_it_ended,
)
from swarm.engines.llama_cpp.server_host import Batching, Pooling, order_from_json, order_to_json
from swarm.errors import EngineFailed, UnknownArchitecture
from tests.doubles.llama_server_program import HELP

# As programs of early 2025 list them: flash attention is a flag, and much is not there yet.
OLD_HELP = """usage: ./llama-server [options]
-t,    --threads N                      number of threads to use during generation (default: -1)
-c,    --ctx-size N                     size of the prompt context (default: 4096, 0 = loaded from model)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
-fa,   --flash-attn                     enable Flash Attention (default: disabled)
-ctk,  --cache-type-k TYPE              KV cache data type for K
-ctv,  --cache-type-v TYPE              KV cache data type for V
-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM
-m,    --model FNAME                    model path (default: `models/$filename` with filename from `--hf-file`
-np,   --parallel N                     number of parallel sequences to decode (default: 1)
-a,    --alias STRING                   set alias for model name (to be used by REST API)
--host HOST                             ip address to listen (default: 127.0.0.1)
--port PORT                             port to listen (default: 8080)
--no-webui                              Disable the Web UI (default: enabled)
--metrics                               enable prometheus compatible metrics endpoint (default: disabled)
--jinja                                 use jinja template for chat (default: disabled)
"""
CUDA = """ggml_cuda_init: found 2 CUDA devices:
Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23311 MiB free)
  CUDA1: NVIDIA RTX A2000 (laptop) (4096 MiB, 4001 MiB free)
"""
OLD_CUDA = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 3060, compute capability 8.6, VMM: yes
version: 5432 (0123abc)
"""
CARD = Device("CUDA0", "NVIDIA GeForce RTX 4090", 24080 * 2**20, 23311 * 2**20)
PROGRAM = Path("/opt/llama-server")
SPEC = EngineSpec("demo", Path("/m.gguf"), 1024, 4, threads=3, reading_threads=6)
BATCHING = Batching(None, 512)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("version: 5432 (0123abc)\nbuilt with cc", "b5432"),
        ("version: 0.6.0-dev (build 11434, commit 0123abc)\nbuilt with GNU 12.2.0", "b11434"),
        ("version: 0.6.0-dev (build 0, commit unknown)\nbuilt with GNU 12.2.0", "0.6.0-dev"),
        ("version: 0 (unknown)", "0"),
        ("ggml_cuda_init: found 1 CUDA devices:\nversion: 6001 (ab)", "b6001"),
        ("something else", "of unknown version"),
    ],
)
def test_versions_of_all_ages_are_read(said: str, words: str) -> None:
    assert build_words(said) == words


def test_devices_are_read_from_either_form() -> None:
    assert devices_in(CUDA)[0] == CARD
    assert devices_in(CUDA)[1].description == "NVIDIA RTX A2000 (laptop)"
    assert devices_in("Available devices:\n  (none)\n") == ()
    assert old_devices_in(OLD_CUDA) == (Device("CUDA0", "NVIDIA GeForce RTX 3060"),)


def test_what_is_listed_is_there_and_what_is_only_mentioned_is_not() -> None:
    options = options_in(HELP)
    assert options >= REQUIRED
    assert {"--n-gpu-layers", "-kvu", "--no-context-shift", "--flash-attn auto", "--verbosity 4"} <= options
    assert "--hf-file" not in options_in(OLD_HELP), "it is in the words about another one"
    assert not {"--kv-unified", "--flash-attn auto", "--list-devices"} & options_in(OLD_HELP)


@pytest.mark.parametrize(
    ("version", "help_text", "words"),
    [
        ("nginx version: nginx/1.24.0", "usage: nginx", r"is no llama.cpp server \(it prints 'nginx version"),
        ("", "", "it prints 'nothing'"),
        ("\x1b[31mred\x07", "", r"it prints '\[31mred'"),
        ("version: 3000 (a)", OLD_HELP.replace("--jinja", ""), r"\(b3000\) is too old.* has no --jinja; 5000 .*update"),
    ],
)
def test_what_is_no_server_or_too_old_is_said_with_the_remedy(version: str, help_text: str, words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        said_by_program(PROGRAM, version, help_text, "")


def test_a_program_that_finds_no_gpu_says_so() -> None:
    said = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version\n"
    program = said_by_program(PROGRAM, "version: 6001 (ab)", HELP, said + "Available devices:\n  (none)\n")
    assert program.devices == ()
    assert "driver version is insufficient" in program.no_device
    assert said_by_program(PROGRAM, "version: 6001 (ab)", HELP, CUDA).no_device == ""


def test_what_a_program_said_is_kept_as_json() -> None:
    program = said_by_program(PROGRAM, "version: 6001 (ab)", HELP, CUDA)
    assert LlamaProgram.of(program.as_json()) == program


def program(help_text: str = HELP, devices: tuple[Device, ...] = ()) -> LlamaProgram:
    return LlamaProgram("b1", devices, options_in(help_text))


def pairs(words: list[str]) -> set[tuple[str, str]]:
    return set(zip(words, [*words[1:], ""], strict=True))


def test_a_new_program_is_told_all_that_its_help_lists() -> None:
    words = command(program(), SPEC, BATCHING, 0)
    told = {
        ("--ctx-size", "4096"), ("--parallel", "4"), ("--threads", "3"), ("--threads-batch", "6"), ("--port", "0"),
        ("--host", "127.0.0.1"), ("--pooling", "mean"), ("--ubatch-size", "512"), ("--verbosity", "4"),
        ("--sse-ping-interval", "-1"),
    }  # fmt: skip
    assert told <= pairs(words)
    assert {"--kv-unified", "--no-ui", "--no-context-shift", "--embeddings", "--metrics", "--jinja"} <= set(words)
    assert not {"--no-webui", "--gpu-layers", "--cache-type-k", "--spec-type", "--cache-ram"} & set(words)
    assert "--embeddings" not in command(program(), SPEC, BATCHING, 0, embeds=False)


def test_further_slots_are_for_programs_that_share_the_cells_of_all() -> None:
    keeps = Batching(None, 512, slots=8)
    shares = HELP + "--kv-unified-per-slot N   most tokens of a slot\n"
    assert {("--parallel", "8"), ("--ctx-size", "4096")} <= pairs(command(program(shares), SPEC, keeps, 0))
    for help_text in (HELP, OLD_HELP):
        assert ("--parallel", "4") in pairs(command(program(help_text), SPEC, keeps, 0))


def test_an_old_program_is_told_nothing_that_it_does_not_know() -> None:
    words = command(program(OLD_HELP), SPEC, BATCHING, 4711)
    assert {word for word in words if word.startswith("--")} <= options_in(OLD_HELP)
    assert {("--port", "4711"), ("--no-webui", "--no-context-shift")} & pairs(words) == {("--port", "4711")}
    q8 = command(program(OLD_HELP), replace(SPEC, cache_type="q8_0"), BATCHING, 0)
    assert "--flash-attn" in q8, "it does not turn it on by itself"
    assert "--flash-attn" not in command(program(), replace(SPEC, cache_type="q8_0"), BATCHING, 0)


@pytest.mark.parametrize(
    ("help_text", "devices", "asked", "told"),
    [
        (HELP, (CARD,), None, []),  # it fits them to the memory that is free
        (OLD_HELP, (CARD,), None, ["--gpu-layers", "999"]),
        (OLD_HELP, (), None, []),
        (HELP, (CARD,), 12, ["--gpu-layers", "12"]),
        (HELP, (CARD,), 0, ["--gpu-layers", "0", "--device", "none"]),
        (OLD_HELP, (CARD,), 0, ["--gpu-layers", "0"]),
    ],
)
def test_layers_go_where_they_are_asked(
    help_text: str, devices: tuple[Device, ...], asked: int | None, told: list[str]
) -> None:
    words = command(program(help_text, devices), replace(SPEC, gpu_layers=asked), BATCHING, 0)
    start = words.index("--gpu-layers") if "--gpu-layers" in words else len(words)
    assert words[start : start + len(told)] == told
    assert ("--device" in words) is ("--device" in told)


RPC_HELP = HELP + "--rpc SERVERS      servers\n-dev, --device <d>     devices\n-ts, --tensor-split N0,N1    shares\n"
PARTS = (EnginePart("attic", "127.0.0.1:7", 5), EnginePart("hall", "127.0.0.1:8", 2))


@pytest.mark.parametrize(
    ("devices", "layers", "told"),
    [
        ((), None, {("--device", "RPC0,RPC1"), ("--gpu-layers", "7"), ("--tensor-split", "5,2")}),
        ((CARD,), 7, {("--device", "RPC0,RPC1"), ("--gpu-layers", "7"), ("--tensor-split", "5,2")}),
        ((CARD,), 10, {("--device", "RPC0,RPC1,CUDA0"), ("--gpu-layers", "10"), ("--tensor-split", "5,2,3")}),
        ((), 10, {("--device", "RPC0,RPC1"), ("--gpu-layers", "7"), ("--tensor-split", "5,2")}),
    ],
)
def test_parts_go_to_other_machines_first_and_the_rest_to_own_devices(
    devices: tuple[Device, ...], layers: int | None, told: set[tuple[str, str]]
) -> None:
    words = command(program(RPC_HELP, devices), replace(SPEC, parts=PARTS, gpu_layers=layers), BATCHING, 0)
    always = {("--rpc", "127.0.0.1:7,127.0.0.1:8"), ("--fit", "off")}
    assert told | always <= pairs(words)
    assert words.count("--gpu-layers") == 1


def test_a_program_that_reaches_no_other_machine_is_not_told_to() -> None:
    with pytest.raises(EngineFailed, match=r"has no --rpc, for parts of a model on other machines: update it"):
        command(program(), replace(SPEC, parts=PARTS), BATCHING, 0)


@pytest.mark.parametrize(
    ("layers", "sizes", "shares"), [(7, [1, 1], [4, 3]), (3, [10, 1, 1], [3, 0, 0]), (0, [5], [0]), (4, [], [])]
)
def test_layers_are_shared_out_by_size(layers: int, sizes: list[int], shares: list[int]) -> None:
    assert shared_out(layers, sizes) == shares


def test_a_ranker_pools_as_one() -> None:
    words = command(program(HELP + "--rerank, --reranking   enable\n"), SPEC, Batching(Pooling.RANK, 512), 0)
    assert ("--pooling", "rank") in pairs(words)
    assert "--reranking" in words


def test_guesses_images_and_saved_prompts_are_told_or_refused() -> None:
    wanted = replace(SPEC, draft=Path("/d.gguf"), ngram=True, saves=Path("/kv"))
    told = {("--spec-draft-model", "/d.gguf"), ("--spec-type", "ngram-mod,draft-simple"), ("--slot-save-path", "/kv")}
    assert told <= pairs(command(program(), wanted, BATCHING, 0))
    for asked in ({"draft": Path("/d")}, {"ngram": True}, {"saves": Path("/kv")}, {"projector": Path("/p")}):
        with pytest.raises(EngineFailed, match=r"this llama-server \(b1\) has no --.*update it"):
            command(program(OLD_HELP), replace(SPEC, **asked), BATCHING, 0)


def test_an_order_comes_back_whole() -> None:
    build = said_by_program(PROGRAM, "version: 6001 (ab)", HELP, CUDA)
    spec = replace(SPEC, saves=Path("/kv"), projector=Path("/p"), draft=Path("/d"), gpu_layers=3, ngram=True)
    spec = replace(spec, parts=(EnginePart("attic", "127.0.0.1:7", 2), EnginePart("hall", "127.0.0.1:8", 1)), node="me")
    spec = replace(spec, build=EngineBuild("llama-server", "b1", build.devices, True, PROGRAM, Path("/libs"), "here"))
    assert order_from_json(order_to_json(spec, Batching(Pooling.RANK, 7, 9))) == (spec, Batching(Pooling.RANK, 7, 9))


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("0.00.799.577 I srv  llama_server: listening on http://127.0.0.1:43921", 43921),
        ("main: server is listening on http://127.0.0.1:8080 - starting the main loop", 8080),
        ("main: HTTP server is listening, hostname: 127.0.0.1, port: 0, http threads: 3", 0),
        ("listening on http://0.0.0.0:80", None),
    ],
)
def test_the_port_is_told_in_the_log(line: str, port: int | None) -> None:
    assert listening_port(line) == port


USING = (
    "I llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GeForce RTX 4090) (0000:01:00.0) - 23311 MiB free"
)
OFFLOADED = "I load_tensors: offloaded 29/31 layers to GPU"


@pytest.mark.parametrize(
    ("lines", "devices", "asked", "where"),
    [
        ([USING, OFFLOADED], (CARD,), None, Placed(("NVIDIA GeForce RTX 4090",), 29, 31)),
        ([OFFLOADED], (), None, Placed((), 0, 31)),  # built to use other machines, too, and alone
        (["offloaded 0/31 layers to GPU", USING], (CARD,), 0, Placed((), 0, 31)),
        ([], (CARD,), None, Placed(("NVIDIA GeForce RTX 4090",), None, None)),  # it logs nothing of it
        ([], (CARD,), 0, Placed((), None, None)),
    ],
)
def test_where_the_layers_went_is_told_by_the_log(
    lines: list[str], devices: tuple[Device, ...], asked: int | None, where: Placed
) -> None:
    assert placed(lines, devices, asked) == where


@pytest.mark.parametrize(
    ("log", "code", "kind", "words"),
    [
        (
            "0.00.028.798 E llama_model_load: error loading model: unknown model architecture: 'lxama'\n"
            "0.00.058.897 E srv  llama_server: exiting due to model loading error",
            1, UnknownArchitecture, r"does not know this kind of model \(unknown model architecture: 'lxama'\)",
        ),
        (
            "E gguf_init: tensor 'x' has invalid ggml type 99. should be in [0, 40)",
            1, UnknownArchitecture, "does not know this kind of model .*invalid ggml type 99",
        ),
        (
            "0.00.301.901 E ggml_aligned_malloc: insufficient memory (attempted to allocate 4398.75 MB)\n"
            "0.00.302.084 E llama_init_from_model: failed to initialize the context",
            1, EngineFailed, r"/m.gguf does not fit into memory .*insufficient memory.*try --context 2048",
        ),
        (
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: "
            "out of memory",
            1, EngineFailed, "does not fit into memory .*--gpu-layers",
        ),
        (
            "ggml_cuda_compute_forward: MUL_MAT failed\nCUDA error: the provided PTX was compiled with an unsupported "
            "toolchain.", -6, EngineFailed, "cannot use this machine's GPU .*PTX was compiled.*update the GPU's driver",
        ),
        (
            "/opt/llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file",
            127, EngineFailed, "cannot run here .*libcudart.so.12.*install it anew",
        ),
        ("error: invalid argument: --nope", 1, EngineFailed, "cannot run here .*invalid argument: --nope"),
        (
            "E llama_model_load: error loading model: llama_model_loader: failed to load model from /m.gguf",
            1, EngineFailed, "could not load /m.gguf .*damaged",
        ),
        ("I am well", -9, EngineFailed, "does not fit into memory .*killed"),
        ("I am well", -4, EngineFailed, "cannot run here .*another processor"),
        ("one\ntwo\n\n", 3, EngineFailed, r"ended \(exit code 3\) over /m.gguf; its last words: two"),
        ("", -11, EngineFailed, r"ended \(SIGSEGV\).*last words: nothing"),
    ],
)  # fmt: skip
def test_the_log_says_why_with_the_remedy(log: str, code: int, kind: type[EngineFailed], words: str) -> None:
    error = why_it_ended(log.splitlines(), code, PROGRAM, Path("/m.gguf"))
    assert type(error) is kind
    with pytest.raises(EngineFailed, match=words):
        raise error
