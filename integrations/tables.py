"""Vectors and ids out of tables: DuckDB relations, Parquet, CSV, JSON lines and numpy files."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.errors import InvalidInputError
from attnbridge.integrations.engine import quiet_connection
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


# What DuckDB knows and Arrow, or the payload, does not, but text says without loss.
_AS_TEXT = ("enum", "uuid", "interval", "bit", "bignum", "varint", "time with time zone")

# Which columns to keep as payload: these, all others than the vector and the id, or none.
Columns = Sequence[str] | bool | None


class Batch(NamedTuple):
    """Consecutive rows: vectors (n, d), ids or None, and payload or None."""

    vectors: npt.NDArray[np.float32]
    ids: list[Any] | None
    payload: "pa.Table | None"


class Source(NamedTuple):
    """Rows to come: how many, their dimension, and batches of them."""

    total: int
    dim: int
    batches: Iterator[Batch]


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


def require_table(con: Any, name: str) -> None:
    """Refuse what is no table or view of the database: DuckDB would open a file of that name."""
    parts = [bare or quoted[1:-1].replace('""', '"') for quoted, bare in re.findall(r'("(?:[^"]|"")*")|([^".]+)', name)]
    there = con.sql(
        "SELECT count(*) FROM (SELECT database_name, schema_name, table_name FROM duckdb_tables() "
        "UNION ALL SELECT database_name, schema_name, view_name FROM duckdb_views()) AS t(of, within, name) "
        "WHERE lower(name) = lower($name) AND ($before IS NULL OR lower($before) IN (lower(of), lower(within)))",
        params={"name": (parts or [name])[-1], "before": parts[-2] if len(parts) > 1 else None},
    ).fetchall()
    if there == [(0,)]:
        raise InvalidInputError(
            f"table must name a table or view: there is no {name!r} in the database; from_parquet reads a file"
        )


def _require_column(relation: Any, name: str, option: str, what: str) -> None:
    if name not in relation.columns:
        raise InvalidInputError(
            f"{option} must name a column of {what}, got {name!r}; its columns are: {', '.join(relation.columns)}"
        )


def _payload_columns(payload: Any, known: Sequence[str], vector: str, id: str | None, what: str) -> list[str]:
    """Return the names of the columns to keep, each of them known."""
    if payload is None or payload is False:
        return []
    if payload is True:
        names = [name for name in known if name not in (vector, id)]
        ids = [name for name in names if name.casefold() == "id"]
        if ids:
            raise InvalidInputError(
                f"payload must not have a column {ids[0]!r}: name it as the id of {what}, or list the columns to keep"
            )
        return names
    if isinstance(payload, str | bytes) or not isinstance(payload, Sequence):
        raise InvalidInputError(
            f"payload must be a list of column names, True for all, or None, got {payload!r}; write ['name']"
        )
    for position, name in enumerate(payload):
        if name not in known:
            raise InvalidInputError(
                f"payload must name columns of {what}, got {name!r}; its columns are: {', '.join(known)}"
            )
        if name in (vector, id):
            raise InvalidInputError(
                f"payload must not name {name!r}: it is the column of {'vectors' if name == vector else 'ids'} of "
                f"{what}; leave it out"
            )
        if name in payload[:position]:
            raise InvalidInputError(f"payload must name each column once, got {name!r} again; leave it out")
    return list(payload)


def _stored_type(kind: Any) -> str:
    """Return the SQL type to which DuckDB is to cast a payload column of a type."""
    if kind.id in ("list", "array"):
        return f"{_stored_type(kind.children[0][1])}[]"
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{_quoted(name)} {_stored_type(inner)}' for name, inner in kind.children)})"
    if kind.id in _AS_TEXT or str(kind) == "JSON":
        return "VARCHAR"
    if kind.id in ("hugeint", "uhugeint"):
        return "DECIMAL(38,0)"
    return str(kind)


def _stored(name: str, kind: Any) -> str:
    """Return the SQL expression of a column as the payload keeps it: a map becomes a list of (key, value)."""
    expression = _quoted(name)
    if kind.id == "map":
        (_, key), (_, value) = kind.children
        return f"map_entries({expression})::STRUCT(key {_stored_type(key)}, value {_stored_type(value)})[]"
    stored = _stored_type(kind)
    return expression if stored == str(kind) else f"{expression}::{stored}"


def from_relation(relation: Any, vector: str, id: str | None, what: str, payload: Columns = None) -> Source:
    """Read a DuckDB relation batch by batch."""
    import duckdb

    _require_column(relation, vector, "vector", what)
    columns = {vector: f"{_quoted(vector)}::FLOAT[]"}
    if id is not None:
        _require_column(relation, id, "id", what)
        kind = str(relation.types[relation.columns.index(id)])
        whole = kind.removeprefix("U") in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
        if not whole and kind not in ("VARCHAR", "UUID") and not kind.startswith("ENUM"):
            raise InvalidInputError(
                f"id must name a column of whole numbers or text: {id!r} of {what} is {kind}; cast it to text"
            )
    kept = _payload_columns(payload, relation.columns, vector, id, what)
    columns |= {name: _stored(name, relation.types[relation.columns.index(name)]) for name in kept}
    expressions = [*columns.values(), *([] if id is None else [f"{_quoted(id)}::{'BIGINT' if whole else 'VARCHAR'}"])]
    selected = relation.project(", ".join(f"{expression} AS c{i}" for i, expression in enumerate(expressions)))
    try:
        if kept:
            _table(kept, selected.limit(0).to_arrow_table().columns[1 : 1 + len(kept)], 0)  # refuses names and types
        ((count,),) = relation.aggregate("count(*)").fetchall()
        first = selected.project("c0").limit(1).fetchall()
    except (duckdb.Error, NotImplementedError) as error:
        raise _unreadable(relation, columns, what, vector, error) from error
    if count == 0:
        raise InvalidInputError(f"{what} must hold at least one row, it is empty")
    dim = len(first[0][0]) if first[0][0] is not None else 0

    def batches() -> Iterator[Batch]:
        row = 0
        try:
            with selected.to_arrow_reader(BATCH) as reader:
                for batch in reader:
                    vectors = matrix_of(batch.column(0), vector, row, dim or None)
                    ids = None if id is None else _ids_of(batch.column(len(columns)), id, row)
                    table = _table(kept, batch.columns[1 : 1 + len(kept)], len(vectors)) if kept else None
                    yield Batch(vectors, ids, table)
                    row += len(vectors)
        except (duckdb.Error, OSError) as error:  # pyarrow wraps what DuckDB finds in a later batch
            raise _unreadable(relation, columns, what, vector, error) from error

    return Source(count, dim, batches())


def _ids_of(column: "pa.Array", name: str, first_row: int) -> list[Any]:
    if column.null_count:
        missing = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InvalidInputError(f"column {name!r} must hold an id in every row: row {first_row + missing} is NULL")
    ids: list[Any] = column.to_pylist()
    return ids


def _table(names: Sequence[str], columns: Sequence[Any], count: int) -> "pa.Table":
    """Return payload columns as a checked table."""
    from attnbridge.integrations.columns import as_table

    return as_table(dict(zip(names, columns, strict=True)), count)


def _unreadable(relation: Any, columns: dict[str, str], what: str, vector: str, error: Exception) -> InvalidInputError:
    """Return the error that says which column cannot be read: the first that cannot be read alone."""
    import duckdb

    reason = str(error).strip().splitlines()[0]
    for name, expression in columns.items():
        if name == vector:
            continue
        try:
            relation.project(f"{expression} AS c").aggregate("max(hash(c))").fetchall()
        except duckdb.Error as cause:
            reason = str(cause).strip().splitlines()[0]
            return InvalidInputError(f"column {name!r} of {what} cannot be read as payload: {reason}; leave it out")
    return InvalidInputError(f"column {vector!r} of {what} must hold lists of numbers: {reason}")


def from_file(path: str | os.PathLike[str], vector: str | None, id: str | None, payload: Columns = None) -> Source:
    """Read Parquet, CSV, JSON lines, npy or npz.

    Parameters
    ----------
    path : path-like
    vector, id : str or None
        Column (table) or array (npz) names; a npy file has neither.
    payload : list of str, bool or None
        Columns, or arrays of one value a row, to keep; True for all others.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(
            f"data must be a file, but {file} {'is a folder' if file.is_dir() else 'does not exist'}"
        )
    suffix = file.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _from_numpy(file, vector, id, payload)
    if suffix not in _TABLE_SUFFIXES:
        raise InvalidInputError(f"data must be one of {', '.join(SUFFIXES)}; got {file.name}")
    import duckdb

    try:
        name = re.sub(r"([*?[])", r"[\1]", str(file))  # a name, not a pattern
        relation = getattr(quiet_connection(), _TABLE_SUFFIXES[suffix])(name)
    except duckdb.Error as error:
        raise InvalidInputError(f"{file} cannot be read: {str(error).strip().splitlines()[0]}") from error
    return from_relation(relation, vector or "embedding", id, str(file), payload)


@contextmanager
def reading(file: Path) -> Iterator[None]:
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
    with reading(file):
        with file.open("rb") as opened:
            archive = opened.read(2) == b"PK"
        if archive and not zipfile.is_zipfile(file):  # numpy would leave the file open
            raise zipfile.BadZipFile("it is a damaged archive")
        return np.load(file, mmap_mode="r", allow_pickle=False)


def _from_numpy(file: Path, vector: str | None, id: str | None, payload: Columns) -> Source:
    loaded = load_numpy(file)
    ids: list[Any] | None = None
    kept: dict[str, npt.NDArray[Any]] = {}
    if isinstance(loaded, np.ndarray):
        if vector is not None or id is not None:
            raise InvalidInputError(f"{file} holds one array without names: leave out vector and id")
        if payload is not None and payload is not False:
            raise InvalidInputError(f"{file} holds one array without names: leave out payload, or make a .npz file")
        array = loaded
    else:
        with loaded:
            names = loaded.files
            if vector is None and len(names) == 1:
                vector = names[0]
            vector = vector or "embedding"
            for name, option in ((vector, "vector"), (id, "id")):
                if name is not None and name not in names:
                    raise InvalidInputError(
                        f"{option} must name an array of {file}, got {name!r}; its arrays are: {', '.join(names)}"
                    )
            chosen = _payload_columns(payload, names, vector, id, str(file))
            with reading(file):
                array = loaded[vector]
                ids = None if id is None else loaded[id].tolist()
                kept = {name: loaded[name] for name in chosen}
    matrix = as_matrix(array, f"{file.name}", finite=False)
    if len(matrix) == 0:
        raise InvalidInputError(f"{file} must hold at least one row, it is empty")
    if ids is not None and len(ids) != len(matrix):
        raise InvalidInputError(f"id must name an array with an id for each of {len(matrix)} rows, got {len(ids)}")
    for name, values in kept.items():
        if values.shape != (len(matrix),):
            raise InvalidInputError(
                f"payload must name arrays of one value for each of {len(matrix)} rows: {name!r} of {file} has shape "
                f"{values.shape}; leave it out"
            )
    table = _table(list(kept), list(kept.values()), len(matrix)) if kept else None

    def batches() -> Iterator[Batch]:
        for start in range(0, len(matrix), BATCH):
            part = slice(start, start + BATCH)
            some = None if table is None else table.slice(start, BATCH)
            yield Batch(matrix[part], None if ids is None else ids[part], some)

    return Source(len(matrix), matrix.shape[1], batches())
