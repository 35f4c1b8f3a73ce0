"""Late interaction: each query token finds its best match among a candidate's tokens."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnbridge import kernels
from attnbridge.rerank.pool import Pool, standardise
from attnbridge.validation import as_number


@dataclass(frozen=True)
class LateInteraction:
    """Mix MaxSim over token vectors into the scores.

    MaxSim = sum_i w_i max_j q_i . k_j (Khattab and Zaharia 2020, equation 3, as a weighted mean over the query's
    tokens): cross attention in which each query token attends to its best match only. Both the scores so far and
    MaxSim are z-normalised over the candidates before they are mixed.

    Parameters
    ----------
    mix : float, default 0.7
        Share of MaxSim in the new score, 0 to 1.

    Raises
    ------
    InvalidConfigError
        `mix` outside 0 to 1.

    Notes
    -----
    A candidate without tokens has no MaxSim (NaN in the hit's parts) and counts as average.

    Examples
    --------
    >>> import numpy as np, attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> tokens = [np.eye(4)[:2], np.eye(4)[2:]]
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.1]], ids=["a", "b"], tokens=tokens)
    >>> bridge.search([1.0, 0.0], query_tokens=np.eye(4)[3:], rerank=[ab.LateInteraction()]).ids
    ['b', 'a']
    """

    mix: float = 0.7
    name: ClassVar[str] = "late_interaction"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mix", as_number(self.mix, "mix", least=0.0, most=1.0))

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool
        """
        assert pool.tokens is not None
        assert pool.query_tokens is not None and pool.query_token_weights is not None  # noqa: PT018
        tokens = pool.tokens
        # Token products are float32; half-precision tokens times a query within [-1, 1] cannot overflow it.
        size = max(1.0, float(np.abs(pool.query_tokens).max()))
        query_tokens = (pool.query_tokens / np.float32(size)).astype(np.float32, copy=False)
        matches = np.empty(len(pool.rows))
        kernels.maxsim(
            query_tokens,
            pool.query_token_weights,
            tokens.data,
            tokens.starts[pool.rows],
            tokens.lengths[pool.rows],
            matches,
        )
        matches *= size
        ruled_out = pool.scores == -np.inf
        before = np.where(ruled_out, np.nan, pool.scores)
        mixed = (1.0 - self.mix) * standardise(before) + self.mix * standardise(matches)
        pool.scores = np.where(ruled_out, -np.inf, mixed)
        pool.parts[self.name] = matches
