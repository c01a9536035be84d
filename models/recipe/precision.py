"""The type of matrix products: bfloat16 where the processor has units for it, else float32.

Where bfloat16 has to be emulated a step takes about eight times as long as in float32.
"""

from __future__ import annotations

import torch


def product_type() -> torch.dtype:
    """What to multiply in on this machine."""
    has_units = bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if has_units else torch.float32


PRODUCT = product_type()
