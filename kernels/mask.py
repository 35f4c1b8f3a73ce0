"""The positions that a boolean mask names."""

from typing import Any

from attnbridge.kernels._jit import jit

# With fewer True than one in so many, most words of eight are empty and skipping them pays for the branch.
SPARSE = 16


@jit
def true_rows(mask: Any, words: Any, out: Any) -> Any:
    """Write the positions i with mask[i] != 0, ascending.

    Parameters
    ----------
    mask : (n,) uint8, 0 or 1
    words : (n // 8,) uint64
        The same memory.
    out : (count + 1,) int64
        The last one is scratch, as positions are written before it is known whether they count; it is left -1.
    """
    n = mask.shape[0]
    found = 0
    if (out.shape[0] - 1) * SPARSE < n:
        for w in range(words.shape[0]):
            if words[w] != 0:
                for i in range(8 * w, 8 * w + 8):
                    out[found] = i
                    found += mask[i]
        for i in range(8 * words.shape[0], n):
            out[found] = i
            found += mask[i]
    else:
        for i in range(n):
            out[found] = i
            found += mask[i]
    out[found] = -1
