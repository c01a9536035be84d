"""What a GGUF file says about its model: the facts that fit, routing and the model list need, and its control tokens.

Control tokens are the texts of a vocabulary that llama.cpp reads as one token of special meaning wherever they stand.
They end turns and answers, begin turns, mark where a gap is filled. llama.cpp finds them in every text that it
tokenizes with `parse_special`, which it does with whole conversations, what clients wrote in them included.
"""

from __future__ import annotations

import errno
import hashlib
import re
import stat
import threading
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from federation.printable_text import printable
from swarm.errors import SetupError
from swarm.registry.gguf_bytes import (
    FILE_TYPES,
    TOKENS,
    GgufDefect,
    Header,
    KnownTables,
    TokenTable,
    digest_header,
    read_header,
    read_tokens,
)
from swarm.registry.layer_sizes import LayerSizes, layer_sizes
from swarm.registry.model_memory import CACHE_KEYS, ArchKeys, CacheShape, ModelShape, cache_shape

MAX_PARTS = 256  # a terabyte in parts of 4 GB
GUESSED_FILE_TYPE = 1024  # a flag that llama.cpp sets on a file type it inferred
RANK_POOLING = 4  # llama.cpp's LLAMA_POOLING_TYPE_RANK
PROJECTOR = "clip"  # general.architecture of the image half of a vision model: not a model of its own
PROJECTOR_TENSORS = ("v.", "mm.", "a.")  # beginnings of its tensors' names: no model of llama.cpp's has such
MOST_VOCAB_DIFFERENCE = 128  # in tokens, between a model and one that guesses for it: llama.cpp's own bound
MAX_NAMED = 4  # files of a folder that a message names

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
TOKENIZER = "tokenizer.ggml.model"
_GENERAL_KEYS = frozenset({"architecture", "name", "file_type", "alignment", "type"})
_ARCH_KEYS = CACHE_KEYS | {"context_length", "vocab_size", "pooling_type", "expert_count", "expert_used_count"}


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """A model as its file describes it; None where it does not. `parts` are all of its files, the first one first.

    `kv_heads`, `key_length` and `value_length` are those of the first layer that caches; `cache` has all of them.
    """

    parts: tuple[Path, ...]
    size_bytes: int
    architecture: str
    name: str | None
    quant: str | None
    params: int
    active_params: int
    layers: int | None
    context_tokens: int | None
    embedding_length: int | None
    vocab_size: int | None
    cache: CacheShape | None
    has_chat_template: bool
    pooling_type: int | None
    tokenizer: str | None = None  # the kind, in GGUF's words: gpt2, llama, bert, ...
    longest_token_bytes: int | None = None  # as written in the file
    kind: str | None = None  # general.type: model where it is said at all, adapter, mmproj, vocab, imatrix
    holds_projector: bool = False  # its image or sound part is in the same file, as Ollama writes some models

    @property
    def kv_heads(self) -> int | None:
        return self.cache.groups[0].kv_heads if self.cache and self.cache.groups else None

    @property
    def key_length(self) -> int | None:
        return self.cache.groups[0].key_length if self.cache and self.cache.groups else None

    @property
    def value_length(self) -> int | None:
        return self.cache.groups[0].value_length if self.cache and self.cache.groups else None

    @property
    def embeds_only(self) -> bool:
        """Whether this is an embedding or a reranking model: it pools its tokens and does not write."""
        return bool(self.pooling_type) or "bert" in self.architecture

    @property
    def reranks(self) -> bool:
        """Whether it scores a text against a question, and makes no vectors."""
        return self.pooling_type == RANK_POOLING

    @property
    def shape(self) -> ModelShape:
        """As the memory formula needs it, all of it measured."""
        return ModelShape(
            weights_bytes=self.size_bytes,
            weights_exact=True,
            params_b=self.params / 1e9,
            context_tokens=self.context_tokens,
            cache=self.cache,
            vocab_size=self.vocab_size,
            embedding_length=self.embedding_length,
        )


def read_gguf(path: Path) -> GgufFacts:
    """The facts of the model in `path`, all parts of it if it has several. Blocks on the disk for some milliseconds.

    Raises SetupError with the file, what is wrong with it and the remedy.
    """
    parts = part_paths(path)
    return _facts(parts, [_read_part(part) for part in parts])


def read_layers(path: Path) -> LayerSizes:
    """How large each layer of the model in `path` is, all parts of it. Blocks on the disk for some milliseconds.

    Raises SetupError with the file, what is wrong with it and the remedy.
    """
    parts = part_paths(path)
    read = [_read_part(part) for part in parts]
    facts, first = _facts(parts, read), read[0][1]
    tensors = [tensor for _, header in read for tensor in header.tensors]
    found = layer_sizes(tensors, ArchKeys(facts.architecture, first.values), facts.shape)
    if found is None:
        raise SetupError(f"{path} ({facts.architecture}) is not made of layers in a row: it runs on one machine only")
    return found


@dataclass(frozen=True, slots=True)
class GgufIdentity:
    """A model by its header alone. `fingerprint`: 64 hex, of the metadata and the tensor table of all its parts."""

    facts: GgufFacts
    fingerprint: str


_KNOWN_TABLES: Final = KnownTables()


def read_identity(path: Path) -> GgufIdentity:
    """The facts of the model in `path`, all parts of it, and what tells its content from others'. Blocks.

    Raises SetupError with the file, what is wrong with it and the remedy.
    """
    return _identity(part_paths(path))[0]


def _identity(parts: tuple[Path, ...], vocabulary: bool = False) -> tuple[GgufIdentity, list[Header]]:
    digest, read = hashlib.sha256(), list[tuple[int, Header]]()
    for number, part in enumerate(parts):
        with _opened_part(part) as (file, size_bytes):
            header = read_header(file, size_bytes, _wanted, vocabulary and number == 0, _KNOWN_TABLES)
            digest.update(digest_header(file, header))
        read.append((size_bytes, header))
    return GgufIdentity(_facts(parts, read), digest.hexdigest()), [header for _, header in read]


def is_projector(facts: GgufFacts) -> bool:
    """Whether this is the image part of a vision model, which goes with the model itself."""
    return facts.architecture == PROJECTOR or facts.kind == "mmproj"


def why_no_draft(facts: GgufFacts, draft: GgufFacts) -> str | None:
    """Why `draft` cannot guess the next tokens of the model with such `facts`; None where nothing speaks against it.

    llama.cpp compares the vocabularies token by token while it loads; what the headers tell is told before.
    """
    if draft.parts == facts.parts:
        return "it is the model itself"
    if draft.embeds_only or facts.embeds_only:
        return "it takes two models that write text"
    if draft.tokenizer != facts.tokenizer:
        return f"its tokens are of another kind ({draft.tokenizer}, not {facts.tokenizer}): take one of the same family"
    sizes = draft.vocab_size, facts.vocab_size
    if None not in sizes and abs((sizes[0] or 0) - (sizes[1] or 0)) > MOST_VOCAB_DIFFERENCE:
        return f"it has {sizes[0]} tokens, not {sizes[1]}: take one of the same family"
    return None


def why_no_model(facts: GgufFacts) -> str | None:
    """Why nothing can be generated with this file alone, and what to give instead; None where it is a model. Blocks."""
    path = facts.parts[0]
    if facts.holds_projector:
        return (
            f"{path} is a model with its image part in the same file, as Ollama keeps some; llama.cpp wants the two "
            "apart: give the model of the hub, hf:OWNER/REPO/FILE.gguf"
        )
    if is_projector(facts):
        what, instead = f"the image part of a vision model (architecture {facts.architecture})", "give the model itself"
    elif facts.kind == "adapter":
        what = f"an adapter (LoRA) for a model of architecture {facts.architecture}"
        instead = "give that model, or one into which the adapter was merged"
    elif facts.kind == "imatrix":
        what, instead = "a table of statistics for quantizing (imatrix)", "give the model itself"
    elif not facts.params:
        what, instead = "a vocabulary without weights", "give the model itself"
    else:
        return None
    beside = _models_in(path.parent, path)
    return f"{path} is {what}, no model of its own: {instead}{f' (beside it: {beside})' if beside else ''}"


def _models_in(folder: Path, but: Path | None = None) -> str:
    """Some of the folder's files that look like models; "" without any."""
    try:
        files = [entry for entry in folder.iterdir() if entry.name.lower().endswith(".gguf")]
        names = sorted(entry.name for entry in files if entry.is_file() and entry.stat().st_size)
    except OSError:
        return ""
    shown = [folder / name for name in names if not is_later_part(Path(name)) and "mmproj" not in name.lower()]
    return " or ".join(str(path) for path in [path for path in shown if path != but][:MAX_NAMED])


def _model(parts: tuple[Path, ...]) -> GgufModel:
    identity, headers = _identity(parts, vocabulary=True)
    texts = _control_texts(parts[0], headers[0].tokens or TokenTable())
    return GgufModel(identity.facts, texts, identity.fingerprint)


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A model that is about to be loaded: its facts, the texts of its control tokens, and what tells its content."""

    facts: GgufFacts
    control_texts: frozenset[str]
    fingerprint: str


class GgufReader:
    """Reads models for loading, each once: what was read is kept for as long as its files stay as they are.

    Whoever chooses a model and whoever loads it, again and again perhaps, ask the same reader. Any thread may.
    """

    def __init__(self, kept: int = 4) -> None:
        self._most = kept
        self._kept: dict[Path, tuple[object, GgufModel]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> GgufModel:
        """The model in `path`, all its parts. Blocks: up to 0.2 s for a vocabulary of 256,000.

        Raises SetupError with the file, what is wrong with it and the remedy.
        """
        with self._lock:
            parts = part_paths(path)
            state = tuple(map(_state, parts))
            kept = self._kept.pop(path, None)
            if kept is None or kept[0] != state:
                kept = (state, _model(parts))
            self._kept[path] = kept
            while len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
            return kept[1]


read_model: Final = GgufReader().read  # of this process


def part_paths(path: Path) -> tuple[Path, ...]:
    """All parts of the model that `path` is the first part of; just `path` where it is whole.

    Raises SetupError for a part that is not the first. Whether the others exist is found out on reading.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return (path,)
    number, count = int(match["number"]), int(match["count"])
    if number != 1:
        first = f"{match['stem']}-00001-of-{match['count']}.gguf"
        raise SetupError(f"{path} is part {number} of {count}: give the first part, {first}")
    if not 1 <= count <= MAX_PARTS:
        raise SetupError(f"{path} claims to have {count} parts; at most {MAX_PARTS} are read")
    return tuple(path.with_name(f"{match['stem']}-{n:05d}-of-{match['count']}.gguf") for n in range(1, count + 1))


def is_later_part(path: Path) -> bool:
    """Whether `path` is a part of a model other than its first."""
    match = _PART.fullmatch(path.name)
    return match is not None and int(match["number"]) != 1


def stem_of(path: Path) -> str:
    """The file's name without `.gguf` and without its part number, as a model's name: printable, as peers read it."""
    match = _PART.fullmatch(path.name)
    return printable(match["stem"] if match else path.stem)


def _read_part(path: Path) -> tuple[int, Header]:
    with _opened_part(path) as (file, size_bytes):
        return size_bytes, read_header(file, size_bytes, _wanted)


@contextmanager
def _opened_part(path: Path) -> Generator[tuple[BinaryIO, int]]:
    """The file, open, and its size. Raises SetupError for what is wrong with it, while it is read too."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            inside = _models_in(path)
            give = f": give a file in it, {inside}" if inside else " and has no .gguf file; no other is read here"
            raise SetupError(f"{path} is a folder{give}")
        if not stat.S_ISREG(status.st_mode):
            raise GgufDefect("it is not a regular file")  # opening a named pipe would wait for its writer
        with path.open("rb") as file:
            yield file, status.st_size
    except FileNotFoundError as error:
        match = _PART.fullmatch(path.name)
        if match is not None and int(match["number"]) > 1:
            remedy = f"the model is in {int(match['count'])} parts and needs all of them: download it again"
        else:
            remedy = "check the path, or see `swarm models list` for what is here"
            if str(path).count("/") in (1, 2) and not path.is_absolute() and not str(path).startswith("."):
                remedy += "; a file of the hub is written hf:OWNER/REPO/FILE.gguf"
        raise SetupError(f"{path} does not exist: {remedy}") from error
    except OSError as error:
        remedy = {errno.ELOOP: "; let the link lead to a file", errno.EACCES: "; let this user read it"}
        what = f"cannot read {path}: {error.strerror or error}"
        raise SetupError(what + remedy.get(error.errno or 0, "")) from error
    except GgufDefect as defect:
        raise SetupError(f"cannot use {path}: {defect}; download it again, or give another .gguf file") from defect


def _wanted(key: str) -> bool:
    if key == TOKENIZER:
        return True
    section, _, rest = key.partition(".")
    return rest in (_GENERAL_KEYS if section == "general" else _ARCH_KEYS)


def _facts(parts: tuple[Path, ...], read: list[tuple[int, Header]]) -> GgufFacts:
    """From the size and the header of each part."""
    headers = [header for _, header in read]
    first = headers[0]
    architecture = first.values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise SetupError(f"cannot use {parts[0]}: it does not say its architecture; give another .gguf file")
    keys = ArchKeys(architecture, first.values)
    name, tokenizer = first.values.get("general.name"), first.values.get(TOKENIZER)
    kind = first.values.get("general.type")
    params = sum(tensor.elements for header in headers for tensor in header.tensors)
    return GgufFacts(
        parts=parts,
        size_bytes=sum(size for size, _ in read),
        architecture=architecture,
        name=name if isinstance(name, str) and name else None,
        quant=_quant(headers),
        params=params,
        active_params=params - _idle_params(headers, keys),
        layers=keys.count("block_count"),
        context_tokens=keys.count("context_length"),
        embedding_length=keys.count("embedding_length"),
        vocab_size=first.array_lengths.get(TOKENS) or keys.count("vocab_size"),
        cache=cache_shape(keys),
        has_chat_template="tokenizer.chat_template" in first.keys,
        pooling_type=keys.count("pooling_type"),
        tokenizer=tokenizer if isinstance(tokenizer, str) else None,
        longest_token_bytes=first.longest_bytes.get(TOKENS),
        kind=kind if isinstance(kind, str) and kind else None,
        holds_projector=architecture != PROJECTOR
        and any(tensor.name.startswith(PROJECTOR_TENSORS) for header in headers for tensor in header.tensors),
    )


def _idle_params(headers: Iterable[Header], keys: ArchKeys) -> int:
    """Weights that a token does not touch: the share of the experts that are not chosen."""
    experts, used = keys.count("expert_count"), keys.count("expert_used_count")
    if not experts or not used or used > experts:
        return 0
    tensors = (tensor for header in headers for tensor in header.tensors)
    return sum(tensor.elements for tensor in tensors if "_exps." in tensor.name) * (experts - used) // experts


def _quant(headers: list[Header]) -> str | None:
    """The quantization that the file names, else the type of most of its bytes."""
    file_type = headers[0].values.get("general.file_type")
    if isinstance(file_type, int) and file_type & ~GUESSED_FILE_TYPE in FILE_TYPES:
        return FILE_TYPES[file_type & ~GUESSED_FILE_TYPE]
    weight: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            if tensor.type_name is not None:
                weight[tensor.type_name] += tensor.size_bytes or 0
    return max(weight, key=weight.__getitem__) if weight else None


CONTROL_TYPES = frozenset({2, 3})  # GGUF's unknown and control; 4, user-defined, is matched in plain text, too
MAX_CONTROL_TEXTS = 2**15  # the largest known vocabularies have some 7,000

# What llama.cpp takes for the end of a turn, of an answer, or for a mark of filling in the middle by its text alone,
# whatever type the file gives it (src/llama-vocab.cpp, as of build 11549).
PROMOTED = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "< EOT >",
        "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|eom_id|>", "[EOS]", "<eos>", "<|eos|>",
        "</s>", "<s>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>", "[e~[",
        "<|ifm|im_end|>", "<|plamo:eos|>", "<|role_end|>",
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>", "<|plamo:fim_prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>",
        "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>", "<|plamo:fim_suffix|>", "<|fim_middle|>", "<fim-middle>",
        "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>", "<|plamo:fim_middle|>",
        "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>",
        "<REPO>", "<reponame>", "<|file_sep|>", "<|file_separator|>", "<|plamo:file_separator|>",
    }
)  # fmt: skip
# The keys by which a file names tokens of special meaning; each is followed by `_token_id`.
NAMED = tuple(
    f"tokenizer.ggml.{name}_token_id"
    for name in (
        "bos", "eos", "eot", "eom", "unknown", "seperator", "separator", "padding", "cls", "mask", "prefix", "suffix",
        "middle", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep",
    )
)  # fmt: skip


def control_texts(path: Path) -> frozenset[str]:
    """The control tokens of the model in `path`, whatever is wrong with its tensors. Blocks like `GgufReader.read`.

    Raises SetupError for a file whose vocabulary cannot be read.
    """
    first = part_paths(path)[0]
    try:
        with first.open("rb") as file:
            table = read_tokens(file, first.stat().st_size)
    except OSError as error:
        raise SetupError(f"cannot read {first}: {error.strerror or error}") from error
    except GgufDefect as defect:
        raise SetupError(f"cannot use {first}: {defect}; download it again, or give another .gguf file") from defect
    return _control_texts(first, table)


def _control_texts(path: Path, table: TokenTable) -> frozenset[str]:
    found = controls(table)
    if len(found) > MAX_CONTROL_TEXTS:
        raise SetupError(f"cannot use {path}: {len(found)} control tokens, more than {MAX_CONTROL_TEXTS}")
    return found


def controls(table: TokenTable) -> frozenset[str]:
    """The control tokens of a vocabulary: by their type, by what the file says of their numbers, and by their text."""
    numbers = {number for number, kind in enumerate(table.types) if kind in CONTROL_TYPES}
    numbers |= {table.numbers[key] for key in NAMED if key in table.numbers}
    texts = {table.texts[number].decode("utf-8", "replace") for number in numbers if 0 <= number < len(table.texts)}
    promoted = {text.encode(): text for text in PROMOTED}
    return frozenset(texts | {promoted[text] for text in promoted.keys() & set(table.texts)})
