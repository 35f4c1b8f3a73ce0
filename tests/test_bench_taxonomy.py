"""Where tests/benchmarks/bench_taxonomy.py looks for its data: the script itself takes minutes, and data sets."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    yield pytest.importorskip("bench_taxonomy")
    for name in ("bench_taxonomy", "common"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path, bench):
    for file in (*(Path("wordnet", name) for name in bench.WORDS), Path("graph/cora.npz")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


def test_data_is_the_folder_of_all_or_that_of_wordnet(bench, data, monkeypatch):
    found = (data / "wordnet", data / "graph" / "cora.npz")
    assert bench.places(data) == found
    assert bench.places(data / "wordnet") == found
    monkeypatch.chdir(data / "wordnet")
    assert bench.places(Path()) == (Path(), found[1])


@pytest.mark.parametrize("of", ["", "wordnet"])
@pytest.mark.parametrize("missing", ["wordnet/noun_emb_f16.npy", "graph/cora.npz"])
def test_files_that_are_not_there_are_named(bench, data, missing, of):
    (data / missing).unlink()
    with pytest.raises(SystemExit, match=rf"^{data / missing} not there: --data is a folder that holds wordnet/ \(nou"):
        bench.places(data / of)


def test_a_folder_without_any_names_all_files(bench, tmp_path):
    with pytest.raises(SystemExit) as left:
        bench.places(tmp_path)
    assert all(str(tmp_path / "wordnet" / name) in str(left.value) for name in bench.WORDS)
