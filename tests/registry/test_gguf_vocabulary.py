"""Which tokens of a vocabulary have special meaning: by type, by number and by text, and nothing of a damaged file."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.registry.gguf_bytes import TokenTable
from swarm.registry.gguf_header import MAX_CONTROL_TEXTS, PROMOTED, control_texts, controls
from tests.doubles.tiny_models import write_vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
DAMAGED = 200


def table(*tokens: tuple[str, int], **numbers: int) -> TokenTable:
    named = {f"tokenizer.ggml.{name}_token_id": number for name, number in numbers.items()}
    return TokenTable([text.encode() for text, _ in tokens], tuple(kind for _, kind in tokens), named)


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        (table(("a", NORMAL), ("<x>", CONTROL), ("<unk>", UNKNOWN), ("<think>", USER_DEFINED)), {"<x>", "<unk>"}),
        (table(("a", NORMAL), ("###", NORMAL), eos=1), {"###"}),
        (table(("a", NORMAL), ("<|im_end|>", NORMAL), ("<fim_pad>", USER_DEFINED)), {"<|im_end|>", "<fim_pad>"}),
        (table(("a", NORMAL), eos=7, bos=-1), set()),
        (table(("｜▁é", CONTROL)), {"｜▁é"}),
        (TokenTable([b"<x>", b"</s>"], (), {}), {"</s>"}),
        (TokenTable([], (3, 3), {"tokenizer.ggml.eos_token_id": 1}), set()),
    ],
)
def test_the_control_tokens_of_a_vocabulary(vocabulary: TokenTable, expected: set[str]) -> None:
    assert controls(vocabulary) == expected


def test_every_text_that_llama_cpp_promotes_is_known_whatever_its_type() -> None:
    assert controls(table(*((text, NORMAL) for text in PROMOTED))) == PROMOTED


def test_those_of_the_embedded_model(demo_model: Path) -> None:
    assert control_texts(demo_model) == {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}


def test_a_vocabulary_of_control_tokens_only_is_refused(make_gguf: Callable[..., Path], tmp_path: Path) -> None:
    assert control_texts(make_gguf()) == set()
    path = tmp_path / "made.gguf"
    write_vocabulary(path, types=CONTROL)
    assert len(control_texts(path)) > 1000
    assert len(control_texts(path)) < MAX_CONTROL_TEXTS


def test_a_damaged_file_is_refused_or_read(demo_model: Path, tmp_path: Path) -> None:
    content, choose, path = bytearray(demo_model.read_bytes()[:100_000]), random.Random(7), tmp_path / "damaged.gguf"
    for _ in range(DAMAGED):
        damaged = content[: choose.randint(0, len(content))]
        for _ in range(choose.randint(0, 3)):
            if damaged:
                damaged[choose.randrange(min(len(damaged), 400))] = choose.randrange(256)
        path.write_bytes(damaged)
        with suppress(SetupError):
            control_texts(path)
    path.unlink()
    with pytest.raises(SetupError, match="cannot read"):
        control_texts(path)
