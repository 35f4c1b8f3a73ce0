"""Attention along the edges of graphs."""

from typing import Any

from attnbridge.kernels._jit import jit


@jit
def gatv2(query: Any, keys: Any, edges: Any, a: Any, negative_slope: Any, scale: Any, out: Any) -> Any:
    """Write out[j] = scale * a . LeakyReLU(query + keys[j] + edges[j]).

    Brody et al. 2022, equation 7; all three are projected already: W q, U k, V e.

    Parameters
    ----------
    query : (o,) float32 or float64
    keys : (s, o) float32 or float64
    edges : (s, o) float32 or float64, or None
    a : (o,) float32 or float64
    negative_slope : float, 0 to 1
        LeakyReLU(x) = max(x, negative_slope * x).
    scale : float
    out : (s,) float64
    """
    for j in range(keys.shape[0]):
        total = 0.0
        for c in range(query.shape[0]):
            hidden = query[c] + keys[j, c]
            if edges is not None:
                hidden += edges[j, c]
            total += a[c] * max(hidden, negative_slope * hidden)
        out[j] = scale * total
