"""Searches of a bridge: what is asked is checked, and looked for in one state of the documents."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.cache import AttentionCache, new_version
from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.hits import Hits, Id
from attnbridge.integrations.cached import run_cached
from attnbridge.integrations.constructors import Constructors
from attnbridge.integrations.graph import Foreign, Graph
from attnbridge.integrations.inputs import as_filter, check_query_tokens, id_list, is_one_id, refuse_params
from attnbridge.integrations.nearest import Request
from attnbridge.integrations.search import Searcher
from attnbridge.integrations.store import Store
from attnbridge.integrations.view import Allowed, View
from attnbridge.mechanisms.row import AttentionType
from attnbridge.mechanisms.standard import SCALED_DOT
from attnbridge.rerank import Stage, as_stages, default_stages
from attnbridge.rerank.default import CANDIDATES as DEFAULT_CANDIDATES
from attnbridge.rerank.default import is_default
from attnbridge.rerank.sequence import takes_tokens
from attnbridge.threads import usable_threads
from attnbridge.validation import as_count, as_matrix, as_number, as_text, as_vector

# What lies outside the window is filtered; inside, sliding attention is scaled_dot.
_INSIDE = replace(SCALED_DOT, name="sliding")


class Searching(Constructors):
    """Documents that can be searched."""

    _attention: AttentionType
    _options: dict[str, Any]
    _candidates: int
    _engine: str
    _index_name: str
    _cache: AttentionCache | None

    @property
    def _by_position(self) -> bool:
        """Whether documents are attended to by their place in a sequence."""
        return self._attention.build_space is None

    def _owner(self, options: dict[str, Any]) -> int:
        """Return the number, in the cache, of the attention with these options."""
        known = self._owned
        if known is None or known[0] is not options:
            known = self._owned = (options, new_version())
        return known[1]

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
        owner = self._owner(ranking[1])
        if self._by_position:
            ranking = (_INSIDE, {"scale": self._options["scale"]})
        searcher, cache = Searcher(view, source, self._metric, *ranking, store.places), self._cache
        if cache is None:
            hits = searcher.run(request)
        else:
            hits = run_cached(cache, owner, view, source, request, searcher.run, lambda: store.view is view)
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
