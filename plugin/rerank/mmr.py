"""Maximal marginal relevance: hits that are good, and unlike those before them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.rerank.likeness import best_first, points_of
from attnbridge.rerank.pool import Pool
from attnbridge.trace import Attended
from attnbridge.validation import as_number


@dataclass(frozen=True)
class MMR:
    """Order the hits by maximal marginal relevance: each is the best of those unlike the ones before it.

    The best candidate is picked first, then again and again the one with the largest
    lambda_ * relevance - (1 - lambda_) * likeness, where likeness is that to the picked one most like it (Carbonell and
    Goldstein 1998, section 2). Relevance is the score so far, min-max-normalised over the candidates to [0, 1];
    likeness the cosine of the stored rows under cosine and ip. Under l2 and poincare it falls from 1 for equal rows
    towards 0 with their distance: 1 / (1 + s), with s = abs(x - y)^2 / (2 v), v the candidates' mean squared distance
    from their mean; or s = sinh(sqrt(c) distance / 2)^2.

    Parameters
    ----------
    lambda_ : float, default 0.7
        1 leaves the order as it is, 0 takes what is farthest from all before it, the best first.

    Raises
    ------
    InvalidConfigError
        `lambda_` outside 0 to 1.

    Notes
    -----
    A hit's part is the value that it was picked for, 1 for the first. Scores are these values, set apart by a last bit
    where they are equal. As many are picked as the search needs for its hits; the others follow by the value that they
    have after that. So what rules out or groups candidates comes before this stage, or it picks from what is left here.

    References
    ----------
    J. Carbonell and J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing
    summaries", SIGIR 1998.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> rows = [[1.0, 0.2], [1.0, 0.19], [0.1, 1.0], [-1.0, -1.0]]
    >>> _ = bridge.add(rows, ids=["a", "copy of a", "b", "c"])
    >>> bridge.search([1.0, 0.9], k=2).ids
    ['a', 'copy of a']
    >>> bridge.search([1.0, 0.9], k=2, rerank=ab.MMR(0.7)).ids
    ['a', 'b']
    """

    lambda_: float = 0.7
    name: ClassVar[str] = "mmr"
    level: ClassVar[str] = "selection"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lambda_", as_number(self.lambda_, "lambda_", least=0.0, most=1.0))

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool
        """
        best = best_first(pool)
        parts = np.full(len(pool.rows), np.nan)
        scores = np.full(len(pool.rows), -np.inf)
        if len(best):
            rows, factors = points_of(pool, pool.rows[best])
            count = len(best)
            order = np.empty(count if pool.wanted is None else min(count, pool.wanted), np.int64)
            values, near, likest = np.empty(count), np.empty(count), np.empty(count, np.int64)
            relevance = _relevance(pool.scores[best])
            kernels.mmr(relevance, rows, factors, self.lambda_, order, values, likest, near)
            parts[best] = values
            scores[best] = _falling(values, order)
            self._explain(pool, pool.rows[best], likest, near)
        pool.scores, pool.parts[self.name] = scores, parts

    @staticmethod
    def _explain(
        pool: Pool, rows: npt.NDArray[np.int64], likest: npt.NDArray[np.int64], near: npt.NDArray[np.float64]
    ) -> None:
        """Let the hits tell which of those before them each is most like."""
        if pool.index is None:
            return
        index = pool.index

        def attended(row: int) -> list[Attended]:
            place = int(np.flatnonzero(rows == row)[0])
            if likest[place] < 0:
                return []
            [name] = index.ids_of(rows[likest[place]][None])
            return [Attended("candidate", name, float(near[place]))]

        pool.attended = attended


def _relevance(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return scores, best first, on [0, 1]; 1 where all are alike."""
    halves = scores / 2.0  # their differences cannot overflow
    spread = halves[0] - halves[-1]
    return (halves - halves[-1]) / spread if spread > 0.0 else np.ones(len(scores))


def _falling(values: npt.NDArray[np.float64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return values that fall strictly along the order, and for what is not in it lie below all of those."""
    out, above = values.copy(), np.inf
    for place in order.tolist():
        above = min(values[place], np.nextafter(above, -np.inf))
        out[place] = above
    rest = np.ones(len(values), np.bool_)
    rest[order] = False
    out[rest] = np.minimum(values[rest], np.nextafter(above, -np.inf))
    return out
