"""GAT and GATv2 with one head along the edges of a whole graph, by the kernels of the layers."""

from typing import Any

import numpy as np

from attnbridge import kernels
from attnbridge.graph_layers.attentive import over_nodes
from attnbridge.kernels.dot import FLOAT32_LIMIT
from attnbridge.kernels.graph import HEADS
from attnbridge.mechanisms.graph_logits import Network
from attnbridge.mechanisms.pairs import Pairs
from attnbridge.validation import Float


def attend_network(
    network: Network, rows: Float, edge_features: Float | None, pairs: Pairs
) -> tuple[Float, Float] | None:
    """Return sums of the projected sources (n, out_dim) and weights (m,); None where float64 does not suffice.

    Pairs and the edges' features (m, edge_dim) are by target.
    """
    for dtype in dict.fromkeys((rows.dtype, np.dtype(np.float64))):
        if dtype == np.float32 and np.abs(pairs.bias).max(initial=0.0) > FLOAT32_LIMIT:
            continue
        arrays = {name: array.astype(dtype) for name, array in network.arrays.items()}
        features = np.empty((0, 0), dtype) if edge_features is None else edge_features.astype(dtype, copy=False)
        out = np.empty((len(rows), len(arrays["W"])), dtype)
        weights = np.empty((pairs.mask.nnz, 1), dtype)
        run = _gatv2 if network.version == "v2" else _gat
        with np.errstate(over="ignore", invalid="ignore"):  # seen in the result
            strange = run(network, arrays, rows.astype(dtype, copy=False), features, pairs, out, weights)
            if not strange and np.isfinite(narrow := out.astype(rows.dtype, copy=False)).all():
                return narrow, weights[:, 0].astype(rows.dtype, copy=False)
    return None


def _gatv2(
    network: Network, arrays: dict[str, Any], rows: Float, features: Float, pairs: Pairs, out: Float, to: Float
) -> int:
    left, right = rows @ arrays["U"].T, rows @ arrays["W"].T
    matrix = np.ascontiguousarray(arrays["V"].T) if features.size else features
    a = (network.arrays["a"] / network.temperature).astype(rows.dtype)
    call = (
        *_edges(pairs),
        -1,
        left,
        right,
        features,
        matrix,
        pairs.bias,
        a,
        network.slope,
        np.zeros(out.shape[1], out.dtype),
    )
    return over_nodes(lambda first, stop: int(kernels.gatv2_forward(*call, first, stop, out, to)), out, len(to))


def _gat(
    network: Network, arrays: dict[str, Any], rows: Float, features: Float, pairs: Pairs, out: Float, to: Float
) -> int:
    weight = network.arrays["W"]
    scores = [_score(network, name, weight) for name in ("a_k", "a_q")]
    projected = rows @ np.concatenate([weight, *scores]).T.astype(rows.dtype)
    along = features
    if features.size:
        along = features @ _score(network, "a_e", network.arrays["V"]).T.astype(rows.dtype)
    call = *_edges(pairs), -1, projected, along, pairs.bias, network.slope, np.zeros(out.shape[1], out.dtype)
    return over_nodes(lambda first, stop: int(kernels.gat_forward(*call, first, stop, out, to)), out, len(to))


def _score(network: Network, name: str, weight: Any) -> Any:
    """Return a . W over the temperature, which may go in before LeakyReLU, as the first of the kernel's heads."""
    out = np.zeros((HEADS, weight.shape[1]))
    out[0] = network.arrays[name] @ weight / network.temperature
    return out


def _edges(pairs: Pairs) -> tuple[Any, Any, Any]:
    return pairs.mask.indptr, pairs.mask.indices.astype(np.int64), np.arange(pairs.mask.nnz)
