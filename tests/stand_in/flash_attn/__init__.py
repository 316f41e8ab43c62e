# SPDX-License-Identifier: Apache-2.0
"""Stands in for flash-attn where there is no GPU: the same results by torch's own attention, one sequence after the other.

With it, the padding-free path of transformers and verl runs on a CPU as it does on GPUs. For tests only, because it is slow. The file that
FLASH_ATTN_CALLS names gets a line "causal|full dtype" for each kind of call that a process makes.
"""

import functools
import os
from itertools import pairwise

import torch

__version__ = "2.8.3"


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False):
    """q (batch, queries, heads, width), k and v (batch, keys, key-value heads, width) -> (batch, queries, heads, width)."""
    assert dropout_p == 0.0 and softcap == 0.0 and tuple(window_size) == (-1, -1), "the stand-in has no dropout, softcap or window"
    assert not causal or q.shape[1] == k.shape[1], "the stand-in's causal attention needs as many queries as keys"
    _note("causal" if causal else "full", str(q.dtype).removeprefix("torch."))
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True)
    return out.transpose(1, 2)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    deterministic=False,
):
    """The same on sequences that lie one after the other: q (tokens, heads, width); sequence i is cu_seqlens[i] to cu_seqlens[i + 1]."""
    bounds = [list(pairwise(each.tolist())) for each in (cu_seqlens_q, cu_seqlens_k)]
    parts = [
        flash_attn_func(q[None, a:b], k[None, c:d], v[None, c:d], dropout_p, softmax_scale, causal, window_size, softcap)[0]
        for (a, b), (c, d) in zip(*bounds, strict=True)
    ]
    return torch.cat(parts)


def flash_attn_with_kvcache(*_, **__):
    raise NotImplementedError("the stand-in only trains")


@functools.cache
def _note(kind: str, dtype: str) -> None:
    if file := os.environ.get("FLASH_ATTN_CALLS"):
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(f"{kind} {dtype}\n")
