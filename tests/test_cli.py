"""The command line: what it prints, where, and with which exit code."""

import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import ClassVar

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

import attnbridge as ab
import attnbridge.cli as command_line
from attnbridge import rerank
from attnbridge.integrations import HnswIndex
from attnbridge.integrations import bridge as bridge_module
from attnbridge.kernels import _jit
from attnbridge.metric import FLAT_METRICS

ROWS, DIM, TOKEN_DIM = 60, 7, 5


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(11).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(13)
    return [rng.standard_normal((2 + i % 3, TOKEN_DIM)) for i in range(ROWS)]


@pytest.fixture(scope="module")
def bridge(vectors, tokens):
    made = ab.AttentionVectorBridge(DIM, threads=1)
    made.add(vectors, [f"doc{i}" for i in range(ROWS)], tokens=tokens)
    return made


@pytest.fixture(scope="module")
def folder(bridge, tmp_path_factory):
    """Return an index with str ids and tokens."""
    path = tmp_path_factory.mktemp("indexes") / "named"
    bridge.save(path)
    return path


@pytest.fixture(scope="module")
def numbered(vectors, tmp_path_factory):
    """Return an index with int ids and without tokens."""
    path = tmp_path_factory.mktemp("indexes") / "numbered"
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(vectors)
    made.save(path)
    return path


def run(*args):
    """Run in this process; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(command_line.cli, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args):
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def fails(*args, code=1):
    """Return the message of a command that must fail; nothing goes to stdout."""
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    message = result.stderr.splitlines()[-1]
    assert message.startswith("Error: ")
    return message


def shell(*args, **options):
    """Run in a process of its own."""
    command = [sys.executable, "-m", "attnbridge", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def cells(text):
    """Return a table's rows as lists of words, below its rule."""
    lines = text.splitlines()
    (rule,) = (i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    return [line.split() for line in lines[rule + 1 :]]


# ---- the group


def test_help_and_version_load_nothing_heavy():
    heavy = ["numba", "hnswlib", "duckdb", "pandas", "scipy", "sklearn", "networkx", "pyarrow", "numpy", "rich"]
    for flag in ("--help", "--version"):
        code = (
            "import sys, attnbridge.cli as c\n"
            f"sys.argv = ['attnbridge', {flag!r}]\n"
            "try: c.main()\n"
            f"finally: print('loaded', [m for m in {heavy} if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "loaded []"


def test_version():
    assert succeeds("--version") == f"attnbridge {ab.__version__}\n"
    assert shell("--version").stdout == f"attnbridge {ab.__version__}\n"


@pytest.mark.parametrize("name", list(command_line._COMMANDS))
def test_every_listed_command_is_there(name):
    """The list is printed without importing the commands, so it could name one that is not there."""
    target, line = command_line._COMMANDS[name]
    module, _, attribute = target.partition(":")
    if find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert f"  {name} " in succeeds("--help")
    assert line in succeeds("--help")
    assert succeeds(name, "-h").startswith(f"Usage: cli {name} ")


def test_unknown_command_is_wrong_usage():
    assert "No such command 'frobnicate'" in fails("frobnicate", code=2)


def stated_defaults(command):
    return {
        parameter.name: match.group(1)
        for parameter in command.params
        if (match := re.search(r"\[default: (.+)\]", getattr(parameter, "help", None) or ""))
    }


def test_defaults_in_the_help_are_the_library_s():
    """They are written out there, because reading them from the classes would load the library."""
    from attnbridge.cli.audit import audit
    from attnbridge.cli.evaluate import evaluate
    from attnbridge.cli.index import _GRAPH_OPTIONS, index
    from attnbridge.cli.tune import tune
    from attnbridge.cli.tune_rerank import tune_rerank

    stated = stated_defaults(index)
    assert stated.pop("vector") == "embedding"
    signature = inspect.signature(HnswIndex).parameters
    assert stated == {
        name: str(signature[_GRAPH_OPTIONS[name]].default) for name in ("m", "ef_construction", "ef", "seed")
    }
    shares = inspect.signature(ab.AttentionVectorBridge.audit).parameters["selectivities"].default
    assert stated_defaults(audit) == {"selectivities": ", ".join(map(str, shares))}
    for command, method in (
        (audit, ab.AttentionVectorBridge.audit),
        (tune, ab.AttentionVectorBridge.tune),
        (evaluate, ab.evaluate),
        (tune_rerank, ab.tune_rerank),
    ):
        signature = inspect.signature(method).parameters
        shown = {
            parameter.name: parameter.default
            for parameter in command.params
            if getattr(parameter, "show_default", False)
        }
        assert shown
        assert shown == {name: signature[name].default for name in shown}
    choices = {parameter.name: parameter.type for parameter in index.params}
    assert tuple(choices["metric"].choices) == FLAT_METRICS


# ---- index


@pytest.fixture(scope="module", params=["parquet", "csv", "tsv", "jsonl", "npz", "npy"])
def data(request, vectors, tmp_path_factory):
    """Return a file of each kind, and the options that name its columns."""
    path = tmp_path_factory.mktemp("data") / f"docs.{request.param}"
    names = [f"doc{i}" for i in range(ROWS)]
    if request.param == "npy":
        np.save(path, vectors)
        return path, []
    if request.param == "npz":
        np.savez(path, vec=vectors, name=np.array(names))
    elif request.param == "parquet":
        pq.write_table(pa.table({"name": names, "vec": vectors.tolist()}), path)
    elif request.param == "jsonl":
        lines = (json.dumps({"name": n, "vec": v}) for n, v in zip(names, vectors.tolist(), strict=True))
        path.write_text("\n".join(lines))
    else:
        mark = "," if request.param == "csv" else "\t"
        lines = (f'{n}{mark}"{v}"' for n, v in zip(names, vectors.tolist(), strict=True))
        path.write_text("\n".join([f"name{mark}vec", *lines]))
    return path, ["--vector", "vec", "--id", "name"]


def test_index_reads_every_kind_of_file(data, bridge, vectors, tmp_path):
    path, columns = data
    out = tmp_path / "index"
    summary = succeeds("index", path, "-o", out, *columns)
    assert re.fullmatch(rf"{re.escape(str(out))}: 60 rows, dimension 7, metric cosine, index hnsw, [\d.]+ s\n", summary)
    built = ab.AttentionVectorBridge.open(out)
    assert built.ids() == (list(range(ROWS)) if path.suffix == ".npy" else bridge.ids())
    assert np.array_equal(built.get(built.ids()), vectors)


def test_index_passes_every_option_on(vectors, tmp_path):
    np.save(tmp_path / "docs.npy", vectors)
    options = ["--metric", "l2", "--index", "hnsw", "--m", 5, "--ef-construction", 31, "--ef", 17, "--seed", 3]
    result = json.loads(
        succeeds("index", tmp_path / "docs.npy", "-o", tmp_path / "a", *options, "--threads", 1, "--json")
    )
    assert result.pop("seconds") >= 0
    assert result == {"folder": str(tmp_path / "a"), "rows": ROWS, "dim": DIM, "metric": "l2", "index": "hnsw"}
    config = ab.AttentionVectorBridge.open(tmp_path / "a").config
    assert {name: config[name] for name in ("M", "ef_construction", "ef", "seed")} == {
        "M": 5, "ef_construction": 31, "ef": 17, "seed": 3,
    }  # fmt: skip


def test_index_of_compressed_rows(vectors, tmp_path):
    np.save(tmp_path / "docs.npy", vectors)
    for name, args, expected in (
        ("a", ["--dtype", "int8", "--index-dim", 3, "--freeze"], ("int8", 3, True, True)),
        ("b", ["--dtype", "float16", "--no-full"], ("float16", None, False, False)),
    ):
        succeeds("index", tmp_path / "docs.npy", "-o", tmp_path / name, *args)
        config = ab.AttentionVectorBridge.open(tmp_path / name).config
        assert tuple(config[name] for name in ("dtype", "index_dim", "keep_full", "frozen")) == expected
    message = "keep_full=False must go with dtype='float16' or 'int8', got 'float32'"
    assert message in fails("index", tmp_path / "docs.npy", "-o", tmp_path / "c", "--no-full")


def test_index_threads_reach_the_bridge(vectors, tmp_path, monkeypatch):
    np.save(tmp_path / "docs.npy", vectors)
    seen = {}
    build = ab.AttentionVectorBridge.from_file.__func__

    def spy(cls, *args, **options):
        seen.update(options)
        return build(cls, *args, **options)

    monkeypatch.setattr(ab.AttentionVectorBridge, "from_file", classmethod(spy))
    succeeds("index", tmp_path / "docs.npy", "-o", tmp_path / "a", "--threads", 2)
    assert seen == {
        "payload": None, "progress": True, "metric": "cosine", "index": "auto", "threads": 2,
        "dtype": "float32", "index_dim": None, "keep_full": True,
    }  # fmt: skip
    assert succeeds("index", tmp_path / "docs.npy", "-o", tmp_path / "b", "--quiet") == ""
    assert seen["progress"] is False


def test_exact_index_takes_no_graph_options(tmp_path):
    message = fails("index", "docs.npy", "-o", tmp_path / "a", "--index", "exact", "--m", 5, "--threads", 1, code=2)
    assert message == "Error: --index exact has no graph to apply --m, --threads to"


def test_index_overwrites_only_when_told(vectors, tmp_path):
    np.save(tmp_path / "docs.npy", vectors)
    np.save(tmp_path / "fewer.npy", vectors[:3])
    succeeds("index", tmp_path / "docs.npy", "-o", tmp_path / "a")
    message = fails("index", tmp_path / "fewer.npy", "-o", tmp_path / "a")
    assert "holds an index already" in message
    assert "--overwrite" in message
    assert len(ab.AttentionVectorBridge.open(tmp_path / "a")) == ROWS
    succeeds("index", tmp_path / "fewer.npy", "-o", tmp_path / "a", "--overwrite")
    assert len(ab.AttentionVectorBridge.open(tmp_path / "a")) == 3


def test_index_refuses_a_folder_before_it_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(ab.AttentionVectorBridge, "from_file", lambda *a, **o: pytest.fail("built an index"))
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds other files" in fails("index", "docs.npy", "-o", tmp_path, "--overwrite")
    assert "is a file" in fails("index", "docs.npy", "-o", tmp_path / "notes.txt")
    below = fails("index", "docs.npy", "-o", tmp_path / "notes.txt" / "index")
    assert f"{tmp_path / 'notes.txt'} is a file" in below or "Not a directory" in below
    assert (tmp_path / "notes.txt").read_text() == "mine"
    monkeypatch.setattr(os, "access", lambda *a: False)
    assert "no permission" in fails("index", "docs.npy", "-o", tmp_path / "new")


def test_failed_index_leaves_no_folder(tmp_path):
    np.save(tmp_path / "docs.npy", np.full((2, 3), np.nan))
    assert "row 0" in fails("index", tmp_path / "docs.npy", "-o", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps({"embedding": row}) for row in rows))


def test_index_names_what_is_wrong_with_the_data(tmp_path):
    out = ["-o", tmp_path / "a"]
    missing = tmp_path / "none.parquet"
    assert fails("index", missing, *out) == f"Error: data must be a file, but {missing} does not exist"
    assert f"{tmp_path} is a folder" in fails("index", tmp_path, *out)
    write_jsonl(tmp_path / "d.jsonl", [[1.0, 2.0], [3.0]])
    assert "its columns are: embedding" in fails("index", tmp_path / "d.jsonl", *out, "--vector", "vec")
    assert "id must name a column" in fails("index", tmp_path / "d.jsonl", *out, "--id", "name")
    assert "row 1 has 1 values, row 0 has 2" in fails("index", tmp_path / "d.jsonl", *out)
    (tmp_path / "d.txt").write_text("1 2")
    assert ".parquet" in fails("index", tmp_path / "d.txt", *out)
    for name in ("bad.npy", "bad.parquet"):
        (tmp_path / name).write_bytes(b"garbage")
        assert "cannot be read" in fails("index", tmp_path / name, *out)
    assert "allow_pickle" not in fails("index", tmp_path / "bad.npy", *out)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    assert "cannot be read: it is a damaged archive" in fails("index", tmp_path / "bad.npz", *out)


@pytest.mark.filterwarnings("default")
def test_without_hnswlib_a_line_says_so(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge_module, "hnswlib_problem", lambda: "hnswlib is not installed")
    np.save(tmp_path / "docs.npy", vectors)
    result = run("index", tmp_path / "docs.npy", "-o", tmp_path / "a", "--json")
    assert result.exit_code == 0
    assert result.stderr == "Warning: searching exactly, without hnswlib: hnswlib is not installed\n"
    assert json.loads(result.stdout)["index"] == "exact"


# ---- search


def as_json(hits):
    """Return what --json must print, timings left out."""
    return {
        "hits": [
            {
                **hit._asdict(),
                "parts": {n: None if np.isnan(v[i]) else v[i] for n, v in hits.parts.items()},
                "payload": hits.payload[i],
            }
            for i, hit in enumerate(hits)
        ],
        "candidates": hits.candidates,
        "complete": True,
    }


def searched(*args):
    document = json.loads(succeeds("search", *args, "--json"), parse_constant=pytest.fail)
    for found in document if isinstance(document, list) else [document]:
        timings = found.pop("timings")
        assert timings["total"] == pytest.approx(sum(v for n, v in timings.items() if n != "total"))
    return document


def test_every_form_of_one_query_gives_the_library_s_hits(folder, bridge, vectors, tmp_path):
    query = vectors[3] + vectors[5]
    np.save(tmp_path / "q.npy", query)
    (tmp_path / "q.json").write_text(json.dumps(query.tolist()))
    expected = as_json(bridge.search(query))
    assert len(expected["hits"]) == 10
    assert searched(folder, "--vector", tmp_path / "q.npy") == expected
    assert searched(folder, "--vector", tmp_path / "q.json") == expected
    assert searched(folder, "--vector-json", json.dumps(query.tolist())) == expected
    assert searched(folder, "--like", "doc3") == as_json(bridge.search(id="doc3"))


def test_every_form_of_several_queries_gives_a_list(folder, bridge, vectors, tmp_path):
    queries = vectors[:3]
    np.save(tmp_path / "q.npy", queries)
    (tmp_path / "q.json").write_text(json.dumps(queries.tolist()))
    expected = [as_json(hits) for hits in bridge.search_batch(queries, k=2)]
    assert searched(folder, "--vector", tmp_path / "q.npy", "-k", 2) == expected
    assert searched(folder, "--vector", tmp_path / "q.json", "-k", 2) == expected
    assert searched(folder, "--vector-json", json.dumps(queries.tolist()), "-k", 2) == expected
    assert searched(folder, "--vector-json", json.dumps(queries[:1].tolist()), "-k", 2) == expected[:1]


def test_search_passes_every_option_on(folder, bridge):
    expected = bridge.search(id="doc3", k=4, candidates=20, offset=2, threshold=-1.0, exact=True)
    options = ["-k", 4, "--candidates", 20, "--offset", 2, "--threshold", -1.0, "--exact"]
    assert searched(folder, "--like", "doc3", *options) == as_json(expected)
    assert expected.candidates == 20
    assert searched(folder, "--like", "doc3", "--threshold", 1e9)["hits"] == []


def test_expansion_options_reach_the_stage(folder, bridge):
    plain = bridge.search(id="doc3", rerank=ab.QueryExpansion())
    assert searched(folder, "--like", "doc3", "--rerank", "expansion") == as_json(plain)
    own = bridge.search(id="doc3", rerank=ab.QueryExpansion(top=3, scale=2.0, mix=0.9))
    assert searched(folder, "--like", "doc3", "--rerank", "expansion(3, scale=2.0, mix=0.9)") == as_json(own)
    assert own != plain


def test_late_interaction_uses_stored_or_given_tokens(folder, bridge, vectors, tokens, tmp_path):
    like = bridge.search(id="doc3", rerank=ab.LateInteraction(mix=0.3))
    options = ["--rerank", "late_interaction(mix=0.3)"]
    assert searched(folder, "--like", "doc3", *options) == as_json(like)

    np.save(tmp_path / "tokens.npy", tokens[7])
    given = bridge.search(id="doc3", query_tokens=tokens[7], rerank=ab.LateInteraction())
    options = ["--rerank", "late_interaction", "--query-tokens", tmp_path / "tokens.npy"]
    assert searched(folder, "--like", "doc3", *options) == as_json(given)

    np.save(tmp_path / "several.npy", np.stack([tokens[7][:2], tokens[8][:2]]))
    several = bridge.search_batch(vectors[:2], query_tokens=[tokens[7][:2], tokens[8][:2]], rerank=ab.LateInteraction())
    options = ["--rerank", "late_interaction", "--query-tokens", tmp_path / "several.npy"]
    assert searched(folder, "--vector-json", json.dumps(vectors[:2].tolist()), *options) == [
        as_json(hits) for hits in several
    ]


def test_stages_run_in_the_order_given(folder, bridge):
    for stages in (
        [ab.QueryExpansion(), ab.LateInteraction()],
        [ab.LateInteraction(), ab.QueryExpansion()],
    ):
        expected = as_json(bridge.search(id="doc3", rerank=stages))
        options = [word for stage in stages for word in ("--rerank", stage.name)]
        assert searched(folder, "--like", "doc3", *options) == expected
        assert searched(folder, "--like", "doc3", "--rerank", ", ".join(map(repr, stages))) == expected


def test_default_is_passed_on_as_text(folder, monkeypatch):
    """What it stands for is the bridge's to say."""
    seen = []

    def search(self, *args, rerank, **options):
        seen.append(rerank)
        return original(self, *args, **options)

    original = ab.AttentionVectorBridge.search
    monkeypatch.setattr(ab.AttentionVectorBridge, "search", search)
    searched(folder, "--like", "doc3", "--rerank", "default")
    assert seen == ["default"]


@dataclasses.dataclass(frozen=True)
class Letters:
    """Score candidates by the length of the query's words."""

    name: ClassVar[str] = "letters"
    level: ClassVar[str] = "scores"
    requires_tokens: ClassVar[bool] = False
    requires_text: ClassVar[bool] = True

    def apply(self, pool):
        pool.parts[self.name] = pool.scores = pool.scores * 0.0 + len(pool.query_text)


def test_query_text_reaches_stages_that_read_it(folder, vectors, monkeypatch):
    monkeypatch.setattr(rerank, "STAGES", (*rerank.STAGES, Letters))
    words = ["--rerank", "letters", "--query-text", "four"]
    assert {hit["score"] for hit in searched(folder, "--like", "doc3", *words)["hits"]} == {4.0}
    several = json.dumps(vectors[:2].tolist())
    found = searched(folder, "--vector-json", several, *words, "--query-text", "seventeen")
    assert [hits["hits"][0]["score"] for hits in found] == [4.0, 9.0]
    message = fails("search", folder, "--like", "doc3", "--rerank", "letters", code=2)
    assert message == "Error: --rerank letters needs --query-text TEXT"
    message = fails("search", folder, "--like", "doc3", *words, "--query-text", "more", code=2)
    assert message == "Error: --query-text must be given once for one query, got 2"
    assert "must have one text for each of 2 queries, got 1" in fails(
        "search", folder, "--vector-json", several, *words
    )


def test_query_tokens_reach_an_index_that_ranks_by_them(vectors, tokens, tmp_path):
    made = ab.AttentionVectorBridge(DIM, attention="cross", index="exact")
    made.add(vectors, tokens=tokens)
    made.save(tmp_path / "cross")
    np.save(tmp_path / "tokens.npy", tokens[7])
    expected = made.search(id=3, query_tokens=tokens[7])
    assert searched(tmp_path / "cross", "--like", 3, "--query-tokens", tmp_path / "tokens.npy") == as_json(expected)


def test_parts_that_are_no_numbers_become_null(vectors, tmp_path):
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(vectors[:3], tokens=[np.eye(2), np.eye(2), None])
    made.save(tmp_path / "a")
    found = searched(tmp_path / "a", "--like", 0, "--rerank", "late_interaction")
    parts = {hit["id"]: hit["parts"]["late_interaction"] for hit in found["hits"]}
    assert parts == {1: 1.0, 2: None}


def test_like_is_a_number_where_ids_are(numbered, vectors, tmp_path):
    assert searched(numbered, "--like", "3", "-k", 1)["hits"][0]["id"] != 3
    message = fails("search", numbered, "--like", "doc3")
    assert message == "Error: --like must be a whole number, as this index's ids are; got 'doc3'"
    assert fails("search", numbered, "--like", "900").startswith("Error: id 900 is not in the index")
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(vectors[:2], ["7", "-8"])
    made.save(tmp_path / "digits")
    assert searched(tmp_path / "digits", "--like", "7")["hits"][0]["id"] == "-8"
    assert searched(tmp_path / "digits", "--like", "-8")["hits"][0]["id"] == "7"


def test_table_shows_the_hits(folder, bridge):
    out = succeeds("search", folder, "--like", "doc3", "-k", 4)
    hits = bridge.search(id="doc3", k=4)
    assert re.match(r"4 of 59 candidates, [\d.]+ ms\nrank +id +score +weight +distance +rank before *\n", out)
    for rank, (row, hit) in enumerate(zip(cells(out), hits, strict=True), 1):
        assert row[:2] == [str(rank), hit.id]
        assert [float(cell) for cell in row[2:5]] == pytest.approx([hit.score, hit.weight, hit.distance], abs=1e-4)
        assert int(row[5]) == hit.rank_before + 1


def test_table_of_several_queries_numbers_them(folder, vectors):
    out = succeeds("search", folder, "--vector-json", json.dumps(vectors[:2].tolist()), "-k", 1)
    assert re.findall(r"^query \d: 1 of 60 candidates", out, re.M) == [
        "query 1: 1 of 60 candidates",
        "query 2: 1 of 60 candidates",
    ]


@pytest.fixture(scope="module")
def odd_ids():
    return ["x" * 300, "[red]markup[/red]", "two\nlines", "esc\x1b[31m", "日本語"]


@pytest.fixture(scope="module")
def odd(odd_ids, vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("indexes") / "odd"
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(vectors[:5], odd_ids)
    made.save(path)
    return path


def test_table_outside_a_terminal_is_whole_and_plain(odd, odd_ids, vectors):
    """Whatever the environment asks for: FORCE_COLOR and a narrow COLUMNS are there in many CI systems."""
    env = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "40", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "attnbridge", "search", odd, "--vector-json", json.dumps(vectors[0].tolist())],
        capture_output=True, timeout=120, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode()
    assert "\x1b" not in out
    assert len(cells(out)) == 5
    for name in odd_ids:
        assert (name if name.isprintable() else repr(name)) in out
    assert len({cell_len(line) for line in out.splitlines()[1:]}) == 1  # columns line up


def test_terminal_s_encoding_may_lack_an_id(odd, vectors):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = shell("search", odd, "--vector-json", json.dumps(vectors[0].tolist()), env=env)
    assert done.returncode == 0, done.stderr
    assert r"\u65e5\u672c\u8a9e" in done.stdout
    hits = json.loads(shell("search", odd, "--vector-json", json.dumps(vectors[0].tolist()), "--json", env=env).stdout)
    assert "日本語" in [hit["id"] for hit in hits["hits"]]


# ---- search: wrong usage and bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give one query: either --like, --vector or --vector-json"),
        (["--like", "a", "--vector-json", "[1]"], "give one query: either --like, --vector or --vector-json"),
        (["--like", "a", "-k", "0"], "Invalid value for '-k': 0 is not in the range x>=1."),
        (["--like", "a", "-k", "-3"], "Invalid value for '-k': -3 is not in the range x>=1."),
        (["--like", "a", "--candidates", "0"], "Invalid value for '--candidates': 0 is not in the range x>=1."),
        (["--like", "a", "--offset", "-1"], "Invalid value for '--offset': -1 is not in the range x>=0."),
        (["--like", "a", "--query-text", "t"], "--query-text needs a --rerank stage that reads the query's words"),
        (
            ["--vector-json", "[1]", "--rerank", "late_interaction"],
            "--rerank late_interaction needs --query-tokens FILE, or --like",
        ),
        (["--vector", "q.txt"], "--vector must be a .npy or .json file, got q.txt"),
    ],
)
def test_wrong_usage(folder, args, message):
    assert fails("search", folder, *args, code=2).startswith(f"Error: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "--vector-json must be JSON such as [0.1, 0.2]: Expecting"),
        ("", "--vector-json must be JSON such as [0.1, 0.2]: Expecting"),
        ("[" * 100_000, "--vector-json must be JSON such as [0.1, 0.2]: "),
        ('{"a": 1}', "--vector-json must be numbers in rows of one length"),
        ('["a"]', "--vector-json must be real numbers"),
        ("[1, 2]", "query must have dimension 7, got 2"),
        ("[[1, 2]]", "queries must have dimension 7, got 2"),
        ("[[1, 2], [3]]", "--vector-json must be rows of one length: row 0 has 2 values, row 1 has 1"),
        ("[]", "query must not be empty"),
        ("[NaN, 1, 1, 1, 1, 1, 1]", "query must be finite: position 0 is nan"),
        ("[0, 0, 0, 0, 0, 0, 0]", "query must not hold zero vectors under metric='cosine'"),
    ],
)
def test_bad_query(folder, text, message):
    assert fails("search", folder, "--vector-json", text).startswith(f"Error: {message}")


def test_bad_query_file(folder, tmp_path):
    def message(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        return fails("search", folder, "--vector", tmp_path / name)

    assert message("none.json") == f"Error: {tmp_path / 'none.json'}: No such file or directory"
    assert "No such file" in message("none.npy")
    assert "must be JSON such as" in message("q.json", b"{")
    assert "must be JSON in UTF-8" in message("q.json", b"\xff\xfe")
    assert "cannot be read" in message("q.npy", b"garbage")
    assert "cannot be read" in message("q.npy", b"")
    np.savez(tmp_path / "two.npz", a=np.eye(2), b=np.eye(2))
    assert "must hold one array" in message("q.npy", (tmp_path / "two.npz").read_bytes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "rerank names no stage 'magic'; the stages are: attention_rerank, "),
        ("expansion(", "rerank must be stages written as in Python, such as "),
        ("expansion(magic=1)", "rerank: "),
        ("expansion(mix=2)", "mix must be a finite number >= 0, at most 1, got 2"),
    ],
)
def test_bad_stages(folder, text, message):
    assert message in fails("search", folder, "--like", "doc1", "--rerank", text)


def test_bad_tokens(folder, numbered, tmp_path):
    np.save(tmp_path / "t.npy", np.eye(3))
    late = ["--rerank", "late_interaction"]
    message = fails("search", folder, "--like", "doc1", *late, "--query-tokens", tmp_path / "t.npy")
    assert message == "Error: query_tokens must have the stored tokens' dimension 5, got 3"
    assert "needs stored tokens" in fails("search", numbered, "--like", "1", *late)
    message = fails("search", folder, "--like", "doc1", "--query-tokens", tmp_path / "t.npy")
    assert message.startswith("Error: query_tokens are read by no stage")


def test_unknown_id_is_named(folder):
    assert fails("search", folder, "--like", "docX").startswith("Error: id 'docX' is not in the index")


# ---- info


def test_info_tells_what_is_there(folder, numbered):
    about = json.loads(succeeds("info", folder, "--json"))
    (snapshot,) = folder.glob("snapshot-*")
    files = {path.name: path.stat().st_size for path in snapshot.iterdir() if path.name != "manifest.json"}
    assert about == {
        "folder": str(folder),
        "format_version": 3,
        "snapshot": snapshot.name,
        "rows": ROWS,
        "dead_rows": 0,
        "linked_rows": 0,
        "dim": DIM,
        "model": None,
        "tokens": True,
        "payload": {},
        "config": {
            "metric": "cosine",
            "attention": "scaled_dot",
            "options": {"scale": 20.0},
            "dtype": "float32",
            "index_dim": None,
            "keep_full": True,
            "token_dtype": "float16",
            "candidates": 100,
            "index": "hnsw",
            "engine": "native",
            "frozen": False,
            "hnsw": {"M": 16, "ef_construction": 200, "ef": 100, "seed": 100},
        },
        "files": files,
        "bytes": sum(files.values()),
        "journal_bytes": 0,
    }
    exact = json.loads(succeeds("info", numbered, "--json"))
    assert exact["tokens"] is False
    assert "hnsw" not in exact["config"]


def test_info_for_people_holds_the_same(folder):
    lines = {tuple(line.split(maxsplit=1)) for line in map(str.strip, succeeds("info", folder).splitlines())}
    about = json.loads(succeeds("info", folder, "--json"))
    assert {("rows", "60"), ("dim", "7"), ("tokens", "yes"), ("metric", "cosine"), ("scale", "20.0")} <= lines
    assert {(name, f"{size} bytes") for name, size in about["files"].items()} <= lines
    assert ("snapshot", about["snapshot"]) in lines
    assert ("M", "16") in lines


@pytest.mark.parametrize(
    "command",
    [["info"], ["search", "--like", "a"], ["audit"], ["tune"], ["compact"], ["delete", "a"]],
    ids=lambda command: command[0],
)
def test_folder_that_is_no_index(command, tmp_path, vectors):
    name, *options = command
    missing = tmp_path / "none"
    assert fails(name, missing, *options).startswith(f"Error: folder {missing} does not exist")
    assert "is no index" in fails(name, tmp_path, *options)
    graph = HnswIndex(DIM)
    graph.add(vectors, np.arange(ROWS))
    graph.save(tmp_path / "graph")
    assert "holds a HnswIndex, not a AttentionVectorBridge" in fails(name, tmp_path / "graph", *options)


@pytest.mark.parametrize("command", [["verify"], ["search", "--like", "0"]], ids=["verify", "search"])
def test_damaged_index_names_the_file(command, numbered, vectors, tmp_path):
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(vectors)
    made.save(tmp_path / "a")
    (rows,) = (tmp_path / "a").glob("snapshot-*/rows.npy")
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    name, *options = command
    assert fails(name, tmp_path / "a", *options).startswith(f"Error: {rows} is damaged")


# ---- warmup

# What a search engine does on its first day; every kernel it calls must have been compiled by warmup.
_FIRST_DAY = """
import sys, tempfile
import numpy as np, attnbridge as ab
from importlib import import_module
from pkgutil import iter_modules
from click.testing import CliRunner
from attnbridge import kernels
from attnbridge.cli import cli

def compiled():
    found = [vars(import_module(f"attnbridge.kernels.{m.name}")).values() for m in iter_modules(kernels.__path__)]
    return {f"{f.__name__}{s}" for values in found for f in values for s in getattr(f, "signatures", ())}

done = CliRunner().invoke(cli, ["warmup"])
assert done.exit_code == 0, done.output
ready = compiled()
rows = np.random.default_rng(1).standard_normal((50, 12)) / 10
tokens = [np.ones((i % 4, 5)) for i in range(50)]
late = ab.LateInteraction()
for metric in ("cosine", "ip", "l2", "poincare"):
    for index in ("auto", "exact"):
        attention = "poincare" if metric == "poincare" else "scaled_dot"
        made = ab.AttentionVectorBridge(12, metric, attention, index=index)
        made.add(rows, tokens=tokens, payload={"n": list(range(50))})
        with tempfile.TemporaryDirectory() as folder:
            made.save(folder)
            for bridge in (made, ab.AttentionVectorBridge.open(folder, mmap=False)):
                bridge.search(rows[0].tolist(), k=3, threshold=0.0, offset=1)
                bridge.search(rows[0], k=40, exact=True)
                bridge.search(id=3, rerank=[ab.QueryExpansion(), late])
                bridge.search_batch(rows, filter=list(range(10, 40)))
                bridge.search_batch(rows[:2], where=["n > 3", None], filter=[None, [1, 2, 3]])
                bridge.search(rows[0], where="n > $n", params={"n": 40}, exact=True, time_budget=60.0)
                bridge.search(rows[0], radius=1.0, rerank=ab.QueryExpansion())
                bridge.search(rows[0], radius=1.0, filter=[1, 2, 3], k=2, exact=True)
                bridge.search_batch(rows, radius=1.0, where="n < 3", time_budget=60.0)
                bridge.audit(3, sample=5, selectivities=[1.0, 0.2], progress=False)
                if index == "auto":
                    bridge.tune(0.5, k=3, sample=5, progress=False)
                bridge.search_batch(rows[:1], query_tokens=[np.ones((2, 5))], query_token_weights=[[1, 2]], rerank=late)
                bridge.delete([5])
                bridge.add(rows[:3])
                bridge.search(rows[0])
                bridge.compact()
                bridge.search(rows[0], radius=1.0)
keys = rows.astype(np.float32)
ab.attention(keys, keys, keys)
ab.attention_scores(keys[0].tolist(), keys)
ab.softmax([1.0, 2.0])
ab.AttentionDistance("scaled_dot")(keys[0], keys[1])
print(len(ready), sorted(compiled() - ready))
"""


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
def test_warmup_compiles_the_common_path():
    done = subprocess.run([sys.executable, "-c", _FIRST_DAY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, late = done.stdout.split(maxsplit=1)
    assert int(count) > 10
    assert late.strip() == "[]"


def test_warmup_says_where_and_how_long():
    assert re.fullmatch(rf"{re.escape(str(_jit.CACHE_FOLDER))}: ready in [\d.]+ s\n", succeeds("warmup"))
    assert succeeds("warmup", "--quiet") == ""


def test_warmup_needs_a_folder_that_lasts(monkeypatch, tmp_path):
    monkeypatch.setattr(_jit, "CACHE_FOLDER", tmp_path / f"attnbridge-{_jit.source_key()}-x7k2")
    assert "NUMBA_CACHE_DIR" in fails("warmup")


# ---- as a process among others


def test_exit_codes_and_streams_of_a_process(folder, tmp_path):
    done = shell("search", folder, "--like", "doc3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["hits"]) == 10
    done = shell("info", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .+\n", done.stderr)
    done = shell("search", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


# A command that meets something in its midst: from_file is where `index` spends its time.
_INTERRUPTED = """
import os, signal, sys, time
import attnbridge as ab
from attnbridge.integrations import HnswIndex
from attnbridge.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
ab.AttentionVectorBridge.from_file = lambda *a, **o: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60))
sys.argv = ["attnbridge", "index", "docs.npy", "-o", "never-made"]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_with_130(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_reader_that_leaves_causes_no_noise(folder, form):
    command = [sys.executable, "-m", "attnbridge", "search", str(folder), "--like", "doc3", *form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything is written: it must find the pipe broken
        stderr = process.stderr.read()
        process.wait(timeout=120)
    assert stderr == b""
    assert process.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="/dev/full is Linux's")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_full_disk_behind_stdout_is_an_error(folder):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "attnbridge", "info", str(folder), "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device\n"
