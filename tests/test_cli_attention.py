"""`attnbridge test`, `bench attention` and `bench reference`: what they find, print, write, and how they fail."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import attnbridge as ab
from attnbridge import kernels, reference, selftest
from attnbridge.cli import cli
from attnbridge.cli.test import test as command
from attnbridge.integrations import attention_bench
from attnbridge.integrations.attention_bench import Target, bench_attention, bench_reference, measured, targets
from attnbridge.mechanisms.base import Attention
from attnbridge.scoring import REGISTRY


def run(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args):
    result = run(*args)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


# ---- test


@pytest.fixture(scope="module")
def found():
    """Every check, as the command reports it."""
    return json.loads(succeeds("test", "--json"))


def test_this_installation_is_right(found):
    assert all(row["passed"] for row in found), [row for row in found if not row["passed"]]
    assert {row["suite"] for row in found} == {setting.suite for setting in selftest.SETTINGS}
    for row in found:
        assert 0.0 <= row["error"] <= row["limit"] <= 1e-5
        assert row["raised"] is None
        assert row["seconds"] >= 0.0
    assert max(row["error"] for row in found) > 1e-8  # float32 has been at work, and its errors were seen
    for name in REGISTRY:
        assert sum(row["check"].startswith(f"{name}(") for row in found) >= 6


def test_suites_are_those_of_the_command(found):
    assert tuple(command.params[0].type.choices) == ("all", *selftest.SUITES)
    for suite in selftest.SUITES:
        own = json.loads(succeeds("test", "--suite", suite, "--json"))
        assert [row["check"] for row in own] == [row["check"] for row in found if row["suite"] == suite]
    with pytest.raises(ab.InvalidConfigError, match=r"suite must be one of all, geometric, .*; got 'nope'"):
        selftest.checks("nope")


def test_tables(found):
    lines = succeeds("test", "--suite", "geometric").splitlines()
    own = [row for row in found if row["suite"] == "geometric"]
    assert re.fullmatch(rf"geometric +{len(own)} +\d\.\de-\d\d +1e-\d\d +\d+\.\d\d +pass *", lines[2])
    assert len(lines) == 3
    long = succeeds("test", "--suite", "geometric", "--verbose")
    for row in own:
        assert row["check"] in long
    assert long.count("pass") == len(own) + 1


@pytest.fixture
def few(monkeypatch):
    """Settings of two types in two suites."""
    names = ("scaled_dot", "poincare")
    monkeypatch.setattr(selftest, "SETTINGS", tuple(s for s in selftest.SETTINGS if s.name in names and not s.options))


def fails():
    """Return the failed checks of a run that must fail."""
    result = run("test", "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    failed = [row for row in rows if not row["passed"]]
    assert result.stderr.splitlines()[-1] == f"Error: {len(failed)} of {len(rows)} checks failed"
    return {row["check"]: row for row in failed}


@pytest.mark.usefixtures("few")
def test_a_kernel_that_is_off_by_little_fails_its_types_alone(monkeypatch):
    distance = kernels.poincare

    def off(*args):
        distance(*args)
        args[-1][:] *= 1.0 + 1e-4

    monkeypatch.setattr(kernels, "poincare", off)
    failed = fails()
    assert failed
    assert all(name.startswith("poincare(") for name in failed)
    assert {row["suite"] for row in failed.values()} == {"geometric"}
    assert 1e-5 < failed["poincare(), mask none"]["error"] < 1e-2
    assert failed["poincare(), float64"]["limit"] == 1e-10


@pytest.mark.parametrize(
    ("name", "suite", "outputs"),
    [
        ("softmax", "geometric", (-1,)),
        ("dot", "sparse", (7,)),
        ("weighted_sum", "geometric", (-1,)),
        ("attend_few", "standard", (-1, -2, -3)),
        ("attend_many", "standard", (-1, -2, -3)),
        ("attend_pairs", "sparse", (-1, -2, -3)),
        ("linear_attention", "standard", (-1, -2)),
        ("maxsim", "standard", (-1,)),
        ("gatv2", "graph", (-1,)),
        ("project", "graph", (-1,)),
        ("poincare", "geometric", (-1,)),
    ],
)
def test_no_output_of_a_kernel_is_off_unseen(name, suite, outputs, monkeypatch):
    """A thousandth, in one output at a time, in every module that calls the kernel by its name."""
    kernel = getattr(kernels, name)
    homes = [module for place, module in sys.modules.items() if place.startswith("attnbridge")]
    for output in outputs:

        def off(*args, output=output):
            found = kernel(*args)
            args[output][...] *= 1.001
            return found

        with monkeypatch.context() as patch:
            for home in homes:
                if getattr(home, name, None) is kernel:
                    patch.setattr(home, name, off)
            failed = [check.name for check in selftest.checks(suite) if not selftest.run(check).passed]
        assert len(failed) >= 2, output


@pytest.mark.usefixtures("few")
def test_a_kernel_that_crashes_is_a_failure_with_its_message(monkeypatch):
    def broken(*args):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(kernels, "weighted_sum", broken)
    monkeypatch.setattr(kernels, "softmax", broken)
    result = run("test")
    assert result.exit_code == 1
    assert "failed: standard, softmax: RuntimeError: illegal instruction" in result.stdout
    assert re.search(r"^standard .* inf .* FAIL", result.stdout, re.MULTILINE)
    assert fails()["softmax"]["error"] is None


@pytest.mark.usefixtures("few")
def test_a_mechanism_that_ignores_its_mask_fails(monkeypatch):
    masked = Attention._check
    monkeypatch.setattr(
        Attention, "_check", lambda self, q, k, v, mask, causal, **n: masked(self, q, k, v, None, causal, **n)
    )
    failed = fails()
    for name in ("scaled_dot", "poincare"):
        assert {check for check in failed if check.startswith(name)} == {
            f"{name}(), mask bool", f"{name}(), mask float", f"{name}(), mask sparse", f"{name}(), weights sum to 1",
        }  # fmt: skip


@pytest.mark.usefixtures("few")
def test_a_mechanism_that_looks_ahead_fails(monkeypatch):
    masked = Attention._check
    monkeypatch.setattr(
        Attention, "_check", lambda self, q, k, v, mask, causal, **n: masked(self, q, k, v, mask, False, **n)
    )
    failed = fails()
    for name in ("scaled_dot", "poincare"):
        assert {check for check in failed if check.startswith(name)} == {
            f"{name}(), mask causal", f"{name}(), later keys unseen",
        }  # fmt: skip


def test_a_type_without_a_setting_is_named(monkeypatch):
    assert selftest.untested() == []
    monkeypatch.setitem(REGISTRY, "newest", REGISTRY["scaled_dot"])
    assert selftest.untested() == ["newest"]


def test_errors_are_what_they_say():
    """By hand: logits and outputs relative to the largest of the row, weights each to itself."""
    inf = float("inf")
    logits = np.array([[4.0, 0.0, -np.inf]])
    assert selftest.logit_error(np.array([[4.0, 0.004, -np.inf]]), logits) == 0.001
    assert selftest.logit_error(np.array([[4.0, 0.0, -1e30]]), logits) == inf
    assert selftest.logit_error(np.array([[4.0, -np.inf, -np.inf]]), logits) == inf
    assert selftest.logit_error(np.array([[4.0, 0.0, np.inf]]), logits) == inf
    assert selftest.logit_error(np.array([4.0, 0.0, -np.inf]), logits) == inf
    assert selftest.weight_error(np.array([0.5, 2e-20]), np.array([0.5, 1e-20])) == pytest.approx(1.0)
    assert selftest.weight_error(np.array([1.0, 2e-40]), np.array([1.0, 0.0])) == pytest.approx(2e-10)
    assert selftest.weight_error(np.array([np.nan]), np.array([1.0])) == inf
    assert selftest.output_error(np.array([[10.0, 0.1], [0.0, 1e-3]]), np.array([[10.0, 0.0], [0.0, 0.0]])) == 0.01
    assert selftest.output_error(np.array([np.inf]), np.array([1.0])) == inf
    assert selftest.output_error(np.zeros((2, 1)), np.zeros((1, 2))) == inf


# ---- the formulas themselves, by hand


def test_truth_by_hand():
    e = np.e
    got = reference.truth("scaled_dot", [0.0, 2.0**0.5], np.eye(2), [[10.0], [20.0]], scale=None)
    np.testing.assert_allclose(got.logits, [0.0, 1.0])
    np.testing.assert_allclose(got.weights, np.array([1.0, e]) / (1.0 + e))
    np.testing.assert_allclose(got.output, [(10.0 + 20.0 * e) / (1.0 + e)])
    assert reference.attend(np.eye(2), np.eye(2), np.eye(2), 1.0, causal=True)[0].tolist() == [1.0, 0.0]
    assert reference.softmax(np.array([[-np.inf, -np.inf], [0.0, np.log(3.0)]])).round(12).tolist() == [
        [0, 0],
        [0.25, 0.75],
    ]


def test_the_ball_by_hand():
    """From the origin the distance is 2 artanh |x|: ln 3 at 1/2; the midpoint of x and -x is the origin."""
    origin, half = np.zeros(2), np.array([0.5, 0.0])
    assert reference.poincare_distance(origin, half, 1.0) == pytest.approx(np.log(3.0), rel=1e-14)
    assert reference.poincare_distance(half, half, 1.0) == 0.0
    assert reference.poincare_distance(2.0 * origin, 2.0 * half, 0.25) == pytest.approx(2.0 * np.log(3.0), rel=1e-14)
    np.testing.assert_allclose(reference.exp_map0(np.array([np.log(3.0) / 2.0, 0.0]), 1.0), half)
    two = np.array([half, -half])
    np.testing.assert_allclose(reference.einstein_midpoint(np.array([[0.5, 0.5]]), two, 1.0), [origin], atol=1e-16)
    np.testing.assert_allclose(reference.einstein_midpoint(np.array([[0.0, 1.0]]), two, 1.0), [-half])
    middle = reference.einstein_midpoint(np.array([[0.5, 0.5]]), np.array([origin, half]), 1.0)[0]
    to_both = reference.poincare_distance(middle, np.array([origin, half]), 1.0)
    np.testing.assert_allclose(to_both, np.log(3.0) / 2.0)
    assert reference.einstein_midpoint(np.zeros((1, 2)), two, 1.0).tolist() == [[0.0, 0.0]]


# ---- bench attention


def test_bench_attention_measures_every_type(tmp_path):
    out = tmp_path / "all.json"
    text = succeeds("bench", "attention", "--dim", 16, "--num-keys", 20, "--iterations", 3, "--json", out)
    assert text.startswith("1 query x 20 keys, dimension 16; 3 calls of each\n")
    report = json.loads(out.read_text())
    assert [report[name] for name in ("dim", "num_keys", "num_queries", "iterations", "seed")] == [16, 20, 1, 3, 0]
    names = [row["name"] for row in report["types"]]
    assert names[: len(REGISTRY) + 1] == [*REGISTRY, "numpy"]
    numpy = report["types"][len(REGISTRY)]
    for row in report["types"]:
        assert row["name"] in text
        assert 0.0 < row["seconds"] <= row["p95"]
        assert row["peak_bytes"] > 0
        assert row["over_numpy"] == pytest.approx(numpy["seconds"] / row["seconds"])
    assert numpy["over_numpy"] == 1.0


def test_bench_attention_of_some_types():
    text = succeeds(
        "bench", "attention", "--dim", 8, "--num-keys", 5, "--num-queries", 3, "--attention-type", "hyperbolic",
        "--attention-type", "dot", "--attention-type", "sdpa", "--iterations", 2,
    )  # fmt: skip
    assert text.startswith("3 queries x 5 keys, dimension 8; 2 calls of each\n")
    assert [line.split()[0] for line in text.splitlines()[3:6]] == ["poincare", "scaled_dot", "numpy"]
    result = run("bench", "attention", "--attention-type", "nope")
    assert result.exit_code == 1
    assert "attention type must be one of" in result.stderr
    result = run("bench", "attention", "--json", "nowhere/a.json")
    assert result.exit_code == 1
    assert "--json must be in a folder that is there, got nowhere/a.json; make nowhere first" in result.stderr


def test_numpys_figure_is_the_same_attention(rng):
    for arrays in (attention_bench._arrays(11, 7, 1), attention_bench._arrays(11, 7, 3)):
        want = reference.attend(*arrays)
        for name, call in attention_bench._peers(*arrays).items():
            np.testing.assert_allclose(np.asarray(call()).reshape(want.shape), want, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(attention_bench.call_of("scaled_dot", *arrays)(), want, rtol=1e-5, atol=1e-6)


def test_measured_takes_medians_in_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in ("a", "numpy")}
    rows = measured(calls, 4)
    assert [row.name for row in rows] == ["a", "numpy"]
    assert order.count("a") == order.count("numpy") >= 5
    assert rows[0].over_numpy == pytest.approx(rows[1].seconds / rows[0].seconds)
    assert (rows[0].over_torch, rows[1].over_numpy) == (None, 1.0)
    assert rows[0].seconds <= rows[0].p95


def test_memory_is_the_peak_of_a_call():
    def call():
        first = np.ones(50_000)  # 0.4 MB
        del first
        return np.ones(10)

    assert 400_000 <= attention_bench.peak_bytes(call) < 500_000
    kept = np.ones(100_000)
    assert attention_bench.peak_bytes(lambda: kept.sum()) < 50_000


# ---- bench reference


def test_reference_table_is_the_one_that_was_asked_for(monkeypatch):
    goals = [line.goal for line in targets()]
    assert goals == [
        "< 10 us", "< 15 us", "< 45 us", "< 38 us", "< 38 us", "< 150 us", "< 500 us", "< 2 ms", "< 50 ms", ">= 2x",
        "> 100 calls/s",
    ]  # fmt: skip


def test_the_plain_loop_computes_what_the_kernel_does():
    (line,) = (line for line in targets() if line.slow is not None)
    line.call()
    np.testing.assert_allclose(line.call.args[-1], line.slow(), rtol=1e-5, atol=1e-5)


def sleep_free(count):
    return lambda: sum(range(count))


def test_lines_pass_or_fail_by_their_targets():
    lines = [
        Target("fast", sleep_free(1), most_seconds=1.0),
        Target("too slow", sleep_free(100_000), most_seconds=1e-7),
        Target("often", sleep_free(1), least_rate=10.0),
        Target("too seldom", sleep_free(100_000), least_rate=1e9),
        Target("ahead", sleep_free(1), slow=sleep_free(100_000), least_ratio=2.0),
        Target("behind", sleep_free(100_000), slow=sleep_free(1), least_ratio=2.0),
    ]
    rows = bench_reference(3, lines)
    assert [row.passed for row in rows] == [True, False] * 3
    assert [row.target for row in rows] == [
        "< 1 s",
        "< 0.1 us",
        "> 10 calls/s",
        "> 1e+09 calls/s",
        ">= 2x",
        ">= 2x",
    ]
    assert [row.what for row in rows] == [line.what for line in lines]
    with pytest.raises(ab.InvalidConfigError, match="lines must not be empty: there is nothing to measure"):
        bench_reference(3, [])


def test_reference_command(monkeypatch, tmp_path):
    lines = [Target("fast", sleep_free(1), most_seconds=1.0), Target("slow", sleep_free(10**5), most_seconds=1e-7)]
    monkeypatch.setattr(attention_bench, "targets", lambda: lines[:1])
    out = tmp_path / "reference.json"
    text = succeeds("bench", "reference", "--iterations", 2, "--json", out)
    assert re.search(r"^fast +< 1 s .* pass *$", text, re.MULTILINE)
    (row,) = json.loads(out.read_text())["lines"]
    assert (row["what"], row["passed"]) == ("fast", True)
    assert row["seconds"] > 0.0
    monkeypatch.setattr(attention_bench, "targets", lambda: lines)
    result = run("bench", "reference", "--iterations", 2, "--json", out)
    assert result.exit_code == 1
    assert re.search(r"^slow .* FAIL *$", result.stdout, re.MULTILINE)
    assert result.stderr.splitlines()[-1] == "Error: 1 of 2 targets missed: slow"
    assert [row["passed"] for row in json.loads(out.read_text())["lines"]] == [True, False]


def test_defaults_stand_in_the_help():
    import inspect

    from attnbridge.cli.bench_attention import attention
    from attnbridge.cli.bench_attention import reference as command

    for made, function in ((attention, bench_attention), (command, bench_reference)):
        signature = inspect.signature(function).parameters
        for parameter in made.params:
            if parameter.name in signature:
                assert parameter.default == signature[parameter.name].default, parameter.name


def test_torch_is_held_to_its_fast_way(monkeypatch):
    """SDPA takes a slow way for fewer than four axes, and where gradients are recorded."""
    seen, without = [], []

    def inference_mode():
        def decorate(call):
            def run():
                without.append(True)
                try:
                    return call()
                finally:
                    without.pop()

            return run

        return decorate

    def attend(*tensors):
        seen.append(([tensor.shape for tensor in tensors], bool(without)))

    fast = SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=attend))
    torch = SimpleNamespace(from_numpy=lambda array: array, inference_mode=inference_mode, nn=fast)
    monkeypatch.setattr(attention_bench, "import_module", {"torch": torch}.__getitem__)
    attention_bench._peers(*attention_bench._arrays(11, 7, 1))["torch"]()
    attention_bench._peers(*attention_bench._arrays(11, 7, 3))["torch"]()
    assert seen == [([(1, 1, rows, 11), (1, 1, 7, 11), (1, 1, 7, 11)], True) for rows in (1, 3)]
