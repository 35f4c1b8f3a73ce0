"""ab.evaluate and ab.tune_rerank: figures by hand and by trec_eval, intervals, choices, files, bad input."""

import errno
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import attnbridge as ab
from attnbridge import bootstrap, whole_file
from attnbridge.bootstrap import mean_intervals
from attnbridge.errors import DimensionMismatchError, InvalidConfigError, InvalidInputError, UnknownIdError
from attnbridge.integrations import read_qrels, read_run, write_run
from attnbridge.integrations.judged import Bench
from attnbridge.integrations.rerank_tuning import GRID, TUNED, default_grid
from attnbridge.integrations.trec import descending
from attnbridge.rerank import as_stages

ir_measures = pytest.importorskip("ir_measures")

ROWS, QUERIES, DIM, TOKEN_DIM = 53, 23, 7, 5
MEASURES = ["nDCG@10", "MAP", "MRR", "recall@10", "recall@31"]


@pytest.fixture(scope="module")
def data():
    """Return vectors with duplicates among them, queries, and graded judgements."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    vectors[40:47] = vectors[:7]
    queries = rng.standard_normal((QUERIES, DIM)).astype(np.float32)
    near = np.argsort(-(queries @ vectors.T), axis=1)
    qrels = [
        {f"d{row}": int(rng.integers(-1, 4)) for row in rng.choice(near[i][:30], 1 + i % 9, replace=False)} | {"d40": 1}
        for i in range(QUERIES)
    ]
    return vectors, queries, qrels


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(5)
    stored = [rng.standard_normal((1 + i % 4, TOKEN_DIM)).astype(np.float16) for i in range(ROWS)]
    return stored, [rng.standard_normal((1 + i % 3, TOKEN_DIM)).astype(np.float32) for i in range(QUERIES)]


@pytest.fixture(scope="module")
def bridge(data, tokens):
    made = ab.AttentionVectorBridge(DIM, index="exact")
    made.add(data[0], [f"d{i}" for i in range(ROWS)], tokens=tokens[0])
    return made


def evaluated(bridge, data, *args, **options):
    return ab.evaluate(bridge, data[1], data[2], *args, **{"rounds": 0, "k": 31} | options)


# ---- figures


def four_documents():
    """Return a bridge whose hits for [1, 0] are a, b, c, d."""
    made = ab.AttentionVectorBridge(2, index="exact")
    made.add([[1.0, angle] for angle in (0.0, 0.1, 0.2, 0.3)], ids=["a", "b", "c", "d"])
    return made


def test_figures_by_hand():
    judged = [{"b": 2, "d": 1, "a": 0}, {"a": 1}, {"a", "c"}, None]
    found = ab.evaluate(four_documents(), [[1.0, 0.0]] * 4, judged, k=4, rounds=0)
    assert found.measures == ("nDCG@4", "MAP", "MRR", "recall@4")
    assert found.query_ids == ("0", "1", "2")  # the unjudged one is left out
    log = math.log2
    first = (2 / log(3) + 1 / log(5)) / (2 + 1 / log(3))  # linear gain
    third = (1 + 1 / log(4)) / (1 + 1 / log(3))
    assert_allclose(found.values["plain"]["nDCG@4"], [first, 1.0, third], atol=1e-12)
    assert_allclose(found.values["plain"]["MAP"], [(1 / 2 + 2 / 4) / 2, 1.0, (1 + 2 / 3) / 2], atol=1e-12)
    assert_allclose(found.values["plain"]["MRR"], [0.5, 1.0, 1.0], atol=1e-12)
    assert_array_equal(found.values["plain"]["recall@4"], [1.0, 1.0, 1.0])
    assert found.intervals["plain"]["MRR"].mean == pytest.approx(2.5 / 3)


def test_figures_are_those_of_the_library_on_the_run_files(bridge, data, tmp_path):
    """Ties included: seven documents are there twice."""
    systems = {"expansion": "expansion", "own words: a/b": [ab.QueryExpansion(top=3, mix=0.9)]}
    found = evaluated(bridge, data, systems)
    files = found.write_runs(tmp_path / "runs")
    assert [file.name for file in files] == ["plain.run", "expansion.run", "own_words_a_b.run"]
    (tmp_path / "qrels.txt").write_text(
        "".join(f"{q} 0 {id} {grade}\n" for q, grades in enumerate(data[2]) for id, grade in grades.items())
    )
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    measures = [ir_measures.parse_measure(name.replace("recall", "R")) for name in MEASURES]
    assert found.measures == tuple(MEASURES)
    for system, file in zip(found.systems, files, strict=True):
        run = list(ir_measures.read_trec_run(str(file)))
        for metric in ir_measures.iter_calc(measures, qrels, run):
            name = MEASURES[measures.index(metric.measure)]
            assert found.values[system][name][int(metric.query_id)] == pytest.approx(metric.value, abs=1e-6)
        means = ir_measures.calc_aggregate(measures, qrels, run)
        for name, measure in zip(MEASURES, measures, strict=True):
            assert found.intervals[system][name].mean == pytest.approx(means[measure], abs=1e-6)


def test_our_order_of_equal_scores_is_judged():
    """trec_eval would put the larger id first."""
    made = ab.AttentionVectorBridge(2, index="exact")
    made.add([[1.0, 0.0]] * 3, ids=["a", "b", "c"])
    order = made.search([1.0, 0.0]).ids
    found = ab.evaluate(made, [[1.0, 0.0]] * 3, [{id} for id in order], rounds=0)
    assert_allclose(found.values["plain"]["MRR"], [1, 1 / 2, 1 / 3])


def test_descending_falls_strictly_and_keeps_what_falls():
    rng = np.random.default_rng(0)
    for scores in (
        np.sort(rng.standard_normal(13))[::-1],
        np.repeat([3.0, 1.0, 0.0, -2.0], 5),
        np.full(7, 1e300),
        np.full(7, -1e300),
        1.0 - 1e-12 * np.arange(7),
        np.zeros(3),
        np.empty(0),
    ):
        out = descending(scores)
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert (np.diff(out) < 0).all()
        written = np.array([float(f"{x:.9g}") for x in out]).astype(np.float32)  # as a run file holds it
        assert_array_equal(written, out)
    assert_array_equal(descending(np.array([2.0, 1.5, -3.0])), [2.0, 1.5, -3.0])


def test_wins_losses_and_gains(bridge, data):
    found = evaluated(bridge, data, ["expansion(mix=0.9)", "expansion(mix=0.0)"])
    plain = found.values["plain"]["nDCG@10"]
    gain = found.values["expansion(mix=0.9)"]["nDCG@10"] - plain
    counts = found.compared["expansion(mix=0.9)"]["nDCG@10"]
    assert counts == (sum(gain > 1e-9), sum(gain < -1e-9), sum(abs(gain) <= 1e-9))
    assert counts.won
    assert counts.lost
    interval = found.gains["expansion(mix=0.9)"]["nDCG@10"]
    assert interval.mean == pytest.approx(gain.mean())
    reference = stats.bootstrap((gain,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9))
    assert_allclose(interval[1:], reference.confidence_interval, atol=0.15 * (interval.high - interval.low))
    for measure in MEASURES:  # the same ranking
        assert found.gains["expansion(mix=0.0)"][measure] == (0.0, 0.0, 0.0)
        assert found.compared["expansion(mix=0.0)"][measure] == (0, 0, QUERIES)
    assert "plain" not in found.gains


def test_intervals_do_not_depend_on_what_is_held_at_a_time(monkeypatch, rng):
    values = rng.standard_normal((17, 3))
    values[:, 2] = 0.3
    whole = mean_intervals(values, 1_000, seed=5)
    monkeypatch.setattr(bootstrap, "_HELD", 100)
    assert_allclose(mean_intervals(values, 1_000, seed=5), whole, atol=1e-12)
    assert whole[2] == pytest.approx((0.3, 0.3, 0.3), abs=1e-15)
    assert mean_intervals(values, 1_000, seed=6)[0] != whole[0]
    for column, interval in zip(values.T, whole, strict=True):
        means = [rng.choice(column, 17).mean() for _ in range(3_000)]
        width = interval.high - interval.low
        assert_allclose(interval[1:], np.percentile(means, [2.5, 97.5]), atol=0.1 * width + 1e-12)
        assert interval.mean == pytest.approx(column.mean())


# ---- what goes in


def test_forms_of_judgements_agree(bridge, data):
    vectors, queries, _ = data
    ids = [f"q{i}" for i in range(QUERIES)]
    sets = [{f"d{i}", f"d{i + 1}"} for i in range(QUERIES)]
    found = ab.evaluate(bridge, queries, sets, query_ids=ids, rounds=0)
    graded = {id: dict.fromkeys(one, 1.0) for id, one in zip(ids, sets, strict=True)}
    for qrels in (graded, {id: list(one) for id, one in graded.items()}):
        other = ab.evaluate(bridge, queries, dict(reversed(qrels.items())), query_ids=ids, rounds=0)
        assert other.query_ids == tuple(ids)
        assert_array_equal(other.values["plain"]["nDCG@10"], found.values["plain"]["nDCG@10"])
    numbered = ab.AttentionVectorBridge(DIM, index="exact")
    numbered.add(vectors)
    other = ab.evaluate(numbered, queries, [{i, i + 1} for i in range(QUERIES)], rounds=0)
    assert_array_equal(other.values["plain"]["nDCG@10"], found.values["plain"]["nDCG@10"])


def test_tokens_and_unjudged_queries_stay_together(bridge, data, tokens):
    _, queries, qrels = data
    late = [ab.LateInteraction(mix=1.0)]
    some = [grades if i % 2 else None for i, grades in enumerate(qrels)]
    whole = ab.evaluate(bridge, queries, qrels, {"late": late}, query_tokens=tokens[1], rounds=0)
    half = ab.evaluate(bridge, queries, some, {"late": late}, query_tokens=tokens[1], rounds=0)
    assert half.query_ids == whole.query_ids[1::2]
    assert_array_equal(half.values["late"]["MAP"], whole.values["late"]["MAP"][1::2])
    assert half.runs["late"]["1"] == whole.runs["late"]["1"]
    hits = bridge.search(queries[1], 100, query_tokens=tokens[1][1], rerank=late)
    assert list(half.runs["late"]["1"]) == hits.ids


def test_default_is_the_bridge_s_to_choose(bridge, data, tokens, monkeypatch):
    """Passed on as text, with tokens only where the bridge stores some."""
    seen = []

    def search_batch(self, *args, rerank, query_tokens=None, **options):
        seen.append((rerank, query_tokens is not None))
        return original(self, *args, **options)

    original = ab.AttentionVectorBridge.search_batch
    monkeypatch.setattr(ab.AttentionVectorBridge, "search_batch", search_batch)
    without = ab.AttentionVectorBridge(DIM, index="exact")
    without.add(data[0], [f"d{i}" for i in range(ROWS)])
    for made in (bridge, without):
        evaluated(made, data, {"mine": "default"}, query_tokens=tokens[1])
    evaluated(bridge, data, "default")
    assert [one for one in seen if one[0]] == [("default", True), ("default", False), ("default", False)]
    assert [one for one in seen if not one[0]] == 3 * [((), False)]


def test_text_reaches_stages_that_read_it(bridge, data):
    class Words:
        name, requires_tokens, requires_text = "words", False, True

        def apply(self, pool):
            pool.parts["words"] = pool.scores = np.full(len(pool.rows), float(len(pool.query_text)))

    texts = ["x" * (1 + i) for i in range(QUERIES)]
    some = [grades if i > 4 else None for i, grades in enumerate(data[2])]
    found = ab.evaluate(bridge, data[1], some, {"words": Words()}, query_text=texts, rounds=0)
    assert next(iter(found.runs["words"]["9"].values())) == 10.0
    with pytest.raises(InvalidInputError, match="words needs the query's text; pass query_text="):
        evaluated(bridge, data, {"words": Words()})


def test_runs_made_elsewhere_are_judged_as_trec_eval_does(bridge, data):
    run = {str(q): {f"d{i}": float(i % 3) for i in range(20)} for q in range(QUERIES - 2)}  # ties; two queries missing
    found = evaluated(bridge, data, runs={"bm25": run})
    qrels = {str(q): grades for q, grades in enumerate(data[2])}
    measures = [ir_measures.parse_measure(name.replace("recall", "R")) for name in MEASURES]
    means = ir_measures.calc_aggregate(measures, qrels, run)
    for name, measure in zip(MEASURES, measures, strict=True):
        assert found.intervals["bm25"][name].mean == pytest.approx(means[measure], abs=1e-6)
    assert found.values["bm25"]["MRR"][-1] == 0.0
    assert "bm25" not in found.queries_per_second
    own = evaluated(bridge, data, ["expansion"])
    again = evaluated(bridge, data, runs={"stored": own.runs["expansion"]})
    for name in MEASURES:
        assert_array_equal(again.values["stored"][name], own.values["expansion"][name])


def test_other_measures(bridge, data):
    names = ["P@5", "RR@10", "AP(rel=2)", "nDCG@3"]
    found = evaluated(bridge, data, measures=names)
    run = found.runs["plain"]
    qrels = {str(q): grades for q, grades in enumerate(data[2])}
    for name in names:
        value = ir_measures.calc_aggregate([ir_measures.parse_measure(name)], qrels, run)
        assert found.intervals["plain"][name].mean == pytest.approx(*value.values(), abs=1e-6)


# ---- what comes out


def test_table_and_frames(bridge, data):
    found = evaluated(bridge, data, ["expansion"], rounds=1, measures=["nDCG@10", "MRR"])
    assert set(found.queries_per_second) == {"plain", "expansion"}
    assert all(value > 0 for value in found.queries_per_second.values())
    lines = str(found).splitlines()
    assert lines[0].startswith("23 judged queries, 31 hits each, 1 thread(s); gain: over plain; ")
    assert lines[1].split()[-1] == "queries/s"
    first, second, third, fourth = (line.split() for line in lines[3:])
    assert (first[0], first[1], third[0], second[0]) == ("nDCG@10", "plain", "MRR", "expansion")
    assert first[2] == f"{found.intervals['plain']['nDCG@10'].mean:.4f}"
    gain = found.gains["expansion"]["MRR"]
    assert fourth[3:5] == [f"{gain.mean:+.4f}", f"{gain.low:+.4f}..{gain.high:+.4f}"]
    assert fourth[5:] == [str(count) for count in found.compared["expansion"]["MRR"]]
    assert "gain" not in str(evaluated(bridge, data)).splitlines()[1]  # nothing to show there

    frame = found.to_pandas()
    assert frame["system"].tolist() == ["plain", "expansion"]
    assert frame["MRR_gain_low"].tolist()[1] == gain.low
    assert np.isnan(frame["MRR_gain"][0])
    assert frame["nDCG@10_won"][1] == found.compared["expansion"]["nDCG@10"].won
    each = found.to_pandas(per_query=True)
    assert each.columns.tolist() == ["system", "query_id", "nDCG@10", "MRR"]
    assert_array_equal(each["MRR"], np.concatenate([found.values[system]["MRR"] for system in found.systems]))


def test_timed_rounds_ask_a_sample_in_turns(bridge, data, monkeypatch):
    sizes = []

    def search_batch(self, queries, *args, rerank, **options):
        sizes.append((len(rerank), len(queries)))
        return original(self, queries, *args, rerank=rerank, **options)

    original = ab.AttentionVectorBridge.search_batch
    monkeypatch.setattr(ab.AttentionVectorBridge, "search_batch", search_batch)
    monkeypatch.setattr("attnbridge.integrations.evaluation._TIMED", 5)
    found = evaluated(bridge, data, ["expansion"], rounds=2)
    assert sorted(sizes[:2]) == [(0, QUERIES), (1, QUERIES)]
    assert sorted(sizes[2:4]) == sorted(sizes[4:]) == [(0, 5), (1, 5)]
    assert len(found.query_ids) == QUERIES


def test_same_call_same_figures(bridge, data):
    first, second = (evaluated(bridge, data, ["expansion"], seed=3).to_dict() for _ in range(2))
    assert first == second
    other = evaluated(bridge, data, ["expansion"], seed=4).to_dict()
    assert other["systems"][1]["measures"]["MRR"]["value"] == first["systems"][1]["measures"]["MRR"]["value"]
    assert other != first


def test_run_files_have_names_of_their_own(bridge, data, tmp_path):
    found = evaluated(bridge, data, {"a b": "expansion", "a/b": "expansion", "A_B": "expansion", "///": "expansion"})
    files = found.write_runs(tmp_path)
    assert [file.name for file in files] == ["plain.run", "a_b.run", "a_b+.run", "A_B++.run", "system.run"]
    assert read_run(files[1]) == {query: pytest.approx(hits) for query, hits in found.runs["a b"].items()}


# ---- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"qrels": [{"x"}]}, DimensionMismatchError, "qrels must have one entry for each of 2 queries, got 1"),
        ({"qrels": 7}, InvalidInputError, "qrels must be a list or a mapping by query id, got int"),
        (
            {"qrels": ["a", "b"]},
            InvalidInputError,
            "qrels must give {document id: grade} or a set of ids for query '0'",
        ),
        ({"qrels": [{"a": 0.5}, {"b"}]}, InvalidInputError, "whole numbers as grades: query '0' has 0.5 for 'a'"),
        ({"qrels": [{"a": math.inf}, {"b"}]}, InvalidInputError, "whole numbers as grades: query '0' has inf for 'a'"),
        ({"qrels": [["a", "a"], {"b"}]}, InvalidInputError, "judge a document once: query '0' has 'a' twice"),
        (
            {"qrels": [{"a": 0}, {"b": -1}]},
            InvalidInputError,
            "at least one relevant document (grade 1 or more), got 2",
        ),
        ({"qrels": [None, {}]}, InvalidInputError, "at least one relevant document (grade 1 or more), got 0"),
        (
            {"qrels": [{"x1", "x2"}, {"b"}]},
            UnknownIdError,
            "qrels must name documents of the index: 2 are not there, which are ",
        ),
        (
            {"qrels": {str(i): {"a"} for i in range(9)}},
            UnknownIdError,
            "qrels must name queries of query_ids: 7 are not there, the first five '2', '3', '4', '5', '6'; "
            "ignore_unknown=True (--ignore-unknown) leaves such out",
        ),
        ({"query_ids": ["q"]}, DimensionMismatchError, "query_ids must have one id for each of 2 queries, got 1"),
        ({"query_ids": "ab"}, DimensionMismatchError, "query_ids must have one id for each of 2 queries, got 1"),
        ({"query_ids": [1, "1"]}, InvalidInputError, "query_ids must differ as texts, '1' is there twice"),
        ({"query_tokens": [[[1.0]]]}, DimensionMismatchError, "query_tokens must have one entry for each of 2 queries"),
        (
            {"query_text": "two"},
            DimensionMismatchError,
            "query_text must have one entry for each of 2 queries, got 'two'",
        ),
        ({"queries": [[1.0, 0.0, 0.0]] * 2}, DimensionMismatchError, "queries must have dimension 2, got 3"),
        ({"systems": {"plain": "expansion"}}, InvalidConfigError, "systems must have names of their own, 'plain' is"),
        ({"systems": ["expansion"] * 2}, InvalidConfigError, "systems must have names of their own, 'expansion' is"),
        ({"systems": {"": "expansion"}}, InvalidConfigError, "systems must have texts as names, got ''"),
        ({"systems": {3: "expansion"}}, InvalidConfigError, "systems must have texts as names, got 3"),
        ({"systems": "magic"}, InvalidConfigError, "rerank names no stage 'magic'"),
        ({"systems": "late_interaction"}, InvalidInputError, "late_interaction needs stored tokens"),
        ({"measures": ["magic"]}, InvalidConfigError, "measures must be ones of trec_eval in ir-measures' notation"),
        ({"measures": ["RBP(p=0.8)"]}, InvalidConfigError, "measures must be ones of trec_eval"),
        ({"measures": ["nDCG@"]}, InvalidConfigError, "measures must be ones of trec_eval"),
        ({"measures": [7]}, InvalidConfigError, "measures must be ones of trec_eval"),
        ({"measures": []}, InvalidConfigError, "measures must hold at least one name"),
        ({"measures": ["MAP", "AP"]}, InvalidConfigError, "measures must be different ones, 'AP' is there already"),
        ({"measures": "nDCG@10", "k": 5}, InvalidConfigError, "k must be at least 10, which nDCG@10 looks at; got 5"),
        ({"k": 0}, InvalidConfigError, "k must be"),
        ({"rounds": -1}, InvalidConfigError, "rounds must be"),
        ({"runs": {"r": {}}}, InvalidInputError, "runs['r'] is empty: it must rank documents"),
        ({"runs": {"r": {"0": {}}}}, InvalidInputError, "runs['r'] is empty: it must rank documents"),
        ({"runs": {"plain": {"0": {"a": 1}}}}, InvalidConfigError, "runs must have names of their own, 'plain' is"),
        ({"runs": {"r": {"9": {"a": 1}}}}, UnknownIdError, "runs['r'] must name queries of query_ids: 1 are not there"),
        (
            {"runs": {"r": {"0": {"x": 1}}}},
            UnknownIdError,
            "runs['r'] must name documents of the index: 1 are not there",
        ),
        (
            {"runs": {"r": {"1": {"a": 1}}}, "qrels": [{"a"}, None]},
            InvalidInputError,
            "runs['r'] ranks documents for none of 1 judged queries",
        ),
    ],
)
def test_bad_input(change, error, message):
    given = {"queries": [[1.0, 0.0], [0.0, 1.0]], "qrels": [{"a"}, {"b"}], "rounds": 0} | change
    with pytest.raises(error) as caught:
        ab.evaluate(four_documents(), **given)
    assert message in str(caught.value)


def test_unknown_ids_can_be_left_out():
    qrels = {"0": {"a": 1, "x": 3}, "7": {"b": 1}, "1": {"y": 1}}
    runs = {"r": {"0": {"x": 5.0, "b": 2.0, "a": 1.0}, "7": {"a": 1.0}}}
    found = ab.evaluate(
        four_documents(), [[1.0, 0.0]] * 2, qrels, runs=runs, ignore_unknown=True, rounds=0, measures=["nDCG@10", "MRR"]
    )
    assert found.query_ids == ("0",)
    assert_array_equal(found.values["plain"]["nDCG@10"], [1.0])
    assert_array_equal(found.values["r"]["MRR"], [0.5])


def test_ids_that_are_the_same_text():
    made = ab.AttentionVectorBridge(2, index="exact")
    made.add(np.eye(2), ids=["1", "01"])
    assert ab.evaluate(made, [[1.0, 0.0]], [{"1"}], rounds=0).intervals["plain"]["MRR"].mean == 1.0


def test_queries_without_relevant_documents_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"^1 of 2 judged queries have no relevant document and count 0 .*: '1'$"
    ) as seen:
        found = ab.evaluate(four_documents(), [[1.0, 0.0]] * 2, [{"a": 1}, {"b": 0}], rounds=0)
    assert found.intervals["plain"]["MRR"].mean == 0.5
    assert seen[0].filename == __file__


def test_missing_library_is_named(monkeypatch, bridge, data):
    monkeypatch.setitem(__import__("sys").modules, "ir_measures", None)
    with pytest.raises(ab.MissingDependencyError, match=r"pip install 'attnbridge\[eval\]'"):
        evaluated(bridge, data)


def test_ids_that_a_run_cannot_hold(tmp_path):
    for run in ({"q 1": {"d": 1.0}}, {"q": {"d\t1": 1.0}}, {"q": {"": 1.0}}):
        with pytest.raises(InvalidInputError, match="ids and tag must be without white space"):
            write_run(run, tmp_path / "a.run")
    with pytest.raises(InvalidInputError, match="ids and tag must be without white space"):
        write_run({"q": {"d": 1.0}}, tmp_path / "a.run", tag="my tag")
    assert not (tmp_path / "a.run").exists()


# ---- files


def test_qrels_files(tmp_path):
    trec, beir, split = tmp_path / "trec", tmp_path / "beir", tmp_path / "split"
    trec.write_text("q1 0 d1 2\n\nq1\tQ0\td2 -1\r\nq2 0 d1 0\n")
    beir.write_text("﻿query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t-1\nq2\td1\t0.0\n")
    split.write_text(
        "query-id\tcorpus-id\tscore\tsplit\nq1\td1\t1\ttrain\nq1\td1\t2\ttest\nq1\td2\t-1\ttest\nq2\td1\t0\ttest\n"
    )
    expected = {"q1": {"d1": 2, "d2": -1}, "q2": {"d1": 0}}
    assert read_qrels(trec) == read_qrels(beir) == read_qrels(split) == read_qrels(str(split), "test") == expected
    assert read_qrels(split, "train") == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("", None, "holds no judgements"),
        ("query-id\tcorpus-id\tscore\n", None, "holds no judgements"),
        ("query-id\tscore\n", None, "the header must have query-id, corpus-id, score; corpus-id is not there"),
        ("q d 1\n", None, "line 1 must have four columns (query 0 document grade), or the first line a header"),
        ("q 0 d 1\n\nq 0 d2\n", None, "line 3 must have four columns"),
        ("query-id\tcorpus-id\tscore\nq d 1\n", None, "line 2 must have 3 columns, as the header has, got 'q d 1'"),
        ("query-id\tcorpus-id\tscore\nq\t\t1\n", None, "line 2 must have 3 columns"),
        ("q 0 d high\n", None, "line 1 must have a whole number as grade, got 'high'"),
        ("q 0 d 0.5\n", None, "line 1 must have a whole number as grade, got '0.5'"),
        ("q 0 d inf\n", None, "line 1 must have a whole number as grade, got 'inf'"),
        ("q 0 d 1\nq 0 e 1\nq 0 d 2\n", None, "line 3 judges query 'q' and document 'd' again, as line 1 does"),
        ("q 0 d 1\n", "test", "split can be given for qrels with a split column"),
        ("query-id\tcorpus-id\tscore\tsplit\nq\td\t1\ttrain\nq\td\t1\tdev\n", None, "one of dev, train, which"),
    ],
)
def test_bad_qrels_files(tmp_path, text, split, message):
    (tmp_path / "q").write_text(text)
    with pytest.raises((InvalidInputError, InvalidConfigError)) as caught:
        read_qrels(tmp_path / "q", split)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: a run must hold at least one line"),
        ("\n \n", "is empty: a run must hold at least one line"),
        ("q Q0 d 1 0.5 tag\nq Q0 e 2 0.5\n", "line 2 must have six columns (query Q0 document rank score tag), got"),
        ("q Q0 d 1 best tag\n", "line 1 must have a finite number as score, got 'best'"),
        ("q Q0 d 1 nan tag\n", "line 1 must have a finite number as score, got 'nan'"),
        ("q Q0 d 1 2 tag\nq Q0 d 2 1 tag\n", "line 2 names document 'd' again for query 'q'"),
    ],
)
def test_bad_run_files(tmp_path, text, message):
    (tmp_path / "r").write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_run(tmp_path / "r")
    assert message in str(caught.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "r").write_bytes(b"q Q0 d 1 0.5 tag\n\xff\xfe\n")
    with pytest.raises(InvalidInputError, match="must be text in UTF-8"):
        read_run(tmp_path / "r")
    with pytest.raises(FileNotFoundError):
        read_run(tmp_path / "none")


# ---- tuning

SETTINGS = ["expansion(mix=0.9)", "expansion(top=3)", "expansion(top=2, mix=0.9)"]


def tuned(bridge, data, grid=SETTINGS, **options):
    return ab.tune_rerank(bridge, data[1], data[2], grid, **{"k": 31} | options)


def test_held_out_figures_are_those_of_the_other_folds_choices(bridge, data):
    found = tuned(bridge, data, folds=4, seed=11)
    values = evaluated(bridge, data, SETTINGS).values
    systems = ["plain", *SETTINGS]
    order = np.random.default_rng(11).permutation(QUERIES)
    chosen, expected = [], {name: np.empty(QUERIES) for name in ("nDCG@10", "MAP", "MRR")}
    for fold in np.array_split(order, 4):
        others = [i for i in range(QUERIES) if i not in fold]
        means = [np.mean([values[name]["nDCG@10"][i] for i in others]) for name in systems]
        best = systems[int(np.argmax(means))]
        chosen.append("" if best == "plain" else best)
        for measure, out in expected.items():
            out[fold] = values[best][measure][fold]
    assert found.chosen == tuple(chosen)
    for measure, out in expected.items():
        assert_allclose(found.held_out.values[TUNED][measure], out, atol=1e-12)
        assert found.held_out.gains[TUNED][measure].mean == pytest.approx((out - values["plain"][measure]).mean())
    best = systems[int(np.argmax([values[name]["nDCG@10"].mean() for name in systems]))]
    assert found.choice == ("" if best == "plain" else best)
    assert as_stages(found.choice) == as_stages(best if found.choice else ())


def test_a_fold_s_own_queries_do_not_choose():
    """Each of two queries gains by what the other loses by: held out both lose, though on all of them one gains."""
    made = ab.AttentionVectorBridge(2, index="exact")
    made.add([[1.0, 0.0], [1.0, 0.2], [1.0, 0.3], [1.0, 0.31], [1.0, 0.32]], ids=list("abcde"))
    queries = [[1.0, 0.04]] * 2
    assert made.search(queries[0]).ids[0] == "a"
    pull = "expansion(top=5, scale=0.01, mix=1.0)"
    assert made.search(queries[0], rerank=pull).ids[0] == "b"
    found = ab.tune_rerank(made, queries, [{"a"}, {"b"}], [pull], folds=2)
    values = ab.evaluate(made, queries, [{"a"}, {"b"}], [pull], rounds=0).values
    assert values[pull]["nDCG@10"][0] < values["plain"]["nDCG@10"][0]
    assert values[pull]["nDCG@10"][1] > values["plain"]["nDCG@10"][1]
    assert sorted(found.chosen) == ["", pull]
    assert_allclose(
        found.held_out.values[TUNED]["nDCG@10"], [values[pull]["nDCG@10"][0], values["plain"]["nDCG@10"][1]]
    )


def test_each_setting_is_run_once(bridge, data, monkeypatch):
    runs = []
    run = Bench.run
    monkeypatch.setattr(Bench, "run", lambda self, rerank, *args: runs.append(rerank) or run(self, rerank, *args))
    tuned(bridge, data, folds=7)
    assert runs == [(), *map(as_stages, SETTINGS)]


def test_plain_wins_where_nothing_is_better(bridge, data):
    found = tuned(bridge, data, ["expansion(mix=0.0)"])
    assert (found.choice, set(found.chosen)) == ("", {""})
    assert found.held_out.gains[TUNED]["MAP"] == (0.0, 0.0, 0.0)
    assert "Choice, on all queries: plain: no stages" in str(found)
    with pytest.raises(InvalidInputError, match="this evaluation holds no runs to write"):
        found.held_out.write_runs("nowhere")


def test_tuning_says_what_its_figures_are(bridge, data):
    found = tuned(bridge, data, measure="MRR", folds=3)
    assert found.held_out.measures == ("MRR", "nDCG@10", "MAP")
    text = str(found)
    assert "Figures are for queries held out" in text
    assert "Documents are shared between folds" in text
    assert text.splitlines()[-1] == f"Choice, on all queries: {found.choice or 'plain: no stages'}"
    assert sum(int(part.split("(")[-1].split()[0]) for part in text.splitlines()[-2].split(";")) == 3
    about = found.to_dict()
    assert about["choice"] == found.choice
    assert [system["system"] for system in about["held_out"]["systems"]] == ["plain", TUNED]
    assert "queries/s" not in text


def test_default_grid_is_what_the_data_allows(bridge, data, tokens):
    assert {stage.requires_tokens for entry in GRID for stage in as_stages(entry)} == {True, False}
    without = default_grid(tokens=False, text=False)
    by_vectors = [entry for entry in GRID if "bm25" not in entry]
    assert without == [entry for entry in by_vectors if "late_interaction" not in entry]
    assert default_grid(tokens=True, text=False) == by_vectors
    assert default_grid(tokens=True, text=True) == list(GRID)
    assert len({repr(as_stages(entry)) for entry in GRID}) == len(GRID)
    assert tuned(bridge, data, None).grid == tuple(without)
    assert tuned(bridge, data, None, query_tokens=tokens[1]).grid == tuple(by_vectors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds must be"),
        ({"folds": 24}, "folds must be at most the 23 judged queries, got 24"),
        ({"grid": []}, "grid must be texts of stages, at least one"),
        ({"grid": [ab.QueryExpansion()]}, "grid must be texts of stages, at least one"),
        ({"grid": ["expansion", "expansion"]}, "systems must have names of their own, 'expansion' is there already"),
        ({"grid": ["magic"]}, "rerank names no stage 'magic'"),
        ({"measure": "magic"}, "measures must be ones of trec_eval"),
    ],
)
def test_bad_tuning(bridge, data, change, message):
    with pytest.raises(InvalidConfigError) as caught:
        tuned(bridge, data, **change)
    assert message in str(caught.value)


def test_a_stage_that_reads_tokens_where_there_are_any_gets_them(bridge, data, tokens):
    """Attention over tokens ranks as MaxSim does, alone, behind a gate and in a fusion."""
    systems = ["late_interaction(mix=1.0)", "attention_rerank('cross')", "gated(attention_rerank('cross'), 'gap')"]
    found = evaluated(bridge, data, systems, query_tokens=tokens[1])
    late, cross, gated = (found.values[name]["nDCG@10"].tolist() for name in systems)
    assert late == cross == gated
    assert late != found.values["plain"]["nDCG@10"].tolist()
    fused = evaluated(bridge, data, {"fused": [ab.Fusion([ab.AttentionRerank("cross")])]}, query_tokens=tokens[1])
    assert fused.values["fused"]["nDCG@10"].tolist() == late


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_run_whose_scores_are_no_numbers(bridge, data, score):
    with pytest.raises(ab.InvalidInputError, match=r"runs\['mine'\] must hold finite scores, one is NaN or infinite"):
        evaluated(bridge, data, runs={"mine": {"0": {"d1": score}}})


def test_a_run_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "mine.run"
    write_run({"q": {"a": 1.0}}, file)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(whole_file.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*mine\.run"):
            write_run({"q": {"b": 2.0}}, file)
    assert file.read_text() == "q Q0 a 1 1 attnbridge\n"
    assert list(tmp_path.iterdir()) == [file]
