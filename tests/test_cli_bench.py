"""`attnbridge bench search`: what it measures, prints, writes and refuses."""

import inspect
import json
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attnbridge.cli import cli
from attnbridge.errors import InvalidConfigError, InvalidInputError
from attnbridge.integrations import AttentionVectorBridge
from attnbridge.integrations import benchmark as module
from attnbridge.integrations import footprint as footprints
from attnbridge.integrations.benchmark import Benchmark, Index, Point, benchmark, speed_at
from attnbridge.integrations.configurations import CONFIGURATIONS, OURS, Bridge, Configuration
from attnbridge.integrations.contenders import Setting
from attnbridge.integrations.footprint import CONTENDERS, footprint
from attnbridge.integrations.peers import PEERS
from attnbridge.integrations.timing import interleaved, medians

ROWS, DIM, K = 600, 13, 5
CONTENDER = [pytest.param(name, id=name) for name in CONTENDERS]
# What they reach at most whose short rows are not ranked by full ones.
REACH = {"attnbridge-half-int8": 0.9, "usearch-f16": 0.97, "usearch-i8": 0.6, "voyager-e4m3": 0.6}


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(17).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def data(vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "vectors.npy"
    np.save(path, vectors)
    return path


def run(*args):
    result = CliRunner().invoke(cli, ["bench", "search", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fails(*args, code=1):
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def need(name):
    pytest.importorskip(CONTENDERS[name](Setting("cosine", DIM, 16, 200)).module)


def nearest(rows, queries, metric, allowed=None):
    """Return the K nearest by float64, of the allowed rows."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    scores = -((queries[:, None] - rows) ** 2).sum(axis=2) if metric == "l2" else queries @ rows.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1)[:, :K]


# ---- contenders


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("name", CONTENDER)
def test_contender_finds_what_is_near_before_and_after_it_was_saved(name, metric, vectors, tmp_path):
    need(name)
    rows = unit(vectors) if metric == "cosine" else vectors
    queries = rows[:7] + np.float32(0.01)
    setting = Setting(metric, DIM, 16, 200)
    contender = CONTENDERS[name](setting)
    if metric not in contender.metrics:
        assert contender.problem() == f"has no metric {metric!r}"
        return
    assert contender.problem() is None
    contender.build(rows, 2)
    truth = nearest(rows, queries, metric)
    # hnswlib's kind of graph misses rows under the inner product of vectors that are not of one length.
    least = min(REACH.get(name, 0.97), 0.8 if metric == "ip" else 1.0)
    found = contender.search(queries, K, ROWS, 1)
    assert (found.shape, found.dtype) == ((7, K), np.int64)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth, strict=True)])
    assert least <= recall <= 1.0
    np.testing.assert_array_equal(contender.search(queries, K, ROWS, 2), found)
    np.testing.assert_array_equal(contender.search(queries[:1], K, ROWS, 1), found[:1])
    told = contender.told_bytes()
    assert told is None or told >= ROWS * DIM
    contender.save(tmp_path)
    loaded = CONTENDERS[name](setting)
    loaded.load(tmp_path)
    np.testing.assert_array_equal(loaded.search(queries, K, ROWS, 1), found)


@pytest.mark.parametrize("name", CONTENDER)
def test_filtered_search_returns_only_what_passes(name, vectors):
    need(name)
    rows = unit(vectors)
    contender = CONTENDERS[name](Setting("cosine", DIM, 16, 200))
    contender.build(rows, 1)
    mask = np.random.default_rng(2).random(ROWS) < 0.3
    if contender.no_filter is not None:
        with pytest.raises(NotImplementedError, match=contender.no_filter):
            contender.search_filtered(rows[:3], K, ROWS, mask)
        return
    found = contender.search_filtered(rows[:9], K, ROWS, mask)
    np.testing.assert_array_equal(found, nearest(rows, rows[:9], "cosine", mask))
    mask[:] = False
    mask[:3] = True  # fewer than k
    found = contender.search_filtered(rows[:9], K, ROWS, mask)
    assert found.shape == (9, K)
    assert set(found.ravel().tolist()) <= {-1, 0, 1, 2}


def test_ef_widens_every_search(vectors):
    """A graph of few links needs breadth: recall must rise with ef, or the option goes nowhere."""
    rows = np.random.default_rng(1).standard_normal((3_000, 24)).astype(np.float32)
    installed = [name for name in CONTENDERS if CONTENDERS[name](Setting("cosine", 24, 4, 8)).problem() is None]
    found = benchmark(rows, 100, M=4, ef_construction=8, efs=[10, 300], threads=[1], rounds=1, only=installed)
    for name in installed:
        narrow, wide = found.curve(name, 1)
        assert narrow.recall + 0.1 < wide.recall, name


def test_a_configuration_s_options_arrive(vectors, tmp_path, monkeypatch):
    """Constructor options, the mapping of ef, and freeze: at the end of a build, and after the index is opened."""
    frozen = []
    monkeypatch.setattr(AttentionVectorBridge, "freeze", lambda self: frozen.append(len(self)), raising=False)
    made = Bridge(
        Setting("cosine", DIM, 7, 90), Configuration({"seed": 3}, lambda ef: {"candidates": min(30, ef)}, freeze=True)
    )
    made.build(vectors, 1)
    config = made.index.config
    assert [config[name] for name in ("M", "ef_construction", "seed", "threads")] == [7, 90, 3, 1]
    assert frozen == [ROWS]
    made.save(tmp_path)
    made.load(tmp_path)
    assert frozen == [ROWS, ROWS]
    asked = []
    monkeypatch.setattr(AttentionVectorBridge, "search_batch", lambda self, *a, **options: asked.append(options) or [])
    made.search(vectors[:1], 3, 50, 2)
    made.search(vectors[:1], 3, 20, 1)
    assert asked == [{"candidates": 30, "threads": 2}, {"candidates": 20, "threads": 1}]


def test_configurations_that_keep_the_builder_s_copy_are_not_frozen(vectors, monkeypatch):
    frozen = []
    monkeypatch.setattr(AttentionVectorBridge, "freeze", frozen.append, raising=False)
    Bridge(Setting("cosine", DIM, 7, 90), Configuration({}, lambda ef: {"candidates": ef})).build(vectors, 1)
    assert frozen == []


def test_contenders_are_ours_and_the_peers():
    assert list(CONTENDERS) == [*OURS, *PEERS]
    assert set(OURS) == set(CONFIGURATIONS)


# ---- measuring


def test_recall_counts_equals_and_nothing_twice(monkeypatch):
    """Eight copies of one row: any five of them are right."""
    rows = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (8, 1))
    rows = np.vstack([rows, np.eye(3, dtype=np.float32)[1:]])
    asked = module._Asked(rows, rows[:1], module.Metric("cosine"), K, 0)
    assert asked.recall(np.array([[7, 6, 5, 4, 3]]), asked.truth) == 1.0
    assert asked.recall(np.array([[7, 6, 5, 8, 9]]), asked.truth) == 0.6
    assert asked.recall(np.array([[7, -1, -1, -1, -1]]), asked.truth) == 0.2
    few = asked.exact(asked.queries, np.array([0, 8]))
    assert few.tolist() == [[0, 8, -1, -1, -1]]
    assert asked.recall(np.array([[0, -1, -1, -1, -1]]), few) == 0.5


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_truth_is_that_of_float64(vectors, metric):
    asked = module._Asked(vectors, vectors[:20] * 3.0, module.Metric(metric), K, 0)
    rows, queries = vectors, vectors[:20] * np.float32(3.0)
    if metric == "cosine":
        rows, queries = unit(rows), unit(queries)
    np.testing.assert_array_equal(asked.truth, nearest(rows, queries, metric))


def test_held_out_rows_are_not_indexed(vectors):
    asked = module._Asked(vectors, 50, module.Metric("l2"), K, 4)
    assert (len(asked.rows), len(asked.queries)) == (ROWS - 50, 50)
    both = np.vstack([asked.rows, asked.queries])
    np.testing.assert_array_equal(both[np.lexsort(both.T)], vectors[np.lexsort(vectors.T)])


def test_rounds_run_everything_in_turn():
    order, ticks = [], []
    runs = {name: (lambda number, name=name: order.append((number, name))) for name in "abc"}
    seconds = interleaved(runs, 2, ticks.append)
    assert [name for _, name in order] == list("cab" + "abc" + "bca")
    assert [number for number, _ in order] == [-1] * 3 + [0] * 3 + [1] * 3
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 2)
    assert ticks == [1] * 9
    assert medians({"a": [5.0, 1.0, 2.0]}) == {"a": 2.0}
    assert interleaved({}, 3) == {}


def test_speed_at_equal_recall():
    def points(*pairs):
        return [Point("a", 1, ef, recall, speed) for ef, (recall, speed) in enumerate(pairs)]

    curve = points((0.8, 8_000.0), (0.9, 4_000.0), (1.0, 1_000.0))
    assert speed_at(curve, 0.95) == pytest.approx(2_000.0)
    assert speed_at(curve, 0.9) == pytest.approx(4_000.0)
    assert speed_at(curve, 0.5) == pytest.approx(8_000.0)
    assert speed_at(curve[:2], 0.95) is None
    assert speed_at([], 0.95) is None
    # slower and worse than another point: no reason to be set so
    assert speed_at(points((0.9, 4_000.0), (0.95, 10.0), (1.0, 1_000.0)), 0.95) == pytest.approx(2_000.0)
    assert speed_at(points((0.9, 4_000.0), (0.9, 3_000.0), (1.0, 1_000.0)), 0.9) == pytest.approx(4_000.0)


def test_levels_compare_with_hnswlib_and_the_best_peer():
    curves = {"attnbridge-hnswlib": 6_000.0, "hnswlib": 2_000.0, "faiss-sq8": 4_000.0, "voyager-e4m3": None}
    found = Benchmark(
        {"threads": [1]},
        tuple(Index(name, 1.0, None, 1, 1) for name in curves),
        tuple(Point(name, 1, 10, 0.97 if speed else 0.5, speed or 9_000.0) for name, speed in curves.items()),
    )
    rows = {row.name: row[3:] for row in found.levels(0.95)}
    assert rows == {
        "attnbridge-hnswlib": (pytest.approx(6_000.0), pytest.approx(3.0), pytest.approx(1.5)),
        "hnswlib": (pytest.approx(2_000.0), pytest.approx(1.0), pytest.approx(0.5)),
        "faiss-sq8": (pytest.approx(4_000.0), pytest.approx(2.0), pytest.approx(1.0)),
        "voyager-e4m3": (None, None, None),
    }


@pytest.mark.parametrize("step", ["build", "save", "search"])
def test_a_contender_that_fails_leaves_the_field(vectors, monkeypatch, step):
    def short(self, *args):
        raise RuntimeError("Cannot return the results in a contiguous 2D array")

    monkeypatch.setattr(CONTENDERS["hnswlib"], step, short)
    found = benchmark(vectors, 20, only=["hnswlib", "attnbridge-hnswlib"], efs=[50], threads=[1], rounds=1)
    assert found.skipped == {"hnswlib": "failed: Cannot return the results in a contiguous 2D array"}
    assert [index.name for index in found.indexes] == ["attnbridge-hnswlib"]
    (ours,) = found.levels(0.5)
    assert ours.queries_per_second > 0.0
    assert ours.over_hnswlib is ours.over_best_peer is None


def test_none_that_can_run_is_an_error(vectors, monkeypatch):
    def short(self, *args):
        raise RuntimeError("no memory")

    monkeypatch.setattr(CONTENDERS["hnswlib"], "build", short)
    message = "only must leave a contender that can run, but none could: hnswlib failed: no memory"
    with pytest.raises(InvalidConfigError, match=f"^{message}$"):
        benchmark(vectors, 20, only=["hnswlib"], efs=[50], threads=[1], rounds=1)


@pytest.mark.parametrize("name", ["hnswlib", "attnbridge-f32", "attnbridge-hnswlib"])
def test_footprint_is_about_what_the_vectors_take(name):
    rows = unit(np.random.default_rng(0).standard_normal((6_000, 512)).astype(np.float32))
    contender = CONTENDERS[name](Setting("cosine", 512, 4, 10))
    contender.build(rows, 2)
    found = footprint(name, contender, rows[:10], K, 20)
    copies = {"hnswlib": 1, "attnbridge-f32": 1, "attnbridge-hnswlib": 2}[name]  # hnswlib's and the bridge's
    slack = 1 if copies == 1 else 3  # what its making from the links leaves to malloc, of arrays as small as these
    for size, times, more in zip(found, (copies, 1, copies), (1, 1, slack), strict=True):
        assert 0.95 * times * rows.nbytes < size < (times + more) * rows.nbytes


def test_a_probe_that_fails_says_why(monkeypatch, vectors):
    contender = CONTENDERS["hnswlib"](Setting("cosine", DIM, 16, 200))
    contender.build(vectors, 1)
    monkeypatch.setattr(footprints.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the process that opened the index of hnswlib ended with 1: nothing"):
        footprint("hnswlib", contender, vectors[:2], K, 20)


# ---- the command

FAST = ("--rounds", 1, "-k", K, "--queries", 40)


def test_everything_that_is_installed_side_by_side(data, tmp_path):
    file = tmp_path / "out.json"
    out = run(data, *FAST, "--ef", "600,20", "--filters", "--filter-ef", 80, "--json", file)
    assert (out.exit_code, out.stderr) == (0, "")
    report = json.loads(file.read_text())
    about = ("data", "rows", "metric", "dim", "M", "ef_construction", "queries", "k", "rounds", "seed")
    assert [report[name] for name in about] == [str(data), ROWS - 40, "cosine", DIM, 16, 200, 40, K, 1, 0]
    assert report["load"] is None or report["load"] >= 0.0
    names = [index["name"] for index in report["indexes"]]
    assert names[:5] == [*CONFIGURATIONS, "hnswlib"]
    assert set(names) | set(report["skipped"]) == set(CONTENDERS)
    assert all("pip install" in problem for problem in report["skipped"].values())
    for index in report["indexes"]:
        assert index["build_seconds"] > 0.0
        assert index["disk_bytes"] > (ROWS - 40) * DIM
    wide = {(point["name"], point["threads"]): point["recall"] for point in report["points"] if point["ef"] == 600}
    assert len(report["points"]) == 2 * len(wide) == 2 * len(names) * len(report["threads"])
    for (name, _), recall in wide.items():
        assert recall >= REACH.get(name, 0.97)
    assert {level["recall"] for level in report["levels"]} == {0.95, 0.99}
    for level in report["levels"]:
        if level["name"] == "hnswlib":
            assert level["over_hnswlib"] == 1.0
    able = [name for name in names if name not in report["unfiltered"]]
    assert {name.partition("-")[0] for name in report["unfiltered"]} <= {"usearch", "voyager"}
    shares = [(point["share"], point["rows"]) for point in report["filtered"] if point["name"] == "hnswlib"]
    assert shares == [(0.5, 280), (0.1, 56), (0.01, 6), (0.001, K)]
    assert {point["name"] for point in report["filtered"]} == set(able)
    for point in report["filtered"]:
        if point["name"].startswith("attnbridge"):
            assert (point["recall"], point["fewest"]) == (1.0, K)
    for name in names:
        assert len(re.findall(rf"^{name} ", out.stdout, re.M)) >= 2 + len(report["threads"])
    for reason in set(report["unfiltered"].values()):
        assert f"\n{reason}\n" in out.stdout


def test_only_one_thread_and_levels(data, tmp_path):
    file = tmp_path / "out.json"
    args = ("--only", "hnswlib", "--only", "attnbridge-hnswlib", "--threads", "one", "--level", "0.5", "--json", file)
    out = run(data, *FAST, "--ef", 50, *args)
    assert out.exit_code == 0, out.stderr
    report = json.loads(file.read_text())
    assert (report["threads"], report["filtered"], report["skipped"]) == ([1], [], {})
    assert [(level["name"], level["recall"]) for level in report["levels"]] == [
        ("hnswlib", 0.5),
        ("attnbridge-hnswlib", 0.5),
    ]
    assert "1 thread(s)" in out.stdout
    assert "2 thread(s)\n" not in out.stdout.split("Queries per second")[1]


def test_a_column_of_parquet_and_queries_of_a_file(vectors, tmp_path):
    table = pa.table({"v": [row.tolist() for row in vectors]})
    pq.write_table(table, tmp_path / "v.parquet")
    np.save(tmp_path / "q.npy", vectors[:6])
    file = tmp_path / "out.json"
    args = ("--vector", "v", "--queries", tmp_path / "q.npy", "--metric", "l2", "--only", "hnswlib", "--json", file)
    out = run(tmp_path / "v.parquet", "-k", 1, "--ef", 300, "--rounds", 1, *args)
    assert out.exit_code == 0, out.stderr
    report = json.loads(file.read_text())
    assert [report[name] for name in ("rows", "queries", "metric")] == [ROWS, 6, "l2"]
    assert {point["recall"] for point in report["points"]} == {1.0}


def test_default_breadths_are_those_from_k_on(data, tmp_path):
    file = tmp_path / "out.json"
    args = ("--only", "hnswlib", "--threads", "one", "--rounds", 1, "--queries", 10, "--json", file)
    for k, efs in ((60, [80, 120, 200, 400]), (410, [410])):
        assert run(data, "-k", k, "--filter-ef", k, *args).exit_code == 0
        assert [point["ef"] for point in json.loads(file.read_text())["points"]] == efs


def test_defaults_are_the_function_s():
    from attnbridge.cli.bench import search

    stated = {parameter.name: parameter.default for parameter in search.params}
    signature = inspect.signature(benchmark).parameters
    for name in ("metric", "k", "M", "ef_construction", "rounds", "filter_ef", "seed"):
        assert stated[name] == signature[name].default
    assert int(stated["queries"]) == signature["queries"].default
    assert ",".join(map(str, module.EFS)) in next(p.help for p in search.params if p.name == "ef")
    assert "50, 10, 1 and 0.1 %" in next(p.help for p in search.params if p.name == "filters")
    assert module.SHARES == (0.5, 0.1, 0.01, 0.001)


def test_demo_s_vectors_where_none_are_given(tmp_path):
    pytest.importorskip("sklearn")
    file = tmp_path / "out.json"
    out = run("--only", "hnswlib", "--threads", "one", "--rounds", 1, "--queries", 50, "--ef", 300, "--json", file)
    assert out.exit_code == 0, out.stderr
    report = json.loads(file.read_text())
    assert (report["data"], report["queries"]) == (None, 50)
    assert report["rows"] > 1_000
    assert report["points"][0]["recall"] > 0.99


# ---- the plot


@pytest.mark.parametrize("suffix", [".png", ".svg", ".SVG"])
def test_plot_is_a_picture_with_a_line_for_each_index(data, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    file = tmp_path / f"plot{suffix}"
    out = run(data, *FAST, "--ef", "10,600", "--only", "hnswlib,attnbridge-hnswlib", "-o", file)
    assert out.exit_code == 0, out.stderr
    if suffix == ".png":
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 10_000
    else:
        text = file.read_text()
        ElementTree.fromstring(text)
        assert {"hnswlib", "attnbridge-hnswlib", "queries per second"} <= set(re.findall(r"<!-- (.+?) -->", text))


def test_plot_shows_curves_that_stay_below_its_usual_range(tmp_path):
    pytest.importorskip("matplotlib")
    from attnbridge.cli.curves import draw

    about = {"threads": [1], "rows": 10, "dim": 2, "metric": "l2", "M": 16, "ef_construction": 200, "queries": 9}
    points = tuple(Point("hnswlib", 1, ef, recall, 50.0) for ef, recall in enumerate((0.25, 0.3)))
    index = Index("hnswlib", 1.0, 1, 1, 1)
    sizes = []
    for shown in (points, points[1:]):
        draw(Benchmark({**about, "k": 2}, (index,), shown), tmp_path / "a.svg")
        sizes.append((tmp_path / "a.svg").read_text().count("<use"))
    assert sizes[0] == sizes[1] + 1


def test_plot_without_matplotlib_names_the_extra(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert fails(data, *FAST, "-o", tmp_path / "a.png").startswith(
        "matplotlib is not installed; pip install 'attnbridge[viz]' brings it"
    )


# ---- what is not there, and what cannot be


def test_what_is_not_installed_is_listed(data, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(footprints, "CONTENDERS", {name: CONTENDERS[name] for name in ("hnswlib", "faiss-sq8")})
    monkeypatch.setattr(module, "CONTENDERS", footprints.CONTENDERS)
    out = run(data, *FAST, "--ef", 20)
    assert out.exit_code == 0, out.stderr
    assert "\nfaiss-sq8: not installed: pip install faiss-cpu\n" in out.stdout


def test_asking_for_what_is_not_installed_is_an_error(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "voyager", None)
    assert fails(data, *FAST, "--only", "voyager-f32").startswith(
        "voyager is not installed; pip install 'attnbridge[bench]' brings it"
    )


def test_a_library_without_the_metric_is_listed_or_an_error(vectors):
    need("usearch-i8")
    message = "only must name contenders that can run, but usearch-i8 has no metric 'l2'; leave it out"
    with pytest.raises(InvalidConfigError, match=f"^{re.escape(message)}$"):
        benchmark(vectors, 10, metric="l2", only=["usearch-i8"])
    assert module._chosen(Setting("l2", DIM, 16, 200), None)[1]["usearch-i8"] == "has no metric 'l2'"


def test_hnswlib_that_does_not_run_is_listed(monkeypatch):
    for name in ("attnbridge-hnswlib", "hnswlib"):
        maker = getattr(CONTENDERS[name], "func", CONTENDERS[name])
        monkeypatch.setattr(sys.modules[maker.__module__], "hnswlib_problem", lambda: "it was built for another CPU")
    skipped = module._chosen(Setting("cosine", DIM, 16, 200), None)[1]
    assert skipped["hnswlib"] == skipped["attnbridge-hnswlib"] == "it was built for another CPU"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ["--only", "annoy"],
            1,
            "only must be one of attnbridge-f32, attnbridge-half-int8, attnbridge-hnswlib, attnbridge-int8, faiss",
        ),
        (["--only", ","], 2, "--only must be names separated by commas, one of them is empty"),
        (["--ef", "10,x"], 2, "--ef must be whole numbers separated by commas, got '10,x'"),
        (["--ef", ""], 2, "--ef must be whole numbers separated by commas, got ''"),
        (["--ef", "2"], 1, "ef must be at least k: a search of breadth 2 does not find 5 rows; raise it"),
        (["--ef", "0"], 1, "ef must be a whole number >= 1, got 0"),
        (["--filter-ef", "3"], 1, "filter_ef must be at least k: a search of breadth 3 does not find 5 rows; raise it"),
        (["--level", "0.9,high"], 2, "--level must be numbers separated by commas, got '0.9,high'"),
        (["--level", "95"], 2, "--level must be recalls in (0, 1], got 95"),
        (["--level", "nan"], 2, "--level must be recalls in (0, 1], got nan"),
        (["--queries", "600"], 1, "queries must be fewer than the vectors they are drawn from, got 600 of 600; ask"),
        (["--queries", "0"], 1, "queries must be a whole number >= 1, got 0"),
        (["--queries", "598"], 1, "vectors must be at least k=5 rows besides the queries, got 2"),
        (["--queries", "q.txt"], 2, "--queries must be a .npy or .json file, got q.txt"),
        (["--queries", "none.npy"], 1, "none.npy cannot be read: "),
        (["--metric", "jaccard"], 2, "Invalid value for '--metric': 'jaccard' is not one of"),
        (["--threads", "3"], 2, "Invalid value for '--threads': '3' is not one of 'one', 'all'."),
        (["--m", "1"], 2, "Invalid value for '--m': 1 is not in the range x>=2."),
        (["--rounds", "0"], 2, "Invalid value for '--rounds': 0 is not in the range x>=1."),
        (["--vector", "v"], 1, "{data} holds one array without names: leave out vector and id"),
        (["-o", "plot.pdf"], 2, "--output must be a .png or .svg file, got plot.pdf"),
        (["-o", "nowhere/plot.png"], 1, "--output must be in a folder that is there, got nowhere/plot.png; make"),
        (["--json", "nowhere/a.json"], 1, "--json must be in a folder that is there, got nowhere/a.json; make nowhere"),
    ],
)
def test_wrong_usage(data, args, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "-o" in args:
        pytest.importorskip("matplotlib")
    assert fails(data, *FAST, *args, code=code).startswith(message.format(data=data))


def test_bad_data(tmp_path, vectors):
    assert fails("--vector", "v", *FAST, code=2) == "--vector needs DATA, a file that has such a column"
    assert fails(tmp_path / "none.npy", *FAST).endswith("none.npy does not exist")
    odd = vectors.copy()
    odd[3, 2] = np.nan
    np.save(tmp_path / "odd.npy", odd)
    assert fails(tmp_path / "odd.npy", *FAST).startswith("vectors must be finite: row 3, column 2 is nan")
    np.save(tmp_path / "q.npy", vectors[:, 1:])
    np.save(tmp_path / "v.npy", vectors)
    message = fails(tmp_path / "v.npy", *FAST, "--queries", tmp_path / "q.npy")
    assert message == f"queries must have dimension {DIM}, got {DIM - 1}"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"efs": []}, InvalidConfigError, "ef must hold at least one breadth, got none"),
        ({"queries": np.empty((0, DIM))}, InvalidInputError, "queries must hold at least one vector, got none"),
        ({"filter_shares": [2.0]}, InvalidConfigError, "filter_shares must be a finite number > 0, at most 1, got 2.0"),
        ({"metric": "jaccard"}, InvalidConfigError, "metric must be one of cosine, ip, l2; got 'jaccard'"),
        ({"seed": -1}, InvalidConfigError, "seed must be a whole number >= 0, got -1"),
        ({"M": 1}, InvalidConfigError, "M must be a whole number >= 2, got 1"),
        ({"threads": [0]}, InvalidConfigError, "threads must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options_of_the_function(vectors, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        benchmark(vectors, **{"queries": 10, **options})


def test_zero_vectors_are_refused_under_cosine_only(vectors):
    rows = np.vstack([vectors, np.zeros((1, DIM), np.float32)])
    with pytest.raises(InvalidInputError, match="vectors must not hold zero vectors under metric='cosine': row 600"):
        benchmark(rows, vectors[:3])
    benchmark(rows, vectors[:3], metric="l2", only=["hnswlib"], efs=[20], threads=[1], rounds=1)
