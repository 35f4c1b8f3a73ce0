"""What tests of the SQL functions share: tables of vectors, and what the Python API has of each pair."""

import numpy as np
import pyarrow as pa

import attnbridge as ab


def column(rows):
    """Return rows (n, d) as a column FLOAT[d]."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def create(con, name, **columns):
    """Make a table of columns."""
    con.register("given", pa.table({key: column(rows) if rows.ndim == 2 else rows for key, rows in columns.items()}))
    con.execute(f"CREATE TABLE {name} AS FROM given")
    con.unregister("given")


def plain(options):
    """Return options as a parameter of a statement, None for none."""
    return {
        name: plain(value) if isinstance(value, dict) else value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    } or None


def fetch(con, statement, *parameters):
    """Return the first column of a result as numpy has it, NULL masked."""
    return next(iter(con.execute(statement, *parameters).fetchnumpy().values()))


def same(got, want):
    """Hold that a column of FLOAT is of the bits of numbers as FLOAT."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), want.astype(np.float32).view(np.uint32))


def each_score(queries, keys, attention_type="scaled_dot", **options):
    """Return what the Python API has of each pair."""
    return np.array(
        [ab.attention_score(q, k, attention_type, **options) for q, k in zip(queries, keys, strict=True)], np.float64
    )


def rows_of(rng, count, dim):
    """Return rows with zeros and equal ones among them."""
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    rows[3::17], rows[5::19] = 0.0, rows[4::19][: len(rows[5::19])]
    return rows
