"""Vectors and ids out of tables: DuckDB relations, Parquet, CSV, JSON lines and numpy files."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.validation import as_matrix

if TYPE_CHECKING:
    import pyarrow as pa

# Rows read at a time.
BATCH = 10_000

_TABLE_SUFFIXES = {
    ".parquet": "read_parquet",
    ".pq": "read_parquet",
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
    ".json": "read_json",
}
SUFFIXES = (*_TABLE_SUFFIXES, ".npy", ".npz")


class Source(NamedTuple):
    """Rows to come: how many, their dimension, and batches of (vectors, ids or None)."""

    total: int
    dim: int
    batches: Iterator[tuple[npt.NDArray[np.float32], list[Any] | None]]


def matrix_of(column: "pa.Array", name: str, first_row: int, dim: int | None) -> npt.NDArray[np.float32]:
    """Return an Arrow column of float lists as rows (n, d); NULLs and other lengths are refused by row."""
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    for i, length in enumerate(lengths):
        if column.null_count and not column[i].is_valid:
            raise InvalidInputError(f"column {name!r} must hold a vector in every row: row {first_row + i} is NULL")
        dim = int(length) if dim is None else dim
        if length != dim:
            raise InvalidInputError(
                f"column {name!r} must hold vectors of one length: row {first_row + i} has {int(length)} values, "
                f"row 0 has {dim}"
            )
    flat = column.flatten()
    if flat.null_count:
        row = first_row + int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // (dim or 1)
        raise InvalidInputError(f"column {name!r} must hold numbers only: row {row} has a NULL in its vector")
    matrix: npt.NDArray[np.float32] = flat.to_numpy(zero_copy_only=False).reshape(len(column), dim or 0)
    return matrix


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _require_column(relation: Any, name: str, option: str, what: str) -> None:
    if name not in relation.columns:
        raise InvalidInputError(
            f"{option} must name a column of {what}, got {name!r}; its columns are: {', '.join(relation.columns)}"
        )


def from_relation(relation: Any, vector: str, id: str | None, what: str) -> Source:
    """Read a DuckDB relation batch by batch."""
    import duckdb

    _require_column(relation, vector, "vector", what)
    columns = [f"{_quoted(vector)}::FLOAT[] AS v"]
    if id is not None:
        _require_column(relation, id, "id", what)
        kind = str(relation.types[relation.columns.index(id)])
        whole = kind.removeprefix("U") in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
        if not whole and kind not in ("VARCHAR", "UUID") and not kind.startswith("ENUM"):
            raise InvalidInputError(
                f"id must name a column of whole numbers or text: {id!r} of {what} is {kind}; cast it to text"
            )
        columns.append(f"{_quoted(id)}::{'BIGINT' if whole else 'VARCHAR'} AS id")
    selected = relation.project(", ".join(columns))
    try:
        ((count,),) = relation.aggregate("count(*)").fetchall()
        first = selected.limit(1).fetchall()
    except duckdb.Error as error:
        raise _unreadable(what, vector, error) from error
    if count == 0:
        raise InvalidInputError(f"{what} must hold at least one row, it is empty")
    dim = len(first[0][0]) if first[0][0] is not None else 0

    def batches() -> Iterator[tuple[npt.NDArray[np.float32], list[Any] | None]]:
        row = 0
        try:
            with selected.to_arrow_reader(BATCH) as reader:
                for batch in reader:
                    vectors = matrix_of(batch.column("v"), vector, row, dim or None)
                    ids = None
                    if id is not None:
                        if batch.column("id").null_count:
                            missing = int(
                                np.flatnonzero(batch.column("id").is_null().to_numpy(zero_copy_only=False))[0]
                            )
                            raise InvalidInputError(
                                f"column {id!r} must hold an id in every row: row {row + missing} is NULL"
                            )
                        ids = batch.column("id").to_pylist()
                    yield vectors, ids
                    row += len(vectors)
        except (duckdb.Error, OSError) as error:  # pyarrow wraps what DuckDB finds in a later batch
            raise _unreadable(what, vector, error) from error

    return Source(count, dim, batches())


def _unreadable(what: str, vector: str, error: Exception) -> InvalidInputError:
    reason = str(error).strip().splitlines()[0]
    return InvalidInputError(f"column {vector!r} of {what} must hold lists of numbers: {reason}")


def from_file(path: str | os.PathLike[str], vector: str | None, id: str | None) -> Source:
    """Read Parquet, CSV, JSON lines, npy or npz.

    Parameters
    ----------
    path : path-like
    vector, id : str or None
        Column (table) or array (npz) names; a npy file has neither.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(
            f"data must be a file, but {file} {'is a folder' if file.is_dir() else 'does not exist'}"
        )
    suffix = file.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _from_numpy(file, vector, id)
    if suffix not in _TABLE_SUFFIXES:
        raise InvalidInputError(f"data must be one of {', '.join(SUFFIXES)}; got {file.name}")
    import duckdb

    try:
        name = re.sub(r"([*?[])", r"[\1]", str(file))  # a name, not a pattern
        relation = getattr(duckdb.connect(), _TABLE_SUFFIXES[suffix])(name)
    except duckdb.Error as error:
        raise InvalidInputError(f"{file} cannot be read: {str(error).strip().splitlines()[0]}") from error
    return from_relation(relation, vector or "embedding", id, str(file))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Say which numpy file cannot be read and why."""
    try:
        yield
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # numpy takes whatever it does not know for a pickle, and advises to allow those.
        reason = "it is no numpy file, or holds Python objects" if "pickle" in str(error) else error
        raise InvalidInputError(f"{file} cannot be read: {reason}") from error


def load_numpy(file: Path) -> Any:
    """Return the array of a npy file, memory-mapped, or the open archive of a npz file.

    Raises
    ------
    InvalidInputError
        No such file, not numpy's format, damaged, or an array of Python objects.
    """
    with _reading(file):
        with file.open("rb") as opened:
            archive = opened.read(2) == b"PK"
        if archive and not zipfile.is_zipfile(file):  # numpy would leave the file open
            raise zipfile.BadZipFile("it is a damaged archive")
        return np.load(file, mmap_mode="r", allow_pickle=False)


def _from_numpy(file: Path, vector: str | None, id: str | None) -> Source:
    loaded = load_numpy(file)
    ids: list[Any] | None = None
    if isinstance(loaded, np.ndarray):
        if vector is not None or id is not None:
            raise InvalidInputError(f"{file} holds one array without names: leave out vector and id")
        array = loaded
    else:
        with loaded:
            names = loaded.files
            if vector is None and len(names) == 1:
                vector = names[0]
            for name, option in ((vector or "embedding", "vector"), (id, "id")):
                if name is not None and name not in names:
                    raise InvalidInputError(
                        f"{option} must name an array of {file}, got {name!r}; its arrays are: {', '.join(names)}"
                    )
            with _reading(file):
                array = loaded[vector or "embedding"]
                ids = None if id is None else loaded[id].tolist()
    matrix = as_matrix(array, f"{file.name}", finite=False)
    if len(matrix) == 0:
        raise InvalidInputError(f"{file} must hold at least one row, it is empty")
    if ids is not None and len(ids) != len(matrix):
        raise InvalidInputError(f"id must name an array with an id for each of {len(matrix)} rows, got {len(ids)}")

    def batches() -> Iterator[tuple[npt.NDArray[np.float32], list[Any] | None]]:
        for start in range(0, len(matrix), BATCH):
            part = slice(start, start + BATCH)
            yield matrix[part], None if ids is None else ids[part]

    return Source(len(matrix), matrix.shape[1], batches())
