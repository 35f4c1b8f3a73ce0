"""Judged queries: checked, put to a bridge, and their rankings measured as trec_eval does."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.cache import uncached
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError, UnknownIdError
from attnbridge.hits import Hits
from attnbridge.integrations.trec import Judgements, Run, descending
from attnbridge.rerank import as_stages
from attnbridge.rerank.default import is_default
from attnbridge.rerank.sequence import takes_tokens
from attnbridge.validation import as_matrix, require

if TYPE_CHECKING:
    from attnbridge.integrations.bridge import AttentionVectorBridge

PLAIN = "plain"


def as_systems(systems: Any) -> dict[str, Any]:
    """Return name -> stages, "plain" first; stages are checked, the text "default" stays what it is.

    Parameters
    ----------
    systems : dict, list or str

    Returns
    -------
    dict

    Examples
    --------
    >>> from attnbridge.integrations.judged import as_systems
    >>> list(as_systems(["expansion(top=5)"]))
    ['plain', 'expansion(top=5)']
    """
    if isinstance(systems, str):
        systems = [systems]
    pairs = list(systems.items()) if isinstance(systems, Mapping) else [(_name(one), one) for one in systems]
    ranked: dict[str, Any] = {PLAIN: ()}
    for name, rerank in pairs:
        if not isinstance(name, str) or not name.strip():
            raise InvalidConfigError(f"systems must have texts as names, got {name!r}")
        if name in ranked:
            raise InvalidConfigError(f"systems must have names of their own, {name!r} is there already")
        ranked[name] = "default" if is_default(rerank) else as_stages(rerank)
    return ranked


def _name(rerank: Any) -> str:
    """Return the name of a system that has none."""
    if isinstance(rerank, str):
        return rerank.strip() or repr(rerank)
    return ", ".join(map(repr, as_stages(rerank)))


class Judge:
    """trec_eval's measures over one set of judgements."""

    def __init__(self, qrels: Judgements, measures: Sequence[str] | None, k: int) -> None:
        library = require("ir_measures", "eval")
        if isinstance(measures, str):
            measures = [measures]
        self.names = list(_default_measures(k) if measures is None else measures)
        self._queries = {query: place for place, query in enumerate(qrels)}
        self._places: dict[Any, int] = {}
        fallback = library.providers.FallbackProvider([library.pytrec_eval, library.msmarco])
        for name in self.names:
            measure = _measure(library, fallback, name)
            if measure in self._places:
                raise InvalidConfigError(f"measures must be different ones, {name!r} is there already")
            cutoff = measure.params.get("cutoff", 0)
            if cutoff > k:
                raise InvalidConfigError(f"k must be at least {cutoff}, which {name} looks at; got {k}")
            self._places[measure] = len(self._places)
        if not self._places:
            raise InvalidConfigError("measures must hold at least one name, such as 'nDCG@10'")
        self._evaluator = fallback.evaluator(list(self._places), qrels)

    def values(self, run: Run) -> npt.NDArray[np.float64]:
        """Return a value for each judged query and measure (queries, measures); 0 for a query without hits."""
        out = np.zeros((len(self._queries), len(self._places)))
        judged = {query: run[query] for query in self._queries if run.get(query)}
        for metric in self._evaluator.iter_calc(judged):
            out[self._queries[metric.query_id], self._places[metric.measure]] = metric.value
        return out


def _default_measures(k: int) -> list[str]:
    first = min(10, k)
    return [f"nDCG@{first}", "MAP", "MRR", *(f"recall@{depth}" for depth in dict.fromkeys((first, k)))]


def _measure(library: Any, provider: Any, name: Any) -> Any:
    try:
        measure = library.parse_measure(re.sub(r"^recall\b", "Recall", name))
        if provider.supports(measure):
            return measure
    except (NameError, ValueError, AssertionError, TypeError, SyntaxError):
        pass
    raise InvalidConfigError(
        f"measures must be ones of trec_eval in ir-measures' notation, such as nDCG@10, MAP, MRR, P@5 or recall@100; "
        f"got {name!r}"
    )


class Bench:
    """Judged queries, checked, and a bridge to put them to."""

    def __init__(
        self,
        bridge: "AttentionVectorBridge",
        queries: Any,
        qrels: Any,
        query_ids: Any,
        query_tokens: Any,
        query_text: Any,
        ignore_unknown: bool,
    ) -> None:
        self.bridge, self.threads, self._ignore = bridge._snapshot(), 1, ignore_unknown
        vectors = as_matrix(queries, "queries", dim=bridge.config["dim"])
        ids = _query_ids(query_ids, len(vectors))
        self._known = set(ids)
        self._documents = _as_texts(self.bridge.ids(), "the index's ids")
        grades = self._checked(_graded(qrels, ids))
        places = [place for place, id in enumerate(ids) if grades.get(id)]
        self.qrels = {ids[place]: grades[ids[place]] for place in places}
        _require_relevant(self.qrels)
        self.queries = vectors[places]
        self.tokens = _taken(query_tokens, "query_tokens", len(ids), places)
        self.texts = _taken(query_text, "query_text", len(ids), places)
        view = self.bridge._state.store.view
        self.has_tokens = view.tokens is not None and self.tokens is not None

    def _checked(self, grades: Judgements) -> Judgements:
        """Return judgements of queries and documents that are there; others are an error, or left out."""
        unknown = [query for query in grades if query not in self._known]
        documents = dict.fromkeys(id for one in grades.values() for id in one if id not in self._documents)
        self._refuse("qrels", unknown, list(documents))
        return {
            query: {id: grade for id, grade in one.items() if id in self._documents}
            for query, one in grades.items()
            if query in self._known
        }

    def _refuse(self, name: str, queries: list[str], documents: list[str]) -> None:
        for kind, ids, place in (("queries", queries, "query_ids"), ("documents", documents, "the index")):
            if ids and not self._ignore:
                raise UnknownIdError(
                    f"{name} must name {kind} of {place}: {len(ids)} are not there, "
                    f"{'the first five' if len(ids) > 5 else 'which are'} {', '.join(map(repr, ids[:5]))}; "
                    "ignore_unknown=True (--ignore-unknown) leaves such out"
                )

    def foreign(self, runs: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Run]:
        """Return checked rankings made elsewhere."""
        out: dict[str, Run] = {}
        for name, given in runs.items():
            if name in taken:
                raise InvalidConfigError(f"runs must have names of their own, {name!r} is a system already")
            run = {str(query): {str(id): float(score) for id, score in hits.items()} for query, hits in given.items()}
            if not any(run.values()):
                raise InvalidInputError(f"runs[{name!r}] is empty: it must rank documents for at least one query")
            if not np.isfinite([score for hits in run.values() for score in hits.values()]).all():
                raise InvalidInputError(f"runs[{name!r}] must hold finite scores, one is NaN or infinite")
            unknown = [query for query in run if query not in self._known]
            documents = dict.fromkeys(id for hits in run.values() for id in hits if id not in self._documents)
            self._refuse(f"runs[{name!r}]", unknown, list(documents))
            out[name] = {
                query: {id: score for id, score in hits.items() if id in self._documents}
                for query, hits in run.items()
                if query in self.qrels
            }
            if not any(out[name].values()):
                raise InvalidInputError(f"runs[{name!r}] ranks documents for none of {len(self.qrels)} judged queries")
        return out

    def sample(self, most: int, seed: int) -> npt.NDArray[np.int64]:
        """Return the places of some judged queries, all where they are few."""
        count = len(self.queries)
        if count <= most:
            return np.arange(count)
        return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))

    def search(
        self, rerank: Any, k: int, candidates: int | None, places: npt.NDArray[np.int64] | None = None
    ) -> list[Hits]:
        """Return the hits of the queries at these places, their ids read as a user would."""
        places = np.arange(len(self.queries)) if places is None else places
        options: dict[str, Any] = {}
        if self._reads_tokens(rerank) and self.tokens is not None:
            options["query_tokens"] = [self.tokens[place] for place in places]
        if self.texts is not None and any(getattr(stage, "requires_text", False) for stage in _stages(rerank)):
            options["query_text"] = [self.texts[place] for place in places]
        with uncached():
            found = self.bridge.search_batch(
                self.queries[places], k, candidates=candidates, rerank=rerank, threads=self.threads, **options
            )
        for hits in found:
            _ = hits.ids
        return found

    def _reads_tokens(self, rerank: Any) -> bool:
        if any(stage.requires_tokens for stage in _stages(rerank)):
            return True
        reads = is_default(rerank) or self.bridge._attention.token_logits is not None
        return self.has_tokens and (reads or any(map(takes_tokens, _stages(rerank))))

    def run(self, rerank: Any, k: int, candidates: int | None) -> Run:
        """Return what trec_eval is to judge: each query's hits in our order."""
        found = self.search(rerank, k, candidates)
        return {
            query: dict(zip(map(str, hits.ids), descending(hits.scores).tolist(), strict=True))
            for query, hits in zip(self.qrels, found, strict=True)
        }


def _stages(rerank: Any) -> tuple[Any, ...]:
    """Return the stages that are known; those of "default" the bridge chooses."""
    return () if is_default(rerank) else tuple(rerank)


def _query_ids(query_ids: Any, count: int) -> list[str]:
    if query_ids is None:
        return [str(number) for number in range(count)]
    given = list(query_ids) if isinstance(query_ids, Iterable) and not isinstance(query_ids, str) else [query_ids]
    if len(given) != count:
        raise DimensionMismatchError(f"query_ids must have one id for each of {count} queries, got {len(given)}")
    return list(_as_texts(given, "query_ids"))


def _as_texts(ids: Sequence[Any], name: str) -> dict[str, None]:
    """Return ids as the texts that files hold, in their order."""
    texts = dict.fromkeys(map(str, ids))
    if len(texts) < len(ids):
        seen: set[str] = set()
        twice = next(text for text in map(str, ids) if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise InvalidInputError(f"{name} must differ as texts, {twice!r} is there twice")
    return texts


def _graded(qrels: Any, ids: list[str]) -> Judgements:
    """Return query -> {document: grade} out of any form of judgements."""
    if isinstance(qrels, Mapping):
        pairs = [(str(query), given) for query, given in qrels.items()]
    elif isinstance(qrels, Sequence) and not isinstance(qrels, str):
        if len(qrels) != len(ids):
            raise DimensionMismatchError(f"qrels must have one entry for each of {len(ids)} queries, got {len(qrels)}")
        pairs = list(zip(ids, qrels, strict=True))
    else:
        raise InvalidInputError(f"qrels must be a list or a mapping by query id, got {type(qrels).__name__}")
    return {query: _grades(query, given) for query, given in pairs}


def _grades(query: str, given: Any) -> dict[str, int]:
    if given is None:
        return {}
    if isinstance(given, str | int) or not isinstance(given, Iterable):
        raise InvalidInputError(
            f"qrels must give {{document id: grade}} or a set of ids for query {query!r}, got {given!r}"
        )
    out: dict[str, int] = {}
    for id, grade in given.items() if isinstance(given, Mapping) else ((id, 1) for id in given):
        if (
            not isinstance(grade, bool | np.bool_ | int | float | np.integer | np.floating)
            or not float(grade).is_integer()
        ):
            raise InvalidInputError(
                f"qrels must have whole numbers as grades: query {query!r} has {grade!r} for {id!r}"
            )
        if str(id) in out:
            raise InvalidInputError(f"qrels must judge a document once: query {query!r} has {str(id)!r} twice")
        out[str(id)] = int(grade)
    return out


def _require_relevant(qrels: Judgements) -> None:
    """Refuse judgements by which no ranking can be better than another; warn of queries that have such."""
    without = [query for query, grades in qrels.items() if max(grades.values()) < 1]
    if len(without) == len(qrels):
        raise InvalidInputError(
            f"qrels must hold at least one relevant document (grade 1 or more), got {len(qrels)} judged queries "
            "without any"
        )
    if without:
        warnings.warn(
            f"{len(without)} of {len(qrels)} judged queries have no relevant document and count 0 for every system, as "
            f"in trec_eval: {', '.join(map(repr, without[:5]))}{', ...' if len(without) > 5 else ''}",
            UserWarning,
            stacklevel=4,
        )


def _taken(given: Any, name: str, count: int, places: list[int]) -> list[Any] | None:
    """Return the judged queries' part of a list."""
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or len(given) != count:
        got = len(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else repr(given)
        raise DimensionMismatchError(f"{name} must have one entry for each of {count} queries, got {got}")
    return [given[place] for place in places]
