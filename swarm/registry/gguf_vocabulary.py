"""The texts of a model's vocabulary that llama.cpp reads as one token of special meaning wherever they stand.

They end turns and answers, begin turns, mark where a gap is filled. llama.cpp finds them in every text that it
tokenizes with `parse_special`, which it does with whole conversations, what clients wrote in them included.
"""

from __future__ import annotations

from pathlib import Path

from swarm.errors import SetupError
from swarm.registry.gguf_bytes import GgufDefect, TokenTable, read_tokens
from swarm.registry.gguf_header import part_paths

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
    """The texts of the control tokens of the model in `path`. Blocks: up to 0.2 s for a vocabulary of 256,000.

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
    found = controls(table)
    if len(found) > MAX_CONTROL_TEXTS:
        raise SetupError(f"cannot use {first}: {len(found)} control tokens, more than {MAX_CONTROL_TEXTS}")
    return found


def controls(table: TokenTable) -> frozenset[str]:
    """The control tokens of a vocabulary: by their type, by what the file says of their numbers, and by their text."""
    numbers = {number for number, kind in enumerate(table.types) if kind in CONTROL_TYPES}
    numbers |= {table.numbers[key] for key in NAMED if key in table.numbers}
    texts = {table.texts[number].decode("utf-8", "replace") for number in numbers if 0 <= number < len(table.texts)}
    promoted = {text.encode(): text for text in PROMOTED}
    return frozenset(texts | {promoted[text] for text in promoted.keys() & set(table.texts)})
