"""What a rerank stage works on: one query's candidates and their scores so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from attnbridge import kernels
from attnbridge.errors import InvalidConfigError
from attnbridge.hits import Id
from attnbridge.mechanisms.row import AttentionType
from attnbridge.metric import SMALLEST_NORM, Keys, Metric
from attnbridge.trace import Attended


class TokenRows(NamedTuple):
    """Token vectors of all rows, one after the other.

    Parameters
    ----------
    data : ndarray of uint16 or int8, (t, dt)
        The bits of float16 values; or codes.
    starts, lengths : ndarray of int64, (n,)
        Row r's tokens are data[starts[r] : starts[r] + lengths[r]].
    scale : ndarray of float32, (t,), optional
        What each token's codes are multiplied with; None for float16.

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.rerank import TokenRows
    >>> tokens = TokenRows(np.zeros((3, 8), np.uint16), np.array([0, 1]), np.array([1, 2]))
    >>> tokens.data[tokens.starts[1] :].shape
    (2, 8)
    """

    data: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float32] | None = None


class PoolIndex(Protocol):
    """The index behind a pool, as one search sees it.

    Examples
    --------
    >>> import attnbridge as ab
    >>> class Newest:
    ...     name, requires_tokens = "newest", False
    ...     def apply(self, pool):
    ...         pool.scores = [float(year) for year in pool.index.column("year", pool.rows)]
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"], payload={"year": [1998, 2017]})
    >>> bridge.search([1.0, 0.0], rerank=Newest()).ids
    ['b', 'a']
    """

    def find(
        self, query: npt.NDArray[np.float32], query_bias: float, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return the candidates that the index has for another query, asked from the given rows on.

        Parameters
        ----------
        query : ndarray of float32, (d,)
        query_bias : float
        rows : ndarray of int64, (m,)

        Returns
        -------
        ndarray of int64, (n,)
        """
        ...

    def admits(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which rows the search may return: alive, and let pass by its filter and its radius.

        Parameters
        ----------
        rows : ndarray of int64, (m,)

        Returns
        -------
        ndarray of bool, (m,)
        """
        ...

    def rows_of(self, ids: Sequence[Id]) -> npt.NDArray[np.int64]:
        """Return the rows of ids, whether the search may return them or not; -1 for an id that is not there.

        Parameters
        ----------
        ids : list of str or int

        Returns
        -------
        ndarray of int64, (m,)
        """
        ...

    def neighbours(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the rows that each row is linked with in the index's graph; where it is in none, the 16 nearest.

        Parameters
        ----------
        rows : ndarray of int64, (m,)

        Returns
        -------
        ndarray of int64, (t,)
            The first row's neighbours, the second one's, and so on; dead rows may be among them.
        ndarray of int64, (m,)
            How many each row has.
        """
        ...

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[Id]:
        """Return the ids of rows.

        Parameters
        ----------
        rows : ndarray of int64, (m,)

        Returns
        -------
        list of str or int
        """
        ...

    def column(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> list[Any]:
        """Return the payload's values in a column; an unknown one is an error that lists those there are.

        Parameters
        ----------
        name : str
        rows : ndarray of int64, (m,), optional
            All of the store's rows, dead ones included, where not given.

        Returns
        -------
        list
        """
        ...

    def live_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows of all documents, ascending: those of the store that are not dead.

        Returns
        -------
        ndarray of int64, (m,)
        """
        ...

    @property
    def cache(self) -> dict[Any, Any]:
        """What stages keep that they made of all documents, under keys of their own.

        It lives as long as the documents stay as they are, and is shared by searches in several threads.
        """
        ...

    def check(self, rows: npt.NDArray[np.int64]) -> None:
        """Verify what of memory-mapped files a stage will read of rows that the search did not find.

        Parameters
        ----------
        rows : ndarray of int64, (m,)

        Raises
        ------
        IndexCorruptError
        """
        ...


def _nothing(rows: npt.NDArray[np.int64]) -> Mapping[str, npt.NDArray[np.float64]]:
    """Return what stages before the first have left."""
    return {}


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
    index : PoolIndex, optional
        The index that the candidates come from. A stage may put other rows of it in place of `rows`, with scores to
        them.
    query_text : str, optional
        The query in words.
    wanted : int, optional
        How many candidates the search needs for its hits; None where it takes all.
    short : bool
        Set by a stage that left fewer than `wanted` and might leave more of a larger pool: the search then starts over
        with more candidates, where there are more.
    attended : callable, optional
        row -> list of Attended: what the stage looked at for a candidate, for `Hits.explain`; set by a stage that can
        tell, None before each.
    origins : dict of int to str
        Where rows come from that the first search did not find.
    earlier : callable
        rows (m,) -> what the attention and the stages before gave each of them, (m,) arrays by name as in `Hits.parts`;
        NaN for a row that came later.

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
    index: PoolIndex | None = None
    query_text: str | None = None
    wanted: int | None = None
    short: bool = False
    attended: Callable[[int], list[Attended]] | None = None
    origins: dict[int, str] = field(default_factory=dict)
    earlier: Callable[[npt.NDArray[np.int64]], Mapping[str, npt.NDArray[np.float64]]] = field(
        default_factory=lambda: _nothing
    )

    def logits(self, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Return the attention's logits of the candidates under the current query.

        Where the attention reads tokens (cross) and the query has some, they are those of the query's tokens, which no
        stage changes.

        Parameters
        ----------
        rows : ndarray of int64, (n,), optional
            Other rows than the candidates.

        Returns
        -------
        ndarray of float64, (n,)
        """
        rows = self.rows if rows is None else rows
        out = np.empty(len(rows))
        by_tokens = self.attention.token_logits
        if by_tokens is not None and self.tokens is not None and self.query_tokens is not None:
            weights = self.query_token_weights
            by_tokens(self.query_tokens, weights, self.tokens, rows, self.options, out)
            return out
        self.attention.logits(self.query, self.query_bias, self.keys, rows, self.options, out)
        return out

    def require_index(self, stage: str) -> PoolIndex:
        """Return the index; a pool without one is an error that names the stage which needs it.

        Parameters
        ----------
        stage : str

        Returns
        -------
        PoolIndex

        Raises
        ------
        InvalidConfigError
        """
        if self.index is None:
            raise InvalidConfigError(f"{stage} needs an index to ask, this pool has none; use it in a bridge's search")
        return self.index


@runtime_checkable
class Stage(Protocol):
    """What the bridge asks of a rerank stage.

    A stage may also have `requires_text` (bool: whether it reads the query's text), `reads_tokens` (bool: whether it
    reads token vectors where there are any, and goes without where there are none) and `level` (see `as_stages`).

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

    @property
    def name(self) -> str:
        """The key of the stage's part and timing."""
        ...

    @property
    def requires_tokens(self) -> bool:
        """Whether the stage reads token vectors."""
        ...

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


def similarities(
    pool: Pool, query: npt.NDArray[np.float32], query_bias: float, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the similarities of rows to a prepared query, under the pool's metric."""
    out, keys = np.empty(len(rows)), pool.keys
    kernels.dot(query, query_bias, keys.data, keys.scale, keys.bias, rows, 1.0, out, pool.metric.difference)
    return out


def mean_query(
    pool: Pool, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], float] | None:
    """Return the weighted mean of rows as a prepared query and its bias; None where they cancel out under cosine."""
    metric, keys = pool.metric, pool.keys
    scale = None if metric.space is not None else keys.scale  # of packed rows their step
    mean = np.empty(len(pool.query))
    kernels.weighted_sum(weights, keys.data, scale, rows, mean)
    if metric.name == "cosine" and mean @ mean <= SMALLEST_NORM**2:
        return None
    queries, bias = metric.prepare(mean.astype(np.float32)[None], "query")
    return queries[0], float(bias[0])


def places_among(rows: npt.NDArray[np.int64], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each row is among others, -1 for nowhere."""
    if not len(among):
        return np.full(len(rows), -1)
    order = np.argsort(among)
    places = order[np.minimum(np.searchsorted(among, rows, sorter=order), len(among) - 1)]
    return np.where(among[places] == rows, places, -1)


def attended_candidates(
    pool: Pool, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> Callable[[int], list[Attended]] | None:
    """Return a `Pool.attended` of candidates that are the same for every hit, most weight first."""
    index = pool.index
    if index is None:
        return None

    def attended(_: int) -> list[Attended]:
        order = np.argsort(-weights, kind="stable")
        named = zip(index.ids_of(rows[order]), weights[order].tolist(), strict=True)
        return [Attended("candidate", id, weight) for id, weight in named]

    return attended


def mixed(before: npt.NDArray[np.float64], new: npt.NDArray[np.float64], mix: float) -> npt.NDArray[np.float64]:
    """Return (1 - mix) z(before) + mix z(new); what is ruled out (-inf) before stays so and is no part of either."""
    ruled_out = before == -np.inf
    before, new = (np.where(ruled_out, np.nan, scores) for scores in (before, new))
    scores = (1.0 - mix) * standardise(before) + mix * standardise(new)
    return np.where(ruled_out, -np.inf, scores)
