"""attnbridge demo: what is gathered, that judgements do not leak into it, and what the command prints."""

import json
import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from attnbridge import LateInteraction, demo_corpus
from attnbridge.bootstrap import mean_intervals
from attnbridge.cli import cli
from attnbridge.cli import demo as demo_command
from attnbridge.demo_corpus import gather, linked_names, split_see_also
from attnbridge.demo_vectors import WordSpace, split_words
from attnbridge.rerank.judged import ndcg

pytest.importorskip("sklearn")

SMALL = {"numpy": "numpy.linalg numpy.fft", "scipy": "scipy.linalg scipy.fft"}


@pytest.fixture(scope="module")
def documents():
    return gather()


@pytest.fixture(scope="module")
def space():
    texts = [f"{document.id}\n{document.text}" for document in gather(SMALL)]
    return WordSpace(texts, dim=32)


@pytest.fixture
def small(monkeypatch):
    """Restrict the command to a few modules."""
    monkeypatch.setattr(demo_corpus, "_MODULES", SMALL)


def run(*arguments):
    return CliRunner().invoke(cli, ["demo", *arguments], catch_exceptions=False)


# ---- documents


def test_corpus_is_large_and_each_document_is_there_once(documents):
    assert len(documents) > 1_500
    assert len({document.id for document in documents}) == len(documents)
    texts = [document.text for document in documents]
    # Two docstrings may differ in their See Also sections alone; whole docstrings never repeat.
    assert len(set(texts)) > 0.97 * len(texts)
    assert {document.id.partition(".")[0] for document in documents} >= {"numpy", "scipy", "networkx", "duckdb"}
    assert all(document.summary and len(document.text.split()) > 1 for document in documents)


def test_no_see_also_text_is_indexed(documents):
    left = [d.id for d in documents if re.search(r"see\s*also", d.text, re.IGNORECASE)]
    assert left == []


def test_relevant_ids_are_in_the_corpus(documents):
    ids = {document.id for document in documents}
    judged = [document for document in documents if document.relevant]
    assert len(judged) > 500
    for document in judged:
        assert ids.issuperset(document.relevant)
        assert document.id not in document.relevant
        assert len(set(document.relevant)) == len(document.relevant)


def test_links_are_those_a_reader_sees(documents):
    by_id = {document.id: document for document in documents}
    assert by_id["numpy.sin"].relevant == ("numpy.arcsin", "numpy.sinh", "numpy.cos")
    assert by_id["numpy.linalg.svd"].relevant == ("scipy.linalg.svd", "scipy.linalg.svdvals")
    assert "networkx.all_pairs_shortest_path" in by_id["networkx.shortest_path"].relevant
    assert by_id["numpy.sin"].summary == "Trigonometric sine, element-wise."  # not the signature above it


def test_gathering_prints_nothing(capfd):
    gather(SMALL)
    assert capfd.readouterr() == ("", "")


def test_broken_and_absent_modules_are_left_out(monkeypatch, tmp_path):
    (tmp_path / "brokenpackage.py").write_text("print('loud'); raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    found = gather({"numpy": "numpy.fft", "other": "brokenpackage absentpackage numpy.absent"})
    assert {document.id.rpartition(".")[0] for document in found} == {"numpy.fft"}


def test_nothing_installed_names_the_remedy():
    with pytest.raises(ValueError, match=r"none of the packages .* pip install scipy"):
        gather({"other": "absentpackage"})


@pytest.mark.parametrize(
    ("doc", "text", "section"),
    [
        ("Add.", "Add.", ""),
        ("Add.\n\nSee Also\n--------\nsub : Less.", "Add.\n\n", "sub : Less."),
        ("Add.\n\nSee also\n========\nsub\n\nNotes\n-----\nN.", "Add.\n\nNotes\n-----\nN.", "sub\n\n"),
        ("Add.\n\n.. seealso::\n\n   sub, mul\n\nMore.", "Add.\n\n\nMore.", ""),
        ("Add. See\nalso `sub`.\n\nMore.", "Add. \n\nMore.", ""),
        ("Add; see also `sub`,\nwhich is less.\n\nMore.", "Add; \n\nMore.", ""),
    ],
)
def test_see_also_is_taken_out(doc, text, section):
    found, links = split_see_also(doc)
    assert (found.strip(), links) == (text.strip(), section)


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("arcsin, sinh, cos", ["arcsin", "sinh", "cos"]),
        ("svd : Like scipy's svdvals.\n    More on norm\nqr", ["svd", "qr"]),
        ("- :func:`~scipy.fft.dct`: cosine\n- `dst`", ["scipy.fft.dct", "dst"]),
        ("networkx.bfs_tree()", ["networkx.bfs_tree"]),
        ("The functions in the other module do more", []),
        ("", []),
    ],
)
def test_linked_names(section, names):
    assert list(linked_names(section)) == names


# ---- vectors


def test_words_of_names_are_taken_apart():
    assert split_words("all_pairs_shortestPath log10 x") == ["all", "pairs", "shortest", "path", "log10"]


def test_tokens_have_unit_length_and_weights_are_idf(space):
    texts = [f"{document.id}\n{document.text}" for document in gather(SMALL)]
    words = space.words("the singular values of the inverse Fourier transform of a square matrix")
    assert len(words) == len(set(words)) > 3
    np.testing.assert_allclose(np.linalg.norm(space.tokens(words), axis=1), 1.0, atol=1e-5)
    having = np.array([sum(word in split_words(text) for text in texts) for word in words])
    np.testing.assert_allclose(space.weights(words), np.log((1 + len(texts)) / (1 + having)) + 1, rtol=1e-5)


def test_one_seed_gives_one_space():
    texts = [document.text for document in gather({"numpy": "numpy.linalg"})]
    np.testing.assert_array_equal(WordSpace(texts, dim=8).fitted, WordSpace(texts, dim=8).fitted)


def test_fitted_texts_are_where_vectors_puts_them():
    texts = [document.text for document in gather({"numpy": "numpy.linalg"})]
    space = WordSpace(texts, dim=8)
    np.testing.assert_allclose(space.fitted, space.vectors(texts), atol=1e-4)
    assert not space.vectors(["xyzzy"]).any()


# ---- measure


@pytest.mark.parametrize(
    ("ids", "relevant", "expected"),
    [
        (["a", "b", "x"], {"a", "b"}, 1.0),
        (["x", "a"], {"a"}, 1 / np.log2(3)),
        (["a", "x", "b"], {"a", "b"}, (1 + 1 / 2) / (1 + 1 / np.log2(3))),
        (["a"], {"a", "b", "c"}, 1 / (1 + 1 / np.log2(3) + 1 / 2)),  # shorter than k: what is missing counts
        ([*"0123456789", "a"], {"a"}, 0.0),  # rank 11
        ([], {"a"}, 0.0),
        ([*"0123456789"], {*"0123456789", *"abc"}, 1.0),  # more relevant ones than places
    ],
)
def test_ndcg_by_hand(ids, relevant, expected):
    assert ndcg(ids, dict.fromkeys(relevant, 1.0)) == pytest.approx(expected, abs=1e-12)


def test_interval_holds_the_mean_as_the_normal_approximation_does(rng):
    values = rng.random(1_000)
    ((mean, low, high),) = mean_intervals(values[:, None])
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    assert mean_intervals(values[:, None]) == [(mean, low, high)]


def test_interval_of_values_that_are_alike_is_a_point():
    assert mean_intervals(np.array([[0.5]])) == [(0.5, 0.5, 0.5)]


# ---- the command


@pytest.mark.usefixtures("small")
def test_command_prints_what_it_promises():
    result = run("eigenvalues of a Hermitian matrix", "-k", "5")
    assert result.exit_code == 0
    for part in (
        "Question: eigenvalues of a Hermitian matrix",
        "plain order",
        "attention order",
        "numpy.linalg.eigvalsh",
        "MaxSim",
        "late_interaction",
        "recall@10 against exact search",
        "See Also section",
        "late interaction",
        "the same hits to the bit",
    ):
        assert part in result.stdout
    assert result.stderr == ""


@pytest.mark.usefixtures("small")
def test_json_is_one_object_and_its_parts_agree():
    result = run("eigenvalues of a Hermitian matrix", "-k", "4", "--json")
    report = json.loads(result.stdout)
    assert sum(report["packages"].values()) == report["documents"]
    assert len(report["plain"]) == len(report["attention"]) == 4
    for hit in report["attention"]:
        drawn = sum(word["contribution"] for word in hit["words"])
        assert drawn == pytest.approx(hit["maxsim"], abs=2e-3)  # tokens are float16
    assert report["recall_at_10"] > 0.9
    measured = report["evaluation"]["ndcg_at_10"]
    for interval in measured.values():
        assert 0 < interval["low"] <= interval["mean"] <= interval["high"] < 1
    for name, gain in report["evaluation"]["gain"].items():
        assert gain["mean"] == pytest.approx(measured[name]["mean"] - measured["plain"]["mean"])
    assert report["reopened"]["same_hits"] is True


@pytest.mark.usefixtures("small")
def test_saved_index_can_be_searched(tmp_path):
    folder = tmp_path / "kept"
    assert run("--no-evaluate", "--save", str(folder), "-k", "1").exit_code == 0
    found = CliRunner().invoke(cli, ["search", str(folder), "--like", "numpy.linalg.svd", "-k", "5", "--json"])
    assert "scipy.linalg.svd" in [hit["id"] for hit in json.loads(found.stdout)["hits"]]


@pytest.mark.usefixtures("small")
def test_without_evaluation_nothing_is_measured():
    report = json.loads(run("--no-evaluate", "--json").stdout)
    assert report["evaluation"] is None
    assert "evaluating" not in report["seconds"]


def test_folder_with_other_files_is_refused_before_the_work(monkeypatch, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    monkeypatch.setattr(demo_command, "_build", lambda: pytest.fail("worked first"))
    result = run("--save", str(tmp_path))
    assert result.exit_code == 1
    assert "holds other files" in result.stderr


@pytest.mark.usefixtures("small")
def test_a_question_without_known_words_is_refused():
    result = run("xyzzy", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "QUESTION must hold a word of the documents, got 'xyzzy'" in result.stderr


@pytest.mark.usefixtures("small")
def test_other_hits_after_reopening_are_an_error(monkeypatch):
    monkeypatch.setattr(LateInteraction, "apply", _drifting())
    result = run("--no-evaluate")
    assert result.exit_code == 1
    assert "the reopened index ranks 'shortest path between two nodes' differently" in result.stderr


def _drifting():
    """Return a stage's `apply` that scores otherwise each time."""
    apply = LateInteraction.apply
    calls = iter(range(1_000_000))

    def drift(self, pool):
        apply(self, pool)
        pool.scores += np.sin(np.arange(len(pool.scores)) * next(calls))

    return drift


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run()
    assert result.exit_code == 1
    assert "pip install 'attnbridge[demo]'" in result.stderr
