"""Relevance judgements, and what is learned from them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError, UnknownIdError
from attnbridge.hits import Id
from attnbridge.rerank.pool import Stage
from attnbridge.rerank.sequence import as_stages, takes_tokens

Grades = Mapping[Id, float]


def as_judgements(relevant: Any, count: int, bridge: Any) -> list[Grades]:
    """Return each query's grades by document id.

    Parameters
    ----------
    relevant : list of mapping or of collection
        For each query {id: grade}, relevant where the grade is above 0; or the ids of its relevant documents.
    count : int
        How many queries there are.
    bridge : AttentionVectorBridge

    Returns
    -------
    list of dict of id to float

    Raises
    ------
    InvalidInputError
        Not one for each query, a grade that is no finite number, or nothing relevant to any query.
    UnknownIdError
        Ids that the bridge does not hold.
    """
    if isinstance(relevant, str | Mapping) or not isinstance(relevant, Sequence) or len(relevant) != count:
        got = len(relevant) if isinstance(relevant, Sequence) and not isinstance(relevant, str) else type(relevant)
        raise InvalidInputError(f"relevant must have one mapping {{id: grade}} for each of {count} queries, got {got}")
    out = [_grades(one, f"relevant[{i}]") for i, one in enumerate(relevant)]
    unknown = [id for id in dict.fromkeys(id for one in out for id in one) if id not in bridge]
    if unknown:
        raise UnknownIdError(
            f"relevant must name documents of the bridge, {len(unknown)} ids are unknown, the first of which are "
            f"{unknown[:5]}; add those documents, or leave their judgements out"
        )
    if not any(grade > 0 for one in out for grade in one.values()):
        raise InvalidInputError("relevant must name at least one relevant document (grade > 0), got none")
    return out


def _grades(given: Any, name: str) -> Grades:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise InvalidInputError(f"{name} must be a mapping {{id: grade}} or a collection of ids, got {given!r}")
    if not isinstance(given, Mapping):
        given = dict.fromkeys(given, 1.0)
    out = {}
    for id, grade in given.items():
        try:
            out[id.item() if isinstance(id, np.generic) else id] = float(grade)
        except (TypeError, ValueError):
            out[id] = np.nan
        if not np.isfinite(list(out.values())[-1]):
            raise InvalidInputError(f"{name} must have finite grades, {id!r} has {grade!r}")
    return out


def read_by(stages: Sequence[Stage], bridge: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a search's options that its stages or the bridge's attention read.

    Parameters
    ----------
    stages : sequence of Stage
    bridge : AttentionVectorBridge
    given : dict
        query_tokens, query_token_weights and query_text as `search_batch` takes them, or None.

    Returns
    -------
    dict of str to object
    """
    tokens = any(map(takes_tokens, stages)) or bridge.config["attention"] == "cross"
    text = any(getattr(stage, "requires_text", False) for stage in stages)
    return {name: value for name, value in given.items() if (text if name == "query_text" else tokens)}


def one_stage(stage: Any, name: str) -> Stage:
    """Return a stage given as an object or as text; several are an error."""
    stages = as_stages(stage)
    if len(stages) != 1:
        raise InvalidInputError(f"{name} must be one stage, got {stage!r}")
    return stages[0]


def ndcg(ids: Sequence[Id], grades: Grades, k: int = 10) -> float:
    """Return nDCG as trec_eval has it: sum of grade / log2(rank + 1) over the first k, by that of the best order.

    Parameters
    ----------
    ids : list
        Best first.
    grades : mapping of id to float
        Those not above 0 count as 0.
    k : int, default 10

    Returns
    -------
    float
        0 to 1; NaN where nothing is relevant.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.sort([max(grade, 0.0) for grade in grades.values()])[::-1][:k]
    gains: npt.NDArray[np.float64] = np.array([max(grades.get(id, 0.0), 0.0) for id in ids[:k]])
    best = float(ideal @ discounts[: len(ideal)])
    return float(gains @ discounts[: len(gains)]) / best if best else np.nan
