"""mlx-lm's modules, what they say of this machine, and the bytes of a vocabulary. Run as a module, it says the former.

    python -m swarm.engines.mlx.library    {"devices": [{"name": "Metal", "description": "Apple M3", "total_bytes": 1}]}

None of the library's types are known here: it need not be installed where types are checked.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.metadata import version
from typing import Any, Final, cast

# Read when transformers is imported: a model is a folder, and nothing is fetched.
OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


class MlxLibrary:
    """The library's modules. Raises ImportError."""

    def __init__(self) -> None:
        os.environ.update(OFFLINE)
        self.mx: Any = importlib.import_module("mlx.core")
        self.generate: Any = importlib.import_module("mlx_lm.generate")
        self.caches: Any = importlib.import_module("mlx_lm.models.cache")
        self.samples: Any = importlib.import_module("mlx_lm.sample_utils")
        self.tokenizers: Any = importlib.import_module("mlx_lm.tokenizer_utils")
        self.utils: Any = importlib.import_module("mlx_lm.utils")

    @property
    def version(self) -> str:
        return f"{version('mlx-lm')} (mlx {version('mlx')})"


def gpus(mx: Any) -> list[dict[str, object]]:
    """The GPU that `mlx.core` computes on, with its name and its memory; empty where it is the CPU."""
    if not mx.is_available(mx.gpu):
        return []
    told: dict[str, object] = mx.device_info(mx.gpu)
    total = told.get("memory_size") or told.get("total_memory")
    return [
        {
            "name": "Metal" if mx.metal.is_available() else "CUDA0",
            "description": str(told.get("device_name") or told.get("architecture") or "GPU"),
            "total_bytes": total if isinstance(total, int) else None,
        }
    ]


def token_bytes(tokenizers: Any, tokenizer: Any) -> list[bytes]:
    """What each token of a vocabulary stands for, by its number; control tokens as they are spelled."""
    size = len(tokenizer)
    texts = cast("list[str | None]", tokenizer.convert_ids_to_tokens(list(range(size))))
    detokenizer = tokenizer.detokenizer
    if isinstance(detokenizer, tokenizers.BPEStreamingDetokenizer):
        found = [_of_byte_letters(text or "") for text in texts]
    elif isinstance(detokenizer, tokenizers.SPMStreamingDetokenizer):
        found = [_of_pieces(text or "") for text in texts]
    else:  # bytes of characters in several tokens are lost here, as the library itself would lose them
        found = [str(tokenizer.decode([token])).encode() for token in range(size)]
    for token, added in tokenizer.added_tokens_decoder.items():
        if 0 <= token < size:
            found[token] = str(added.content).encode()
    return found


def _byte_letters() -> dict[str, int]:
    """The letters in which byte-level vocabularies write bytes: those that can be printed stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_LETTERS: Final = _byte_letters()


def _of_byte_letters(text: str) -> bytes:
    return b"".join(
        bytes([_BYTE_LETTERS[letter]]) if letter in _BYTE_LETTERS else letter.encode("utf-8", "replace")
        for letter in text
    )


def _of_pieces(text: str) -> bytes:
    """As SentencePiece writes them: `▁` is a space, `<0x0A>` a byte."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return text.replace("▁", " ").encode("utf-8", "replace")


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"devices": gpus(MlxLibrary().mx)}) + "\n")
