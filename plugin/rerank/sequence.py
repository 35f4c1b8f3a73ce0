"""The stages of a search: as objects or as text, in an order that can be."""

import ast
from collections.abc import Iterable
from typing import Any

from attnbridge.errors import InvalidConfigError
from attnbridge.rerank.pool import Stage

# What a stage does to what the stages before it did.
CANDIDATES = "candidates"  # scores all candidates anew, under another query, or brings more of them in
SCORES = "scores"  # mixes into the scores
CALIBRATION = "calibration"  # puts a probability in the scores' place
SELECTION = "selection"  # rules candidates out, or orders them among each other

_UNDOES = {
    CANDIDATES: (CALIBRATION, SELECTION),
    SCORES: (CALIBRATION, SELECTION),
    CALIBRATION: (CALIBRATION, SELECTION),
    SELECTION: (),
}


def as_stages(rerank: Any) -> tuple[Stage, ...]:
    """Return checked stages of a search.

    A stage's `level` says what it does: "candidates" (new scores for all, or more candidates), "scores" (mixes into
    them), "calibration", "selection". The first three cannot follow what they would undo: a selection, a calibration,
    and, where they take no notice of the scores so far (`mix=1.0` of some), other scores.

    Parameters
    ----------
    rerank : Stage, str, or a list of those
        Text is a call as in Python, "expansion(top=5)", "MMR(0.5)", by the stage's name or its class's, or several of
        them with commas between.

    Returns
    -------
    tuple of Stage

    Raises
    ------
    InvalidConfigError
        Something that is no stage, or an order in which a stage would undo another.

    Examples
    --------
    >>> from attnbridge.rerank import as_stages
    >>> as_stages("expansion(top=5), late_interaction")[1]
    LateInteraction(mix=0.7, soft=None, top_tokens=None, weighting='given')
    """
    given = [rerank] if isinstance(rerank, str) or not isinstance(rerank, Iterable) else list(rerank)
    stages: list[Any] = []
    for one in given:
        stages += _parsed(one) if isinstance(one, str) else [one]
    for stage in stages:
        # isinstance(stage, Stage) asks the same, and takes as long as a tenth of a search
        if not all(hasattr(stage, part) for part in ("name", "requires_tokens", "apply")) or isinstance(stage, type):
            raise InvalidConfigError(
                f"rerank must be stages such as QueryExpansion() or LateInteraction(), got {stage!r}"
            )
    _check_order(stages)
    return tuple(stages)


def takes_tokens(stage: Stage) -> bool:
    """Return whether a stage reads token vectors, always or where there are any.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    bool

    Examples
    --------
    >>> import attnbridge as ab
    >>> from attnbridge.rerank.sequence import takes_tokens
    >>> takes_tokens(ab.AttentionRerank("cross")), takes_tokens(ab.QueryExpansion())
    (True, False)
    """
    return bool(stage.requires_tokens or getattr(stage, "reads_tokens", False))


def never_after(stage: Any) -> tuple[str, ...]:
    """Return the levels whose results a stage would undo: what it says itself, otherwise what its own level undoes.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> import attnbridge as ab
    >>> from attnbridge.rerank.sequence import never_after
    >>> never_after(ab.QueryExpansion()), never_after(ab.LateInteraction(mix=1.0))
    (('calibration', 'selection'), ('scores', 'calibration', 'selection'))
    """
    level = getattr(stage, "level", "")
    own: tuple[str, ...] = getattr(stage, "never_after", _UNDOES.get(level, ()))
    replaces = level == SCORES and getattr(stage, "replaces", False)
    return (SCORES, *own) if replaces and SCORES not in own else own


def _check_order(stages: list[Stage]) -> None:
    for place, stage in enumerate(stages):
        undoes = never_after(stage)
        for before in stages[:place]:
            if getattr(before, "level", None) not in undoes:
                continue
            if before.name == stage.name:
                raise InvalidConfigError(f"rerank must not have {stage.name} twice: the second would undo the first")
            raise InvalidConfigError(
                f"rerank must have {stage.name} before {before.name}, whose result it would undo: got "
                f"{[one.name for one in stages]}; put {before.name} after it"
            )


def _parsed(text: str) -> list[Stage]:
    """Return the stages that a text names."""
    try:
        body = ast.parse(text.strip(), mode="eval").body if text.strip() else ast.Tuple([])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InvalidConfigError(
            f"rerank must be stages written as in Python, such as 'expansion(top=5), mmr(0.7)', got {text!r}"
        ) from None
    return [_built(node, text) for node in (body.elts if isinstance(body, ast.Tuple | ast.List) else [body])]


def _built(node: ast.AST, text: str) -> Any:
    """Return the stage that a name or a call makes."""
    function = node.func if isinstance(node, ast.Call) else node
    if not isinstance(function, ast.Name):
        raise InvalidConfigError(f"rerank must be names of stages and their options, got {text!r}")
    kind = _kinds().get(function.id)
    if kind is None:
        known = ", ".join(sorted({kind.name for kind in _kinds().values()}))
        raise InvalidConfigError(f"rerank names no stage {function.id!r}; the stages are: {known}, and 'default' alone")
    call = node if isinstance(node, ast.Call) else ast.Call(function, [], [])
    try:
        arguments = [_value(one, text) for one in call.args]
        return kind(*arguments, **{str(one.arg): _value(one.value, text) for one in call.keywords})
    except TypeError as error:
        raise InvalidConfigError(f"rerank: {error}, in {ast.unparse(node)!r}") from None


def _value(node: ast.expr, text: str) -> Any:
    """Return the value of an argument: a literal, a stage, or a list of those."""
    if isinstance(node, ast.Call) or (isinstance(node, ast.Name) and node.id in _kinds()):
        return _built(node, text)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one, text) for one in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise InvalidConfigError(
            f"rerank takes numbers, text, lists and stages as options, got {ast.unparse(node)!r} in {text!r}"
        ) from None


def _kinds() -> dict[str, Any]:
    """Return every stage's class, by the stage's name and by its own."""
    from attnbridge.rerank import STAGES

    return {key: kind for kind in STAGES for key in (kind.name, kind.__name__)}  # type: ignore[attr-defined]
