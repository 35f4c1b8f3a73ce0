"""Listwise smoothing: a candidate's score, and those of the candidates like it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnbridge import kernels
from attnbridge.rerank.likeness import best_first, points_of
from attnbridge.rerank.pool import Pool, standardise
from attnbridge.validation import as_number


@dataclass(frozen=True)
class ListwiseSmoothing:
    """Mix into each score the scores of the candidates most like it.

    Attention of the candidates over each other: smoothed_i = sum_j softmax_j(scale * likeness(x_i, x_j)) s_j over all
    j but i. Documents that answer the same query are alike (the cluster hypothesis), so what a candidate's neighbours
    score is evidence for it (Diaz 2005, "Regularizing ad hoc retrieval scores", section 3). Both the scores so far and
    the smoothed ones are z-normalised over the candidates before they are mixed. Likeness is the cosine of the stored
    rows; under l2 and poincare as of `MMR`.

    Parameters
    ----------
    scale : float, default 40.0
        Factor on the likeness before the softmax; higher listens to the nearest neighbours only.
    mix : float, default 0.2
        Share of the smoothed score in the new one, 0 to 1.

    Raises
    ------
    InvalidConfigError
        `scale` <= 0, or `mix` outside 0 to 1.

    Notes
    -----
    A candidate does not attend to itself: it would have nearly all of the weight, and its own score has the share
    1 - mix. Put the stage in the list twice for two steps of diffusion. A hit's part is its smoothed score, the mean of
    its neighbours' z-scores; NaN where it is the only candidate. A larger mix pays where several documents answer a
    query, and costs where one does.

    References
    ----------
    F. Diaz, "Regularizing ad hoc retrieval scores", CIKM 2005.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=3, index="exact")
    >>> rows = [[0.9, 0.43, 0.0], [0.8, 0.6, 0.0], [0.82, 0.0, 0.57], [0.3, 0.0, 0.95]]
    >>> _ = bridge.add(rows, ids=["a", "like a", "b", "like b"])
    >>> bridge.search([1.0, 0.0, 0.0]).ids
    ['a', 'b', 'like a', 'like b']
    >>> bridge.search([1.0, 0.0, 0.0], rerank=ab.ListwiseSmoothing()).ids
    ['a', 'like a', 'b', 'like b']
    """

    scale: float = 40.0
    mix: float = 0.2
    name: ClassVar[str] = "smoothing"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_number(self.scale, "scale", above=0.0))
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool
        """
        best = best_first(pool)  # in an order that does not depend on the candidates'
        parts, scores = np.full(len(pool.rows), np.nan), np.full(len(pool.rows), -np.inf)
        if len(best):
            own, smoothed = standardise(pool.scores[best]), np.empty(len(best))
            rows, factors = points_of(pool, pool.rows[best])
            kernels.diffuse(rows, factors, self.scale, own, smoothed)
            parts[best] = smoothed
            scores[best] = (1.0 - self.mix) * own + self.mix * standardise(smoothed)
        pool.scores, pool.parts[self.name] = scores, parts
