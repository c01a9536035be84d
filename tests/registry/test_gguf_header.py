"""GGUF headers: what is read from good files, and that bad ones end in a SetupError, soon, whatever is in them."""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import SetupError
from swarm.registry.gguf_header import GgufFacts, GgufReader, control_texts, part_paths, read_gguf, stem_of
from swarm.registry.model_memory import LayerGroup

MakeGguf = Callable[..., Path]

MUTATIONS = 1000
SLOWEST_S = 2.0  # milliseconds are usual, and a number believed from the file would take minutes
HOSTILE = (0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


def test_a_small_file_is_read_in_full(make_gguf: MakeGguf) -> None:
    path = make_gguf()
    facts = read_gguf(path)
    assert facts == GgufFacts(
        parts=(path,),
        size_bytes=path.stat().st_size,
        architecture="llama",
        name="Small",
        quant="f32",  # the type of most bytes, as the file names none
        params=32 * 64 + 4 * 8 * 64,
        active_params=32 * 64 + 4 * 8 * 64,
        layers=2,
        context_tokens=4096,
        embedding_length=64,
        vocab_size=32,
        cache=facts.cache,
        has_chat_template=False,
        pooling_type=None,
        tokenizer=facts.tokenizer,
        longest_token_bytes=8,
    )
    assert facts.cache is not None
    assert facts.cache.groups == (LayerGroup(2, 2, 16, 16),)
    assert (facts.kv_heads, facts.key_length, facts.value_length) == (2, 16, 16)
    assert not facts.embeds_only


def test_the_embedded_model_is_read(demo_model: Path) -> None:
    facts = read_gguf(demo_model)
    assert facts.has_chat_template
    assert facts.shape.weights_bytes == demo_model.stat().st_size
    assert facts.shape.weights_exact
    assert facts.cache is not None


def test_experts_that_rest_are_not_active(make_gguf: MakeGguf) -> None:
    facts = read_gguf(make_gguf(expert_count=4, expert_used_count=1))
    assert facts.params - facts.active_params == 4 * 8 * 64 * 3 // 4


def test_an_embedding_model_is_told_by_its_pooling(make_gguf: MakeGguf) -> None:
    assert read_gguf(make_gguf(pooling_type=1)).embeds_only
    assert not read_gguf(make_gguf(pooling_type=0)).embeds_only


@pytest.mark.parametrize(
    ("architecture", "keys", "groups"),
    [
        ("llama", {"attention__key_length": 128, "attention__value_length": 96}, [LayerGroup(2, 2, 128, 96)]),
        ("lfm2", {"attention__head_count_kv": [0, 8]}, [LayerGroup(1, 8, 16, 16)]),
        ("openelm", {"attention__head_count_kv": [3, 5]}, [LayerGroup(1, 3, 16, 16), LayerGroup(1, 5, 16, 16)]),
        ("gemma3n", {"attention__shared_kv_layers": 1}, [LayerGroup(1, 2, 16, 16)]),
        ("qwen35", {"full_attention_interval": 2}, [LayerGroup(1, 2, 16, 16)]),
        ("gpt-oss", {"attention__sliding_window": 128}, [LayerGroup(1, 2, 16, 16, 128), LayerGroup(1, 2, 16, 16)]),
        ("unheard-of", {"attention__sliding_window": 128}, [LayerGroup(2, 2, 16, 16)]),
        (
            "gemma4",
            {
                "attention__sliding_window": 512,
                "attention__sliding_window_pattern": [True, False],
                "attention__key_length": 512,
                "attention__value_length": 512,
                "attention__key_length_swa": 256,
                "attention__value_length_swa": 256,
            },
            [LayerGroup(1, 2, 256, 256, 512), LayerGroup(1, 2, 512, 512)],
        ),
        (
            "deepseek2",
            {"attention__head_count_kv": 1, "attention__key_length": 576, "attention__value_length": 512},
            [LayerGroup(2, 1, 576, 512)],
        ),
    ],
)
def test_the_cache_is_read_per_layer(
    make_gguf: MakeGguf, architecture: str, keys: dict[str, object], groups: list[LayerGroup]
) -> None:
    cache = read_gguf(make_gguf(architecture=architecture, **keys)).cache
    assert cache is not None
    assert list(cache.groups) == groups
    assert cache.state_bytes_per_slot == 0


def test_recurrent_layers_keep_their_state(make_gguf: MakeGguf) -> None:
    sizes = {"ssm__conv_kernel": 4, "ssm__inner_size": 4096, "ssm__state_size": 128, "ssm__group_count": 16}
    cache = read_gguf(make_gguf(architecture="qwen35", full_attention_interval=2, **sizes)).cache
    assert cache is not None
    assert cache.state_bytes_per_slot == (3 * (4096 + 2 * 16 * 128) + 4096 * 128) * 4


@pytest.mark.parametrize("layers", [0, 2**31])
def test_layers_that_make_no_sense_leave_the_cache_unknown(make_gguf: MakeGguf, layers: int) -> None:
    facts = read_gguf(make_gguf(architecture="odd", block_count=layers))
    assert facts.cache is None
    assert facts.kv_heads is None


def test_kv_heads_that_make_no_sense_are_bounded_by_all_heads(make_gguf: MakeGguf) -> None:
    facts = read_gguf(make_gguf(architecture="odd", attention__head_count_kv=[1, 2, 3]))
    assert facts.kv_heads == 4


def test_a_long_vocabulary_is_skipped_quickly(make_gguf: MakeGguf) -> None:
    path = make_gguf(tokens=200_000)
    started = time.perf_counter()
    facts = read_gguf(path)
    assert time.perf_counter() - started < SLOWEST_S
    assert facts.vocab_size == 200_000


def split(path: Path, count: int) -> list[Path]:
    """`path` copied as every part of a model of `count` parts: enough for what a scan reads."""
    parts = [path.with_name(f"big-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    for part in parts:
        part.write_bytes(path.read_bytes())
    return parts


def test_parts_are_one_model(make_gguf: MakeGguf) -> None:
    whole = make_gguf()
    parts = split(whole, 3)
    facts, one = read_gguf(parts[0]), read_gguf(whole)
    assert facts.parts == tuple(parts)
    assert facts.size_bytes == 3 * one.size_bytes
    assert facts.params == 3 * one.params
    assert stem_of(parts[0]) == "big"


def test_a_missing_or_later_part_is_an_error(make_gguf: MakeGguf) -> None:
    parts = split(make_gguf(), 3)
    with pytest.raises(SetupError, match=r"is part 2 of 3: give the first part, big-00001-of-00003\.gguf"):
        read_gguf(parts[1])
    parts[2].unlink()
    with pytest.raises(SetupError, match=r"big-00003-of-00003\.gguf does not exist"):
        read_gguf(parts[0])
    with pytest.raises(SetupError, match="claims to have 99999 parts"):
        part_paths(Path("x-00001-of-99999.gguf"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"it has 0 bytes, less than any header"),
        (b"PK\x03\x04" + bytes(60), r"it is not a GGUF file: it begins with b'PK\\x03\\x04'; download it again"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), r"its format version 1 is not 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"it is big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), r"it claims 1152921504606846976 tensors and 0 keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), r"it claims 0 tensors and 1152921504606846976 keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40), r"a key of 1099511627776 bytes"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 5) + b"short", r"it ends in the middle of its header, at byte 37"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), r"it does not say its architecture"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=said) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)


def value(kind: int, payload: bytes) -> bytes:
    """A file with one key of the given type."""
    return b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", kind) + payload


@pytest.mark.parametrize(
    "content",
    [
        value(8, struct.pack("<Q", 2**62)),
        value(9, struct.pack("<IQ", 8, 2**21)),
        value(9, struct.pack("<IQ", 12, 2**22)),
        value(9, struct.pack("<IQIQ", 9, 1, 9, 1)),
        value(13, bytes(8)),
    ],
)
def test_no_length_is_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(SetupError):
            read_gguf(path)
        assert time.perf_counter() - started < SLOWEST_S
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [0, 8])
def test_an_endless_array_is_refused_before_it_is_walked(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "endless.gguf"
    path.write_bytes(value(9, struct.pack("<IQ", kind, 2**62)))
    os.truncate(path, 1 << 30)  # a hole that reads as a great many empty strings
    with pytest.raises(SetupError, match=f"an array of {2**62} items"):
        read_gguf(path)


def test_a_truncated_download_is_recognised(make_gguf: MakeGguf) -> None:
    path = make_gguf()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)
    with pytest.raises(SetupError, match=r"it is cut short: tensor 'blk\.0\.ffn_up_exps\.weight' ends at byte"):
        read_gguf(path)


def test_a_model_is_read_once_until_its_file_changes(make_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    open_file = Path.open

    def noted(path: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(path)
        return open_file(path, *args, **kwargs)

    path, reader = make_gguf(), GgufReader(kept=1)
    facts, controls = read_gguf(path), control_texts(path)
    monkeypatch.setattr(Path, "open", noted)
    for _ in range(3):
        model = reader.read(path)
        assert (model.facts, model.control_texts) == (facts, controls)
    assert opened == [path]
    path.touch()
    os.utime(path, ns=(1, 1))
    reader.read(path)
    assert opened == [path, path]
    reader.read(make_gguf(architecture="odd"))
    path.unlink()
    with pytest.raises(SetupError, match="does not exist"):
        reader.read(path)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.gguf does not exist: check the path, or see `swarm models list`"):
        read_gguf(tmp_path / "none.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(SetupError, match=r"folder\.gguf is a folder and has no \.gguf file"):
        read_gguf(tmp_path / "folder.gguf")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "one.gguf").write_bytes(b"GGUF")
    with pytest.raises(SetupError, match=r"full is a folder: give a file in it, .*full/one\.gguf$"):
        read_gguf(tmp_path / "full")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(SetupError, match="it is not a regular file"):
        read_gguf(tmp_path / "pipe.gguf")


def mutated(content: bytes, choose: random.Random) -> bytes:
    """`content` with one thing wrong: cut, bytes flipped, a hostile number written over it, or a piece repeated."""
    header_bytes = min(len(content), 2000)  # what follows is tensor data, which is not looked at
    at = choose.randrange(header_bytes)
    match choose.randrange(4):
        case 0:
            return content[:at]
        case 1:
            flipped = bytearray(content)
            for _ in range(choose.randint(1, 8)):
                flipped[choose.randrange(header_bytes)] = choose.randrange(256)
            return bytes(flipped)
        case 2:
            return content[:at] + struct.pack("<Q", choose.choice(HOSTILE)) + content[at + 8 :]
        case _:
            return content[:at] + content[choose.randrange(at + 1) : at] + content[at:]


def test_mutations_are_read_or_refused(make_gguf: MakeGguf, tmp_path: Path) -> None:
    content = make_gguf(expert_count=4, attention__head_count_kv=[2, 2]).read_bytes()
    choose = random.Random(20260)
    path = tmp_path / "mutated.gguf"
    refused = 0
    slowest_s = 0.0
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(content, choose))
        started = time.perf_counter()
        try:
            assert read_gguf(path).shape.weights_bytes == path.stat().st_size
        except SetupError:
            refused += 1
        slowest_s = max(slowest_s, time.perf_counter() - started)
    assert slowest_s < SLOWEST_S
    assert MUTATIONS // 4 < refused < MUTATIONS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + rest)
    with suppress(SetupError):
        assert read_gguf(path).architecture
