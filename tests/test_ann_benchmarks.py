"""The ann-benchmarks module: its interface, its numbers, and the snippets of its docstring."""

import re
from inspect import getdoc

import numpy as np
import pytest

from attnbridge.errors import InvalidConfigError
from attnbridge.integrations import ann_benchmarks
from attnbridge.integrations.ann_benchmarks import AttnBridge
from attnbridge.integrations.configurations import CONFIGURATIONS

ROWS, DIM, K = 700, 11, 5


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(5).standard_normal((13, DIM)).astype(np.float32)


def nearest(rows, queries, metric):
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "euclidean":
        return np.argsort(((queries[:, None] - rows) ** 2).sum(axis=2), axis=1)[:, :K]
    return np.argsort(-(queries @ rows.T) / np.linalg.norm(rows, axis=1), axis=1)[:, :K]


@pytest.mark.parametrize("metric", ["angular", "euclidean"])
@pytest.mark.parametrize("configuration", list(CONFIGURATIONS))
def test_a_run_as_ann_benchmarks_does_it(rows, queries, metric, configuration):
    algorithm = AttnBridge(metric, {"configuration": configuration, "M": 12, "ef_construction": 90})
    before = algorithm.get_memory_usage()
    algorithm.fit(rows)
    truth = nearest(rows, queries, metric)
    for ef in (2, 400):  # 2 is less than the hits asked for
        algorithm.set_query_arguments(ef)
        assert str(algorithm) == algorithm.name == f"{configuration} ({{'M': 12, 'ef_construction': 90}}, ef={ef})"
        singles = [algorithm.query(query, K) for query in queries]
        algorithm.batch_query(queries, K)
        assert [found.tolist() for found in algorithm.get_batch_results()] == [found.tolist() for found in singles]
        assert all(found.shape == (K,) for found in singles)
    np.testing.assert_array_equal(singles, truth)
    assert before > 1_000  # kilobytes
    assert algorithm.get_additional()["M"] == "12"
    algorithm.done()
    assert algorithm.get_batch_results() == []
    assert algorithm.get_additional() == {}
    with pytest.raises(RuntimeError, match="query needs an index: call fit first"):
        algorithm.query(queries[0], K)


def test_more_breadth_finds_more(rows, queries):
    algorithm = AttnBridge("euclidean", {"M": 2, "ef_construction": 4, "threads": 1})
    algorithm.fit(rows)
    truth, recalls = nearest(rows, queries, "euclidean"), []
    for ef in (K, 60, ROWS):
        algorithm.set_query_arguments(ef)
        algorithm.batch_query(queries, K)
        recalls.append(np.mean([np.isin(a, b).mean() for a, b in zip(algorithm.get_batch_results(), truth)]))  # noqa: B905
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AttnBridge("jaccard"), "metric must be one of angular, euclidean; got 'jaccard'"),
        (
            lambda: AttnBridge("angular", {"configuration": "fast"}),
            f"configuration must be one of {', '.join(sorted(CONFIGURATIONS))}; got 'fast'",
        ),
        (lambda: AttnBridge("angular").set_query_arguments(0), "ef must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(InvalidConfigError, match=f"^{re.escape(message)}$"):
        call()


def snippet(name):
    """Return the indented block of the docstring behind a word."""
    text = getdoc(ann_benchmarks)
    return re.search(rf"`{name}`.*?::\n\n((?:    .*\n|\n)+)", text).group(1)


def test_module_of_the_docstring_gives_the_constructor():
    names = {}
    exec(snippet("module.py").strip(), names)
    assert names["AttnBridge"] is AttnBridge


def test_config_of_the_docstring_runs(rows, queries):
    """Read as ann-benchmarks reads it: lists are multiplied out, base_args go first."""
    yaml = pytest.importorskip("yaml")
    (entry,) = yaml.safe_load(snippet("config.yml"))["float"]["any"]
    assert (entry["constructor"], entry["base_args"]) == (AttnBridge.__name__, ["@metric"])
    assert entry["module"] == "ann_benchmarks.algorithms.attnbridge"
    assert entry["docker_tag"] == "ann-benchmarks-attnbridge"
    for group in entry["run_groups"].values():
        (options,) = group["arg_groups"]
        assert set(options.pop("configuration")) == set(CONFIGURATIONS)
        (breadths,) = group["query_args"]
        algorithm = AttnBridge("angular", options)
        algorithm.fit(rows)
        algorithm.set_query_arguments(breadths[-1])
        assert algorithm.query(queries[0], K).tolist() == nearest(rows, queries[:1], "angular")[0].tolist()
