"""Query expansion: the attention output over the best candidates becomes part of the query."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnbridge import kernels
from attnbridge.rerank.pool import Pool, attended_candidates
from attnbridge.rerank.requery import ROUNDING, require_searchable, score_anew
from attnbridge.validation import as_bool, as_count, as_number

# Beyond this a state no longer moves.
_MOST_STEPS = 1_000


@dataclass(frozen=True)
class QueryExpansion:
    """Mix the query with the attention output over the top candidates, and score the pool again.

    The output is sum_j softmax(scale * s_j) x_j over the `top` candidates, s_j the similarity under the bridge's
    metric, x_j the stored row (unit length under cosine). It is alpha query expansion (Radenovic et al. 2018,
    section 4.3) with softmax weights, and a step of a modern Hopfield network (Ramsauer et al. 2020, equation 3), whose
    stored patterns are the `top` candidates of the ranking before: further steps attend to the same ones again, with
    the query that the last step left, and all candidates are scored once, at the end.

    Parameters
    ----------
    top : int, default 10
        How many of the best candidates are attended to.
    scale : float, default 40.0
        Factor on the similarity before the softmax; higher follows the first candidate more closely.
    mix : float, default 0.5
        Share of the output in the new query, 0 to 1.
    steps : int, default 1
        How often.
    research : bool, default False
        Search the index a second time, with the new query and from the best candidates on, instead of scoring the
        first search's candidates again.

    Raises
    ------
    InvalidConfigError
        `top` < 1, `scale` <= 0, `mix` outside 0 to 1, `steps` < 1, or `research` neither True nor False.

    Notes
    -----
    Candidates that are ruled out are not attended to. Under cosine and ip, a step whose output and query cancel but for
    rounding is not taken.

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
    steps: int = 1
    research: bool = False
    name: ClassVar[str] = "expansion"
    level: ClassVar[str] = "candidates"
    requires_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", as_count(self.top, "top"))
        object.__setattr__(self, "scale", as_number(self.scale, "scale", above=0.0))
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))
        object.__setattr__(self, "steps", as_count(self.steps, "steps", most=_MOST_STEPS))
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
        require_searchable(pool, self.research)
        keys, metric = pool.keys, pool.metric
        size = min(self.top, len(pool.rows))
        near, weights, query, bias = np.empty(size, np.int64), np.empty(size), np.empty_like(pool.query), np.empty(1)
        found, ruled_out = kernels.expand(
            pool.query,
            pool.query_bias,
            *keys,
            None if metric.space is not None else keys.scale,
            metric.name == "cosine",
            pool.scores,
            pool.rows,
            self.scale,
            self.mix,
            self.steps,
            0.0 if metric.space is None else metric.space.curvature,
            0.0 if metric.name in ("l2", "poincare") else ROUNDING,
            near,
            weights,
            query,
            bias,
            metric.difference,
        )
        near, weights = near[:found], weights[:found]
        pool.query, pool.query_bias = query, float(bias[0])
        score_anew(pool, self.name, near, research=self.research, ruled_out=ruled_out > 0, query="expanded")
        pool.attended = attended_candidates(pool, near, weights)
