"""Analytics in SQL over a table of embeddings: the docstrings of the installed packages, as `attnbridge demo` has them.

Run: python examples/sql_analytics.py [FILE]     (scikit-learn makes the vectors; FILE, a database, keeps the tables)
"""

import sys

import duckdb
import numpy as np
import pyarrow as pa

import attnbridge as ab
from attnbridge.cli.demo import placed_documents
from attnbridge.integrations.duckdb import register

QUESTIONS = [
    "shortest path between two nodes",
    "solve a system of linear equations",
    "draw samples from a normal distribution",
]


def store(con: duckdb.DuckDBPyConnection) -> None:
    """Create the tables documents (a row a docstring) and questions, with unit vectors of 256 numbers."""
    found, space, vectors = placed_documents({})

    def arrow(vectors: np.ndarray, **columns: list) -> pa.Table:
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return pa.table({**columns, "embedding": pa.FixedSizeListArray.from_arrays(units.ravel(), units.shape[1])})

    tables = {
        "documents": arrow(
            vectors,
            id=[document.id for document in found],
            module=[document.id.rpartition(".")[0] for document in found],
            words=[len(document.text.split()) for document in found],
            summary=[document.summary for document in found],
        ),
        "questions": arrow(space.vectors(QUESTIONS), id=[1, 2, 3], question=QUESTIONS),
    }
    for name, rows in tables.items():
        con.register("rows", rows).execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM rows")


def show(title: str, con: duckdb.DuckDBPyConnection) -> None:
    """Print what a connection has just been asked for."""
    names = [name for name, *_ in con.description]
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in con.fetchall()]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    print(f"\n{title}")
    for row in [names, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# Vectors of unit length under scale 20, as a bridge has them under metric="cosine": scores are those of a search.
NEAREST_PER_MODULE = """
    WITH scored AS (
        SELECT module, id, ruvector_attention_score($q, embedding, 'scaled_dot', {scale: 20.0}) AS score
        FROM documents)
    SELECT module, id, score FROM scored
    QUALIFY row_number() OVER (PARTITION BY module ORDER BY score DESC, id) <= 2
    ORDER BY max(score) OVER (PARTITION BY module) DESC, score DESC, id
    LIMIT 8
"""

# Attention under a query of zeros is the plain mean; under the mean, what is typical counts more and strays less.
CENTROIDS = """
    CREATE OR REPLACE TABLE centroids AS
    WITH groups AS (
        SELECT module, list(id ORDER BY id) AS ids, list(embedding ORDER BY id) AS keys
        FROM documents GROUP BY module ORDER BY count(*) DESC, module LIMIT 8),
    means AS (SELECT *, ruvector_attention(list_resize([0.0], 256, 0.0), keys, keys) AS mean FROM groups)
    SELECT module, ids, keys,
           ruvector_attention(mean, keys, keys, options := {scale: 20.0})::FLOAT[256] AS centroid
    FROM means
"""

NEAREST_TO_CENTROID = """
    WITH scored AS (
        SELECT module, id, ruvector_attention_score(centroid, embedding, options := {scale: 20.0}) AS score, summary
        FROM centroids JOIN documents USING (module))
    SELECT module, id, score, summary[:50] AS summary FROM scored
    QUALIFY row_number() OVER (PARTITION BY module ORDER BY score DESC, id) = 1
    ORDER BY module
"""

# A weight times the number of documents: 1 is an even share of the module's attention. The scale is low, or all are 0.
OUTLIERS = """
    WITH weighed AS (
        SELECT module, len(ids) AS documents, unnest(ids) AS id,
               unnest(ruvector_attention_scores(centroid, keys, options := {scale: 5.0})) AS weight
        FROM centroids)
    SELECT module, documents, id, documents * weight AS share
    FROM weighed
    QUALIFY row_number() OVER (PARTITION BY module ORDER BY weight, id) = 1
    ORDER BY share, id
"""

# Under scale 1 the score of unit vectors is their cosine.
DUPLICATES = """
    WITH pairs AS (
        SELECT a.id AS numpy, b.id AS scipy,
               ruvector_attention_score(a.embedding, b.embedding, options := {scale: 1.0}) AS cosine
        FROM documents AS a JOIN documents AS b ON starts_with(a.id, 'numpy.') AND starts_with(b.id, 'scipy.'))
    SELECT * FROM pairs WHERE cosine > 0.9 ORDER BY cosine DESC, numpy, scipy LIMIT 8
"""

SEARCH = """
    SELECT question, hit.id, hit.score, hit.weight, words, summary[:50] AS summary
    FROM questions AS q, ruvector_search(q.embedding, k := 3) AS hit JOIN documents AS d ON d.id = hit.id
    ORDER BY q.id, hit.score DESC, hit.id
"""

CANDIDATES = """
    WITH candidates AS (SELECT id, embedding FROM documents ORDER BY embedding <-> $q::FLOAT[256] LIMIT 100)
    SELECT id, ruvector_attention_score($q, embedding, 'scaled_dot') AS score
    FROM candidates ORDER BY score DESC, id LIMIT 5
"""

CROSS_JOIN = """
    WITH scored AS (
        SELECT q.id AS question, d.id, ruvector_attention_score(q.embedding, d.embedding, 'scaled_dot') AS score
        FROM questions AS q CROSS JOIN documents AS d)
    SELECT * FROM scored
    QUALIFY row_number() OVER (PARTITION BY question ORDER BY score DESC, id) <= 2
    ORDER BY question, score DESC, id
"""

MULTI_STAGE = """
    WITH scored AS (
        SELECT *, ruvector_attention_score($q, embedding, options := {scale: 1.0}) AS cosine FROM documents),
    found AS (
        SELECT module, list(embedding ORDER BY id) AS keys FROM scored WHERE cosine > 0.3
        GROUP BY module HAVING count(*) >= 3),
    attended AS (
        SELECT module, len(keys) AS found, ruvector_multi_head_attention($q, keys, keys, num_heads := 8) AS output
        FROM found)
    SELECT module, found, ruvector_attention_score($q, output, options := {scale: 1.0}) AS score
    FROM attended ORDER BY score DESC, module LIMIT 6
"""


def main(database: str = ":memory:") -> None:
    """Store, index, register; then ask."""
    with duckdb.connect(database) as con:
        store(con)
        bridge = ab.AttentionVectorBridge.from_duckdb(
            con, "documents", payload=["module"], metric="cosine", threads=1, progress=False
        )
        register(con, index=bridge)
        (vector,) = con.execute("SELECT embedding FROM questions WHERE id = 1").fetchone() or ()
        q = {"q": np.array(vector, np.float32)}
        show(f"Nearest to {QUESTIONS[0]!r} in each module", con.execute(NEAREST_PER_MODULE, q))
        con.execute(CENTROIDS)
        show("Nearest to the attention-weighted centroid of each module", con.execute(NEAREST_TO_CENTROID))
        show("Outliers: what each module attends to least", con.execute(OUTLIERS))
        show("Duplicates: said by numpy and by scipy", con.execute(DUPLICATES))
        show("Search results joined to metadata", con.execute(SEARCH))
        show("Candidates by distance, then by score", con.execute(CANDIDATES, q))
        show("Every question against every document", con.execute(CROSS_JOIN))
        show("Filter by score, then multi-head attention over each module", con.execute(MULTI_STAGE, q))


if __name__ == "__main__":
    main(*sys.argv[1:])
