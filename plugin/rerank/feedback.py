"""Feedback: candidates gain by nearness to what the best of them have in common."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnbridge import kernels
from attnbridge.rerank.pool import Pool, attended_candidates, mean_query, mixed, similarities, standardise
from attnbridge.validation import as_count, as_number


@dataclass(frozen=True)
class Feedback:
    """Mix nearness to the attention output over the best candidates into the scores.

    The output is sum_j softmax(scale * z_j) x_j over the `top` candidates, z_j the z-normalised score so far; its
    similarity to each candidate under the bridge's metric, z-normalised, is mixed into z. Where `QueryExpansion` asks
    anew with another query, this keeps what the stages before it found out: it is pseudo-relevance feedback (Rocchio
    1971) with attention weights, for a ranking that is better than the vectors' own, such as that of late interaction.

    Parameters
    ----------
    top : int, default 5
        How many of the best candidates are attended to.
    scale : float, default 3.0
        Factor on the z-scores before the softmax; higher follows the first candidate more closely.
    mix : float, default 0.2
        Share of the similarity in the new score, 0 to 1.

    Raises
    ------
    InvalidConfigError
        `top` < 1, `scale` <= 0, or `mix` outside 0 to 1.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.9], [0.8, 1.0], [1.0, -0.8]], ids=["a", "b", "c"])
    >>> bridge.search([1.0, 0.05]).ids
    ['a', 'c', 'b']
    >>> bridge.search([1.0, 0.05], rerank=ab.Feedback(mix=0.5)).ids
    ['a', 'b', 'c']
    """

    top: int = 5
    scale: float = 3.0
    mix: float = 0.2
    name: ClassVar[str] = "feedback"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", as_count(self.top, "top"))
        object.__setattr__(self, "scale", as_number(self.scale, "scale", above=0.0))
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool
        """
        out = pool.scores == -np.inf
        before = standardise(np.where(out, np.nan, pool.scores))
        best = np.empty(min(self.top, len(before)), np.int64)
        kernels.top_k(np.where(out, -np.inf, before), pool.rows, best)
        best = best[~out[best]]
        if not len(best):
            return
        rows, weights = pool.rows[best], self.scale * before[best]
        kernels.softmax(weights, weights)
        mean = mean_query(pool, rows, weights)
        near = np.full(len(before), np.nan) if mean is None else similarities(pool, *mean, pool.rows)
        pool.scores = mixed(pool.scores, near, self.mix)
        pool.parts[self.name] = near
        pool.attended = attended_candidates(pool, rows, weights)
