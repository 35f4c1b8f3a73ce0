"""Fusion: several rankings of the candidates become one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.rerank.bm25 import BM25
from attnbridge.rerank.pool import Pool, Stage
from attnbridge.rerank.rankings import METHODS, Ranking, aligned, as_pairs, best_rows, join, rank_ids
from attnbridge.trace import Attended
from attnbridge.validation import as_choice, as_count, as_number

# In a fusion's list: the ranking so far.
SO_FAR = "scores"


@dataclass(frozen=True)
class Fusion:
    """Fuse several rankings of the candidates: the weighted sum of their normalised scores, or of reciprocal ranks.

    Parameters
    ----------
    rankings : list
        Each of them one of

        - ``"scores"``: the ranking so far;
        - a stage, as an object or as text, applied to a copy of the pool: its scores are the ranking; `BM25` ranks all
          documents;
        - a mapping {id: score}, or a list of (id, score) or of ids best first (which count as scores n, n - 1, ..., 1):
          a ranking from elsewhere, such as DuckDB's full-text search, of this query;
        - a function of the query's text (`query_text`) that returns such a mapping or list.
    method : {"minmax", "zscore", "rrf"}, default "minmax"
        "minmax": scores between 0 and 1, all 1 where they are alike, and 0 for a document that the ranking does not
        name (Lee 1997). "zscore": z-scores, and the ranking's lowest for a document that it does not name. "rrf":
        1 / (rrf_k + rank), and 0 (Cormack et al. 2009); equal scores share the best of their ranks.
    weights : list of float, optional
        One for each ranking, >= 0; they are made to sum to 1. Equal by default.
    rrf_k : float, default 60.0
        "rrf" only.
    depth : int, default 100
        How many of its best documents a ranking from elsewhere brings in (`BM25`: its own `depth`).

    Raises
    ------
    InvalidConfigError
        No rankings, one that is nothing of those, an unknown method, weights that are not one for each or sum to 0,
        `rrf_k` < 0, or `depth` < 1.
    InvalidInputError
        A ranking from elsewhere that names an id twice or has a score that is no finite number.

    Notes
    -----
    Scores are normalised and ranks counted over the documents that are fused: the pool's, and those that a ranking from
    elsewhere names, that the pool lacks and that the search's filter and radius let pass. Those have the attention's
    logit as their score so far; where a stage before has mixed other scores in, none, so a fusion that brings
    documents in had best come first. A document that no ranking names is ruled out, so the fusion of one list is that
    list; under BM25 that is one with none of the query's words, which for "minmax" and "zscore" has the score 0 all the
    same. Unknown ids are passed over, unless a list names no document at all.

    References
    ----------
    Lee, Analyses of multiple evidence combination, 1997.
    Cormack, Clarke and Buettcher, Reciprocal rank fusion outperforms Condorcet, 2009.
    Bruch, Gai and Ingber, An analysis of fusion functions for hybrid retrieval, 2023.

    Examples
    --------
    >>> import attnbridge as ab
    >>> bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    >>> _ = bridge.add([[1.0, 0.0], [1.0, 0.4], [0.6, 1.0], [0.0, 1.0]], ids=["a", "b", "c", "d"])
    >>> hits = bridge.search([1.0, 0.1], rerank=ab.Fusion(["scores", {"c": 9.0, "b": 7.0}], weights=[2, 1]))
    >>> [(id, round(score, 3)) for id, score in zip(hits.ids, hits.scores.tolist())]
    [('c', 0.704), ('a', 0.667), ('b', 0.641), ('d', 0.0)]
    """

    rankings: Sequence[Any]
    method: str = "minmax"
    weights: Sequence[float] | None = None
    rrf_k: float = 60.0
    depth: int = 100
    name: ClassVar[str] = "fusion"
    level: ClassVar[str] = "scores"

    def __post_init__(self) -> None:
        given = self.rankings
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not len(given):
            raise InvalidConfigError(
                f"rankings must be a list of at least one ranking, such as ['scores', BM25('text')], got {given!r}"
            )
        object.__setattr__(self, "rankings", tuple(_as_ranking(one, i) for i, one in enumerate(given)))
        object.__setattr__(self, "method", as_choice(self.method, "method", METHODS))
        object.__setattr__(self, "weights", _as_weights(self.weights, len(given)))
        object.__setattr__(self, "rrf_k", as_number(self.rrf_k, "rrf_k", least=0.0))
        object.__setattr__(self, "depth", as_count(self.depth, "depth"))

    @property
    def never_after(self) -> tuple[str, ...]:
        """What the fusion would undo, see `as_stages`: other scores where it brings rows in that have none."""
        from attnbridge.rerank.sequence import CALIBRATION, SCORES, SELECTION

        inner = [one for one in self.rankings if _is_stage(one)]
        grows = any(SCORES in getattr(one, "never_after", ()) for one in inner)
        return (SCORES, CALIBRATION, SELECTION) if grows else (CALIBRATION, SELECTION)

    @property
    def requires_tokens(self) -> bool:
        """Whether a stage among the rankings reads token vectors."""
        return any(_is_stage(one) and one.requires_tokens for one in self.rankings)

    @property
    def reads_tokens(self) -> bool:
        """Whether a stage among the rankings reads token vectors where there are any."""
        return any(_is_stage(one) and getattr(one, "reads_tokens", False) for one in self.rankings)

    @property
    def requires_text(self) -> bool:
        """Whether a ranking reads the query's text."""
        return any(getattr(one, "requires_text", not _is_stage(one) and callable(one)) for one in self.rankings)

    def apply(self, pool: Pool) -> None:
        """Replace the pool's scores, and append the documents that rankings from elsewhere bring in.

        Parameters
        ----------
        pool : Pool

        Raises
        ------
        UnknownIdError
            A ranking from elsewhere that names no document of the index.
        """
        ruled_out = pool.rows[pool.scores == -np.inf]
        wide = replace(pool, parts={}, origins={}, attended=None, short=False)
        rankings = {i: found for i, one in enumerate(self.rankings) if (found := self._elsewhere(one, i, pool))}
        so_far = self._widen(wide, rankings)
        copies = {i: _applied(one, wide) for i, one in enumerate(self.rankings) if _is_inner(one)}
        rows = wide.rows
        for i, copy in copies.items():
            rankings[i] = Ranking(copy.rows, copy.scores)
            rows = np.concatenate([rows, copy.rows[~np.isin(copy.rows, rows)]])
            pool.origins.update(copy.origins)
        pool.origins.update(wide.origins)
        out = np.isin(rows, ruled_out)
        pool.scores = self._fused([rankings.get(i, so_far) for i in range(len(self.rankings))], rows, out, pool.parts)
        labels = self._labels()
        for i, copy in copies.items():
            own = copy.parts.get(self.rankings[i].name)  # such as MaxSim, of which the score is the z-score
            if own is not None:
                pool.parts[labels[i]] = aligned(np.asarray(own, np.float64), copy.rows, rows)
        pool.rows = rows if len(rows) > len(pool.rows) else pool.rows
        pool.attended = _attended(list(copies.values()))
        left = int((pool.scores > -np.inf).sum())
        pool.short |= any(copy.short for copy in copies.values()) and pool.wanted is not None and left < pool.wanted

    def _fused(
        self,
        rankings: list[Ranking],
        rows: npt.NDArray[np.int64],
        out: npt.NDArray[np.bool_],
        parts: dict[str, npt.NDArray[np.float64]],
    ) -> npt.NDArray[np.float64]:
        """Return the fused scores, -inf for rows that are out or that no ranking names; leave each one's in parts."""
        total, named = np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
        parts[self.name] = total  # the first of the parts
        for ranking, weight, label in zip(rankings, self._shares(), self._labels(), strict=True):
            scores = ranking.of(rows)
            scores[out | (scores == -np.inf)] = np.nan
            total += weight * METHODS[self.method](Ranking(rows, scores, ranking.floor), self.rrf_k)
            named |= scores > ranking.floor
            parts[label] = scores
        parts[self.name] = np.where(named & ~out, total, -np.inf)
        return parts[self.name]

    def _elsewhere(self, one: Any, place: int, pool: Pool) -> Ranking | None:
        """Return the ranking of documents inside and outside the pool, None for one of the pool alone."""
        if isinstance(one, str) or _is_inner(one):
            return None
        if isinstance(one, BM25):
            return Ranking(None, one.scores(pool), 0.0)
        index, name = pool.require_index(self.name), f"rankings[{place}] of fusion"
        if callable(one):
            one = as_pairs(one(pool.query_text), f"what {name} returns")
        return rank_ids(one, index, name)

    def _widen(self, wide: Pool, elsewhere: Mapping[int, Ranking]) -> Ranking:
        """Append to the pool what rankings from elsewhere bring in; return the ranking so far."""
        came: dict[int, str] = {}
        for i, ranking in elsewhere.items():
            one, index = self.rankings[i], wide.require_index(self.name)
            bm25 = isinstance(one, BM25)
            best = best_rows(ranking, index, one.depth if bm25 else self.depth)
            origin = one.name if bm25 else f"ranking {i + 1} of {self.name}"
            came = dict.fromkeys(best[~np.isin(best, wide.rows)].tolist(), origin) | came
        if not came:
            return Ranking(wide.rows, wide.scores)
        rows, before = np.array(list(came), np.int64), len(wide.rows)
        wide.require_index(self.name).check(rows)
        plain = join(wide, rows)
        wide.origins.update({row: came[row] for row in wide.rows[before:].tolist()})
        known = slice(None if plain else before)  # without logits, those that joined have no score so far
        return Ranking(wide.rows[known], wide.scores[known])

    def _shares(self) -> npt.NDArray[np.float64]:
        """Return the weights, which sum to 1."""
        weights = np.ones(len(self.rankings)) if self.weights is None else np.array(self.weights, np.float64)
        weights /= weights.max()  # their sum may overflow
        shares: npt.NDArray[np.float64] = weights / weights.sum()
        return shares

    def _labels(self) -> list[str]:
        """Return what the rankings are called among the parts."""
        names: list[str] = []
        for place, one in enumerate(self.rankings):
            own = one if isinstance(one, str) else one.name if _is_stage(one) else f"ranking_{place + 1}"
            name = f"{self.name}.{own}"
            while name in names:  # the same stage twice
                name += "+"
            names.append(name)
        return names


def _is_stage(one: Any) -> bool:
    """Return whether a checked ranking is a stage; isinstance of a protocol takes as long as the stage."""
    return hasattr(one, "apply") and hasattr(one, "requires_tokens")


def _is_inner(one: Any) -> bool:
    """Return whether a checked ranking is a stage that ranks the pool."""
    return _is_stage(one) and not isinstance(one, BM25)


def _as_ranking(one: Any, place: int) -> Any:
    """Return a checked ranking: "scores", a stage, pairs, or a function."""
    if isinstance(one, str):
        if one == SO_FAR:
            return one
        from attnbridge.rerank.sequence import as_stages  # which knows this stage too

        stages = as_stages(one)
        if len(stages) != 1:
            raise InvalidConfigError(f"rankings[{place}] must be 'scores' or one stage, got {one!r}")
        return stages[0]
    if not isinstance(one, type) and (isinstance(one, Stage) or callable(one)):
        return one
    if isinstance(one, type):
        raise InvalidConfigError(f"rankings[{place}] must be an object, got the class {one.__name__}; call it")
    return as_pairs(one, f"rankings[{place}]")


def _as_weights(weights: Any, count: int) -> tuple[float, ...] | None:
    if weights is None:
        return None
    if isinstance(weights, str | Mapping) or not isinstance(weights, Sequence | np.ndarray) or len(weights) != count:
        raise InvalidConfigError(f"weights must be one number for each of {count} rankings, got {weights!r}")
    out = tuple(as_number(one, f"weights[{i}]", least=0.0) for i, one in enumerate(weights))
    if not any(out):
        raise InvalidConfigError(f"weights must not all be 0, got {weights!r}")
    return out


def _applied(stage: Stage, pool: Pool) -> Pool:
    """Return a copy of the pool after a stage."""
    copy = replace(pool, scores=pool.scores.copy(), parts={}, origins={}, attended=None, short=False)
    stage.apply(copy)
    copy.rows, copy.scores = np.asarray(copy.rows, np.int64), np.asarray(copy.scores, np.float64)
    if copy.scores.shape != copy.rows.shape or not (copy.scores < np.inf).all():
        raise InvalidInputError(
            f"stage {stage.name!r} must leave a score for each of {len(copy.rows)} candidates, none NaN or inf; it "
            f"left {copy.scores!r}"
        )
    return copy


def _attended(copies: list[Pool]) -> Callable[[int], list[Attended]] | None:
    """Return what tells what the stages looked at for a candidate."""
    telling = [(set(copy.rows.tolist()), copy.attended) for copy in copies if copy.attended is not None]
    return (lambda row: [one for rows, tell in telling if row in rows for one in tell(row)]) if telling else None
