"""What a search's trace tells of its hits, in words: the text of `Hits.explain`."""

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attnbridge.errors import InvalidInputError
from attnbridge.labels import columns, middle_cut, shown
from attnbridge.trace import Attended, Step, Trace

if TYPE_CHECKING:
    from attnbridge.hits import Hits

# How many of the things that a step attended to are told, and how long an id or a payload value in a line may be.
_MOST, _LONGEST = 5, 60

Words = Sequence[str] | None


def explanation(hits: "Hits", i: int, tokens: Words = None, query_tokens: Words = None) -> str:
    """Return the story of one hit; see `Hits.explain`."""
    trace = trace_of(hits)
    place = _place(i, len(hits))
    words = _Words(trace, trace.rows[place], tokens, query_tokens)
    hit, row = hits[place], trace.rows[place]
    lines = [
        f"{_final_rank(trace, row)}. {shown(hit.id)}",
        f"   score {hit.score:#.6g}, weight {hit.weight:.4f}, distance {hit.distance:#.6g}",
        f"   from: {origin(hits, trace, place)}",
    ]
    if hits.payload[place]:
        lines.append(f"   payload: {_payload(hits.payload[place])}")
    lines += _steps(hits, trace, place, words)
    words.require_used()
    if not hits.complete:
        lines.append("   time was over before all was done that was asked for")
    return "\n".join(lines)


def overview(hits: "Hits") -> str:
    """Return one line for each hit, with its rank after each step; see `Hits.explain`."""
    head = _headline(hits)
    if not len(hits):
        return head
    trace = trace_of(hits)
    ranks = ranks_by_step(hits, trace)
    heads = ["rank", "id", "score", "weight", "distance"]
    table = [heads + [cell for name, _ in ranks for cell in (shown(name), "")]]
    for place, (row, hit) in enumerate(zip(trace.rows, hits, strict=True)):
        cells = [f"{_final_rank(trace, row)}", middle_cut(shown(hit.id), _LONGEST), f"{hit.score:#.6g}"]
        cells += [f"{hit.weight:.4f}", f"{hit.distance:#.6g}"]
        table.append(cells + [cell for move in _moves([of[place] for _, of in ranks]) for cell in move])
    left = (1, *range(len(heads) + 1, len(table[0]), 2))
    notes = [
        f"{middle_cut(shown(hits.ids[place]), _LONGEST)}: {origin(hits, trace, place)}"
        for place in range(len(hits))
        if hits.ranks_before[place] < 0
    ]
    return "\n".join([head, *_aligned(table, left), *notes])


def trace_of(hits: "Hits") -> Trace:
    """Return the trace of hits; hits without one are refused."""
    if hits.trace is None:
        raise InvalidInputError(
            "hits must come from a bridge's search to be explained; these were made by hand and have no trace"
        )
    return hits.trace


def ranks_by_step(hits: "Hits", trace: Trace) -> list[tuple[str, list[int | None]]]:
    """Return the hits' ranks, from 0, by distance and after each step; None where a hit was not there yet."""
    by_distance = [rank if rank >= 0 else None for rank in hits.ranks_before.tolist()]
    return [("by distance", by_distance), *((step.name, step.ranks(trace.rows)) for step in trace.steps)]


def origin(hits: "Hits", trace: Trace, place: int) -> str:
    """Return where a hit came from."""
    row = trace.rows[place]
    if row in trace.origins:
        return shown(trace.origins[row])
    if hits.ranks_before[place] >= 0:
        return f"the index, {_nth(int(hits.ranks_before[place]) + 1)} of its candidates by distance"
    first = next((step.name for step in trace.steps if step.score(row) is not None), "nowhere")
    return f"{first}, which brought it in"


class _Words:
    """What the tokens of a document and of the query are called: by their texts where those are given."""

    def __init__(self, trace: Trace, row: int, tokens: Words, query_tokens: Words) -> None:
        counts = (None if trace.token_count is None else trace.token_count(row), trace.query_token_count)
        self._texts = {"tokens": tokens, "query_tokens": query_tokens}
        for (name, texts), count in zip(self._texts.items(), counts, strict=True):
            if texts is not None:
                _check_texts(name, texts, count)
        self._used: set[str] = set()

    def pair(self, one: Attended) -> str:
        """Return what a token of the document, and the query's that it matches, are called."""
        mine = self._of("tokens", int(one.name), "token")
        if one.query is None:
            return mine
        return f"{self._of('query_tokens', one.query, 'query token')} ~ {mine}"

    def _of(self, name: str, place: int, kind: str) -> str:
        texts = self._texts[name]
        self._used.add(name)
        if texts is None:
            return f"{kind} {place}"
        if place >= len(texts):
            raise InvalidInputError(
                f"{name} must have the text of every token: number {place} is asked for, got {len(texts)}"
            )
        return f"{'query ' if name == 'query_tokens' else ''}{texts[place]!r}"

    def require_used(self) -> None:
        """Refuse texts that no step has a use for."""
        for name, texts in self._texts.items():
            if texts is not None and name not in self._used:
                raise InvalidInputError(
                    f"{name} must be left out: no step of this search tells which tokens it matched; "
                    "LateInteraction does"
                )


def _check_texts(name: str, texts: Any, count: int | None) -> None:
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(one, str) for one in texts):
        raise InvalidInputError(f"{name} must be a list of texts, one a token, got {texts!r:.80}")
    if count is not None and len(texts) != count:
        whose = "query" if name == "query_tokens" else "document"
        raise InvalidInputError(f"{name} must be one text for each of the {whose}'s {count} tokens, got {len(texts)}")


def _steps(hits: "Hits", trace: Trace, place: int, words: _Words) -> list[str]:
    """Return the table of a hit's way through the steps, what each attended to below it."""
    row = trace.rows[place]
    moves = _moves([ranks[place] for _, ranks in ranks_by_step(hits, trace)])
    spent = hits.timings.get("candidates")
    table = [["step", "score", "rank", "", "ms"]]
    table.append(["by distance", "-", *moves[0], "-" if spent is None else f"{1e3 * spent:.3f}"])
    below: list[list[str]] = [[], []]
    for step, move in zip(trace.steps, moves[1:], strict=True):
        score = step.score(row)
        told = "-" if score is None else f"{score:#.6g}"
        table.append([shown(step.name), told, *move, f"{1e3 * step.seconds:.3f}"])
        below.append(_attended(step, row, words))
    lines = []
    for line, more in zip(_aligned(table, left=(0, 3)), below, strict=True):
        lines += [f"   {line}".rstrip(), *more]
    return lines


def _attended(step: Step, row: int, words: _Words) -> list[str]:
    """Return what a step looked at for a row, most first."""
    found = [] if step.attended is None else step.attended(row)
    lines = []
    for kind, verb in (("candidate", "attends to"), ("token", "matches")):
        named: Callable[[Attended], str] = words.pair if kind == "token" else _candidate
        ours = [one for one in found if one.kind == kind]
        told = [f"{named(one)} {one.weight:.2f}" for one in ours[:_MOST]]
        if len(ours) > _MOST:
            told.append(f"and {len(ours) - _MOST} more")
        if told:
            lines.append(f"      {verb} {', '.join(told)}")
    return lines


def _candidate(one: Attended) -> str:
    return middle_cut(repr(one.name), _LONGEST)


def _moves(ranks: list[int | None]) -> list[tuple[str, str]]:
    """Return a hit's rank after each step, from 1, and how it moved since it was last seen."""
    moves = []
    last: int | None = None
    for step, rank in enumerate(ranks):
        if rank is None:
            moves.append(("-", ""))
            continue
        by = 0 if last is None else last - rank
        new = "new" if last is None and step else ""
        moves.append((f"{rank + 1}", f"up {by}" if by > 0 else f"down {-by}" if by else new))
        last = rank
    return moves


def _final_rank(trace: Trace, row: int) -> int:
    (rank,) = trace.steps[-1].ranks([row])
    assert rank is not None  # what is ruled out is no hit
    return rank + 1


def _payload(record: dict[str, Any]) -> str:
    return ", ".join(
        f"{shown(name)} {middle_cut(shown(' '.join(str(value).split())), _LONGEST)}"
        for name, value in record.items()
        if value is not None
    )


def _headline(hits: "Hits") -> str:
    timing = f", {1e3 * hits.timings['total']:.2f} ms" if "total" in hits.timings else ""
    cut = "" if hits.complete else ", time was over"
    return f"{len(hits)} hit{'' if len(hits) == 1 else 's'} of {hits.candidates} candidates{timing}{cut}"


def _aligned(rows: list[list[str]], left: tuple[int, ...]) -> list[str]:
    """Return the rows of a table as lines, words to the left, numbers to the right; empty columns are left out."""
    made = []
    for place, column in enumerate(zip(*rows, strict=True)):
        width = max(map(columns, column))
        pads = [" " * (width - columns(cell)) for cell in column]
        made.append([c + pad if place in left else pad + c for c, pad in zip(column, pads, strict=True)])
    kept = [column for column in made if column[0]]
    return ["  ".join(row).rstrip() for row in zip(*kept, strict=True)]


def _place(i: Any, count: int) -> int:
    """Return a hit's place from 0."""
    try:
        if isinstance(i, bool):
            raise TypeError
        place = operator.index(i)
    except TypeError:
        raise InvalidInputError(f"i must be the place of a hit, a whole number from 0, got {i!r}") from None
    if not count:
        raise InvalidInputError("i must be the place of a hit, but there are none: the search found nothing")
    if not -count <= place < count:
        raise InvalidInputError(f"i must be the place of one of {count} hits, {-count} to {count - 1}, got {place}")
    return place % count


def _nth(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
