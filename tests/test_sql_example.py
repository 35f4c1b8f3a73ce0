"""examples/sql_analytics.py: what it prints is what the Python API gives for the table that it keeps."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pytest

import attnbridge as ab

pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).parent.parent / "examples" / "sql_analytics.py"


class Documents(NamedTuple):
    """The columns of the example's table, in the order of the ids."""

    ids: np.ndarray
    modules: np.ndarray
    words: np.ndarray
    summaries: np.ndarray
    vectors: np.ndarray

    def of(self, module):
        """Return which rows are a module's."""
        return np.flatnonzero(self.modules == module)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tmp_path_factory.mktemp("sql") / "docs.duckdb"


@pytest.fixture(scope="module")
def printed(database):
    """Return the cells of the printed tables by title: names first, then rows."""
    run = subprocess.run(
        [sys.executable, EXAMPLE, database],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"},
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    blocks = [block.splitlines() for block in run.stdout.strip().split("\n\n")]
    return {title: [re.split(r" {2,}", line) for line in lines] for title, *lines in blocks}


@pytest.fixture(scope="module")
def con(database, printed):
    with duckdb.connect(str(database), read_only=True) as con:
        yield con


@pytest.fixture(scope="module")
def documents(con):
    columns = con.execute("SELECT id, module, words, summary, embedding FROM documents ORDER BY id").fetchnumpy()
    found = Documents(*(np.ma.getdata(columns[name]) for name in ("id", "module", "words", "summary", "embedding")))
    return found._replace(vectors=np.stack(list(found.vectors)).astype(np.float32))


@pytest.fixture(scope="module")
def questions(con):
    columns = con.execute("SELECT question, embedding FROM questions ORDER BY id").fetchall()
    return [(text, np.array(vector, np.float32)) for text, vector in columns]


@pytest.fixture(scope="module")
def centroids(documents):
    """Return the attention-weighted centroids of the eight largest modules."""
    names, counts = np.unique(documents.modules, return_counts=True)
    found = {}
    for name in names[np.lexsort((names, -counts))][:8]:
        keys = documents.vectors[documents.of(name)]
        mean = ab.attention(np.zeros(256, np.float32), keys, keys)
        np.testing.assert_allclose(mean, keys.astype(float).mean(axis=0), atol=1e-6)
        found[name] = ab.attention(mean, keys, keys, scale=20.0)
    return found


def logits(query, documents, **options):
    """Return the scores of all documents as SQL's FLOAT."""
    return ab.attention_logits(query, documents.vectors, **options).astype(np.float32)


def best(scores, ids):
    """Return the order of falling scores, equal ones by id."""
    return np.lexsort((ids, -scores))


def check(printed, title, names, rows):
    """Compare a printed table with the cells that are due: numbers of three decimals."""
    header, *cells = printed[title]
    assert header == names
    assert len(cells) == len(rows) > 0
    for found, due in zip(cells, rows, strict=True):
        for cell, value in zip(found, due, strict=True):
            if isinstance(value, float | np.floating):
                assert re.fullmatch(r"-?\d+\.\d{3}", cell)
                assert float(cell) == pytest.approx(float(value), abs=0.00051)
            else:
                assert cell == str(value).strip()


def test_the_table_is_the_documentation(documents):
    assert len(documents.ids) == len(set(documents.ids)) > 1_500
    assert {"numpy", "networkx", "scipy.stats", "duckdb"} <= set(documents.modules)
    np.testing.assert_allclose(np.linalg.norm(documents.vectors, axis=1), 1, atol=1e-5)
    assert documents.summaries[documents.ids == "numpy.sin"] == ["Trigonometric sine, element-wise."]


def test_nearest_per_module(printed, documents, questions):
    text, query = questions[0]
    scores = logits(query, documents, scale=20.0)
    of_modules = []
    for module in set(documents.modules):
        rows = documents.of(module)
        two = rows[best(scores[rows], documents.ids[rows])][:2]
        of_modules.append((-scores[two[0]], [(module, documents.ids[row], scores[row]) for row in two]))
    of_modules.sort(key=lambda pair: pair[0])
    rows = [row for _, two in of_modules for row in two][:8]
    check(printed, f"Nearest to {text!r} in each module", ["module", "id", "score"], rows)


def test_nearest_to_centroids(printed, documents, centroids):
    rows = []
    for module, centroid in sorted(centroids.items()):
        own = documents.of(module)
        scores = logits(centroid, documents, scale=20.0)[own]
        first = best(scores, documents.ids[own])[0]
        row = own[first]
        rows.append((module, documents.ids[row], scores[first], documents.summaries[row][:50]))
    title = "Nearest to the attention-weighted centroid of each module"
    check(printed, title, ["module", "id", "score", "summary"], rows)


def test_outliers(printed, documents, centroids):
    rows = []
    for module, centroid in centroids.items():
        own = documents.of(module)
        weights = ab.attention_scores(centroid, documents.vectors[own], scale=5.0)
        least = best(-weights, documents.ids[own])[0]
        rows.append((module, len(own), documents.ids[own[least]], len(own) * weights[least]))
    rows.sort(key=lambda row: row[3])
    check(printed, "Outliers: what each module attends to least", ["module", "documents", "id", "share"], rows)


def test_duplicates(printed, documents):
    of = {name: [i for i, id in enumerate(documents.ids) if id.startswith(f"{name}.")] for name in ("numpy", "scipy")}
    others = documents._replace(vectors=documents.vectors[of["scipy"]])
    rows = []
    for place in of["numpy"]:
        scores = logits(documents.vectors[place], others, scale=1.0)
        near = np.flatnonzero(scores > 0.9)
        rows += [(documents.ids[place], documents.ids[of["scipy"][i]], scores[i]) for i in near]
    rows.sort(key=lambda row: (-row[2], row[0], row[1]))
    check(printed, "Duplicates: said by numpy and by scipy", ["numpy", "scipy", "cosine"], rows[:8])


def test_search(printed, con, documents, questions):
    bridge = ab.AttentionVectorBridge.from_duckdb(con, "documents", metric="cosine", threads=1, progress=False)
    place = {id: row for row, id in enumerate(documents.ids)}
    rows = []
    for (text, _), hits in zip(questions, bridge.search_batch([vector for _, vector in questions], 3), strict=True):
        for hit in hits:
            row = place[hit.id]
            rows.append((text, hit.id, hit.score, hit.weight, documents.words[row], documents.summaries[row][:50]))
    names = ["question", "id", "score", "weight", "words", "summary"]
    check(printed, "Search results joined to metadata", names, rows)


def test_candidates(printed, documents, questions):
    _, query = questions[0]
    near = np.linalg.norm(documents.vectors - query, axis=1).argsort(kind="stable")[:100]
    scores = logits(query, documents)
    order = near[best(scores[near], documents.ids[near])][:5]
    rows = [(documents.ids[row], scores[row]) for row in order]
    check(printed, "Candidates by distance, then by score", ["id", "score"], rows)


def test_cross_join(printed, documents, questions):
    rows = []
    for number, (_, query) in enumerate(questions, 1):
        scores = logits(query, documents)
        rows += [(number, documents.ids[row], scores[row]) for row in best(scores, documents.ids)[:2]]
    check(printed, "Every question against every document", ["question", "id", "score"], rows)


def test_multi_stage(printed, documents, questions):
    _, query = questions[0]
    scores = logits(query, documents, scale=1.0)
    rows = []
    for module in set(documents.modules):
        own = documents.of(module)
        keys = documents.vectors[own[scores[own] > 0.3]]
        if len(keys) >= 3:
            output = ab.attention(query, keys, keys, "multi_head", num_heads=8)
            rows.append((module, len(keys), ab.attention_score(query, output, scale=1.0)))
    rows.sort(key=lambda row: (-row[2], row[0]))
    title = "Filter by score, then multi-head attention over each module"
    check(printed, title, ["module", "found", "score"], rows[:6])
