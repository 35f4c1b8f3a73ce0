"""AttentionVectorBridge: reranked nearest-neighbour search over vectors with ids."""

import warnings
from dataclasses import asdict
from typing import Any

from attnbridge.cache import AttentionCache, as_cache
from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.audit import audit as audit_bridge
from attnbridge.integrations.candidates import CandidateSource, ExactIndex
from attnbridge.integrations.codes import RowSettings
from attnbridge.integrations.graph import ENGINES, Foreign, Graph
from attnbridge.integrations.hnswlib import HnswIndex, hnswlib_problem
from attnbridge.integrations.options import shown
from attnbridge.integrations.searching import Searching
from attnbridge.integrations.tuning import tune as tune_bridge
from attnbridge.mechanisms.base import Attention
from attnbridge.mechanisms.row import AttentionType
from attnbridge.metric import Metric
from attnbridge.scoring import metric_of, resolve
from attnbridge.threads import usable_threads
from attnbridge.validation import as_choice, as_count, as_dim, as_text


class AttentionVectorBridge(Searching):
    """Nearest-neighbour search whose candidates are ranked by attention over the stored vectors.

    Candidates come from an hnswlib index; scores from the attention's kernel over the full stored rows; rerank
    stages may follow. Many threads may search at a time, while one writes: a search sees what was there when it began.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    metric : {"cosine", "ip", "l2"}, optional
        What near means: q . x over both lengths (the default), q . x, or -abs(q - x)^2 / 2. Candidates are the nearest.
        attention="poincare" brings its own: hyperbolic distance.
    attention : str or Attention, default "scaled_dot"
        A name or alias from `attention_types`, or a mechanism as it is now; what ranks the candidates. See Notes.
    index : {"auto", "hnsw", "exact"} or CandidateSource, default "auto"
        Where candidates come from. "auto" is hnswlib, or exact search with a warning where hnswlib does not run.
    engine : {"native", "hnswlib"}, optional
        Who searches the graph that hnswlib builds: by default our own walk over its links, which finds the same rows
        faster; or hnswlib itself.
    M, ef_construction, ef, seed : int, optional
        hnswlib's build and search breadth, and its random seed; by default those of `HnswIndex` (16, 200, 100, 100).
    dtype : {"float32", "float16", "int8"}, default "float32"
        Of the rows that the graph is walked over: fewer bits are read faster. What the walk finds is ranked by the full
        rows.
    index_dim : int, optional
        Walk over rows reduced to so many principal directions.
    keep_full : bool, default True
        Keep the float32 rows too. False keeps those of `dtype` only, and ranks by them.
    token_dtype : {"float16", "int8"}, default "float16"
        Of stored token vectors. int8 takes half the bytes: a token's largest absolute value becomes 127, and its scale
        is kept with it.
    candidates : int, default 100
        How many of the index's nearest rows a search ranks where it is not told.
    model : str, optional
        Name of the model that made the vectors; saved, and compared by `open`.
    threads : int, optional
        For building and for batches; by default ATTNBRIDGE_NUM_THREADS or the usable cores. With one thread, one
        seed builds the same index twice.
    cache : AttentionCache, optional
        Where searches look for their hits first; see `cache`. It is not saved.
    **options : object
        The attention's options, as `attention_types` lists them. scale is by default 20 under cosine (unit vectors need
        a temperature of 0.05 for weights that differ) and 1/sqrt(dim) otherwise, unless the type says something else
        below.

    Raises
    ------
    InvalidConfigError
        Unknown metric, attention, index or option (the known ones are listed), or a value that cannot be.
    DimensionMismatchError
        Heads that do not divide dim, or parameters of another dimension.
    MissingDependencyError
        index="hnsw" where hnswlib does not run; the message says why.

    Notes
    -----
    What each type ranks by, and what is special about it here:

    scaled_dot, flash_v2
        scale times the metric's similarity: the order is the metric's own.
    sparse
        As scaled_dot for the candidates inside the pattern; the others are no hits, so that fewer than k may come.
    multi_head
        The mean over heads of scale times each head's part of the similarity: scaled_dot's logit over the number of
        heads. scale is by default 20 num_heads under cosine, so that logits are those of scaled_dot, and
        1/sqrt(dim / num_heads) otherwise. Weights are the mean of the heads' weights, by which score="weights" ranks
        too. With parameters, the products of projected rows, under any metric; scale is then 1/sqrt(d_k).
    linear, gat, moe
        Functions of query and rows themselves (unit vectors under cosine), whatever the metric; the metric finds the
        candidates. gat of version "v1" orders keys alike for every query, and warns.
    cross
        MaxSim of the stored tokens with `query_tokens`, among the candidates that the vectors give; a document without
        tokens is no hit. Where no tokens are stored at all, the metric's similarity. scale is 1 by default.
    sliding
        scaled_dot among the rows whose place is in the window around the query's: position="column" names the payload's
        column of places, and searches take position=number. Rows without a place are no hits.
    poincare
        -distance / temperature (1.0), curvature (-1.0). With map="expmap0" vectors and queries are tangent vectors at
        the origin: stored are their points, and `get` returns what was added but for float32 rounding.

    Parameters (of multi_head and gat: dicts of arrays) are saved with the index; `config` shows their shapes.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, metric="cosine")
    >>> bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["east", "north-east", "north"])
    ['east', 'north-east', 'north']
    >>> hits = bridge.search([0.9, 0.2], k=2)
    >>> hits.ids, hits.scores.round(2)
    (['east', 'north-east'], array([19.52, 16.87]))
    """

    def __init__(
        self,
        dim: int,
        metric: str | None = None,
        attention: str | Attention = "scaled_dot",
        *,
        index: str | CandidateSource = "auto",
        engine: str | None = None,
        M: int | None = None,  # noqa: N803 - the paper's name
        ef_construction: int | None = None,
        ef: int | None = None,
        seed: int | None = None,
        dtype: str = "float32",
        index_dim: int | None = None,
        keep_full: bool = True,
        token_dtype: str = "float16",
        candidates: int = 100,
        model: str | None = None,
        threads: int | None = None,
        cache: AttentionCache | None = None,
        **options: Any,
    ) -> None:
        self._cache = as_cache(cache)
        dim = as_dim(dim)
        if isinstance(attention, Attention):
            attention.require_dim(dim)
        self._attention, self._options = _resolved(attention, options)
        measure = metric_of(self._attention, self._options, metric)
        self._take_options(dim, measure)
        self._fallback: str | None = None
        self._candidates = as_count(candidates, "candidates")
        self.model = model
        threads = usable_threads(threads)
        given = {"M": M, "ef_construction": ef_construction, "ef": ef, "seed": seed}
        hnsw = {name: value for name, value in given.items() if value is not None}
        if (hnsw or engine is not None) and index not in ("auto", "hnsw"):
            names = ", ".join([*hnsw, *(["engine"] if engine is not None else [])])
            raise InvalidConfigError(f"{names} can be given for index='hnsw' only, got index={index!r}")
        self._engine = "native" if engine is None else as_choice(engine, "engine", ENGINES)
        rows = RowSettings(dtype, index_dim, keep_full, token_dtype)
        if rows.reduced and (self._engine != "native" or index not in ("auto", "hnsw")):
            raise InvalidConfigError(
                f"dtype={dtype!r} and index_dim={index_dim} must go with keep_full=False where no graph is walked: got "
                f"index={index!r}, engine={self._engine!r}, which read the full rows"
            )
        if measure.difference is not None and (rows.packed or rows.reduced or self._engine != "native"):
            raise InvalidConfigError(
                f"metric={measure.name!r} must go with dtype='float32', index_dim=None and engine='native', which keep "
                f"distances near the boundary: got {dtype!r}, {index_dim} and {self._engine!r}"
            )
        source: Graph | Foreign | None
        if isinstance(index, str):
            source = self._make_source(index, dim, measure, hnsw, threads)
        else:
            source = self._own_source(index, dim, measure)
        self._hold(dim, measure, threads, source, hnsw, rows)

    def _take_options(self, dim: int, metric: Metric) -> None:
        """Refuse options that do not go with each other or with the vectors, and fill the scale in."""
        row, options = self._attention, self._options
        if not self._by_position:
            row.mechanism(options)  # refuses options that do not go together
        if row.require_fit is not None:
            row.require_fit(options, dim)
        if options.get("version") == "v1":
            warnings.warn(
                f"{row.name} of version 'v1' orders keys alike for every query; as a reranker take version 'v2'",
                UserWarning,
                stacklevel=3,
            )
        if options.get("scale", 0.0) is None:
            unit = metric.name == "cosine"
            options["scale"] = (
                metric.default_scale(dim) if row.index_scale is None else row.index_scale(options, dim, unit)
            )

    def _own_source(self, index: object, dim: int, metric: Metric) -> Graph | Foreign | None:
        """Return what searches a source of the user's own, which must fit."""
        if not isinstance(index, CandidateSource):
            raise InvalidConfigError(
                f"index must be 'auto', 'hnsw', 'exact' or a CandidateSource, got {type(index).__name__}"
            )
        if index.dim != dim:
            raise InvalidConfigError(f"index must have dim={dim}, got {index.dim}")
        wanted = metric.build if isinstance(index, HnswIndex) else metric.name
        if getattr(index, "metric", wanted) != wanted:
            raise InvalidConfigError(f"index must have metric={wanted!r}, got {index.metric!r}")  # type: ignore[attr-defined]
        if len(index):
            raise InvalidConfigError(f"index must be empty, got one with {len(index)} rows; add them here")
        self._index_name = {HnswIndex: "hnsw", ExactIndex: "exact"}.get(type(index), "custom")
        if isinstance(index, HnswIndex):
            return Graph(index, engine=self._engine, metric=metric)
        return None if isinstance(index, ExactIndex) else Foreign(index)

    def _make_source(self, index: str, dim: int, metric: Metric, hnsw: dict[str, Any], threads: int) -> Graph | None:
        as_choice(index, "index", ("auto", "hnsw", "exact"))
        if index == "auto":
            self._fallback = hnswlib_problem()
            if self._fallback is not None:
                warnings.warn(f"searching exactly, without hnswlib: {self._fallback}", RuntimeWarning, stacklevel=3)
            index = "hnsw" if self._fallback is None else "exact"
        self._index_name = index
        if index == "exact":
            return None
        return Graph(HnswIndex(dim, metric.build, **hnsw, threads=threads), engine=self._engine, metric=metric)

    # ---- settings

    @property
    def config(self) -> dict[str, Any]:
        """Every setting, defaults filled in; `fallback` says why hnswlib is not used, where it is not."""
        source = self._state.source
        settings = source.index.settings() if isinstance(source, Graph) else {}
        return {
            "dim": self._dim,
            "metric": self._metric.name,
            "attention": self._attention.name,
            "options": shown(self._options),
            "index": self._index_name,
            **({"engine": self._engine} if settings else {}),
            **{name: settings[name] for name in ("M", "ef_construction", "ef", "seed") if name in settings},
            **asdict(self._state.store.settings),
            "candidates": self._candidates,
            "threads": self._threads,
            "model": self.model,
            "frozen": self._frozen,
            "fallback": self._fallback,
            "cache": None if self._cache is None else self._cache.max_bytes,
        }

    @property
    def cache(self) -> AttentionCache | None:
        """The cache of this bridge's searches, or None; it may be set.

        Hits are found there where the same was asked before, of the same documents: the same query to the bit, k,
        filter, stages and all else that hits depend on. Every write, tune, reload and step of linking leaves what was
        kept before behind. Hits are equal, all but their timings. What cannot be known to be the same is searched as
        without a cache: with a time budget, a stage or an index of your own, or a function in a stage's options.

        Returns
        -------
        AttentionCache or None

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> bridge.cache = ab.AttentionCache(max_bytes=1_000_000)
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]])
        >>> bridge.search([1.0, 0.2]) == bridge.search([1.0, 0.2]), bridge.cache.hits
        (True, 1)
        """
        return self._cache

    @cache.setter
    def cache(self, cache: AttentionCache | None) -> None:
        self._cache = as_cache(cache)

    @property
    def model(self) -> str | None:
        """Name of the model that made the vectors, or None."""
        return self._model

    @model.setter
    def model(self, model: str | None) -> None:
        self._model = None if model is None else as_text(model, "model")

    def _set_search(self, ef: int, candidates: int) -> None:
        """Take other settings for searches."""
        source = self._state.source
        assert isinstance(source, Graph)
        source.index.ef = ef
        self._hnsw = self._hnsw | {"ef": ef}
        self._candidates = candidates

    def __repr__(self) -> str:
        return (
            f"AttentionVectorBridge({len(self):,} rows, dim={self._dim}, metric={self._metric.name!r}, "
            f"attention={self._attention.name!r}, index={self._index_name!r})"
        )

    # ---- measuring and tuning: functions of modules of their own, methods here

    audit = audit_bridge
    tune = tune_bridge


def _resolved(attention: str | Attention, options: dict[str, Any]) -> tuple[AttentionType, dict[str, Any]]:
    """Return a type and its options; a type of places in a sequence takes the payload's column of them."""
    row, own = resolve(attention, {})
    if row.build_space is not None:
        return resolve(attention, options)
    if "position" not in row.options:
        raise InvalidConfigError(f"attention={row.name!r} cannot rank documents: no index can be built for it")
    column = options.get("position")
    if not isinstance(column, str):
        raise InvalidConfigError(
            f"{row.name} needs position=..., the payload column that holds a row's place, got {column!r}"
        )
    others = {name: value for name, value in options.items() if name != "position"}
    return row, (resolve(attention, others)[1] if others else own) | {"position": column}
