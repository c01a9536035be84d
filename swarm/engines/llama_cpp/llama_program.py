"""What a llama.cpp server program says of itself, and how it is told what to do. Pure.

Programs of all ages and makers are called `llama-server`. So nothing is assumed of one: `--help` lists its options,
`--version` its build, `--list-devices` what it computes on besides the processor, and its log why it could not load a
model. Seen forms: "version: 5432 (0123abc)" and "version: 0.6.0-dev (build 11434, commit 0123abc)", on either stream.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hardware.tool_text import one_line
from swarm.engines.engine import Device, EngineSpec
from swarm.engines.llama_cpp.server_host import (
    HTTP_THREADS_SPARE,
    LISTENER_READ_TIMEOUT_S,
    NGRAM_LEAST,
    NGRAM_MATCH,
    NGRAM_MOST,
    OPEN_FILES,
    PROMPT_CACHE_MIB,
    Batching,
    Pooling,
)
from swarm.errors import EngineFailed, UnknownArchitecture

# Without these our requests cannot be served, whatever the program's number: chat templates (of which `--jinja` is a
# part since January 2025), the counts of its main loop, several requests at once.
REQUIRED: Final = frozenset(
    {"--model", "--host", "--port", "--ctx-size", "--parallel", "--threads", "--ubatch-size", "--metrics", "--jinja"}
)
KEY_VARIABLE: Final = "LLAMA_API_KEY"  # `ps` shows a command line to everybody, an environment to its owner alone
# Those with it let one request have several answers: the parameter came some months before this option.
AFTER_SEVERAL_ANSWERS: Final = "--sse-ping-interval"
OLDEST: Final = "5000 (April 2025)"  # said to people; what decides is `REQUIRED`, and what answers
UPDATE: Final = (
    "update it (`brew upgrade llama.cpp`, a newer release, or a new build), or run `swarm engines install native`"
)
LAST_LINES: Final = 200  # of a log that are looked at for a reason

_VERSION: Final = re.compile(r"^version:\s*(.+)$", re.MULTILINE)
_NUMBERED: Final = re.compile(r"^(?:[\w.+-]+\s+\(build\s+)?(\d+)[\s,(]")
_DEVICE: Final = re.compile(r"^\s+([\w\[\].:-]+): (.+) \((\d+) MiB, (\d+) MiB free\)\s*$", re.MULTILINE)
_OLD_DEVICE: Final = re.compile(r"^\s+Device (\d+): ([^,\n]+), compute capability", re.MULTILINE)
_OPTION: Final = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")
_SEEN_NOWHERE: Final = re.compile(
    r"(?:failed to initialize (?:CUDA|ROCm|HIP|Vulkan|MUSA)[^\n]*|no (?:CUDA|ROCm|HIP)-capable device[^\n]*"
    r"|driver version is insufficient[^\n]*)",
    re.IGNORECASE,
)
_LISTENING: Final = re.compile(
    r"listening on https?://127\.0\.0\.1:(\d+)|listening, hostname: 127\.0\.0\.1, port: (\d+)"
)
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_USING: Final = re.compile(r"using device (\S+) \((.+?)\)(?: \(.*\))? - \d+ MiB free")
_PREFIX: Final = re.compile(r"^(?:[\d.]+ )?(?:[IWED] )?(?:(?:srv|slot|cmn|que|res)\s+)?")  # of a line of its log


@dataclass(frozen=True, slots=True)
class LlamaProgram:
    """A program that can serve: its `version` in words, `devices`, and the `options` that its help lists.

    `no_device` is what it says where a GPU that it is made for cannot be used.
    """

    version: str
    devices: tuple[Device, ...]
    options: frozenset[str]
    no_device: str = ""

    def has(self, *names: str) -> str | None:
        """The first of `names` that it has: options were renamed over the years."""
        return next((name for name in names if name in self.options), None)

    def as_json(self) -> dict[str, Any]:
        devices = [[one.name, one.description, one.total_bytes, one.free_bytes] for one in self.devices]
        return {
            "version": self.version, "devices": devices, "options": sorted(self.options), "no_device": self.no_device,
        }  # fmt: skip

    @staticmethod
    def of(answer: Any) -> LlamaProgram:
        """From what `as_json` made."""
        devices = tuple(Device(*one) for one in answer["devices"])
        return LlamaProgram(answer["version"], devices, frozenset(answer["options"]), answer["no_device"])


def said_by_program(path: Path, version: str, help_text: str, devices: str) -> LlamaProgram:
    """From what `--version`, `--help` and `--list-devices` print, both streams together.

    Raises EngineFailed, with the remedy, for a program that is no llama.cpp server, or one too old.
    """
    options = options_in(help_text)
    if not {"--model", "--ctx-size"} <= options:
        said = one_line(version or help_text) or "nothing"
        raise EngineFailed(
            f"{path} is no llama.cpp server (it prints {said[:60]!r}): name the program llama-server with "
            "--llama-server, or take this one off the PATH"
        )
    words = build_words(version)
    if missing := sorted(REQUIRED - options):
        raise EngineFailed(
            f"{path} ({words}) is too old, or no server: it has no {', '.join(missing)}; {OLDEST} is the oldest that "
            f"can be used: {UPDATE}"
        )
    hidden = _SEEN_NOWHERE.search(devices) or _SEEN_NOWHERE.search(version)
    return LlamaProgram(words, devices_in(devices) or old_devices_in(version), options, hidden[0] if hidden else "")


def is_other_program(text: str) -> bool:
    """Whether what a program prints with an error is that of one that knows no such question, rather than broken."""
    return not any(re.search(pattern, text, re.IGNORECASE) for pattern, sentence in _REASONS if sentence != _DAMAGED)


def build_words(version: str) -> str:
    """ "b5432" where the number of the build is known, else its own words for its version."""
    found = _VERSION.search(version)
    if found is None:
        return "of unknown version"
    words = one_line(found[1])
    numbered = _NUMBERED.match(words + " ")
    return f"b{numbered[1]}" if numbered is not None and int(numbered[1]) else words.split(" (")[0]


def devices_in(text: str) -> tuple[Device, ...]:
    """What `--list-devices` lists."""
    mib = 2**20
    return tuple(
        Device(name, one_line(words), int(total) * mib, int(free) * mib)
        for name, words, total, free in _DEVICE.findall(text)
    )


def old_devices_in(text: str) -> tuple[Device, ...]:
    """What programs without `--list-devices` print of CUDA whenever they start."""
    return tuple(Device(f"CUDA{number}", one_line(words)) for number, words in _OLD_DEVICE.findall(text))


def options_in(help_text: str) -> frozenset[str]:
    """The options that a help text lists: those at the beginning of a line, up to the words about them."""
    heads = (
        re.split(r"\s{2,}(?![\s-])", line, maxsplit=1)[0] for line in help_text.splitlines() if line.startswith("-")
    )
    listed = {name for head in heads for name in _OPTION.findall(head)}
    if re.search(r"^.*--flash-attn\b.*\bauto\b", help_text, re.MULTILINE):
        listed.add("--flash-attn auto")  # it takes a value
    if re.search(r"^--spec-type \S*draft-simple", help_text, re.MULTILINE):
        listed.add("--spec-type draft-simple")  # else a draft model alone is enough
    if re.search(r"^\s*- 4: trace", help_text, re.MULTILINE):
        listed.add("--verbosity 4")  # tells what goes where, and nothing of what is said
    return frozenset(listed)


def command(program: LlamaProgram, spec: EngineSpec, batching: Batching, port: int, embeds: bool = True) -> list[str]:
    """The arguments with which `program` serves `spec` on `port` of loopback (0: any free one).

    `embeds`: with vectors, too, which some builds do instead of answers only. Raises EngineFailed for what is asked and
    this program has no option for.
    """
    has, sized = program.has, spec.context_tokens * spec.slots
    words: list[str] = ["--model", str(spec.path), "--host", "127.0.0.1", "--port", str(port)]
    shares_cells = has("--kv-unified") and has("--kv-unified-per-slot")
    slots = batching.slots if shares_cells and batching.slots else spec.slots
    words += ["--ctx-size", str(sized), "--parallel", str(slots), "--threads", str(spec.threads)]
    words += ["--ubatch-size", str(batching.step_tokens), "--metrics", "--jinja"]
    wanted: list[tuple[Sequence[str], object]] = [
        (("--alias",), spec.model_id),
        (("--threads-batch",), spec.reading_threads or spec.threads),
        (("--threads-http",), spec.slots + HTTP_THREADS_SPARE),
        (("--timeout",), LISTENER_READ_TIMEOUT_S),
        (("--cache-ram",), PROMPT_CACHE_MIB),
        (("--slot-prompt-similarity",), 0.0),  # which slot reads a prompt is decided here (`prompt_slots.py`)
        (("--no-cache-idle-slots",), None),
        (("--sse-ping-interval",), -1),  # heartbeats are the gateway's
        (("--kv-unified",), None),  # answers to one prompt share its cells
        (("--kv-unified-per-slot",), spec.context_tokens),
        (("--no-ui", "--no-webui"), None),
        (("--no-context-shift",), None),  # what does not fit is refused, and not forgotten
        (("--offline",), None),
        (("--slots",), None),
    ]
    for names, value in wanted:
        if (name := has(*names)) is not None:
            words += [name] if value is None else [name, str(value)]
    if has("--verbosity 4"):
        words += ["--verbosity", "4"]
    words += _embedding(program, batching, embeds)
    words += _placement(program, spec)
    words += _cache(program, spec)
    return words + _extras(program, spec)


def _embedding(program: LlamaProgram, batching: Batching, embeds: bool) -> list[str]:
    words: list[str] = []
    if embeds and (name := program.has("--embeddings", "--embedding")):
        words += [name, "--batch-size", str(batching.step_tokens)]  # as large as a step, which it would make it itself
        if name := program.has("--pooling"):
            words += [name, (batching.pooling or Pooling.MEAN).name.lower()]
    if batching.pooling is Pooling.RANK and (name := program.has("--reranking", "--rerank")):
        words.append(name)
    return words


def _placement(program: LlamaProgram, spec: EngineSpec) -> list[str]:
    """On which devices: all layers where nothing is said and the program does not fit them to the memory by itself."""
    if spec.parts:
        return _parts(program, spec)
    layers = spec.gpu_layers
    if layers is None and program.devices and not program.has("--fit"):
        layers = 999
    name = program.has("--gpu-layers", "--n-gpu-layers")
    if layers is None or name is None:
        return []
    no_device = ["--device", "none"] if layers == 0 and program.has("--device") else []
    return [name, str(layers), *no_device]


def _parts(program: LlamaProgram, spec: EngineSpec) -> list[str]:
    """Over other machines: their devices first, in the order of the parts, then this machine's own for what is left.

    llama.cpp keeps the first layers with the processor and deals the last `--gpu-layers`, the output being one of them,
    to the devices by their shares: whole numbers of layers that make up their sum are dealt as they are.
    """
    why = "parts of a model on other machines"
    servers = [_demand(program, why, "--rpc"), ",".join(part.address for part in spec.parts)]
    names = [f"RPC{number}" for number in range(len(spec.parts))]
    shares = [part.layers for part in spec.parts]
    total = sum(shares) if spec.gpu_layers is None else spec.gpu_layers
    if own_layers := max(0, total - sum(shares)):
        names += [device.name for device in program.devices]
        shares += shared_out(own_layers, [device.free_bytes or 1 for device in program.devices])
    placement = ("--device", ",".join(names)), ("--tensor-split", ",".join(map(str, shares)))
    words = [*servers, _demand(program, why, "--gpu-layers", "--n-gpu-layers"), str(sum(shares))]
    for name, value in placement:
        words += [_demand(program, why, name), value]
    return [*words, "--fit", "off"] if program.has("--fit") else words


def shared_out(layers: int, sizes: Sequence[int]) -> list[int]:
    """Whole layers to each in proportion to its size; what is left over to the first ones. [] for nobody."""
    if not sizes:
        return []
    shares = [layers * size // sum(sizes) for size in sizes]
    for number in range(layers - sum(shares)):
        shares[number % len(shares)] += 1
    return shares


def _cache(program: LlamaProgram, spec: EngineSpec) -> list[str]:
    if spec.cache_type == "f16":
        return []
    _demand(program, f"cache type {spec.cache_type}", "--cache-type-k")
    _demand(program, f"cache type {spec.cache_type}", "--cache-type-v")
    words = ["--cache-type-k", spec.cache_type, "--cache-type-v", spec.cache_type]
    # Quantized values need flash attention, which newer programs turn on by themselves.
    return words if program.has("--flash-attn auto") else [*words, "--flash-attn"]


def _extras(program: LlamaProgram, spec: EngineSpec) -> list[str]:
    words: list[str] = []
    if spec.saves is not None:
        words += [_demand(program, "prompts that are kept on the disk", "--slot-save-path"), str(spec.saves)]
    elif spec.copies is not None and (option := program.has("--slot-save-path")):
        words += [option, OPEN_FILES]
    if spec.projector is not None:
        words += [_demand(program, "images", "--mmproj"), str(spec.projector)]
    return words + _guesses(program, spec)


def _guesses(program: LlamaProgram, spec: EngineSpec) -> list[str]:
    """Whoever guesses the next tokens: of what was written before, and a small model, in this order."""
    words: list[str] = []
    kinds: list[str] = []
    if spec.ngram:
        _demand(program, "guesses of the next tokens", "--spec-type")
        kinds.append("ngram-mod")
        for name, number in (("match", NGRAM_MATCH), ("min", NGRAM_LEAST), ("max", NGRAM_MOST)):
            if program.has(option := f"--spec-ngram-mod-n-{name}"):
                words += [option, str(number)]
    if spec.draft is not None:
        words += [_demand(program, "a draft model", "--spec-draft-model", "--model-draft"), str(spec.draft)]
        numbers = (
            (("--spec-draft-threads", "--threads-draft"), spec.threads),
            (("--spec-draft-threads-batch", "--threads-batch-draft"), spec.reading_threads or spec.threads),
            (("--spec-draft-ngl", "--gpu-layers-draft"), spec.gpu_layers),
        )
        for names, number in numbers:
            if number is not None and (name := program.has(*names)):
                words += [name, str(number)]
        if program.has("--spec-type draft-simple"):
            kinds.append("draft-simple")
    return [*words, "--spec-type", ",".join(kinds)] if kinds else words


def _demand(program: LlamaProgram, what: str, *names: str) -> str:
    name = program.has(*names)
    if name is None:
        raise EngineFailed(f"this llama-server ({program.version}) has no {names[-1]}, for {what}: {UPDATE}")
    return name


def listening_port(line: str) -> int | None:
    """The port that a line of its log tells."""
    found = _LISTENING.search(line)
    return int(found[1] or found[2]) if found else None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the weights went, from the log: `devices` in words, none where the processor alone computes."""

    devices: tuple[str, ...]
    gpu_layers: int | None
    layers: int | None


def placed(lines: Iterable[str], devices: Collection[Device], gpu_layers: int | None) -> Placed:
    """By the lines of a log; where it does not tell, by what the program sees and what it was told.

    A program that could use other machines says "offloaded" without any device: then that means nothing.
    """
    text = "\n".join(lines)
    used = tuple(dict.fromkeys(one_line(words) for _, words in _USING.findall(text)))
    if not used and devices and gpu_layers != 0:
        used = tuple(dict.fromkeys(device.description or device.name for device in devices))
    counted = _OFFLOADED.findall(text)
    on_gpu, layers = map(int, counted[-1]) if counted else (None, None)
    if not used or on_gpu == 0:
        return Placed((), 0 if layers is not None else None, layers)
    return Placed(used, on_gpu, layers)


_OUT_OF_MEMORY: Final = (
    "{path} does not fit into memory ({words}): try --context 2048 --workers 1, a smaller model, or fewer layers on "
    "the GPU (--gpu-layers)"
)
_DRIVER: Final = (
    "{program} cannot use this machine's GPU ({words}): update the GPU's driver, or run `swarm engines install` for a "
    "build that fits it"
)
_WRONG_BUILD: Final = "{program} cannot run here ({words}): install it anew, or run `swarm engines install native`"
_UNKNOWN: Final = "{program} does not know this kind of model ({words}): another engine or a newer build may; " + UPDATE
_DAMAGED: Final = "{program} could not load {path} ({words}): the file is damaged, or was made for another program"
# In the order of what says most: a failure is reported again by whatever called what failed.
_REASONS: Final[tuple[tuple[str, str], ...]] = (
    (r"unknown (?:model architecture|pre-tokenizer type|projector type)[^\n]*", _UNKNOWN),
    (r"[^\n]*(?:invalid ggml type|unknown ggml type|unsupported quantization)[^\n]*", _UNKNOWN),
    (r"error while loading shared libraries[^\n]*|Library not loaded[^\n]*|GLIBC\w*_[\d.]+' not found", _WRONG_BUILD),
    (r"invalid argument: [^\n]*|error while handling argument[^\n]*", _WRONG_BUILD),
    (
        r"[^\n]*(?:driver version is insufficient|PTX was compiled|no kernel image is available"
        r"|ErrorIncompatibleDriver|no (?:CUDA|ROCm|HIP)-capable device|device kernel image is invalid)[^\n]*",
        _DRIVER,
    ),
    (
        r"[^\n]*(?:out of memory|insufficient memory|OutOf(?:Device|Host)Memory|unable to allocate)[^\n]*",
        _OUT_OF_MEMORY,
    ),
    (r"[^\n]*(?:failed to allocate|cudaMalloc failed|std::bad_alloc|Cannot allocate memory)[^\n]*", _OUT_OF_MEMORY),
    (r"error loading model: [^\n]*|failed to load model from[^\n]*|invalid magic[^\n]*", _DAMAGED),
)
_OF_SIGNAL: Final = {
    "SIGKILL": _OUT_OF_MEMORY.replace("({words})", "(it was killed, as the system does where memory runs out)"),
    "SIGILL": _WRONG_BUILD.replace("{words}", "it is made for another processor"),
}


def reason_in(lines: Sequence[str], program: Path | str, model: Path | str | None) -> EngineFailed | None:
    """Why `program` could not load or go on with `model`, where the last `lines` of llama.cpp's log say one we know."""
    text = _without_prefixes(lines)
    for pattern, sentence in _REASONS:
        if found := re.search(pattern, text, re.IGNORECASE):
            kind = UnknownArchitecture if sentence is _UNKNOWN else EngineFailed
            return kind(sentence.format(program=program, path=model or "the model", words=one_line(found[0])))
    return None


def why_it_ended(lines: Sequence[str], code: int, program: Path | str, model: Path | str | None) -> EngineFailed:
    """Why a program ended that was to serve `model`: by the last `lines` of its log, and its exit `code`."""
    if (reason := reason_in(lines, program, model)) is not None:
        return reason
    how = _ending(code)
    if sentence := _OF_SIGNAL.get(how):
        return EngineFailed(sentence.format(program=program, path=model or "the model"))
    return EngineFailed(f"{program} ended ({how}) over {model or 'the model'}; its last words: {last_words(lines)}")


def last_words(lines: Sequence[str]) -> str:
    said = (line for line in reversed(_without_prefixes(lines).splitlines()) if line.strip())
    return one_line(next(said, "nothing"))


def _without_prefixes(lines: Sequence[str]) -> str:
    return "\n".join(_PREFIX.sub("", line) for line in lines[-LAST_LINES:])


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
