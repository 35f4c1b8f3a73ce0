"""An evaluation folder: documents, queries and judgements, with vectors and perhaps token vectors beside them."""

import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbridge.errors import DimensionMismatchError, InvalidInputError
from attnbridge.integrations.tables import load_numpy
from attnbridge.integrations.trec import Judgements, lines_of, read_qrels
from attnbridge.progress import progress_bar
from attnbridge.validation import as_number

if TYPE_CHECKING:
    from attnbridge.integrations.bridge import AttentionVectorBridge

# Documents that are added at a time.
_BATCH = 256

_TOKEN_FILES = ("doc_token_offsets.npy", "query_tokens.npy", "query_token_offsets.npy")


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents, queries and judgements; `read_collection` makes it.

    Parameters
    ----------
    ids : list of str
        Of the documents.
    vectors : ndarray, (n, d)
    query_ids : list of str
    queries : ndarray, (b, d)
    qrels : dict of str to dict of str to int
        Query id -> {document id: grade}.
    texts, query_texts : list of str or None
        Title and text of each document, and the queries' words, where the folder has them.
    tokens : list of ndarray (n_i, dt), or None
        Each document's token vectors as they are stored: float16, float32, or int8 codes.
    token_scale : float or None
        What int8 codes are multiplied with.
    query_tokens : list of ndarray (m_i, dt), or None

    Examples
    --------
    >>> import numpy as np
    >>> from attnbridge.integrations import Collection, evaluate
    >>> vectors = np.eye(2, dtype=np.float32)
    >>> made = Collection(["a", "b"], vectors, ["q"], vectors[:1], {"q": {"a": 1}})
    >>> bridge = made.bridge("exact")
    >>> found = evaluate(bridge, made.queries, made.qrels, query_ids=made.query_ids, rounds=0)
    >>> found.intervals["plain"]["MRR"].mean
    1.0
    """

    ids: list[str]
    vectors: npt.NDArray[Any]
    query_ids: list[str]
    queries: npt.NDArray[Any]
    qrels: Judgements
    texts: list[str] | None = None
    query_texts: list[str] | None = None
    tokens: list[npt.NDArray[Any]] | None = None
    token_scale: float | None = None
    query_tokens: list[npt.NDArray[Any]] | None = None

    def bridge(
        self,
        index: str = "auto",
        metric: str = "cosine",
        *,
        tokens: bool = True,
        text: bool = False,
        progress: bool = True,
        **options: Any,
    ) -> "AttentionVectorBridge":
        """Return a bridge that holds the documents.

        Parameters
        ----------
        index, metric : str
            As for `AttentionVectorBridge`.
        tokens : bool, default True
            Store token vectors, where there are some.
        text : bool, default False
            Store the documents' words in the payload's column "text", where there are some.
        progress : bool, default True
            Show a progress bar where stderr is a terminal.
        **options : object
            Other options of `AttentionVectorBridge`.

        Returns
        -------
        AttentionVectorBridge
        """
        from attnbridge.integrations.bridge import AttentionVectorBridge

        if self.token_scale is not None:
            options = {"token_dtype": "int8"} | options
        bridge = AttentionVectorBridge(self.vectors.shape[1], metric, index=index, **options)
        with progress_bar(len(self.ids), "adding documents", progress) as advance:
            for start in range(0, len(self.ids), _BATCH):
                part = slice(start, start + _BATCH)
                given: dict[str, Any] = {}
                if tokens and self.tokens is not None:
                    given["tokens"] = self.tokens[part]
                    if self.token_scale is not None:
                        given["token_scale"] = self.token_scale
                if text and self.texts is not None:
                    given["payload"] = {"text": self.texts[part]}
                bridge.add(self.vectors[part], self.ids[part], progress=False, **given)
                advance(len(self.ids[part]))
        return bridge


def read_collection(
    folder: str | os.PathLike[str], *, split: str | None = None, qrels: str | os.PathLike[str] | None = None
) -> Collection:
    """Return what an evaluation folder holds; vectors and tokens are memory-mapped.

    Parameters
    ----------
    folder : path
        See Notes.
    split : str, optional
        Which judgements; "test" by default, where there are several.
    qrels : path, optional
        A qrels file to take instead of the folder's.

    Returns
    -------
    Collection

    Raises
    ------
    InvalidInputError
        Files that are missing (they are listed) or malformed, token offsets that do not fit.
    DimensionMismatchError
        Arrays whose lengths or dimensions differ.
    InvalidConfigError
        A split that the judgements do not have.

    Notes
    -----
    =========================================  =======================================================================
    corpus.jsonl, or doc_ids.json              {"_id" or "id", "title", "text"} a line; or a list of ids
    queries.jsonl, or query_ids.json           {"_id" or "id", "text"} a line; or a list of ids
    docs.npy, queries.npy                      vectors, in the order of those
    qrels.tsv, qrels/SPLIT.tsv or qrels.txt    as `read_qrels` reads them
    doc_tokens.npy, or doc_tokens_i8.npy       optional: all documents' token vectors (T, dt), one document after the
                                               other; int8 codes need {"token_scale": number} in meta.json
    doc_token_offsets.npy                      (n + 1,): document i has the rows from offset i to offset i + 1
    query_tokens.npy, query_token_offsets.npy  the same for the queries
    =========================================  =======================================================================

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from attnbridge.integrations import read_collection
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     np.save(folder / "docs.npy", np.eye(2)), np.save(folder / "queries.npy", np.eye(2)[:1])
    ...     _ = (folder / "doc_ids.json").write_text('["a", "b"]'), (folder / "query_ids.json").write_text('["q"]')
    ...     _ = (folder / "qrels.txt").write_text("q 0 a 1")
    ...     read_collection(folder).qrels
    (None, None)
    {'q': {'a': 1}}
    """
    folder = Path(folder)
    with_tokens = _require_files(folder, split, qrels is None)
    ids, texts = _described(folder, "corpus.jsonl", "doc_ids.json")
    query_ids, query_texts = _described(folder, "queries.jsonl", "query_ids.json")
    vectors = _vectors(folder / "docs.npy", len(ids), "document")
    queries = _vectors(folder / "queries.npy", len(query_ids), "query")
    if queries.shape[1] != vectors.shape[1]:
        raise DimensionMismatchError(
            f"{folder / 'queries.npy'} must have the dimension of docs.npy, {vectors.shape[1]}, got {queries.shape[1]}"
        )
    judged = _qrels(folder, split) if qrels is None else read_qrels(qrels, split)
    found: dict[str, Any] = {}
    if with_tokens is not None:
        found["tokens"] = split_tokens(with_tokens, folder / "doc_token_offsets.npy", len(ids))
        offsets = folder / "query_token_offsets.npy"
        found["query_tokens"] = split_tokens(folder / "query_tokens.npy", offsets, len(query_ids))
        found["token_scale"] = _token_scale(folder, with_tokens, found["tokens"])
        _require_one_dim(folder, found["tokens"], found["query_tokens"])
    return Collection(ids, vectors, query_ids, queries, judged, texts, query_texts, **found)


def _qrels_files(folder: Path, split: str | None) -> list[Path]:
    """Return where judgements may be."""
    return [folder / "qrels.tsv", folder / "qrels" / f"{split or 'test'}.tsv", folder / "qrels.txt"]


def _qrels(folder: Path, split: str | None) -> Judgements:
    """Return the judgements of the first file that is there."""
    file = next(file for file in _qrels_files(folder, split) if file.is_file())
    return read_qrels(file, None if file.parent.name == "qrels" and file.parent != folder else split)


def _require_files(folder: Path, split: str | None, own_qrels: bool) -> Path | None:
    """Name all files that are missing; return the one of token vectors, where there are some."""
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} must be an evaluation folder, there is no such folder")
    missing = [
        f"{jsonl} or {names}"
        for jsonl, names in (("corpus.jsonl", "doc_ids.json"), ("queries.jsonl", "query_ids.json"))
        if not (folder / jsonl).is_file() and not (folder / names).is_file()
    ]
    missing += [name for name in ("docs.npy", "queries.npy") if not (folder / name).is_file()]
    files = _qrels_files(folder, split)
    if own_qrels and not any(file.is_file() for file in files):
        missing.append(" or ".join(str(file.relative_to(folder)) for file in files))
    tokens = [folder / name for name in ("doc_tokens.npy", "doc_tokens_i8.npy") if (folder / name).is_file()]
    if len(tokens) > 1:
        raise InvalidInputError(f"{folder} must hold doc_tokens.npy or doc_tokens_i8.npy, not both; take one away")
    if tokens or any((folder / name).is_file() for name in _TOKEN_FILES):
        missing += [] if tokens else ["doc_tokens.npy or doc_tokens_i8.npy"]
        missing += [name for name in _TOKEN_FILES if not (folder / name).is_file()]
    if missing:
        raise InvalidInputError(f"{folder} lacks {'; '.join(missing)}")
    return tokens[0] if tokens else None


def _described(folder: Path, jsonl: str, names: str) -> tuple[list[str], list[str] | None]:
    """Return ids and texts of documents or queries."""
    if (folder / jsonl).is_file():
        return read_texts(folder / jsonl)
    return read_ids(folder / names), None


def read_texts(file: Path) -> tuple[list[str], list[str]]:
    """Return ids and texts of a jsonl file, titles before texts.

    Parameters
    ----------
    file : Path

    Returns
    -------
    tuple of (list of str, list of str)
    """
    ids: dict[str, int] = {}
    texts = []
    for number, line in lines_of(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{file}: line {number} must be a JSON object: {error}") from error
        if not isinstance(record, dict):
            raise InvalidInputError(f"{file}: line {number} must be a JSON object, got {line[:80]!r}")
        id = record.get("_id", record.get("id"))
        if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
            raise InvalidInputError(f'{file}: line {number} must have "_id" or "id", a text or a whole number')
        if str(id) in ids:
            raise InvalidInputError(f"{file}: line {number} has id {str(id)!r} again, as line {ids[str(id)]} has")
        words = [record.get("title") or "", record.get("text") or ""]
        if not all(isinstance(part, str) for part in words):
            raise InvalidInputError(f'{file}: line {number} must have texts as "title" and "text"')
        ids[str(id)] = number
        texts.append(" ".join(part for part in words if part))
    if not ids:
        raise InvalidInputError(f"{file} is empty")
    return list(ids), texts


def read_ids(file: Path) -> list[str]:
    """Return the ids of a JSON list.

    Parameters
    ----------
    file : Path

    Returns
    -------
    list of str
    """
    try:
        ids = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{file} must be a JSON list of ids: {error}") from error
    if not isinstance(ids, list) or not ids or not all(isinstance(id, str | int) and id != "" for id in ids):
        raise InvalidInputError(f"{file} must be a JSON list of at least one id, texts or whole numbers")
    texts = list(map(str, ids))
    if len(set(texts)) < len(texts):
        seen: set[str] = set()
        twice = next(id for id in texts if id in seen or seen.add(id))  # type: ignore[func-returns-value]
        raise InvalidInputError(f"{file} must hold each id once, {twice!r} is there twice")
    return texts


def _array(file: Path, axes: int, what: str) -> npt.NDArray[Any]:
    """Return a .npy file's array of numbers, memory-mapped."""
    array = load_numpy(file)
    if not isinstance(array, np.ndarray):
        array.close()
        raise InvalidInputError(f"{file} must hold one array (.npy), got an archive of several")
    if array.ndim != axes or array.dtype.kind not in "fi":
        raise DimensionMismatchError(f"{file} must be numbers {what}, got {array.dtype} {array.shape}")
    return array


def _vectors(file: Path, count: int, what: str) -> npt.NDArray[Any]:
    array = _array(file, 2, "(rows, dimension)")
    if len(array) != count:
        raise DimensionMismatchError(f"{file} must have one row for each {what}: {count} ids, {len(array)} rows")
    return array


def split_tokens(file: Path, offsets_file: Path, count: int) -> list[npt.NDArray[Any]]:
    """Return each document's or query's rows of a file of token vectors.

    Parameters
    ----------
    file, offsets_file : Path
    count : int
        How many documents or queries there are.

    Returns
    -------
    list of ndarray, (n_i, dt)
    """
    tokens, offsets = _array(file, 2, "(tokens, dimension)"), _array(offsets_file, 1, "(rows + 1,)")
    if offsets.dtype.kind != "i" or len(offsets) != count + 1:
        raise DimensionMismatchError(
            f"{offsets_file} must be {count + 1} whole numbers, one more than ids; got {offsets.dtype} {offsets.shape}"
        )
    ends = offsets.tolist()
    if ends[0] != 0 or ends[-1] != len(tokens) or (np.diff(offsets) < 0).any():
        raise InvalidInputError(
            f"{offsets_file} must rise from 0 to the {len(tokens)} rows of {file.name}, got {ends[0]} to {ends[-1]}"
            + (", falling in between" if (np.diff(offsets) < 0).any() else "")
        )
    return [tokens[start:stop] for start, stop in pairwise(ends)]


def _token_scale(folder: Path, file: Path, tokens: list[npt.NDArray[Any]]) -> float | None:
    """Return what codes are multiplied with; None for tokens that are numbers themselves."""
    kind = tokens[0].dtype
    if file.name == "doc_tokens.npy":
        if kind.kind != "f":
            raise InvalidInputError(f"{file} must be float16 or float32, got {kind}; codes go into doc_tokens_i8.npy")
        return None
    if kind != np.int8:
        raise InvalidInputError(f"{file} must be int8, got {kind}")
    about = folder / "meta.json"
    rule = f'{about} must hold {{"token_scale": number above 0}} for the codes of {file.name}'
    try:
        scale = json.loads(about.read_text(encoding="utf-8-sig"))["token_scale"]
        return as_number(scale, "token_scale", above=0.0)
    except OSError as error:
        raise InvalidInputError(f"{rule}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"{rule}, got {error}") from error


def _require_one_dim(folder: Path, tokens: list[npt.NDArray[Any]], query_tokens: list[npt.NDArray[Any]]) -> None:
    dim, of_queries = tokens[0].shape[1], query_tokens[0].shape[1]
    if dim != of_queries:
        raise DimensionMismatchError(
            f"{folder / 'query_tokens.npy'} must have the documents' token dimension {dim}, got {of_queries}"
        )
