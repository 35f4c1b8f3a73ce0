"""Attention over the pairs that a sparse mask lists, query by query, of any mechanism that has logits of pairs."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidInputError
from attnbridge.masks import SparseMask
from attnbridge.mechanisms.row import Ids, Logits
from attnbridge.validation import Float

if TYPE_CHECKING:
    from attnbridge.mechanisms.base import Attention, Batch

# (problem, query, ids (m,), out (m,)) -> None: fills the logits of a query of a problem with these keys. They are what
# the mask lists for it, ascending, but for the last of them where attention is causal; one at least.
PairLogits = Callable[[int, int, Ids, Logits], None]


class ListedRow(NamedTuple):
    """The weights of a query of a problem: ids (m,) of the keys that it attends to, None for all; weights (m,)."""

    problem: int
    query: int
    ids: Ids | None
    weights: Logits


def visible(ids: Ids, query: int, is_causal: bool) -> Ids:
    """Return those of ascending ids that a query sees."""
    return ids[: np.searchsorted(ids, query, side="right")] if is_causal else ids


def attend_listed(
    attention: "Attention", batch: "Batch", pair_logits: PairLogits, need_weights: bool, rate: float, draw: int
) -> tuple[Float, Float | None, npt.NDArray[np.float64]]:
    """Return outputs (P, L, dv), weights (P, L, S) if needed, log-normalisers (P, L), over a sparse mask's pairs.

    Memory grows with the inputs and the keys of a query, as long as no weights are needed.
    """
    batch.require_finite()  # a key that nobody attends to would not show in the result
    total = np.full(batch.shape[:2], -np.inf)
    weights = np.zeros(batch.shape, batch.key.dtype) if need_weights else None
    rows = _weighted_rows(attention, batch, pair_logits, total, rate, draw)
    output = attention._listed_outputs(batch, rows if weights is None else _kept(rows, weights))
    return output, weights, total


def _weighted_rows(
    attention: "Attention",
    batch: "Batch",
    pair_logits: PairLogits,
    total: npt.NDArray[np.float64],
    rate: float,
    draw: int,
) -> Iterator[ListedRow]:
    """Yield the weights of each query that attends to anything, and fill total (P, L)."""
    mask = batch.mask
    assert isinstance(mask, SparseMask)
    for problem in range(len(batch.which)):
        for i in np.flatnonzero(np.diff(mask.indptr)).tolist():
            ids = visible(mask._row(i).astype(np.int64), batch.first + i, batch.is_causal)
            if not len(ids):
                continue
            row = np.empty(len(ids))
            pair_logits(problem, i, ids, row)
            if not (row < np.inf).all():
                query, key, _ = batch.names
                raise InvalidInputError(f"{query} and {key} must have products within float64 (1.8e308); rescale them")
            attended = row > -np.inf
            if not attended.all():
                ids, row = ids[attended], row[attended]
            if not len(ids):
                continue
            weights, sums = attention._weights(batch, row[None, None])
            total[problem, i] = sums[0, 0]
            if rate > 0.0:
                kernels.drop(weights[0], rate, draw, problem, i, 0, ids)
            yield ListedRow(problem, i, ids, weights[0, 0])


def _kept(rows: Iterator[ListedRow], weights: Float) -> Iterator[ListedRow]:
    """Yield rows, and write their weights into (P, L, S)."""
    for row in rows:
        weights[row.problem, row.query, row.ids] = row.weights
        yield row
