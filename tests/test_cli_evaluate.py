"""`attnbridge evaluate` and `attnbridge tune-rerank`: evaluation folders, saved indexes, runs, bad input."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

import attnbridge as ab
import attnbridge.cli as command_line
from attnbridge import rerank
from attnbridge.integrations import Collection, read_collection, read_run

pytest.importorskip("ir_measures")

ROWS, QUERIES, DIM, TOKEN_DIM = 41, 11, 7, 5
SCALE = 0.01


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
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def values(*args):
    """Return {system: {measure: value}} of a command that prints JSON."""
    about = json.loads(succeeds(*args, "--json"))
    about = about.get("held_out", about)
    return {
        one["system"]: {name: figures["value"] for name, figures in one["measures"].items()} for one in about["systems"]
    }


def write_folder(folder, *, tokens="int8", ids="jsonl", qrels="split"):
    """Write an evaluation folder, and return its arrays and judgements as the library takes them."""
    rng = np.random.default_rng(17)
    folder.mkdir()
    vectors = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    queries = rng.standard_normal((QUERIES, DIM)).astype(np.float32)
    np.save(folder / "docs.npy", vectors)
    np.save(folder / "queries.npy", queries)
    near = np.argsort(-(queries @ vectors.T), axis=1)
    judged = {f"q{i}": {f"d{row}": 1 + int(row) % 2 for row in near[i][i % 3 : 9 : 2]} for i in range(QUERIES - 2)}
    doc_ids, query_ids = [f"d{i}" for i in range(ROWS)], [f"q{i}" for i in range(QUERIES)]
    if ids == "jsonl":
        lines = [{"_id": id, "title": f"Title {id}", "text": f"text of {id}"} for id in doc_ids]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        lines = [{"id": id, "text": f"words of {id}"} for id in query_ids]
        (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        (folder / "doc_ids.json").write_text(json.dumps(doc_ids))
        (folder / "query_ids.json").write_text(json.dumps(query_ids))
    rows = [(query, id, grade) for query, grades in judged.items() for id, grade in grades.items()]
    if qrels == "split":
        text = "".join(f"{q}\t{d}\t{g}\ttest\n" for q, d, g in rows) + "q10\td1\t1\ttrain\n"
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\tsplit\n" + text)
    elif qrels == "beir":
        (folder / "qrels").mkdir()
        head = "query-id\tcorpus-id\tscore\n"
        (folder / "qrels" / "test.tsv").write_text(head + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in rows))
        (folder / "qrels" / "train.tsv").write_text(head + "q10\td1\t1\n")
    else:
        (folder / "qrels.txt").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in rows))
    found = Collection(doc_ids, vectors, query_ids, queries, judged)
    return found if tokens is None else write_tokens(folder, tokens, found, rng)


def write_tokens(folder, kind, found, rng):
    lengths = [i % 4 for i in range(ROWS)]  # some have none
    codes = rng.integers(-127, 128, (sum(lengths), TOKEN_DIM)).astype(np.int8)
    if kind == "int8":
        np.save(folder / "doc_tokens_i8.npy", codes)
        (folder / "meta.json").write_text(json.dumps({"token_scale": SCALE, "more": "x"}))
    else:
        np.save(folder / "doc_tokens.npy", (codes * SCALE).astype(kind))
    np.save(folder / "doc_token_offsets.npy", np.cumsum([0, *lengths]))
    query_lengths = [1 + i % 3 for i in range(QUERIES)]
    query_tokens = rng.standard_normal((sum(query_lengths), TOKEN_DIM)).astype(np.float32)
    np.save(folder / "query_tokens.npy", query_tokens)
    np.save(folder / "query_token_offsets.npy", np.cumsum([0, *query_lengths]))
    decoded = np.split(codes.astype(np.float32) * np.float32(SCALE), np.cumsum(lengths)[:-1])
    of_queries = np.split(query_tokens, np.cumsum(query_lengths)[:-1])
    return Collection(
        found.ids,
        found.vectors,
        found.query_ids,
        found.queries,
        found.qrels,
        tokens=decoded,
        query_tokens=of_queries,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return an evaluation folder and what it holds."""
    folder = tmp_path_factory.mktemp("evaluation") / "mine"
    return folder, write_folder(folder)


def bridge_of(content, **options):
    bridge = ab.AttentionVectorBridge(DIM, index="exact", **options)
    bridge.add(content.vectors, content.ids, tokens=content.tokens)
    return bridge


def expected(content, systems, **options):
    found = ab.evaluate(
        bridge_of(content),
        content.queries,
        content.qrels,
        systems,
        query_ids=content.query_ids,
        query_tokens=content.query_tokens,
        rounds=0,
        **options,
    )
    return {
        name: {measure: found.intervals[name][measure].mean for measure in found.measures} for name in found.systems
    }


# ---- evaluate


def test_figures_are_those_of_the_library(made):
    folder, content = made
    systems = ["expansion(mix=0.8)", "late_interaction", "expansion, late_interaction(mix=0.2)"]
    options = [word for text in systems for word in ("--rerank", text)]
    found = values("evaluate", folder, "--index", "exact", "--rounds", 0, *options)
    assert found == expected(content, systems)
    assert list(found) == ["plain", *systems]
    table = succeeds("evaluate", folder, "--rounds", 1, *options)
    assert "9 judged queries, 100 hits each" in table
    assert table.splitlines()[1].split()[-1] == "queries/s"
    assert f"{found['late_interaction']['MAP']:.4f}" in table


def test_options_are_passed_on(made):
    folder, content = made
    options = ["-k", 12, "--candidates", 20, "--metric", "ip", "--measure", "P@3", "--measure", "recall@12"]
    found = values("evaluate", folder, "--index", "exact", "--rerank", "expansion", "--rounds", 0, *options)
    bridge = ab.AttentionVectorBridge(DIM, "ip", index="exact")
    bridge.add(content.vectors, content.ids)
    reference = ab.evaluate(
        bridge,
        content.queries,
        content.qrels,
        "expansion",
        query_ids=content.query_ids,
        k=12,
        candidates=20,
        measures=["P@3", "recall@12"],
        rounds=0,
    )
    for system in ("plain", "expansion"):
        assert found[system] == {name: reference.intervals[system][name].mean for name in ("P@3", "recall@12")}
    about = json.loads(succeeds("evaluate", folder, "--rounds", 1, "--threads", 2, "--json"))
    assert (about["queries"], about["k"], about["threads"], about["folder"]) == (9, 100, 2, str(folder))
    assert about["systems"][0]["queries_per_second"] > 0
    lows = {json.loads(succeeds("evaluate", folder, "--rounds", 0, "--seed", seed, "--json"))["systems"][0]["measures"][
        "MAP"
    ]["low"] for seed in (1, 1, 2)}  # fmt: skip
    assert len(lows) == 2


@pytest.mark.parametrize("index", ["hnsw", "exact", None])
def test_index_is_the_one_asked_for(made, index, monkeypatch):
    seen = []
    start = ab.AttentionVectorBridge.__init__

    def remembered(self, *args, **options):
        start(self, *args, **options)
        seen.append(options["index"])

    monkeypatch.setattr(ab.AttentionVectorBridge, "__init__", remembered)
    succeeds("evaluate", made[0], "--rounds", 0, *([] if index is None else ["--index", index]))
    assert seen == [index or "auto"]


@pytest.mark.parametrize(
    "form",
    [
        {"tokens": "float16", "ids": "json", "qrels": "trec"},
        {"tokens": "float32", "qrels": "beir"},
        {"tokens": None, "qrels": "beir"},
    ],
)
def test_forms_of_a_folder(tmp_path, form):
    content = write_folder(tmp_path / "a", **form)
    systems = ["expansion"] if form["tokens"] is None else ["late_interaction"]
    options = ["--index", "exact", "--rounds", 0, "--rerank", *systems]
    if form["tokens"] == "float16":
        halves = [tokens.astype(np.float16) for tokens in content.tokens]
        assert_array_equal(np.concatenate(read_collection(tmp_path / "a").tokens), np.concatenate(halves))
    assert values("evaluate", tmp_path / "a", *options) == expected(content, systems)
    if form["qrels"] == "beir":
        assert json.loads(succeeds("evaluate", tmp_path / "a", "--split", "train", "--json"))["queries"] == 1


def test_batches_do_not_matter(made, monkeypatch):
    folder, content = made
    monkeypatch.setattr("attnbridge.integrations.collection._BATCH", 13)
    bridge = read_collection(folder).bridge("exact", text=True)
    assert bridge.ids() == content.ids
    assert_array_equal(bridge.get(content.ids), content.vectors)
    for stored, given in zip(bridge.get_tokens(content.ids), content.tokens, strict=True):
        assert_allclose(stored, given, rtol=1e-6)  # int8 codes stay what they are
    assert bridge.payload("d30") == {"text": "Title d30 text of d30"}
    assert read_collection(folder).bridge("exact", tokens=False).memory()["tokens"] == 0


def test_stages_that_read_text(made, tmp_path, monkeypatch):
    class Words:
        name, level, requires_tokens, requires_text = "words", "scores", False, True

        def apply(self, pool):
            assert pool.index.column("text", pool.rows)[0].startswith("Title d")
            pool.parts["words"] = pool.scores = np.full(len(pool.rows), float(pool.query_text.startswith("words of q")))

    monkeypatch.setattr(rerank, "STAGES", (*rerank.STAGES, Words))
    succeeds("evaluate", made[0], "--rerank", "words", "--rounds", 0, "--run-dir", tmp_path / "runs")
    assert next(iter(read_run(tmp_path / "runs" / "words.run")["q3"].values())) == 1.0
    write_folder(tmp_path / "ids", ids="json")
    message = fails("evaluate", tmp_path / "ids", "--rerank", "words")
    assert message == f"words needs texts, {tmp_path / 'ids'} has only ids: corpus.jsonl and queries.jsonl hold both"
    with_words = succeeds("tune-rerank", made[0], "--only-grid", "--grid", "words", "--folds", 2)
    assert "Best nDCG@10 of 1 settings and plain" in with_words


def test_runs_out_and_in(made, tmp_path):
    folder, _ = made
    options = ["--index", "exact", "--rounds", 0]
    lines = succeeds("evaluate", folder, *options, "--rerank", "expansion", "--run-dir", tmp_path / "runs").splitlines()
    files = [tmp_path / "runs" / name for name in ("plain.run", "expansion.run")]
    assert lines[-2:] == [str(file) for file in files]
    files[0] = files[0].rename(tmp_path / "stored.run")
    found = values("evaluate", folder, *options, "--run", files[0], "--run", files[1])
    assert found["stored"] == found["plain"]
    assert found["expansion"] == values("evaluate", folder, *options, "--rerank", "expansion")["expansion"]
    assert list(found) == ["plain", "stored", "expansion"]


def test_a_saved_index(made, tmp_path):
    folder, content = made
    bridge_of(content).save(tmp_path / "index")
    rows = [(query, id, grade) for query, grades in content.qrels.items() for id, grade in grades.items()]
    (tmp_path / "qrels.txt").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in rows))
    (tmp_path / "ids.txt").write_text("".join(f"{id}\n" for id in content.query_ids))
    (tmp_path / "ids.json").write_text(json.dumps(content.query_ids))
    tokens = [
        "--query-tokens",
        folder / "query_tokens.npy",
        "--query-token-offsets",
        folder / "query_token_offsets.npy",
    ]
    base = ["evaluate", tmp_path / "index", "--qrels", tmp_path / "qrels.txt", "--queries", folder / "queries.npy"]
    systems = ["expansion", "late_interaction"]
    options = [word for text in systems for word in ("--rerank", text)]
    for ids in (tmp_path / "ids.txt", tmp_path / "ids.json", folder / "queries.jsonl"):
        found = values(*base, "--query-ids", ids, *tokens, *options, "--rounds", 0)
        assert found == expected(content, systems)
    np.save(tmp_path / "dense.npy", np.stack([one[:1] for one in content.query_tokens]))
    succeeds(*base, "--query-ids", ids, "--query-tokens", tmp_path / "dense.npy", "--rerank", "late_interaction")
    for missing in (3, 5):
        short = base[:missing - 1] + base[missing + 1 :]  # fmt: skip
        assert fails(*short, "--query-ids", ids, code=2) == "a saved index needs --qrels, --queries and --query-ids"
    assert fails(*base, code=2) == "a saved index needs --qrels, --queries and --query-ids"
    message = fails(*base, "--query-ids", ids, "--index", "exact", code=2)
    assert message == "--index is for an evaluation folder, this is a saved index"
    message = fails(*base, "--query-ids", ids, *tokens[2:], code=2)
    assert message == "--query-token-offsets needs --query-tokens"
    assert "needs the query's tokens" in fails(*base, "--query-ids", ids, "--rerank", "late_interaction")


# ---- tune-rerank


def test_tuning_is_the_library_s(made):
    folder, content = made
    grid = ["late_interaction(mix=0.4)", "expansion(mix=0.8)"]
    options = ["--index", "exact", "--folds", 3, "--seed", 5, "--measure", "MRR", "--only-grid"]
    about = json.loads(succeeds("tune-rerank", folder, *options, "--grid", grid[0], "--grid", grid[1], "--json"))
    found = ab.tune_rerank(
        bridge_of(content),
        content.queries,
        content.qrels,
        grid,
        query_ids=content.query_ids,
        query_tokens=content.query_tokens,
        folds=3,
        seed=5,
        measure="MRR",
    )
    assert about == {"folder": str(folder), **found.to_dict()}
    assert about["grid"] == grid


def test_grid_is_added_to(made, tmp_path):
    write_folder(tmp_path / "none", tokens=None)
    for folder, late in ((made[0], True), (tmp_path / "none", False)):
        about = json.loads(succeeds("tune-rerank", folder, "--grid", "expansion(top=2)", "--folds", 2, "--json"))
        assert about["grid"][-1] == "expansion(top=2)"
        assert len(about["grid"]) > 5
        assert any("late_interaction" in entry for entry in about["grid"]) == late
    text = succeeds("tune-rerank", made[0], "--folds", 2)
    assert "Choice, on all queries: " in text.splitlines()[-1]


def test_choice_is_text_for_rerank(made, tmp_path):
    """Judged by what one of the settings puts first, that one is found."""
    folder, content = made
    bridge, wanted = bridge_of(content), "expansion(top=20, scale=0.1, mix=0.9)"
    first = [hits.ids[0] for hits in bridge.search_batch(content.queries, 1, rerank=wanted)]
    lines = [f"{query} 0 {id} 1\n" for query, id in zip(content.query_ids, first, strict=True)]
    (tmp_path / "qrels.txt").write_text("".join(lines))
    options = ["--qrels", tmp_path / "qrels.txt", "--index", "exact"]
    about = json.loads(succeeds("tune-rerank", folder, *options, "--folds", 2, "--grid", wanted, "--json"))
    assert about["choice"] == wanted
    assert values("evaluate", folder, *options, "--rerank", about["choice"])[wanted]["MRR"] == 1.0


# ---- bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--queries", "q.npy"], "--queries is for a saved index, which this folder is not"),
        (["--query-ids", "q.txt"], "--query-ids is for a saved index, which this folder is not"),
        (["--run", "a/r.run", "--run", "b/r.run"], "--run files must have names of their own, r is there twice"),
    ],
)
def test_wrong_usage(made, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.run").write_text("q0 Q0 d1 1 1 t\n")
    assert fails("evaluate", made[0], *args, code=2) == message


def test_wrong_usage_of_tuning(made):
    assert fails("tune-rerank", made[0], "--only-grid", code=2) == "--only-grid needs --grid"
    assert "Invalid value for '--folds'" in fails("tune-rerank", made[0], "--folds", 1, code=2)
    assert "rerank names no stage 'magic'" in fails("tune-rerank", made[0], "--grid", "magic")


def test_unknown_ids(made, tmp_path):
    folder, _ = made
    (tmp_path / "q.txt").write_text("q0 0 d1 1\n" + "".join(f"q0 0 x{i} 1\n" for i in range(7)))
    message = fails("evaluate", folder, "--qrels", tmp_path / "q.txt")
    assert message == (
        "qrels must name documents of the index: 7 are not there, the first five 'x0', 'x1', 'x2', 'x3', 'x4'; "
        "ignore_unknown=True (--ignore-unknown) leaves such out"
    )
    options = ["--qrels", tmp_path / "q.txt", "--ignore-unknown", "--rounds", 0]
    assert json.loads(succeeds("evaluate", folder, *options, "--json"))["queries"] == 1
    (tmp_path / "a.run").write_text("q99 Q0 d1 1 0.5 t\n")
    message = fails("evaluate", folder, "--run", tmp_path / "a.run")
    assert message.startswith("runs['a'] must name queries of query_ids: 1 are not there, which are 'q99'; ")
    (tmp_path / "a.run").write_text("")
    assert fails("evaluate", folder, "--run", tmp_path / "a.run").endswith(
        "is empty: a run must hold at least one line"
    )
    (tmp_path / "q.txt").write_text("q0 0 d1 0\n")
    message = fails("evaluate", folder, "--qrels", tmp_path / "q.txt")
    assert message.startswith("qrels must hold at least one relevant document")
    message = fails("evaluate", folder, "--run-dir", tmp_path / "no" / "runs")
    assert message.startswith("--run-dir must be in a folder that is there")


def test_missing_files_are_all_listed(tmp_path):
    assert fails("evaluate", tmp_path / "none").endswith("must be an evaluation folder, there is no such folder")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "query_tokens.npy").write_bytes(b"")
    assert fails("evaluate", tmp_path / "a") == (
        f"{tmp_path / 'a'} lacks corpus.jsonl or doc_ids.json; queries.jsonl or query_ids.json; docs.npy; queries.npy; "
        "qrels.tsv or qrels/test.tsv or qrels.txt; doc_tokens.npy or doc_tokens_i8.npy; doc_token_offsets.npy; "
        "query_token_offsets.npy"
    )
    assert "qrels/dev.tsv" in fails("evaluate", tmp_path / "a", "--split", "dev")


def test_late_interaction_without_tokens_names_the_files(tmp_path):
    write_folder(tmp_path / "a", tokens=None)
    assert fails("evaluate", tmp_path / "a", "--rerank", "late_interaction") == (
        f"late_interaction needs token vectors, {tmp_path / 'a'} has none: doc_tokens.npy (or doc_tokens_i8.npy), "
        "doc_token_offsets.npy, query_tokens.npy and query_token_offsets.npy"
    )


def save(array):
    return lambda path: np.save(path, array)


def archive(path):
    with path.open("wb") as file:
        np.savez(file, a=np.eye(2))


def write(text):
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("docs.npy", save(np.ones((40, 7))), "must have one row for each document: 41 ids, 40 rows"),
        ("queries.npy", save(np.ones((12, 7))), "must have one row for each query: 11 ids, 12 rows"),
        ("queries.npy", save(np.ones((11, 6))), "must have the dimension of docs.npy, 7, got 6"),
        ("docs.npy", save(np.ones(41)), "must be numbers (rows, dimension), got float64 (41,)"),
        ("docs.npy", save(np.full((41, 7), "x")), "must be numbers (rows, dimension), got <U1 (41, 7)"),
        ("docs.npy", archive, "must hold one array (.npy), got an archive"),
        ("docs.npy", write("garbage"), "cannot be read"),
        ("query_tokens.npy", save(np.ones((21, 4))), "must have the documents' token dimension 5, got 4"),
        ("doc_token_offsets.npy", save(np.arange(41)), "must be 42 whole numbers, one more than ids; got int64 (41,)"),
        ("doc_token_offsets.npy", save(np.arange(42.0)), "must be 42 whole numbers, one more than ids; got float64"),
        (
            "doc_token_offsets.npy",
            save(np.arange(42)),
            "must rise from 0 to the 60 rows of doc_tokens_i8.npy, got 0 to 41",
        ),
        (
            "doc_token_offsets.npy",
            save(np.array([0, 9, 3, *[60] * 39])),
            "must rise from 0 to the 60 rows of doc_tokens_i8.npy, got 0 to 60, falling in between",
        ),
        (
            "query_token_offsets.npy",
            save(np.arange(1, 13)),
            "must rise from 0 to the 21 rows of query_tokens.npy, got 1",
        ),
        ("doc_tokens_i8.npy", save(np.ones((60, 5), np.int16)), "must be int8, got int16"),
        ("doc_tokens.npy", save(np.ones((60, 5))), "must hold doc_tokens.npy or doc_tokens_i8.npy, not both"),
        ("meta.json", lambda path: path.unlink(), 'must hold {"token_scale": number above 0} for the codes of'),
        ("meta.json", write("{}"), 'must hold {"token_scale": number above 0} for the codes of'),
        ("meta.json", write('{"token_scale": 0}'), 'must hold {"token_scale": number above 0} for the codes of'),
        ("meta.json", write('{"token_scale": '), 'must hold {"token_scale": number above 0} for the codes of'),
        ("corpus.jsonl", write('{"_id": "a"}\n{'), "line 2 must be a JSON object: "),
        ("corpus.jsonl", write("[1]\n"), "line 1 must be a JSON object, got '[1]'"),
        ("corpus.jsonl", write('{"text": "a"}\n'), 'line 1 must have "_id" or "id", a text or a whole number'),
        ("corpus.jsonl", write('{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n'), "line 3 has id 'a' again, as line 1 has"),
        ("corpus.jsonl", write('{"id": "a", "text": 3}\n'), 'line 1 must have texts as "title" and "text"'),
        ("queries.jsonl", write("\n"), "queries.jsonl is empty"),
        ("qrels.tsv", write("query-id\tcorpus-id\tscore\nq0\td1\n"), "line 2 must have 3 columns, as the header has"),
    ],
)
def test_bad_files(tmp_path, file, change, message):
    write_folder(tmp_path / "a")
    change(tmp_path / "a" / file)
    assert message in fails("evaluate", tmp_path / "a")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("doc_ids.json", write("{"), "must be a JSON list of ids: "),
        ("doc_ids.json", write("[]"), "must be a JSON list of at least one id"),
        ("doc_ids.json", write("[1, null]"), "must be a JSON list of at least one id"),
        ("query_ids.json", write('["a", 1, "1"]'), "must hold each id once, '1' is there twice"),
        ("doc_tokens.npy", save(np.ones((60, 5), np.int8)), "must be float16 or float32, got int8; codes go into"),
    ],
)
def test_bad_lists(tmp_path, file, change, message):
    write_folder(tmp_path / "a", ids="json", tokens="float16")
    change(tmp_path / "a" / file)
    assert message in fails("evaluate", tmp_path / "a")


def test_missing_library_is_named(made, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ir_measures", None)
    assert "pip install 'attnbridge[eval]'" in fails("evaluate", made[0])
