"""A new query for a pool, and all that is scored anew under it."""

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError
from attnbridge.metric import SMALLEST_NORM, norms
from attnbridge.rerank.pool import Pool

Query = npt.NDArray[np.float32]

# A direction shorter than this share of the query is what rounding left of it.
ROUNDING = 1e-6


def require_searchable(pool: Pool, research: bool) -> None:
    """Refuse a second search where there is no index."""
    if research and pool.index is None:
        raise InvalidConfigError("research must be False for a pool without an index to search")


def take_query(pool: Pool, query: npt.NDArray[np.float64]) -> None:
    """Put a mix of vectors (d,) in the query's place; where all but rounding cancelled, the query stays."""
    new = query.astype(np.float32)[None]
    directed = pool.metric.name in ("cosine", "ip")
    if directed and norms(new)[0] < max(SMALLEST_NORM, ROUNDING * norms(pool.query[None])[0]):
        return
    queries, bias = pool.metric.prepare(new, "query")
    pool.query, pool.query_bias = queries[0], float(bias[0])


def score_anew(
    pool: Pool,
    name: str,
    near: npt.NDArray[np.int64],
    *,
    research: bool,
    ruled_out: bool | None = None,
    query: str = "new",
) -> None:
    """Score the candidates under the pool's new query, with `research` those that the index has for it.

    Parameters
    ----------
    pool : Pool
    name : str
        The stage's.
    near : ndarray of int64, (m,)
        Rows to begin a second search at.
    research : bool
    ruled_out : bool, optional
        Whether some candidates are; those stay it.
    query : str, default "new"
        What the origin of rows that come in calls it.
    """
    out = None
    if ruled_out is None or ruled_out:
        out = pool.rows[pool.scores == -np.inf]
    if research:
        before = pool.rows
        pool.rows = pool.require_index(name).find(pool.query, pool.query_bias, near)
        came = pool.rows[~np.isin(pool.rows, before)].tolist()
        pool.origins.update(dict.fromkeys(came, f"second search, with the {query} query"))
    pool.scores = pool.logits()
    if out is not None and len(out):
        pool.scores[np.isin(pool.rows, out)] = -np.inf
    pool.parts[name] = pool.scores
