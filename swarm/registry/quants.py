"""Quantizations: how many bits a weight really takes, and how ggml's tensor types are laid out."""

from __future__ import annotations

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

# What people call them: `4bit` and `8bit` mean any of these, the first that a model has.
ALIASES: dict[str, tuple[str, ...]] = {
    "4bit": ("4bit", "q4_k_m", "mxfp4", "q4_k_s", "q4_1", "iq4_nl", "q4_0", "iq4_xs"),
    "8bit": ("8bit", "q8_0"),
}

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
