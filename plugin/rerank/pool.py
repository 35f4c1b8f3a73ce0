"""What a rerank stage works on: one query's candidates and their scores so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from attnbridge.mechanisms.row import AttentionType
from attnbridge.metric import Keys, Metric


class TokenRows(NamedTuple):
    """Token vectors of all rows, one after the other.

    Parameters
    ----------
    data : ndarray of uint16, (t, dt)
        The bits of float16 values.
    starts, lengths : ndarray of int64, (n,)
        Row r's tokens are data[starts[r] : starts[r] + lengths[r]].

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.rerank import TokenRows
    >>> tokens = TokenRows(np.zeros((3, 8), np.uint16), np.array([0, 1]), np.array([1, 2]))
    >>> tokens.data[tokens.starts[1] :].shape
    (2, 8)
    """

    data: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@dataclass
class Pool:
    """One query, its candidates and their scores so far; a stage replaces `scores` and may replace `query`.

    Parameters
    ----------
    query : ndarray of float32, (d,)
        As the metric prepares it (unit length under cosine).
    query_bias : float
        The metric's bias of the query.
    metric : Metric
    keys : Keys
        All stored rows.
    rows : ndarray of int64, (n,)
        The candidates' row numbers.
    scores : ndarray of float64, (n,)
        Higher is better.
    attention : AttentionType
    options : mapping
        The attention's options.
    tokens : TokenRows, optional
    query_tokens : ndarray of float32, (m, dt), optional
    query_token_weights : ndarray of float64, (m,), optional
        They sum to 1.
    parts : dict of str to ndarray, (n,)
        What each stage gave each candidate.
    find : callable, optional
        (query (d,) float32, query_bias, rows (m,) int64) -> rows: a search of the index under another query, which
        begins at the given rows. A stage may put what it returns in place of `rows`, with scores to it.

    Examples
    --------
    A stage of one's own sees the pool and sets its scores:

    >>> import attnbridge as ab
    >>> class Reverse:
    ...     name = "reverse"
    ...     requires_tokens = False
    ...     def apply(self, pool):
    ...         pool.scores = -pool.scores
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["east", "north"])
    >>> bridge.search([0.9, 0.1], rerank=[Reverse()]).ids
    ['north', 'east']
    """

    query: npt.NDArray[np.float32]
    query_bias: float
    metric: Metric
    keys: Keys
    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    attention: AttentionType
    options: Mapping[str, Any]
    tokens: TokenRows | None = None
    query_tokens: npt.NDArray[np.float32] | None = None
    query_token_weights: npt.NDArray[np.float64] | None = None
    parts: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    find: Callable[[npt.NDArray[np.float32], float, npt.NDArray[np.int64]], npt.NDArray[np.int64]] | None = None

    def logits(self) -> npt.NDArray[np.float64]:
        """Return the attention's logits of the candidates under the current query.

        Where the attention reads tokens (cross) and the query has some, they are those of the query's tokens, which no
        stage changes.

        Returns
        -------
        ndarray of float64, (n,)
        """
        out = np.empty(len(self.rows))
        by_tokens = self.attention.token_logits
        if by_tokens is not None and self.tokens is not None and self.query_tokens is not None:
            weights = self.query_token_weights
            by_tokens(self.query_tokens, weights, self.tokens, self.rows, self.options, out)
            return out
        self.attention.logits(self.query, self.query_bias, self.keys, self.rows, self.options, out)
        return out


@runtime_checkable
class Stage(Protocol):
    """What the bridge asks of a rerank stage.

    Attributes
    ----------
    name : str
        The key of the stage's part and timing.
    requires_tokens : bool
        Whether the stage reads token vectors.

    Examples
    --------
    >>> import attnbridge as ab
    >>> from attnbridge.rerank import Stage
    >>> isinstance(ab.QueryExpansion(), Stage)
    True
    """

    name: ClassVar[str]
    requires_tokens: ClassVar[bool]

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores.

        Parameters
        ----------
        pool : Pool
        """
        ...


def standardise(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return z-scores over the finite entries; 0 where all are alike, and for NaN (no evidence either way)."""
    known = ~np.isnan(scores)
    out = np.zeros(len(scores))
    if not known.any():
        return out
    size = np.abs(scores[known]).max()
    if size == 0.0:
        return out
    values = scores[known] / size  # so that squares cannot overflow
    spread = values.std()
    if spread > 1e-12:
        out[known] = (values - values.mean()) / spread
    return out
