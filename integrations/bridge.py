"""AttentionVectorBridge: reranked nearest-neighbour search over vectors with ids."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Hits, Id
from attnbridge.integrations.audit import audit as audit_bridge
from attnbridge.integrations.candidates import CandidateSource, ExactIndex
from attnbridge.integrations.codes import RowSettings
from attnbridge.integrations.constructors import Constructors
from attnbridge.integrations.graph import ENGINES, Foreign, Graph
from attnbridge.integrations.hnswlib import HnswIndex, hnswlib_problem
from attnbridge.integrations.inputs import as_filter, check_query_tokens, id_list, is_one_id, refuse_params
from attnbridge.integrations.nearest import Request
from attnbridge.integrations.options import shown
from attnbridge.integrations.search import Searcher
from attnbridge.integrations.store import Store
from attnbridge.integrations.tuning import tune as tune_bridge
from attnbridge.integrations.view import Allowed, View
from attnbridge.mechanisms.row import AttentionType
from attnbridge.mechanisms.standard import SCALED_DOT
from attnbridge.metric import Metric
from attnbridge.rerank import Stage, as_stages, default_stages
from attnbridge.rerank.default import CANDIDATES as DEFAULT_CANDIDATES
from attnbridge.rerank.default import is_default
from attnbridge.rerank.sequence import takes_tokens
from attnbridge.scoring import metric_of, resolve
from attnbridge.threads import usable_threads
from attnbridge.validation import as_choice, as_count, as_dim, as_matrix, as_number, as_text, as_vector

# What lies outside the window is filtered; inside, sliding attention is scaled_dot.
_INSIDE = replace(SCALED_DOT, name="sliding")


class AttentionVectorBridge(Constructors):
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
    attention : str, default "scaled_dot"
        A name or alias from `attention_types`; what ranks the candidates. See Notes.
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
        attention: str = "scaled_dot",
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
        **options: Any,
    ) -> None:
        dim = as_dim(dim)
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

    @property
    def _by_position(self) -> bool:
        """Whether documents are attended to by their place in a sequence."""
        return self._attention.build_space is None

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
        }

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

    # ---- search

    def search(
        self,
        query: npt.ArrayLike | None = None,
        k: int | None = None,
        *,
        id: Id | None = None,
        candidates: int | None = None,
        ef: int | None = None,
        entry_points: Sequence[Id] | None = None,
        filter: Any = None,
        where: str | None = None,
        params: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        radius: float | None = None,
        offset: int = 0,
        exact: bool = False,
        time_budget: float | None = None,
        query_tokens: npt.ArrayLike | None = None,
        query_token_weights: npt.ArrayLike | None = None,
        query_text: str | None = None,
        position: float | None = None,
        rerank: Stage | str | Sequence[Stage | str] = (),
    ) -> Hits:
        """Return the best k documents for one query.

        Parameters
        ----------
        query : array_like, (d,)
            Either this or `id`.
        k : int, default 10, or all with `radius`
            Where fewer documents qualify, fewer come back.
        id : str or int, optional
            Search with a stored document's vector (and tokens), leaving the document itself out: "more like this".
        candidates : int, optional
            How many of the index's nearest rows are ranked, at least k + offset; by default `config`'s.
        ef : int, optional
            Breadth of the graph search, at least `candidates` in effect (which by default are no more than this); by
            default `config`'s. Engine "native" only.
        entry_points : list of ids, optional
            Where to begin in the graph (unknown ones are passed over), for instance at the hits of a search before;
            by default at the graph's own entry point. Engine "native" only.
        filter : array_like of bool, or list of ids, optional
            What may be returned: one bool for each document in the order of `ids()`, or ids (unknown ones match
            nothing).
        where : str, optional
            What may be returned: a boolean SQL expression, in DuckDB's dialect, over the payload's columns and `id`.
        params : dict, optional
            Values for the $names in `where`.
        threshold : float, optional
            Least final score.
        radius : float, optional
            Largest distance, in the units of `Hits.distances` (cosine and ip: 1 - similarity; l2: squared; poincare:
            hyperbolic).
        offset : int, default 0
            Skip this many of the best.
        exact : bool, default False
            Compare with every row instead of asking the index.
        time_budget : float, optional
            Seconds after which no further step is begun: exact search stops reading, rerank stages are left out. The
            first step is always taken, and a graph search in hnswlib or the evaluation of `where` runs to its end.
            `Hits.complete` tells.
        query_tokens : array_like, (m, dt), optional
            The query's token vectors, for `LateInteraction`, and for attention="cross" where tokens are stored.
        query_token_weights : array_like, (m,), optional
            Weights of the query's tokens, for instance their idf; equal by default.
        query_text : str, optional
            The query in words, for stages that read it.
        position : float, optional
            With attention="sliding", which needs it, the query's place: documents in the window around it are searched.
        rerank : Stage, str or list of those
            Stages after the attention's ranking, in this order; as objects, or as text such as "expansion(top=5)".
            "default" stands for `default_stages`: late interaction (over 200 candidates, unless `candidates` says
            otherwise) where tokens are stored and query_tokens given, otherwise a little expansion where the first
            candidates stand out.

        Returns
        -------
        Hits

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError, UnknownIdError

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ids=["e", "ne", "n"])
        >>> bridge.search([1.0, 0.1], k=2).ids
        ['e', 'ne']
        >>> bridge.search(id="n", k=1).ids
        ['ne']
        >>> bridge.search([1.0, 0.1], filter=["n", "ne"], k=1).ids
        ['ne']
        >>> bridge.set_payload(["e", "ne", "n"], {"year": [1998, 2011, 2017]})
        >>> bridge.search([1.0, 0.1], k=1, where="year > $y", params={"y": 2011}).ids
        ['n']
        """
        if (query is None) == (id is None):
            raise InvalidInputError(
                "search takes either a query or id=, " + ("neither" if query is None else "both") + " given"
            )
        store, source = self._state
        view, exclude = store.view, -1
        if id is None:
            vector = self._metric.points(as_vector(query, "query", dim=self._dim))
        else:
            if not is_one_id(id):
                raise InvalidInputError(f"id must be one str or int, got {id!r}; search for several one by one")
            view, (exclude,) = store.rows_of(id_list(id))
            vector = view.vectors(np.array([exclude]))[0]
            reads_tokens = self._attention.token_logits is not None
            reads_tokens |= is_default(rerank) or any(map(takes_tokens, as_stages(rerank)))
            if query_tokens is None and reads_tokens and view.tokens is not None:
                own = view.tokens_of(exclude)
                query_tokens = own if len(own) else None
        return self._run(
            vector[None],
            k,
            store=store,
            source=source,
            view=view,
            candidates=candidates,
            ef=ef,
            entry_points=None if entry_points is None else [entry_points],
            filters=[filter],
            wheres=[(where, params)],
            threshold=threshold,
            radius=radius,
            offset=offset,
            exact=exact,
            time_budget=time_budget,
            exclude=exclude,
            rerank=rerank,
            query_tokens=None if query_tokens is None else [query_tokens],
            query_token_weights=None if query_token_weights is None else [query_token_weights],
            query_texts=None if query_text is None else [query_text],
            positions=None if position is None else [position],
            threads=1,
        )[0]

    def search_batch(
        self,
        queries: npt.ArrayLike,
        k: int | None = None,
        *,
        candidates: int | None = None,
        ef: int | None = None,
        entry_points: Sequence[Sequence[Id] | None] | None = None,
        filter: Any = None,
        where: str | Sequence[str | None] | None = None,
        params: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        threshold: float | None = None,
        radius: float | None = None,
        offset: int = 0,
        exact: bool = False,
        time_budget: float | None = None,
        query_tokens: Sequence[npt.ArrayLike] | None = None,
        query_token_weights: Sequence[npt.ArrayLike | None] | None = None,
        query_text: Sequence[str] | None = None,
        position: float | Sequence[float] | None = None,
        rerank: Stage | str | Sequence[Stage | str] = (),
        threads: int | None = None,
    ) -> list[Hits]:
        """Return the best k documents for each query; the same, to the bit, as `search` for each alone.

        Parameters
        ----------
        queries : array_like, (b, d)
        k, candidates, ef
            As for `search`, the same for all queries.
        entry_points : list of (list of ids or None), optional
            As for `search`, one list for each query.
        filter : array_like of bool, list of ids, or a list of those or None
            As for `search`, the same for all queries or one for each.
        where : str, or list of str or None
            As for `search`, the same for all queries or one for each.
        params : dict, or list of dict or None
            Values for the $names in `where`, the same for all queries or one for each.
        threshold, radius, offset, exact
            As for `search`, the same for all queries.
        time_budget : float, optional
            As for `search`, for the whole batch: queries whose turn does not come have no hits.
        query_tokens : list of array_like (m_i, dt), optional
            One for each query.
        query_token_weights : list of array_like (m_i,), optional
            One for each query.
        query_text : list of str, optional
            One for each query.
        position : float or list of float, optional
            As for `search`, the same for all queries or one for each.
        rerank : Stage, str or list of those
            As for `search`.
        threads : int, optional
            The bridge's own number by default.

        Returns
        -------
        list of Hits

        Raises
        ------
        DimensionMismatchError, InvalidInputError, InvalidConfigError, InvalidMaskError

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
        >>> [hits.ids for hits in bridge.search_batch([[1.0, 0.1], [0.1, 1.0]], k=1)]
        [['e'], ['n']]
        """
        matrix = self._metric.points(as_matrix(queries, "queries", dim=self._dim))
        store, source = self._state
        return self._run(
            matrix,
            k,
            store=store,
            source=source,
            view=store.view,
            candidates=candidates,
            ef=ef,
            entry_points=entry_points,
            filters=() if filter is None else _each(filter, len(matrix), "filter", _is_list_of_filters),
            wheres=() if where is params is None else _wheres(where, params, len(matrix)),
            threshold=threshold,
            radius=radius,
            offset=offset,
            exact=exact,
            time_budget=time_budget,
            exclude=-1,
            rerank=rerank,
            query_tokens=query_tokens,
            query_token_weights=query_token_weights,
            query_texts=query_text,
            positions=None if position is None else _each(position, len(matrix), "position", _is_column),
            threads=self._threads if threads is None else usable_threads(threads),
        )

    def _run(
        self,
        queries: npt.NDArray[np.float32],
        k: int | None,
        *,
        store: Store,
        source: Graph | Foreign | None,
        view: View,
        candidates: int | None,
        ef: int | None,
        entry_points: Any,
        filters: Sequence[Any],
        wheres: Sequence[tuple[Any, Any]],
        threshold: float | None,
        radius: float | None,
        offset: int,
        exact: bool,
        time_budget: float | None,
        exclude: int,
        rerank: Stage | str | Sequence[Stage | str],
        query_tokens: Any,
        query_token_weights: Any,
        query_texts: Any,
        positions: Sequence[Any] | None,
        threads: int,
    ) -> list[Hits]:
        """Check a search and do it."""
        began = time.perf_counter()
        offset = as_count(offset, "offset", least=0)
        if k is not None or radius is None:
            k = as_count(10 if k is None else k, "k")
        if ef is not None:
            ef = as_count(self._for_the_walk(ef, "ef"), "ef")
        if is_default(rerank) and not view.live:
            query_tokens = query_token_weights = None  # of an empty bridge nobody knows whether it will store tokens
        stages = _stages(rerank, view, query_tokens)
        ranked = self._candidates if candidates is None else as_count(candidates, "candidates")
        if candidates is None and is_default(rerank) and query_tokens is not None:
            ranked = max(ranked, DEFAULT_CANDIDATES)
        if candidates is None and ef is not None:
            ranked = min(ranked, ef)
        allowed = None
        if any(filter is not None for filter in filters) or any(where != (None, None) for where in wheres):
            filters, wheres = filters or [None] * len(queries), wheres or [(None, None)] * len(queries)
            view, allowed = self._allowed(store, view, filters, wheres, exclude)
        if positions is not None or self._by_position:
            allowed = self._nearby(store, view, positions, allowed)
        request = Request(
            queries=queries,
            k=k,
            offset=offset,
            candidates=max(ranked, (k or 1) + offset),
            threshold=None if threshold is None else as_number(threshold, "threshold"),
            radius=None if radius is None else as_number(radius, "radius"),
            allowed=allowed,
            exclude=exclude,
            exact=exact,
            deadline=None if time_budget is None else began + as_number(time_budget, "time_budget", above=0.0),
            stages=stages,
            query_tokens=_query_tokens(view, len(queries), query_tokens, query_token_weights, stages, self._attention),
            threads=threads,
            ef=ef,
            entries=self._entries(store, entry_points, len(queries)),
            query_texts=_query_texts(len(queries), query_texts, stages),
        )
        ranking = (self._attention, self._options)
        if self._by_position:
            ranking = (_INSIDE, {"scale": self._options["scale"]})
        hits = Searcher(view, source, self._metric, *ranking, store.places).run(request)
        if isinstance(source, Graph) and source.linked and not source.ready:
            self._link(False, False)  # hnswlib's index is made once the first search has its answer
        return hits

    def _for_the_walk(self, value: Any, name: str) -> Any:
        """Return the value of an option that only a walk of our own can follow."""
        if not isinstance(self._state.source, Graph) or self._engine != "native":
            raise InvalidConfigError(
                f"{name} can be given where the engine is 'native' only, which walks a graph; this bridge has "
                f"index={self._index_name!r}"
                + (f" and engine={self._engine!r}" if isinstance(self._state.source, Graph) else "")
            )
        return value

    def _entries(self, store: Store, entry_points: Any, count: int) -> npt.NDArray[np.int64] | None:
        """Return the rows to begin at, -1 where there are no more."""
        if entry_points is None:
            return None
        lists = self._for_the_walk(entry_points, "entry_points")
        if isinstance(lists, np.ndarray):
            lists = lists.tolist()
        if not isinstance(lists, Sequence) or isinstance(lists, str) or len(lists) != count:
            got = len(lists) if isinstance(lists, Sequence) else type(lists).__name__
            raise InvalidInputError(f"entry_points must have a list of ids for each of {count} queries, got {got}")
        rows = [store.known([] if ids is None else id_list(ids)) for ids in lists]
        out = np.full((count, max(map(len, rows), default=0)), -1)
        for place, known in enumerate(rows):
            out[place, : len(known)] = known
        return out

    def _allowed(
        self, store: Store, view: View, filters: Sequence[Any], wheres: Sequence[tuple[Any, Any]], exclude: int
    ) -> tuple[View, list[Allowed | None]]:
        """Return what each query's filters let pass, all in one view; equal filters share one object."""
        given = {id(filter): filter for filter in filters if filter is not None}
        named = [as_filter(filter) for filter in given.values()]
        view, found = store.allowed(named, view if exclude >= 0 else None)
        by_filter = dict(zip(given, found, strict=True))
        known: dict[Any, Allowed | None] = {}
        out: list[Allowed | None] = []
        for filter, (where, params) in zip(filters, wheres, strict=True):
            key = (id(filter), where if isinstance(where, str) else id(where), id(params))
            if key not in known:
                allowed = by_filter.get(id(filter))
                if where is None:
                    refuse_params(params)
                else:
                    matching = store.matching(where, params, view)
                    allowed = matching if allowed is None else allowed & matching
                known[key] = None if allowed is not None and allowed.passing == view.live else allowed
            out.append(known[key])
        return view, out

    def _nearby(
        self, store: Store, view: View, positions: Sequence[Any] | None, allowed: list[Allowed | None] | None
    ) -> list[Allowed | None]:
        """Return what is allowed of the rows in the window around each query's position."""
        name = self._attention.name
        if not self._by_position:
            raise InvalidConfigError(f"position can be given with attention='sliding' only, got attention={name!r}")
        if positions is None:
            raise InvalidInputError(f"{name} needs the query's place; pass position=number")
        column, window = self._options["position"], self._options["window"]
        if view.live and column not in (() if view.payload is None else view.payload.names):
            known = ", ".join([] if view.payload is None else view.payload.names) or "none"
            raise InvalidInputError(
                f"position must be a column of the payload, {column!r} is none; set_payload gives rows their place, "
                f"the columns now are: {known}"
            )
        between = f'"{column.replace(chr(34), 2 * chr(34))}" BETWEEN $low AND $high'
        known_windows: dict[Any, Allowed | None] = {}
        out: list[Allowed | None] = []
        for number, given in enumerate(positions):
            place = as_number(given, "position")
            before = None if allowed is None else allowed[number]
            key = (place, id(before))
            if key not in known_windows:
                limits = {"low": place - window, "high": place + (0 if self._options["causal"] else window)}
                inside = store.matching(between, limits, view) if view.live else Allowed(view.count, view.alive)
                known_windows[key] = inside if before is None else before & inside
            out.append(known_windows[key])
        return out

    def attention_search(self, query: npt.ArrayLike, k: int = 10, **options: Any) -> list[tuple[Id, float]]:
        """Return (id, score) pairs of `search`.

        Parameters
        ----------
        query : array_like, (d,)
        k : int, default 10
        **options : object
            As for `search`.

        Returns
        -------
        list of (id, float)

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
        >>> bridge.attention_search([1.0, 0.0], k=1)
        [('e', 20.0)]
        """
        return _pairs(self.search(query, k, **options))

    def batch_attention_search(
        self, queries: npt.ArrayLike, k: int = 10, **options: Any
    ) -> list[list[tuple[Id, float]]]:
        """Return (id, score) pairs of `search_batch`.

        Parameters
        ----------
        queries : array_like, (b, d)
        k : int, default 10
        **options : object
            As for `search_batch`.

        Returns
        -------
        list of list of (id, float)

        Examples
        --------
        >>> import attnbridge as ab
        >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
        >>> _ = bridge.add([[1.0, 0.0], [0.0, 1.0]], ids=["e", "n"])
        >>> bridge.batch_attention_search([[1.0, 0.0]], k=1)
        [[('e', 20.0)]]
        """
        return [_pairs(hits) for hits in self.search_batch(queries, k, **options)]

    # ---- measuring and tuning: functions of modules of their own, methods here

    audit = audit_bridge
    tune = tune_bridge


def _resolved(attention: str, options: dict[str, Any]) -> tuple[AttentionType, dict[str, Any]]:
    """Return a type and its options; a type of places in a sequence takes the payload's column of them."""
    row, _ = resolve(attention, {})
    if row.build_space is not None:
        return resolve(attention, options)
    if "position" not in row.options:
        raise InvalidConfigError(f"attention={row.name!r} cannot rank documents: no index can be built for it")
    column = options.get("position")
    if not isinstance(column, str):
        raise InvalidConfigError(
            f"{row.name} needs position=..., the payload column that holds a row's place, got {column!r}"
        )
    _, checked = resolve(attention, {name: value for name, value in options.items() if name != "position"})
    return row, checked | {"position": column}


def _pairs(hits: Hits) -> list[tuple[Id, float]]:
    return list(zip(hits.ids, hits.scores.tolist(), strict=True))


def _stages(rerank: Any, view: View, query_tokens: Any) -> tuple[Stage, ...]:
    """Return the stages of a search; of "default" those that its tokens allow."""
    if not is_default(rerank):
        return as_stages(rerank)
    if query_tokens is not None and view.tokens is None:
        raise InvalidInputError(
            "query_tokens are given, but this bridge stores no tokens; give them to add(vectors, ids, tokens=...), or "
            "leave query_tokens out"
        )
    return default_stages(tokens=query_tokens is not None)


def _query_texts(count: int, texts: Any, stages: Sequence[Stage]) -> list[str] | None:
    """Return the checked text of each query, where a stage reads it."""
    reading = [stage.name for stage in stages if getattr(stage, "requires_text", False)]
    if not reading:
        if texts is not None:
            raise InvalidConfigError("query_text is read by no stage; add one that reads it, such as BM25")
        return None
    if texts is None:
        raise InvalidInputError(f"{reading[0]} needs the query's text; pass query_text=...")
    if isinstance(texts, str) or not isinstance(texts, Sequence) or len(texts) != count:
        got = len(texts) if isinstance(texts, Sequence) and not isinstance(texts, str) else repr(texts)
        raise InvalidInputError(f"query_text must have one text for each of {count} queries, got {got}")
    return [as_text(text, "query_text") for text in texts]


def _query_tokens(
    view: View, count: int, tokens: Any, weights: Any, stages: Sequence[Stage], attention: AttentionType
) -> Any:
    """Return checked tokens and weights for each query, where the attention or a stage reads them."""
    any_tokens = view.tokens is not None or tokens is not None
    needing = [stage.name for stage in stages if stage.requires_tokens or (any_tokens and takes_tokens(stage))]
    if attention.token_logits is not None and any_tokens:
        needing.insert(0, attention.name)
    if not needing:
        for name, given in (("query_tokens", tokens), ("query_token_weights", weights)):
            if given is not None:
                raise InvalidConfigError(f"{name} are read by no stage; add rerank=[LateInteraction()]")
        return None
    if view.tokens is None:
        raise InvalidInputError(
            f"{needing[0]} needs stored tokens, this bridge has none; give them to add(vectors, ids, tokens=...)"
        )
    dim = view.tokens.data.shape[1]
    if tokens is None:
        raise InvalidInputError(f"{needing[0]} needs the query's tokens; pass query_tokens=array (m, {dim})")
    if weights is None:
        weights = [None] * count
    for name, given in (("query_tokens", tokens), ("query_token_weights", weights)):
        if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
            raise InvalidInputError(f"{name} must be a list of arrays, got {type(given).__name__}")
        if len(given) != count:
            raise InvalidInputError(f"{name} must have one array for each of {count} queries, got {len(given)}")
    return [check_query_tokens(t, w, dim) for t, w in zip(tokens, weights, strict=True)]


def _is_column(value: Any) -> bool:
    """Return whether a batch's positions are one for each query."""
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _is_list_of_filters(value: Any) -> bool:
    """Return whether a batch's filter is a list with one for each query: masks, lists of ids, or None."""
    if isinstance(value, np.ndarray):
        return value.ndim == 2
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(item is None or not isinstance(item, str | int | np.generic) for item in value)
    )


def _each(value: Any, count: int, name: str, is_list: Callable[[Any], bool]) -> Sequence[Any]:
    """Return a value for each query of a batch, from a list of them or from one for all."""
    if not is_list(value):
        return [value] * count
    if len(value) != count:
        raise InvalidInputError(f"{name} must have one entry for each of {count} queries, got {len(value)}")
    return list(value)


def _wheres(where: Any, params: Any, count: int) -> Sequence[tuple[Any, Any]]:
    """Return where and params for each query of a batch."""

    def is_list(value: Any) -> bool:
        return isinstance(value, list | tuple)

    wheres = _each(where, count, "where", is_list)
    if not is_list(params) and any(one is not None for one in wheres):
        return [(one, None if one is None else params) for one in wheres]
    return list(zip(wheres, _each(params, count, "params", is_list), strict=True))
