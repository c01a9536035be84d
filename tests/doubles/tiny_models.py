"""Models that take a second to write: what the embedded model cannot do, tiny and random, with its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter, PoolingType, TokenType

from swarm.registry.embedded import embedded_model_path

HIDDEN, HEADS, FEED_FORWARD, CONTEXT_TOKENS = 64, 2, 128, 2048
SEEN_PIXELS, PATCH_PIXELS = 56, 14  # what an image is scaled to, and what of it is one token, in each direction
IMAGE_TOKENS = (SEEN_PIXELS // PATCH_PIXELS) ** 2
FIM_TOKENS = ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id")


def write_reranker(target: Path) -> None:
    """A cross-encoder that scores any text, at random but always the same."""
    tokenizer = _Tokenizer(embedded_model_path())
    writer = GGUFWriter(target, "qwen3")
    writer.add_name("tiny reranker")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_pooling_type(PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    tokenizer.write(writer)
    writer.add_sep_token_id(tokenizer.eos)
    random = np.random.default_rng(7)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.3).astype(np.float32))

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, dtype=np.float32))

    matrix("token_embd.weight", len(tokenizer.tokens), HIDDEN)
    vector("output_norm.weight", HIDDEN)
    matrix("cls.output.weight", 2, HIDDEN)
    for norm, size in (("attn_norm", HIDDEN), ("ffn_norm", HIDDEN)):
        vector(f"blk.0.{norm}.weight", size)
    for norm in ("attn_q_norm", "attn_k_norm"):
        vector(f"blk.0.{norm}.weight", HIDDEN // HEADS)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        matrix(f"blk.0.{part}.weight", HIDDEN, HIDDEN)
    matrix("blk.0.ffn_gate.weight", FEED_FORWARD, HIDDEN)
    matrix("blk.0.ffn_up.weight", FEED_FORWARD, HIDDEN)
    matrix("blk.0.ffn_down.weight", HIDDEN, FEED_FORWARD)
    _finish(writer)


def write_projector(target: Path, hidden: int | None = None) -> None:
    """An image part for the embedded model, as LLaVA 1.5 has it: what it sees is noise, the same for the same image.

    An image takes IMAGE_TOKENS of the prompt. With another `hidden` size than the model's it goes with no such model.
    """
    hidden = hidden or int(GGUFReader(embedded_model_path()).fields["qwen2.embedding_length"].contents())
    width, feed_forward, layers = 32, 64, 2
    writer = GGUFWriter(target, "clip")
    writer.add_type("mmproj")
    writer.add_name("tiny eyes")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "mlp")
    for key, size in (
        ("embedding_length", width),
        ("feed_forward_length", feed_forward),
        ("block_count", layers),
        ("projection_dim", hidden),
        ("image_size", SEEN_PIXELS),
        ("patch_size", PATCH_PIXELS),
        ("attention.head_count", 2),
    ):
        writer.add_uint32(f"clip.vision.{key}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    random = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.2).astype(np.float32))

    def linear(name: str, rows: int, columns: int) -> None:
        tensor(f"{name}.weight", rows, columns)
        writer.add_tensor(f"{name}.bias", np.zeros(rows, dtype=np.float32))

    tensor("v.patch_embd.weight", width, 3, PATCH_PIXELS, PATCH_PIXELS)
    tensor("v.position_embd.weight", IMAGE_TOKENS, width)
    for layer in range(layers):
        for norm in ("ln1", "ln2"):
            writer.add_tensor(f"v.blk.{layer}.{norm}.weight", np.ones(width, dtype=np.float32))
            writer.add_tensor(f"v.blk.{layer}.{norm}.bias", np.zeros(width, dtype=np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"v.blk.{layer}.{part}", width, width)
        linear(f"v.blk.{layer}.ffn_up", feed_forward, width)
        linear(f"v.blk.{layer}.ffn_down", width, feed_forward)
    linear("mm.0", hidden, width)
    linear("mm.2", hidden, hidden)
    _finish(writer)


def write_encoder(target: Path) -> None:
    """A model that embeds, at random but always the same, and writes nothing: it reads all of a text at once."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *("\u2581" + word for word in ("a", "cat", "dog", "the"))]
    writer = GGUFWriter(target, "bert")
    writer.add_name("tiny encoder")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([word.encode() for word in words])
    writer.add_token_types([TokenType.CONTROL] * 5 + [TokenType.NORMAL] * (len(words) - 5))
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    random = np.random.default_rng(5)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.3).astype(np.float32))

    def layer(name: str, rows: int, columns: int) -> None:
        matrix(f"{name}.weight", rows, columns)
        writer.add_tensor(f"{name}.bias", np.zeros(rows, dtype=np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(HIDDEN, dtype=np.float32))

    matrix("token_embd.weight", len(words), HIDDEN)
    matrix("position_embd.weight", CONTEXT_TOKENS, HIDDEN)
    matrix("token_types.weight", 2, HIDDEN)
    norm("token_embd_norm")
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        layer(f"blk.0.{part}", HIDDEN, HIDDEN)
    norm("blk.0.attn_output_norm")
    layer("blk.0.ffn_up", FEED_FORWARD, HIDDEN)
    layer("blk.0.ffn_down", HIDDEN, FEED_FORWARD)
    norm("blk.0.layer_output_norm")
    _finish(writer)


def write_named_model(target: Path, name: str | None = None, source: str = "demo") -> Path:
    """An embedded model with a name of its own inside, by which it is another content: that of the file, or `name`."""
    content = embedded_model_path(source).read_bytes()
    old, new = source.encode(), hashlib.sha256((name or target.stem).encode()).hexdigest()[: len(source)].encode()
    key = b"general.name" + (8).to_bytes(4, "little") + len(old).to_bytes(8, "little")
    assert content.count(key + old) == 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.replace(key + old, key + new))
    return target


def write_infill_model(target: Path) -> None:
    """The embedded model with three of its tokens declared to be those of filling in the middle."""
    writer = _embedded_model(target)
    _Tokenizer(embedded_model_path()).write(writer)
    for offset, key in enumerate(FIM_TOKENS):
        writer.add_uint32(f"tokenizer.ggml.{key}", 300 + offset)
    _finish(writer)


def write_templated_model(target: Path, template: str) -> None:
    """The embedded model with another chat template."""
    writer = _embedded_model(target)
    _Tokenizer(embedded_model_path()).write(writer, template)
    _finish(writer)


def write_end_token_last(target: Path) -> None:
    """The embedded model with the token that ends a turn as the last of its vocabulary.

    It is what llama.cpp takes where all logits are no numbers.
    """
    last = len(_Tokenizer(embedded_model_path()).tokens) - 1
    end = _Tokenizer(embedded_model_path()).eos
    write_vocabulary(target, renamed={end: "<|unused|>", last: "<|im_end|>"}, controls=(last,), eos=last)


def write_vocabulary(
    target: Path,
    *,
    types: int | None = 0,
    renamed: Mapping[int, str] | None = None,
    controls: Sequence[int] = (),
    eos: int | None = None,
) -> None:
    """The embedded model, some of its tokens with other texts, and these of the control type.

    `types` is the type of every token, None that of no token; 0 leaves them as they are.
    """
    writer = _embedded_model(target)
    tokenizer = _Tokenizer(embedded_model_path())
    tokenizer.eos = tokenizer.eos if eos is None else eos
    for number, text in (renamed or {}).items():
        tokenizer.tokens[number] = text
    tokenizer.types = None if types is None else [types] * len(tokenizer.tokens) if types else tokenizer.types
    for number in controls:
        assert tokenizer.types is not None
        tokenizer.types[number] = TokenType.CONTROL
    tokenizer.write(writer)
    _finish(writer)


def write_pieces_vocabulary(target: Path) -> None:
    """The embedded model with a vocabulary of SentencePiece's kind, whose pieces merge to its control tokens."""
    count = len(_Tokenizer(embedded_model_path()).tokens)
    controls = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    single = [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
    pieces = [
        (text, TokenType.NORMAL)
        for text in ("▁", "</", "s>", "/s", "/s>", "<s", "unk", "<u", *map(chr, range(33, 127)))
    ]
    known = [*controls, *single, *pieces]
    known += [(f"piece{number}", TokenType.NORMAL) for number in range(count - len(known))]
    writer = _embedded_model(target)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in known])
    writer.add_token_scores([-float(number) for number in range(count)])
    writer.add_token_types([kind for _, kind in known])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}<s>assistant: "
    writer.add_chat_template(template)
    _finish(writer)


def _embedded_model(target: Path) -> GGUFWriter:
    """A file with the weights of the embedded model, which still needs a tokenizer."""
    source = GGUFReader(embedded_model_path())
    architecture = str(source.fields["general.architecture"].contents())
    writer = GGUFWriter(target, architecture)
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length"):
        writer.add_uint32(f"{architecture}.{key}", int(source.fields[f"{architecture}.{key}"].contents()))
    for key in ("attention.head_count", "attention.head_count_kv"):
        writer.add_uint32(f"{architecture}.{key}", int(source.fields[f"{architecture}.{key}"].contents()))
    for key in ("rope.freq_base", "attention.layer_norm_rms_epsilon"):
        writer.add_float32(f"{architecture}.{key}", float(source.fields[f"{architecture}.{key}"].contents()))
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return writer


class _Tokenizer:
    """The tokenizer of another model."""

    def __init__(self, source: Path) -> None:
        fields = GGUFReader(source).fields
        self._pre = str(fields["tokenizer.ggml.pre"].contents())
        self.tokens = list(fields["tokenizer.ggml.tokens"].contents())
        self.types: list[int] | None = list(fields["tokenizer.ggml.token_type"].contents())
        self._merges = list(fields["tokenizer.ggml.merges"].contents())
        self.eos = int(fields["tokenizer.ggml.eos_token_id"].contents())
        self._template = str(fields["tokenizer.chat_template"].contents())

    def write(self, writer: GGUFWriter, template: str | None = None) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self._pre)
        writer.add_token_list(self.tokens)
        if self.types is not None:
            writer.add_token_types(self.types)
        writer.add_token_merges(self._merges)
        writer.add_eos_token_id(self.eos)
        writer.add_add_bos_token(False)
        writer.add_chat_template(self._template if template is None else template)


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
