"""Judgements and runs in the field's files: TREC qrels, BEIR qrels, TREC runs."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.whole_file import write_whole

# Query id -> {document id: grade}, and query id -> {document id: score}.
Judgements = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]

_HEADER = ("query-id", "corpus-id", "score")

# trec_eval holds scores as float32; this leaves room to step down from.
_LARGEST = 3e38


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, each with its number.

    Parameters
    ----------
    file : Path

    Yields
    ------
    tuple of int and str
    """
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} must be text in UTF-8, after line {number} it is not: {error}") from error


def read_qrels(file: str | os.PathLike[str], split: str | None = None) -> Judgements:
    r"""Return the judgements of a qrels file.

    Parameters
    ----------
    file : path
        With the header "query-id corpus-id score", and perhaps "split", tab-separated (BEIR); or without a header,
        four columns, query, ignored, document, grade (TREC).
    split : str, optional
        Which of the file's splits; by default "test" where it has that column.

    Returns
    -------
    dict of str to dict of str to int
        Query id -> {document id: grade}.

    Raises
    ------
    InvalidInputError
        A line that is malformed or judges a pair again (its number is named), or no judgement at all.
    InvalidConfigError
        A split that the file does not have.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from attnbridge.integrations import read_qrels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "qrels.txt"
    ...     _ = file.write_text("q1 0 d1 2\nq1 0 d7 0\n")
    ...     read_qrels(file)
    {'q1': {'d1': 2, 'd7': 0}}
    """
    file = Path(file)
    qrels: Judgements = {}
    seen: dict[tuple[str, str], int] = {}
    splits: set[str] = set()
    wanted = "test" if split is None else split
    lines = lines_of(file)
    for number, query, document, grade, part in _judgements(file, lines):
        if part is None and split is not None:
            raise InvalidConfigError(f"split can be given for qrels with a split column, {file} has none")
        splits.add(wanted if part is None else part)
        if part not in (None, wanted):
            continue
        if (query, document) in seen:
            raise InvalidInputError(
                f"{file}: line {number} judges query {query!r} and document {document!r} again, as line "
                f"{seen[query, document]} does; keep one of them"
            )
        seen[query, document] = number
        qrels.setdefault(query, {})[document] = grade
    if not splits:
        raise InvalidInputError(f"{file} holds no judgements")
    if not qrels:
        raise InvalidConfigError(
            f"split must be one of {', '.join(sorted(splits))}, which {file} has judgements of; got {wanted!r}"
        )
    return qrels


def _judgements(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str, int, str | None]]:
    """Yield line number, query, document, grade and split of each line."""
    columns: list[str] | None = None
    for place, (number, line) in enumerate(lines):
        fields = [field.strip() for field in line.split("\t")]
        if place == 0 and "query-id" in fields:
            columns = fields
            missing = [name for name in _HEADER if name not in columns]
            if missing:
                raise InvalidInputError(f"{file}: the header must have {', '.join(_HEADER)}; {missing[0]} is not there")
            continue
        if columns is None:
            fields = line.split()
        expected = ["query", "0", "document", "grade"] if columns is None else columns
        if len(fields) != len(expected) or not all(fields):
            rule = (
                "four columns (query 0 document grade), or the first line a header with tabs (query-id corpus-id score)"
                if columns is None
                else f"{len(columns)} columns, as the header has"
            )
            raise InvalidInputError(f"{file}: line {number} must have {rule}, got {line[:80]!r}")
        record = dict(zip(expected, fields, strict=True))
        if columns is None:
            yield number, fields[0], fields[2], _grade(file, number, fields[3]), None
        else:
            grade = _grade(file, number, record["score"])
            yield number, record["query-id"], record["corpus-id"], grade, record.get("split")


def _grade(file: Path, number: int, text: str) -> int:
    try:
        grade = float(text)
        if grade == int(grade):
            return int(grade)
    except (ValueError, OverflowError):
        pass
    raise InvalidInputError(f"{file}: line {number} must have a whole number as grade, got {text!r}")


def read_run(file: str | os.PathLike[str]) -> Run:
    """Return a TREC run: lines of query, Q0, document, rank, score and tag.

    As trec_eval does, ranks are not read: scores order the documents.

    Parameters
    ----------
    file : path

    Returns
    -------
    dict of str to dict of str to float
        Query id -> {document id: score}.

    Raises
    ------
    InvalidInputError
        A line that is malformed or names a document again (its number is named), or no line at all.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from attnbridge.integrations import read_run, write_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run({"q1": {"d1": 0.75, "d7": 0.5}}, pathlib.Path(folder) / "mine.run")
    ...     read_run(pathlib.Path(folder) / "mine.run")
    {'q1': {'d1': 0.75, 'd7': 0.5}}
    """
    file = Path(file)
    run: Run = {}
    for number, line in lines_of(file):
        fields = line.split()
        if len(fields) != 6:
            raise InvalidInputError(
                f"{file}: line {number} must have six columns (query Q0 document rank score tag), got {line[:80]!r}"
            )
        query, _, document, _, text, _ = fields
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InvalidInputError(f"{file}: line {number} must have a finite number as score, got {text!r}")
        scores = run.setdefault(query, {})
        if document in scores:
            raise InvalidInputError(f"{file}: line {number} names document {document!r} again for query {query!r}")
        scores[document] = score
    if not run:
        raise InvalidInputError(f"{file} is empty: a run must hold at least one line")
    return run


def write_run(run: Mapping[str, Mapping[str, float]], file: str | os.PathLike[str], tag: str = "attnbridge") -> None:
    """Write a TREC run; ranks are those of the scores.

    Parameters
    ----------
    run : dict of str to dict of str to float
        Query id -> {document id: score}.
    file : path
        Replaced where it is there, as a whole.
    tag : str, default "attnbridge"
        The last column: the system's name.

    Raises
    ------
    InvalidInputError
        An id, or the tag, that is empty or has white space in it: a run's columns cannot hold that.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from attnbridge.integrations import write_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_run({"q1": {"d7": 0.5, "d1": 0.75}}, pathlib.Path(folder) / "mine.run")
    ...     print((pathlib.Path(folder) / "mine.run").read_text(), end="")
    q1 Q0 d1 1 0.75 attnbridge
    q1 Q0 d7 2 0.5 attnbridge
    """
    lines = []
    for query, scores in run.items():
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        for rank, (document, score) in enumerate(ranked, 1):
            fields = (query, "Q0", document, str(rank), f"{score:.9g}", tag)
            if any(not field or field.split() != [field] for field in fields):
                raise InvalidInputError(
                    f"a run's ids and tag must be without white space, got query {query!r}, document {document!r}, "
                    f"tag {tag!r}"
                )
            lines.append(" ".join(fields) + "\n")
    text = "".join(lines).encode()
    write_whole(Path(file), lambda stream: stream.write(text))


def descending(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return scores, best first, as float32 that fall from each to the next: ties are broken by the order given.

    trec_eval holds scores as float32 and orders equal ones by document id, which is not our order.

    Parameters
    ----------
    scores : ndarray of float64, (n,)

    Returns
    -------
    ndarray of float32, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations.trec import descending
    >>> out = descending(np.array([2.0, 1.0, 1.0, 1.0 - 1e-12]))
    >>> bool((np.diff(out) < 0).all()), out[:2].tolist()
    (True, [2.0, 1.0])
    """
    out = np.clip(scores, -_LARGEST, _LARGEST).astype(np.float32)
    if len(out) and not (out[1:] < out[:-1]).all():
        for i in range(1, len(out)):
            if out[i] >= out[i - 1]:
                out[i] = np.nextafter(out[i - 1], np.float32(-np.inf))
    return out
