"""Attention by hand and in tiles: the same outputs, with and without the matrix of all weights in memory.

Run: python examples/basic_attention.py
"""

import tracemalloc
from collections.abc import Callable

import numpy as np

import attnbridge as ab

# One query and three keys that can be checked on paper: logits q k / sqrt(d), softmax, the mean of the values.
query, keys = np.array([1.0, 0.0]), np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
values = np.array([[10.0], [20.0], [30.0]])
weights = ab.attention_scores(query, keys)
print("key      logit  weight  value")
for key, logit, weight, value in zip(keys, ab.attention_logits(query, keys), weights, values, strict=True):
    print(f"{key!s}  {logit:5.3f}  {weight:6.3f}  {value[0]:5.1f}")
print(f"output {ab.attention(query, keys, values)[0]:.3f}\n")

# Self-attention of a sequence. The formula as it stands makes L x L weights; tiles need a few rows of them at a time.
LENGTH, DIM = 2_000, 64
x = np.random.default_rng(0).standard_normal((LENGTH, DIM)).astype(np.float32)


def formula() -> np.ndarray:
    """Return softmax(x x^T / sqrt(d)) x, all weights at once."""
    logits = x @ x.T / np.float32(DIM**0.5)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ x


def megabytes(call: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Return what a call returns, and the most memory that it held meanwhile."""
    call()  # the first one compiles
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak / 2**20


scaled, flash = ab.ScaledDotProductAttention(), ab.FlashAttention(block_size=128)
expected, most = megabytes(formula)
print("self-attention of 2,000 x 64                      MB  largest difference")
print(f"numpy's softmax(Q K^T / sqrt(d)) V          {most:8.1f}")
for name, call in {
    "ScaledDotProductAttention, weights returned": lambda: scaled.forward(x, x, x, need_weights=True).output,
    "ScaledDotProductAttention": lambda: scaled.forward(x, x, x).output,
    "FlashAttention(block_size=128)": lambda: flash.forward(x, x, x).output,
}.items():
    output, most = megabytes(call)
    print(f"{name:43} {most:8.1f}  {np.abs(output - expected).max():.1e}")
print(f"the output itself                           {x.nbytes / 2**20:8.1f}")
