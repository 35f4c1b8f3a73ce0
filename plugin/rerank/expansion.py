"""Query expansion: the attention output over the best candidates becomes part of the query."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.metric import SMALLEST_NORM, norms
from attnbridge.rerank.pool import Pool, attended_candidates
from attnbridge.validation import as_bool, as_count, as_number

# A direction shorter than this share of the query is what rounding left of it.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class QueryExpansion:
    """Mix the query with the attention output over the top candidates, and score the pool again.

    The output is sum_j softmax(scale * s_j) x_j over the `top` candidates, s_j the similarity under the bridge's
    metric, x_j the stored row (unit length under cosine). It is alpha query expansion (Radenovic et al. 2018,
    section 4.3) with softmax weights, and one step of a modern Hopfield network (Ramsauer et al. 2020, equation 3).

    Parameters
    ----------
    top : int, default 10
        How many of the best candidates are attended to.
    scale : float, default 40.0
        Factor on the similarity before the softmax; higher follows the first candidate more closely.
    mix : float, default 0.5
        Share of the output in the new query, 0 to 1.
    research : bool, default False
        Search the index a second time, with the new query and from the best candidates on, instead of scoring the
        first search's candidates again.

    Raises
    ------
    InvalidConfigError
        `top` < 1, `scale` <= 0, `mix` outside 0 to 1, or `research` neither True nor False.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]], ids=["a", "b", "c"])
    >>> bridge.search([1.0, 0.1], k=2, rerank=[ab.QueryExpansion(top=2)]).ids
    ['a', 'b']
    """

    top: int = 10
    scale: float = 40.0
    mix: float = 0.5
    research: bool = False
    name: ClassVar[str] = "expansion"
    level: ClassVar[str] = "candidates"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", as_count(self.top, "top"))
        object.__setattr__(self, "scale", as_number(self.scale, "scale", above=0.0))
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))
        object.__setattr__(self, "research", as_bool(self.research, "research"))

    def apply(self, pool: Pool) -> None:
        """Replace the pool's query and scores, with `research` its rows too.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        InvalidConfigError
            `research` for a pool that no search of an index made.
        """
        if self.research and pool.index is None:
            raise InvalidConfigError("research must be False for a pool without an index to search")
        best = np.empty(min(self.top, len(pool.rows)), np.int64)
        kernels.top_k(pool.scores, pool.rows, best)
        rows = pool.rows[best]
        weights = np.empty(len(rows))
        keys = pool.keys
        difference = pool.metric.difference
        kernels.dot(
            pool.query, pool.query_bias, keys.data, keys.scale, keys.bias, rows, self.scale, weights, difference
        )
        kernels.softmax(weights, weights)
        output = np.empty(len(pool.query))
        kernels.weighted_sum(weights, keys.data, None if pool.metric.space is not None else keys.scale, rows, output)
        query = ((1.0 - self.mix) * pool.query + self.mix * output).astype(np.float32)[None]
        least = max(SMALLEST_NORM, _ROUNDING * norms(pool.query[None])[0])
        if (
            pool.metric.name in ("l2", "poincare") or norms(query)[0] >= least
        ):  # else they cancel to noise: keep the query
            queries, bias = pool.metric.prepare(query, "query")
            pool.query, pool.query_bias = queries[0], float(bias[0])
        out = pool.rows[pool.scores == -np.inf]  # ruled out stays ruled out
        if self.research:
            before = pool.rows
            pool.rows = pool.require_index(self.name).find(pool.query, pool.query_bias, rows)
            came = pool.rows[~np.isin(pool.rows, before)].tolist()
            pool.origins.update(dict.fromkeys(came, "second search, with the expanded query"))
        pool.scores = np.where(np.isin(pool.rows, out), -np.inf, pool.logits())
        pool.parts[self.name] = pool.scores
        pool.attended = attended_candidates(pool, rows, weights)
