"""What audit measures and what tune picks, on bridges whose answers are known or spoiled on purpose."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats

import attnbridge as ab
from attnbridge.hits import Hits
from attnbridge.integrations import Audit, audit, tune
from attnbridge.integrations.audit import AuditRow, recall_interval
from attnbridge.integrations.tuning import TuningRow


def make(rows=400, dim=8, *, index="exact", seed=0, **options):
    bridge = ab.AttentionVectorBridge(dim=dim, index=index, threads=1, **options)
    bridge.add(np.random.default_rng(seed).standard_normal((rows, dim)))
    return bridge


def spoil(monkeypatch, bridge, change):
    """Let searches that are not exact return change(hits) for each query; say what every search was asked for."""
    calls, search_batch = [], bridge.search_batch

    def spoiled(queries, k, **options):
        calls.append({"queries": queries, "k": k, **options})
        found = search_batch(queries, k, **options)
        return found if options.get("exact") else [change(i, hits) for i, hits in enumerate(found)]

    monkeypatch.setattr(bridge, "search_batch", spoiled)
    return calls


def cut(hits, keep):
    """Return Hits of the kept positions."""
    columns = ("scores", "weights", "distances", "ranks_before")
    return Hits([hits.ids[i] for i in keep], *(getattr(hits, c)[keep] for c in columns), {}, {}, hits.candidates)


# ---- the interval


def test_interval_of_perfect_recall_is_clopper_pearson_of_the_queries():
    """0.025 = low^n: were it lower, n perfect queries would be rarer than that."""
    for n in (1, 5, 200):
        mean, low, high = recall_interval(np.ones(n), k=10)
        assert (mean, high) == (1.0, 1.0)
        assert low == pytest.approx(0.025 ** (1 / n), rel=1e-12)
    mean, low, high = recall_interval(np.zeros(200), k=10)
    assert (mean, low) == (0.0, 0.0)
    assert high == pytest.approx(1 - 0.025 ** (1 / 200), rel=1e-12)


def test_interval_by_hand():
    """Whole queries missed, 10 of 100: the variance is that of 100 yes-or-no answers, but for n/(n-1) and t."""
    recalls = np.repeat([0.0, 1.0], [10, 90])
    size = 99 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 99)) ** 2
    low, high = stats.beta.ppf(0.025, 0.9 * size, 0.1 * size + 1), stats.beta.ppf(0.975, 0.9 * size + 1, 0.1 * size)
    assert recall_interval(recalls, k=10) == pytest.approx((0.9, low, high), rel=1e-12)
    assert (low, high) == pytest.approx((0.8224, 0.9519), abs=5e-4)  # 0.8238..0.9510 with 100 answers


def test_interval_knows_that_hits_come_in_queries():
    """A tenth of all hits missed: by a tenth of the queries, or one by each of them."""
    together, apart = np.repeat([0.0, 1.0], [20, 180]), np.random.default_rng(0).binomial(10, 0.9, 200) / 10
    widths = [np.ptp(recall_interval(recalls, k=10)[1:]) for recalls in (together, apart)]
    assert widths[0] > 2.5 * widths[1]  # the square root of 10, about
    few = recall_interval(np.full(200, 0.9), k=10)  # all alike says nothing of the spread
    assert np.ptp(few[1:]) == pytest.approx(widths[0], rel=0.02)
    alternating = recall_interval(np.tile([0.9, 1.0], 100), k=10)  # less than chance would vary: n * k at most
    assert alternating.low == pytest.approx(stats.beta.ppf(0.025, 1900, 101), rel=1e-9)


def test_interval_claims_no_more_than_perfect_answers_would():
    nearly = np.ones(200)
    perfect = recall_interval(nearly, k=10)
    nearly[0] = 0.9
    assert recall_interval(nearly, k=10).low == perfect.low
    assert recall_interval(1.0 - nearly, k=10).high == pytest.approx(1.0 - perfect.low, rel=1e-12)


@pytest.mark.parametrize("chance", [0.5, 0.9, 0.99])
def test_interval_covers_the_truth_as_often_as_it_says(chance):
    rng = np.random.default_rng(int(100 * chance))
    found = [recall_interval(rng.binomial(10, chance, 100) / 10, k=10) for _ in range(400)]
    assert np.mean([low <= chance <= high for _, low, high in found]) > 0.92
    assert all(0.0 <= low <= mean <= high <= 1.0 for mean, low, high in found)


# ---- audit


def test_audit_of_exact_search_is_perfect():
    report = audit(make(), k=7, sample=30)
    assert [row.selectivity for row in report.rows] == [1.0, 0.5, 0.1, 0.01]
    assert [row.rows for row in report.rows] == [400, 200, 40, 8]  # 8: k and the query's own
    assert [row.recall for row in report.rows] == [1.0] * 4
    assert [row.hits for row in report.rows] == [7.0] * 4
    assert all(row.low == pytest.approx(0.025 ** (1 / 30)) and row.high == 1.0 for row in report.rows)
    assert all(row.queries_per_second > 0 and row.exact_queries_per_second > 0 for row in report.rows)
    assert (report.k, report.queries, report.threads) == (7, 30, 1)


def test_audit_sees_what_a_search_misses(monkeypatch):
    """The best hit dropped for every second query: recall 0.9 for these, the 11th document is none of the 10."""
    bridge = make()
    queries = np.random.default_rng(1).standard_normal((20, 8))

    def change(i, hits):
        return cut(hits, np.arange(1, len(hits))) if i % 2 else hits

    spoil(monkeypatch, bridge, change)
    (row,) = audit(bridge, k=10, queries=queries, selectivities=[1.0]).rows
    assert row.recall == pytest.approx(0.95)
    assert row.hits == pytest.approx(9.5)
    assert row.low < 0.95 < row.high < 1.0


def test_audit_sees_wrong_documents_with_the_right_number_of_hits(monkeypatch):
    bridge = make()
    queries = np.random.default_rng(1).standard_normal((5, 8))
    wrong = bridge.search_batch(-queries, 10)
    spoil(monkeypatch, bridge, lambda i, hits: wrong[i])
    (row,) = audit(bridge, k=10, queries=queries, selectivities=[1.0]).rows
    assert (row.recall, row.hits) == (0.0, 10.0)


def test_audit_takes_equal_documents_for_each_other(monkeypatch):
    """Each vector is there four times and k cuts through the copies: which of them come back makes no difference."""
    bridge = ab.AttentionVectorBridge(dim=8, index="exact")
    vectors = np.random.default_rng(0).standard_normal((20, 8))
    bridge.add(np.concatenate([vectors] * 4))
    queries = vectors + 0.01
    copies = bridge.search_batch(queries, 4)  # exact search for three returns the first three of these
    spoil(monkeypatch, bridge, lambda i, hits: cut(copies[i], [0, 1, 3]))
    (row,) = audit(bridge, k=3, queries=queries, selectivities=[1.0]).rows
    assert (row.recall, row.hits) == (1.0, 3.0)


def test_audit_leaves_each_sampled_document_out(monkeypatch):
    """A search that finds nothing but the query's own document has found nothing."""
    bridge = make(60)
    calls = spoil(monkeypatch, bridge, lambda i, hits: cut(hits, [0]))
    (row,) = audit(bridge, k=5, sample=20, selectivities=[1.0]).rows
    assert (row.recall, row.hits) == (0.0, 0.0)
    assert {call["k"] for call in calls} == {6}
    assert all((call["queries"] == bridge.get(bridge.ids())[:, None]).all(axis=2).any(axis=0).all() for call in calls)


def test_audit_is_seeded(monkeypatch):
    bridge = make(100)
    calls = spoil(monkeypatch, bridge, lambda i, hits: hits)
    for seed in (1, 1, 2):
        audit(bridge, sample=10, selectivities=[0.3], seed=seed)
    a, b, c = calls[0], calls[6], calls[12]  # three runs of each, exact or not
    assert a["filter"].sum() == 30
    assert (a["queries"] == b["queries"]).all()
    assert (a["filter"] == b["filter"]).all()
    assert (a["queries"] != c["queries"]).any()
    assert (a["filter"] != c["filter"]).any()


def test_audit_times_the_median_run(monkeypatch):
    bridge = make(20)
    hits = bridge.search(np.ones(8), 1)
    monkeypatch.setattr(bridge, "search_batch", lambda *_, **__: [hits] * 8)
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 103.0] * 2)  # 1, 2 and 100 seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    (row,) = audit(bridge, k=1, queries=np.eye(8), selectivities=[1.0]).rows
    assert row.queries_per_second == row.exact_queries_per_second == 8 / 2.0


def test_audit_of_a_graph_that_is_too_narrow():
    """4,000 gaussian rows in 64 dimensions with M=2 are a graph that a walk gets lost in."""
    poor, good = (make(4_000, 64, index="hnsw", M=m, ef_construction=c, ef=100) for m, c in ((2, 4), (16, 200)))
    for few, many in zip(audit(poor, sample=50).rows[:1], audit(good, sample=50).rows[:1], strict=True):
        assert few.high < many.low


def test_audit_prints_as_a_table_and_becomes_a_frame():
    row = AuditRow(0.5, 5_000, 0.98, 0.97, 0.99, 4_000.4, 900.0, 10.0)
    report = Audit((row, row._replace(selectivity=0.001, rows=10)), {"rows": 1_234_567}, 10, 200, 2)
    text = str(report)
    lines = text.splitlines()
    assert lines[0] == "recall@10 against exact search, 200 queries, 2 thread(s)"
    assert " ".join(lines[1].split()) == "pass rows recall 95 % interval queries/s exact, queries/s hits"
    assert lines[3].split() == ["50", "%", "5,000", "0.9800", "0.9700..0.9900", "4,000", "900", "10.0"]
    assert lines[4].split()[:3] == ["0.1", "%", "10"]
    assert len(lines[3]) == len(lines[4])
    assert lines[-1].split() == ["rows", "1,234,567"]
    frame = report.to_pandas()
    assert list(frame.columns) == list(AuditRow._fields)
    assert frame["selectivity"].tolist() == [0.5, 0.001]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.k = 3


def test_audit_reports_the_bridges_bytes():
    bridge = make(50)
    report = audit(bridge, k=2, sample=3, selectivities=1.0)  # a lone share is taken too
    assert set(report.bytes) == set(bridge.memory())
    assert report.bytes["rows"] == bridge.memory()["rows"]
    with pytest.raises(TypeError):
        report.bytes["rows"] = 0


@pytest.mark.parametrize("measure", [audit, tune])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ab.InvalidConfigError, "k must be a whole number >= 1, got 0"),
        ({"k": 2.5}, ab.InvalidConfigError, "k must be a whole number >= 1, got 2.5"),
        ({"sample": 0}, ab.InvalidConfigError, "sample must be a whole number >= 1, got 0"),
        ({"seed": -1}, ab.InvalidConfigError, "seed must be a whole number >= 0, got -1"),
        (
            {"k": 40},
            ab.InvalidInputError,
            "k must be at most the bridge's rows besides the query's own, got k=40 with 40",
        ),
        (
            {"k": 41, "queries": np.ones((1, 8))},
            ab.InvalidInputError,
            "k must be at most the bridge's rows, got k=41 with 40 rows",
        ),
        ({"queries": np.ones((2, 7))}, ab.DimensionMismatchError, "queries must have dimension 8, got 7"),
        ({"queries": np.ones(8)}, ab.DimensionMismatchError, "queries must be rows (n, d), got shape (8,)"),
        ({"queries": []}, ab.InvalidInputError, "queries must hold at least one vector, got none; leave them out"),
    ],
)
def test_what_cannot_be_measured(measure, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        measure(make(40, index="hnsw"), **options)


@pytest.mark.parametrize("measure", [audit, tune])
def test_an_empty_bridge_cannot_be_measured(measure):
    with pytest.raises(ab.InvalidInputError, match="got k=10 with 0 rows"):
        measure(ab.AttentionVectorBridge(dim=8))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([], "selectivities must hold at least one share in (0, 1], got none"),
        ([0.5, 0.0], "selectivities must be a finite number > 0, at most 1, got 0.0"),
        (1.5, "selectivities must be a finite number > 0, at most 1, got 1.5"),
    ],
)
def test_shares_that_cannot_be(shares, message):
    with pytest.raises(ab.InvalidConfigError, match=re.escape(message)):
        audit(make(40), selectivities=shares)


# ---- tune


def hard(rows=3_000, dim=48):
    """Return a bridge over gaussian rows: in so many dimensions all are about equally far from each other."""
    return make(rows, dim, index="hnsw", M=4, ef_construction=40)


def easy(rows=3_000):
    """Return a bridge over rows in three dimensions."""
    return make(rows, 3, index="hnsw", M=16, ef_construction=200)


def test_tune_searches_wider_where_it_is_harder():
    found = [tune(bridge, 0.95, min_candidates=10, sample=100, progress=False) for bridge in (easy(), hard())]
    assert all(tuning.reached and tuning.best.recall >= 0.95 for tuning in found)
    widths = [max(tuning.best.ef, tuning.best.candidates) for tuning in found]
    assert widths[1] > 3 * widths[0]


def test_tune_sets_the_bridge_to_what_it_chose():
    bridge = hard()
    before = audit(bridge, selectivities=[1.0], sample=100).rows[0].recall
    tuning = tune(bridge, 0.97, sample=100, progress=False)
    assert before < 0.97 <= tuning.best.recall
    assert (bridge.config["ef"], bridge.config["candidates"]) == (tuning.best.ef, tuning.best.candidates)
    assert audit(bridge, selectivities=[1.0], sample=100).rows[0].recall == tuning.best.recall  # one sample, one seed


def test_tune_chooses_the_fastest_that_suffices():
    tuning = tune(hard(), 0.9, min_candidates=10, sample=50, progress=False)
    reaching = [row for row in tuning.rows if row.recall >= 0.9]
    assert len(reaching) < len(tuning.rows)
    assert tuning.best.queries_per_second == max(row.queries_per_second for row in reaching)


def test_tune_does_not_go_below_the_present_candidates_unless_told():
    bridge = easy()
    bridge._set_search(ef=100, candidates=60)
    tuning = tune(bridge, 0.5, sample=20, progress=False)
    assert {row.candidates for row in tuning.rows} == {60}
    assert bridge.config["candidates"] == 60
    tuning = tune(bridge, 0.5, min_candidates=1, sample=20, progress=False)
    assert bridge.config["candidates"] == tuning.best.candidates == 10  # k at least


def test_tune_that_fails_changes_nothing_and_says_so(monkeypatch, capsys):
    bridge = hard(300)
    spoil(monkeypatch, bridge, lambda i, hits: cut(hits, np.arange(5)))
    before = bridge.config
    with pytest.warns(RuntimeWarning, match=r"no ef up to 300 reaches recall@10 >= 0\.9: the best is 0\.\d+, with ef="):
        tuning = tune(bridge, 0.9, sample=20)
    assert not tuning.reached
    assert tuning.best.recall == max(row.recall for row in tuning.rows) < 0.9
    assert bridge.config == before
    assert "best, short of the target" in capsys.readouterr().out


def test_tune_that_breaks_off_changes_nothing(monkeypatch):
    bridge = hard(300)
    before = bridge.config

    def stop(i, hits):
        raise KeyboardInterrupt

    spoil(monkeypatch, bridge, stop)
    with pytest.raises(KeyboardInterrupt):
        tune(bridge, sample=5)
    assert bridge.config == before


@pytest.mark.parametrize(("reaches", "chosen"), [(10, 10), (37, 37), (64, 64), (100, 100), (300, 300)])
def test_tune_narrows_ef_down(monkeypatch, reaches, chosen):
    """A search that is right from a certain ef on: 1 + 3 halvings between 10 * 2^i leave an eighth of the gap."""
    bridge = make(300, 4, index="hnsw")
    nothing = np.arange(0)
    spoil(monkeypatch, bridge, lambda i, hits: hits if bridge.config["ef"] >= reaches else cut(hits, nothing))
    monkeypatch.setattr("attnbridge.integrations.tuning._candidate_counts", lambda *_: [10])
    tuning = tune(bridge, 0.9, min_candidates=10, sample=10, progress=False)
    good = min(row.ef for row in tuning.rows if row.recall >= 0.9)
    assert chosen <= good <= chosen + max(1, chosen // 8)
    assert len(tuning.rows) <= 9


def test_tune_prints_what_it_saw(capsys):
    bridge = make(300, 4, index="hnsw")
    tuning = tune(bridge, 0.9, sample=20)
    assert capsys.readouterr().out == f"{tuning}\n"
    lines = str(tuning).splitlines()
    assert lines[0] == "recall@10 >= 0.9 wanted, 20 queries, 1 thread(s)"
    assert sum("chosen" in line for line in lines) == 1
    assert len(lines) == 3 + len(tuning.rows)
    assert tuning.to_pandas()["ef"].tolist() == [row.ef for row in tuning.rows]
    assert list(tuning.to_pandas().columns) == list(TuningRow._fields)
    tune(bridge, 0.9, sample=20, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0.0}, "recall must be a finite number > 0, at most 1, got 0.0"),
        ({"recall": 1.01}, "recall must be a finite number > 0, at most 1, got 1.01"),
        ({"min_candidates": 0}, "min_candidates must be a whole number >= 1, got 0"),
    ],
)
def test_targets_that_cannot_be(options, message):
    with pytest.raises(ab.InvalidConfigError, match=re.escape(message)):
        tune(make(40, index="hnsw"), **options)


def test_exact_search_has_nothing_to_tune():
    with pytest.raises(ab.InvalidConfigError, match="tune needs a bridge with index='hnsw', got 'exact'"):
        tune(make(40))


def test_audit_measures_the_rows_of_one_moment():
    """Writes meanwhile neither break it nor count."""
    bridge = make()
    original, count = ab.AttentionVectorBridge.search_batch, len(bridge)

    def writing(self, *args, **options):
        bridge.add(np.random.default_rng(len(bridge)).standard_normal((1, 8)))
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ab.AttentionVectorBridge, "search_batch", writing)
        report = audit(bridge, k=7, sample=30)
    assert len(bridge) > count
    assert [row.rows for row in report.rows] == [count, count // 2, count // 10, 8]
    assert [row.recall for row in report.rows] == [1.0] * 4
