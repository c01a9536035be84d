"""A byte-level BPE tokenizer of 2,048 tokens that llama.cpp reads as `qwen2`.

Words are learned without what stands before them, so that a value is cut the same way after a space, an underscore or
a quotation mark: `Paris` in a request and `"Paris"` in JSON are the same tokens, and copying is looking one up. Only
the most frequent words also exist with a leading space; those merges come last and change nothing inside a word.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (tokenizers declares its types only in part)

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import regex
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.recipe.document import SPECIAL_TOKENS, render
from models.recipe.mixture import documents

VOCABULARY = 2048
SPACED_WORDS = 330  # frequent words that get a token of their own with the space before them
CORPUS_DOCUMENTS = 30_000
CORPUS_SEED = 20_251_101  # the siblings share one tokenizer: only then is a vote about models, not about tokens
SPACE = "\u0120"  # how byte-level BPE writes a space

# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BARE_WORDS = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _pre_tokenizer(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def corpus(count: int) -> list[str]:
    """Texts to learn words from: those the model sees most, without the special tokens."""
    special = regex.compile("|".join(regex.escape(token) for token in SPECIAL_TOKENS))
    texts: list[str] = []
    for document in itertools.islice(documents(CORPUS_SEED), count):
        for piece in render(document):
            texts.extend(part for part in special.split(piece.text) if part)
    return texts


def train_tokenizer(document_count: int = CORPUS_DOCUMENTS) -> Tokenizer:
    """The tokenizer; the same one every time."""
    texts = corpus(document_count)
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = _pre_tokenizer(_BARE_WORDS)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS) - SPACED_WORDS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    model = json.loads(bare.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    merges: list[tuple[str, str]] = [(left, right) for left, right in model["merges"]]
    spaced = Counter(word for text in texts for word in regex.findall(r" (\p{L}+)", text))
    for word, _ in spaced.most_common():
        if len(vocabulary) == VOCABULARY - len(SPECIAL_TOKENS):
            break
        if word in vocabulary and SPACE + word not in vocabulary:
            vocabulary[SPACE + word] = len(vocabulary)
            merges.append((SPACE, word))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(QWEN2_WORDS)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS[:3]])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in SPECIAL_TOKENS[3:]])
    assert tokenizer.get_vocab_size() == VOCABULARY, tokenizer.get_vocab_size()
    return tokenizer


def cached_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in `path`, trained and written there on first use."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(str(path))
    return Tokenizer.from_file(str(path))
