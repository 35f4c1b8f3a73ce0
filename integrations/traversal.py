"""Beam search along edges: of the nodes that a hop reaches, the best ways go on."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError
from attnbridge.integrations.clock import Expired
from attnbridge.integrations.expansion import (
    Expansion,
    Steps,
    Visited,
    Wide,
    behind,
    best,
    log_softmax,
    reached,
    starts_at,
)
from attnbridge.integrations.topology import Positions, Topology


class Walk(NamedTuple):
    """Where a beam has been.

    Parameters
    ----------
    visited : Visited
    complete : bool
        False where the time budget ended it.
    pruned : int
        How many nodes were reached and left out at some hop.
    """

    visited: Visited
    complete: bool
    pruned: int


def as_sources(source: Any, topology: Topology) -> Positions | None:
    """Return the positions of a walk's sources, ascending and each once; None for the nearest nodes.

    Raises
    ------
    InvalidConfigError
    networkx.NodeNotFound
    """
    if source is None:
        return None
    several = isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping)
    if not several or _is_node(source, topology):
        return np.array([topology.position(source)])
    nodes = source.tolist() if isinstance(source, np.ndarray) else list(source)
    if not isinstance(nodes, list) or not nodes:
        raise InvalidConfigError(
            f"source must be a node, a list of at least one node, or None for the nearest ones, got {source!r}"
        )
    return np.unique(np.array([topology.position(node) for node in nodes]))


def _is_node(source: Any, topology: Topology) -> bool:
    try:
        return source in topology.index
    except TypeError:  # not hashable
        return False


def nearest(expansion: Expansion, count: int) -> tuple[Visited, bool]:
    """Return the nodes with the best logits of all, as starts; and whether all were looked at."""
    complete = True
    try:
        expansion.logits(np.arange(expansion.count))
    except Expired:
        complete = False
    logits = expansion.read()
    there = np.flatnonzero(~np.isnan(logits))
    if len(there) > count:  # sorted are only those that may be among them, ties too
        there = there[logits[there] >= np.partition(logits[there], -count)[-count]]
    chosen = np.sort(there[np.argsort(-logits[there], kind="stable")[:count]])
    return sharing(chosen, logits[chosen]), complete


def sharing(positions: Positions, scores: Wide) -> Visited:
    """Return starts that share the attention by their logits: softmax(logit).

    Attention goes to none without embedding where others have one, and equally to all where none has.
    """
    there = ~np.isnan(scores)
    if not there.any():
        return starts_at(positions, scores, np.full(len(positions), 0.0 - np.log(max(1, len(positions)))))
    positions, scores = positions[there], scores[there]
    return starts_at(positions, scores, log_softmax(np.zeros(len(positions), np.int64), scores))


def beam(expansion: Expansion, sources: Positions | None, hops: int, width: int) -> Walk:
    """Return the nodes that a beam visits, each once, at the first hop at which it is among the best.

    A hop reaches the nodes next to the beam that have not been visited, each by the way with the greatest log-sum; of
    equally good ways it is the one by the node that comes first. The best of them, ties in order, are the next beam.
    A hop that the time budget interrupts is left out.

    Parameters
    ----------
    expansion : Expansion
    sources : ndarray of int64, (s,), or None
        Ascending; None for the `width` nodes with the best logits.
    hops, width : int
    """
    complete, left_out = True, [np.empty(0, np.int64)]
    try:
        if sources is None:
            visited, complete = nearest(expansion, width)
        else:
            visited = sharing(sources, expansion.scores(sources))
    except Expired:
        nothing = np.empty(0, np.int64)
        return Walk(starts_at(nothing, np.empty(0)), False, 0)
    level, seen = visited, np.zeros(expansion.count, np.bool_)
    for hop in range(1, hops + 1 if complete else 0):
        seen[level.positions] = True
        try:
            steps = _onward(expansion, level, seen)
        except Expired:
            complete = False
            break
        places, others = _cut(level.sums[steps.rows] + steps.log_weights, width)
        left_out.append(steps.ends[others])
        if not len(places):
            break
        level = reached(expansion, steps.at(places), level, len(visited.positions) - len(level.positions), hop)
        visited = behind(visited, level)
    return Walk(visited, complete, len(np.unique(np.concatenate(left_out))))


def _onward(expansion: Expansion, level: Visited, seen: npt.NDArray[np.bool_]) -> Steps:
    """Return the best step to each node that a level reaches, by position."""
    parts = []
    for group in expansion.groups(level.positions):
        steps = expansion.steps(level.positions[group])
        steps = steps._replace(rows=steps.rows + group.start).at(~seen[steps.ends])
        parts.append(steps.at(best(steps, level.sums[steps.rows] + steps.log_weights)))
    every = parts[0] if len(parts) == 1 else Steps(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    if len(parts) > 1:
        every = every.at(best(every, level.sums[every.rows] + every.log_weights))
    return every


def _cut(sums: Wide, width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return where the greatest sums are and where the others are, ties in order."""
    if len(sums) <= width:
        return np.arange(len(sums)), np.empty(0, np.intp)
    order = np.argsort(-sums, kind="stable")
    return np.sort(order[:width]), order[width:]
