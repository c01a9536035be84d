"""The layout of a GGUF file's header, read with every length checked before it is believed.

Format: ggml's docs/gguf.md. Nothing is allocated or looped over by a number from the file that is not bounded here.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

MAGIC = b"GGUF"
NO_MODELS = {b"<": " but a web page", b"{": " but JSON", b"vers": " but a Git LFS pointer to one (`git lfs pull`)"}
VERSIONS = (2, 3)  # 1 had 32-bit lengths and has not been written since 2023
MAX_KEYS = 4096  # real files have under 100
MAX_TENSORS = 1 << 17  # the largest mixtures of experts have some thousands
MAX_KEY_BYTES = 65_535  # the format's own limit
MAX_TENSOR_NAME_BYTES = 1024  # ggml itself stops at 64
MAX_KEPT_STRING_BYTES = 4096  # names; chat templates are longer, and only their presence matters
MAX_KEPT_ITEMS = 4096  # per-layer arrays have one item per layer
MAX_TOKEN_BYTES = 4096  # of one token's text; longer ones are nothing that anybody could write
MAX_ARRAY_ITEMS = 1 << 22  # vocabularies reach 2**18, their merges 2**20; bounds the time to skip one
MAX_DIMENSIONS = 4  # ggml's GGML_MAX_DIMS
MAX_ALIGNMENT = 1 << 16
CHUNK_BYTES = 1 << 18  # several files are read at once, and larger ones are no faster
LARGE_TABLE = 4096  # strings: of more, and as many, the walk over one takes longer than its sha256
BEGINNING_BYTES = 4096  # of a table, by which it is looked up
TOKENS, TOKEN_TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"

_SCALARS: dict[int, struct.Struct] = {
    code: struct.Struct("<" + letter)
    for code, letter in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_WHOLE = (4, 5)  # of 32 bits, as token types are
_STRING = 8
_ARRAY = 9
_LENGTH = struct.Struct("<Q")
_TENSOR_ENDS = tuple(struct.Struct(f"<{'Q' * count}IQ") for count in range(MAX_DIMENSIONS + 1))  # sizes, type, offset
_TYPE = struct.Struct("<I")

Value = int | float | bool | str | tuple[int | float | bool, ...]


class GgufDefect(Exception):
    """What is wrong with a file, in words; `gguf_header` adds which file, and the remedy."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `type_name` is None for a type newer than this program, and then `size_bytes` too."""

    name: str
    elements: int
    type_name: str | None
    size_bytes: int | None


@dataclass(slots=True)
class TokenTable:
    """A vocabulary: the text and the type of each token in order, and every number that the tokenizer's keys give."""

    texts: list[bytes] = field(default_factory=list[bytes])
    types: tuple[int, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict[str, int])


class StringTable(NamedTuple):
    """A large array of strings, most often a vocabulary or its merges: where its items lie, and the sha256 of them."""

    start: int
    end: int
    sha256: bytes


@dataclass(slots=True)
class Header:
    """The kept key-values, the length of every array by its key, all keys, and the tensors.

    `longest_bytes` has the size of the longest string of every array of strings; `tokens` is None where the vocabulary
    was not asked for.
    """

    tokens: TokenTable | None = None
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    array_lengths: dict[str, int] = field(default_factory=dict[str, int])
    keys: set[str] = field(default_factory=set[str])
    tensors: tuple[Tensor, ...] = ()
    longest_bytes: dict[str, int] = field(default_factory=dict[str, int])
    end: int = 0  # where the header ends in the file, in bytes
    tables: list[StringTable] = field(default_factory=list[StringTable])


class KnownTables:
    """Tables of strings that were met before: models of one family have the same, and walking one takes a second per
    three million strings. What is skipped was compared by its sha256. Any thread may ask.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._known: dict[tuple[int, bytes], tuple[int, bytes, int]] = {}

    def find(self, count: int, beginning: bytes) -> tuple[int, bytes, int] | None:
        """Size, sha256 and longest string of the table of `count` strings that began like this; None: not met yet."""
        return self._known.get((count, beginning))

    def note(self, count: int, beginning: bytes, table: tuple[int, bytes, int]) -> None:
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[count, beginning] = table


class _Cursor:
    """Reads forward through a file of known size, a chunk at a time; every step is checked against the end."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._window = b""
        self._at = 0  # in the window
        self._window_end = 0  # in the file

    @property
    def position(self) -> int:
        return self._window_end - len(self._window) + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which the caller has bounded."""
        self._fill(count)
        self._at += count
        return self._window[self._at - count : self._at]

    def number(self, layout: struct.Struct) -> int | float | bool:
        return layout.unpack(self.take(layout.size))[0]

    def length(self) -> int:
        return _LENGTH.unpack(self.take(8))[0]

    def kind(self) -> int:
        return _TYPE.unpack(self.take(4))[0]

    def text(self, what: str, limit_bytes: int) -> str:
        count = self.length()
        if count > limit_bytes:
            raise GgufDefect(f"{what} of {count} bytes at {self.position}, more than {limit_bytes}")
        return self.take(count).decode("utf-8", "replace")

    def skip(self, count: int) -> None:
        """Move on by `count` bytes without reading what lies beyond the window."""
        if count > self._size_bytes - self.position:
            raise GgufDefect(f"it ends in the middle of its header, at byte {self._size_bytes}")
        if count <= len(self._window) - self._at:
            self._at += count
            return
        self._window_end = self._file.seek(self.position + count)
        self._window, self._at = b"", 0

    def skip_strings(self, count: int) -> int:
        """Move over `count` strings: the tokens of a vocabulary, so the loop is tight. The longest one's size."""
        unpack = _LENGTH.unpack_from
        longest = 0
        for _ in range(count):
            if len(self._window) - self._at < 8:
                self._fill(8)
            (length,) = unpack(self._window, self._at)
            self._at += 8
            longest = length if length > longest else longest
            if length <= len(self._window) - self._at:
                self._at += length
            else:
                self.skip(length)
        return longest

    def digest(self, start: int, end: int) -> bytes:
        """The sha256 of the file's bytes from `start` to `end`; the cursor stays where it is, with an empty window."""
        here = self.position
        digest = hashlib.sha256()
        self._file.seek(start)
        while start < end and (chunk := self._file.read(min(CHUNK_BYTES, end - start))):
            digest.update(chunk)
            start += len(chunk)
        self._window_end = self._file.seek(here)
        self._window, self._at = b"", 0
        return digest.digest()

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end of the file, without moving on."""
        self._fill(min(count, self._size_bytes - self.position))
        return self._window[self._at : self._at + count]

    def skip_table(self, count: int, known: KnownTables) -> tuple[StringTable, int]:
        """Move over a large table of `count` strings, in one step where it is known; it, and the longest one's size."""
        start, beginning = self.position, self.peek(BEGINNING_BYTES)
        if (met := known.find(count, beginning)) is not None:
            size_bytes, sha256, longest = met
            if start + size_bytes <= self._size_bytes and self.digest(start, start + size_bytes) == sha256:
                self.skip(size_bytes)
                return StringTable(start, start + size_bytes, sha256), longest
        longest = self.skip_strings(count)
        end = self.position
        sha256 = self.digest(start, end)
        known.note(count, beginning, (end - start, sha256, longest))
        return StringTable(start, end, sha256), longest

    def strings(self, count: int) -> tuple[list[bytes], int]:
        """The next `count` strings, one longer than MAX_TOKEN_BYTES left empty, and the longest one's size."""
        found: list[bytes] = []
        longest = 0
        for _ in range(count):
            length = self.length()
            longest = length if length > longest else longest
            if length <= MAX_TOKEN_BYTES:
                found.append(self.take(length))
            else:
                self.skip(length)
                found.append(b"")
        return found, longest

    def _fill(self, count: int) -> None:
        missing = count - (len(self._window) - self._at)
        if missing <= 0:
            return
        more = self._file.read(max(missing, CHUNK_BYTES))
        if len(more) < missing:
            raise GgufDefect(f"it ends in the middle of its header, at byte {self._window_end + len(more)}")
        self._window = self._window[self._at :] + more
        self._at = 0
        self._window_end += len(more)


def read_header(
    file: BinaryIO,
    size_bytes: int,
    wanted: Callable[[str], bool],
    vocabulary: bool = False,
    known: KnownTables | None = None,
    most_string_bytes: int = MAX_KEPT_STRING_BYTES,
) -> Header:
    """The header of an open file of `size_bytes`, keeping the values of `wanted` keys, in one pass.

    Texts of more than `most_string_bytes` are skipped.

    With `vocabulary` the texts of its tokens, too: 0.2 s for 256,000 of them. With `known` large tables of strings are
    noted in `Header.tables`. Raises GgufDefect, OSError.
    """
    cursor = _Cursor(file, size_bytes)
    tensor_count, key_count = _preamble(cursor, size_bytes)
    header = Header(TokenTable() if vocabulary else None)
    for _ in range(key_count):
        _key_value(cursor, header, wanted, known, most_string_bytes)
    alignment = header.values.get("general.alignment", 32)
    header.tensors = _tensors(cursor, tensor_count, size_bytes, alignment)
    header.end = cursor.position
    return header


def digest_header(file: BinaryIO, header: Header) -> bytes:
    """The sha256 of a header read with `known`: of its bytes, in which the sha256 of each large table stands for it.

    It depends on the file's bytes alone, not on what was known. Raises OSError.
    """
    digest, at = hashlib.sha256(), 0
    for table in [*header.tables, StringTable(header.end, header.end, b"")]:
        file.seek(at)
        while at < table.start:
            chunk = file.read(min(CHUNK_BYTES, table.start - at))
            if not chunk:
                raise GgufDefect(f"it ends in the middle of its header, at byte {at}")
            digest.update(chunk)
            at += len(chunk)
        digest.update(table.sha256)
        at = table.end
    return digest.digest()


def read_tokens(file: BinaryIO, size_bytes: int) -> TokenTable:
    """The vocabulary alone of an open file of `size_bytes`, whatever its tensors. Raises GgufDefect, OSError."""
    cursor = _Cursor(file, size_bytes)
    _, key_count = _preamble(cursor, size_bytes)
    table = TokenTable()
    header = Header(table)
    for _ in range(key_count):
        _key_value(cursor, header, lambda _: False)
    return table


def _key_value(
    cursor: _Cursor,
    header: Header,
    wanted: Callable[[str], bool],
    known: KnownTables | None = None,
    most_string_bytes: int = MAX_KEPT_STRING_BYTES,
) -> None:
    """The next key, and what `header` keeps of its value."""
    key = cursor.text("a key", MAX_KEY_BYTES)
    header.keys.add(key)
    kind = cursor.kind()
    value = _array(cursor, key, header, known) if kind == _ARRAY else _single(cursor, kind, most_string_bytes)
    table = header.tokens
    if table is not None and kind != _ARRAY and key.startswith("tokenizer.") and isinstance(value, int):
        table.numbers[key] = int(value)
    if value is not None and wanted(key):
        header.values[key] = value


def is_no_model(beginning: bytes) -> str | None:
    """What a file is instead that begins like this, in words; None where it may be a model."""
    return next((words for known, words in NO_MODELS.items() if beginning.startswith(known)), None)


def _preamble(cursor: _Cursor, size_bytes: int) -> tuple[int, int]:
    if size_bytes < 24:
        raise GgufDefect(f"it has {size_bytes} bytes, less than any header")
    magic = cursor.take(4)
    if magic != MAGIC:
        kind = is_no_model(magic) or ""
        raise GgufDefect(f"it is not a GGUF file{kind}: it begins with {magic!r}")
    version = cursor.kind()
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        raise GgufDefect("it is big-endian" if swapped in VERSIONS else f"its format version {version} is not 2 or 3")
    tensor_count, key_count = cursor.length(), cursor.length()
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise GgufDefect(f"it claims {tensor_count} tensors and {key_count} keys")
    return tensor_count, key_count


def _single(cursor: _Cursor, kind: int, most_string_bytes: int) -> Value | None:
    """The value at the cursor, or None for a string too long to keep."""
    if kind == _STRING:
        length = cursor.length()
        if length <= most_string_bytes:
            return cursor.take(length).decode("utf-8", "replace")
        cursor.skip(length)
        return None
    layout = _SCALARS.get(kind)
    if layout is None:
        raise GgufDefect(f"unknown value type {kind} at byte {cursor.position}")
    return cursor.number(layout)


def _array(cursor: _Cursor, key: str, header: Header, known: KnownTables | None) -> Value | None:
    """The numbers of a short array, or None for what is skipped; notes the length of either, and the vocabulary."""
    kind, count = _array_head(cursor)
    header.array_lengths[key] = count
    table = header.tokens
    if kind == _STRING:
        if table is not None and key == TOKENS:
            start = cursor.position
            table.texts, header.longest_bytes[key] = cursor.strings(count)
            if known is not None and count >= LARGE_TABLE:
                end = cursor.position
                header.tables.append(StringTable(start, end, cursor.digest(start, end)))
        elif known is not None and count >= LARGE_TABLE:
            found, header.longest_bytes[key] = cursor.skip_table(count, known)
            header.tables.append(found)
        else:
            header.longest_bytes[key] = cursor.skip_strings(count)
        return None
    layout = _layout(cursor, kind)
    if table is not None and key == TOKEN_TYPES and kind in _WHOLE:
        table.types = tuple(item[0] for item in layout.iter_unpack(cursor.take(count * layout.size)))
        return table.types if count <= MAX_KEPT_ITEMS else None
    if count > MAX_KEPT_ITEMS:
        cursor.skip(count * layout.size)
        return None
    return tuple(item[0] for item in layout.iter_unpack(cursor.take(count * layout.size)))


def _array_head(cursor: _Cursor) -> tuple[int, int]:
    """The type of an array's items, and how many there are."""
    kind, count = cursor.kind(), cursor.length()
    if count > MAX_ARRAY_ITEMS:
        raise GgufDefect(f"an array of {count} items at byte {cursor.position}")
    return kind, count


def _layout(cursor: _Cursor, kind: int) -> struct.Struct:
    layout = _SCALARS.get(kind)
    if layout is None:
        raise GgufDefect(f"an array of unknown type {kind} at byte {cursor.position}")
    return layout


def _tensors(cursor: _Cursor, count: int, size_bytes: int, alignment: Value) -> tuple[Tensor, ...]:
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT:
        raise GgufDefect(f"its alignment is {alignment!r}")
    found = [_tensor(cursor) for _ in range(count)]
    data_start = -(-cursor.position // alignment) * alignment
    for tensor, offset in found:
        end = data_start + offset + (tensor.size_bytes or 0)
        if end > size_bytes:
            raise GgufDefect(f"it is cut short: tensor {tensor.name!r} ends at byte {end}, the file at {size_bytes}")
    return tuple(tensor for tensor, _ in found)


def _tensor(cursor: _Cursor) -> tuple[Tensor, int]:
    """The next tensor and its offset in the data."""
    name = cursor.text("a tensor name", MAX_TENSOR_NAME_BYTES)
    dimensions = cursor.kind()
    if dimensions > MAX_DIMENSIONS:
        raise GgufDefect(f"tensor {name!r} has {dimensions} dimensions")
    layout = _TENSOR_ENDS[dimensions]
    *sizes, kind, offset = layout.unpack(cursor.take(layout.size))
    elements = math.prod(sizes)
    if kind not in TENSOR_TYPES:
        return Tensor(name, elements, None, None), offset
    type_name, block_elements, block_bytes = TENSOR_TYPES[kind]
    return Tensor(name, elements, type_name, -(-elements // block_elements) * block_bytes), offset


# Bits per weight over a whole file, scales included. GGUF: measured on Llama 3.1 8B, from the table in llama.cpp's
# tools/quantize/README.md; mxfp4 from gpt-oss-20b's published size.
# MLX: n bits, and a 16-bit scale and bias per 64 weights.
BITS_PER_WEIGHT: dict[str, float] = {
    "iq2_xxs": 2.38, "iq2_xs": 2.59, "iq2_s": 2.74, "iq2_m": 2.93, "q2_k_s": 2.97, "q2_k": 3.16,
    "iq3_xxs": 3.25, "iq3_xs": 3.50, "q3_k_s": 3.64, "iq3_s": 3.66, "iq3_m": 3.76, "q3_k_m": 4.00, "q3_k_l": 4.30,
    "iq4_xs": 4.46, "mxfp4": 4.65, "q4_0": 4.66, "q4_k_s": 4.67, "iq4_nl": 4.68, "q4_k_m": 4.89, "q4_1": 5.12,
    "q5_0": 5.61, "q5_k_s": 5.57, "q5_k_m": 5.70, "q5_1": 6.06, "q6_k": 6.56, "q8_0": 8.50,
    "bf16": 16.0, "f16": 16.0, "f32": 32.0,
    "3bit": 3.5, "4bit": 4.5, "5bit": 5.5, "6bit": 6.5, "8bit": 8.5,
}  # fmt: skip


# Of the formats with four bits the usual one first: what is taken where a name leaves it open.
USUAL_FOUR_BITS = ("4bit", "q4_k_m", "mxfp4", "q4_k_s", "q4_1", "iq4_nl", "q4_0", "iq4_xs")


# llama.cpp's `llama_ftype` (include/llama.h), which GGUF stores as general.file_type.
FILE_TYPES: dict[int, str] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs",
    21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s",
    29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4",
}  # fmt: skip


# ggml's tensor types (ggml/src/ggml.c, `type_traits`): name, weights per block, bytes per block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17),
}  # fmt: skip


FOUR_BITS = 4.4  # per weight; every four-bit format takes more, every three-bit one less


def is_low(quant: str) -> bool:
    """Whether `quant` is below four bits, where answers degrade so much that a smaller model is the better buy."""
    return BITS_PER_WEIGHT.get(quant, 0.0) < FOUR_BITS
