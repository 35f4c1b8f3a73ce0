"""The example that takes text to a saved index: with a model of seven dimensions, and a real one if there."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import attnbridge as ab
from attnbridge.errors import MissingDependencyError

PATH = Path(__file__).parent.parent / "examples" / "embed_text.py"
TOKEN_DIM = 5  # pooled vectors have seven
WORDS = ["delta", "gamma", "beta", "alpha", "omega", "sigma", "kappa", "lambda"]


def load():
    spec = importlib.util.spec_from_file_location("embed_text", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["embed_text"] = module  # as dataclasses and named tuples look it up
    spec.loader.exec_module(module)
    return module


embed_text = load()


class Fake:
    """A vector for each word, and their sum for the text."""

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        tokens = [np.array([self.word(word) for word in text.split()]).reshape(-1, TOKEN_DIM) for text in texts]
        pooled = [np.r_[rows.sum(axis=0), 1.0, len(rows)] for rows in tokens]
        return np.array(pooled, dtype=np.float32), [rows.astype(np.float32) for rows in tokens]

    @staticmethod
    def word(word):
        return np.random.default_rng(list(word.encode())).standard_normal(TOKEN_DIM) * [9, 7, 5, 1, 0.5]


@pytest.fixture
def fake(monkeypatch):
    model = Fake()
    monkeypatch.setattr(embed_text, "load_model", lambda name, batch_size: (model, name or "fake"))
    return model


@pytest.fixture
def records():
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(WORDS, 1 + i % 4)) for i in range(11)]
    return [{"_id": f"d{i}", "title": "alpha" if i % 3 else "", "text": text} for i, text in enumerate(texts)]


def write(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def corpus(tmp_path, records):
    return write(tmp_path / "in" / "corpus.jsonl", records)


@pytest.fixture
def queries(tmp_path):
    return write(tmp_path / "in" / "queries.jsonl", [{"id": 7, "text": "beta gamma"}, {"id": 2, "text": "omega"}])


def run(*arguments):
    return CliRunner().invoke(embed_text.main, [str(argument) for argument in arguments])


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def text_of(record):
    return f"{record['title']} {record['text']}".strip()


def test_index_holds_vectors_tokens_and_titles(fake, corpus, records, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_text, "CHUNK", 4)  # 4, 4 and 3 records
    result = run(corpus, tmp_path / "docs.index", "--model", "mine")
    assert result.exit_code == 0, result.output
    assert "11 texts" in result.output
    bridge = ab.AttentionVectorBridge.open(tmp_path / "docs.index", model="mine")
    assert bridge.ids() == [record["_id"] for record in records]
    assert fake.seen == [text_of(record) for record in records]
    pooled, tokens = fake.encode([text_of(record) for record in records])
    np.testing.assert_allclose(unit(bridge.get(bridge.ids())), unit(pooled), atol=1e-6)
    for stored, rows in zip(bridge.get_tokens(bridge.ids()), tokens, strict=True):
        np.testing.assert_allclose(stored, unit(rows), atol=5e-3)  # all five directions, as int8
    assert bridge.payload("d0") == {"title": None}
    assert bridge.payload("d1") == {"title": "alpha"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs.index", "in"]
    hits = bridge.search(pooled[4], k=1, query_tokens=tokens[4], rerank=ab.LateInteraction())
    assert fake.seen[bridge.ids().index(hits.ids[0])] == fake.seen[4]


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_evaluation_folder(chunk, fake, corpus, queries, records, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_text, "CHUNK", chunk)
    (corpus.parent / "qrels").mkdir()
    (corpus.parent / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n7\td1\t1\n")
    folder = tmp_path / "out"
    result = run(corpus, tmp_path / "i", "--queries", queries, "--vectors", folder, "--token-dim", 3, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    texts = [text_of(record) for record in records]
    for kind, plural, dtype, expected in (
        ("doc", "docs", "f2", texts),
        ("query", "queries", "f4", ["beta gamma", "omega"]),
    ):
        pooled, tokens = fake.encode(expected)
        np.testing.assert_allclose(np.load(folder / f"{plural}.npy"), unit(pooled), atol=1e-6)
        offsets = np.load(folder / f"{kind}_token_offsets.npy")
        assert offsets.tolist() == [0, *np.cumsum([len(rows) for rows in tokens])]
        stored = np.load(folder / f"{kind}_tokens.npy")
        assert (stored.dtype, stored.shape) == (np.dtype(dtype), (offsets[-1], 3))
        projection = np.load(folder / "token_projection.npy")
        expected_rows = unit(unit(np.concatenate(tokens)) @ projection)
        np.testing.assert_allclose(stored, expected_rows, atol=2e-3)
    assert json.loads((folder / "doc_ids.json").read_text()) == [record["_id"] for record in records]
    assert json.loads((folder / "query_ids.json").read_text()) == ["7", "2"]
    assert json.loads((folder / "meta.json").read_text()) == {"model": "fake"}
    assert (folder / "qrels" / "test.tsv").read_text().endswith("7\td1\t1\n")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    bridge = ab.AttentionVectorBridge.open(tmp_path / "i")
    np.testing.assert_array_equal(np.load(tmp_path / "i.projection.npy"), projection)
    np.testing.assert_allclose(
        np.concatenate(bridge.get_tokens(bridge.ids())), np.load(folder / "doc_tokens.npy"), atol=5e-3
    )  # int8


def test_folder_of_the_corpus_takes_the_vectors(fake, corpus, queries, tmp_path):
    (corpus.parent / "qrels.tsv").write_text("judged\n")
    result = run(corpus, tmp_path / "i", "--queries", queries, "--vectors", corpus.parent)
    assert result.exit_code == 0, result.output
    assert (corpus.parent / "qrels.tsv").read_text() == "judged\n"
    assert len(np.load(corpus.parent / "docs.npy")) == 11


def test_judgements_of_another_collection_are_not_lost(fake, corpus, tmp_path):
    (corpus.parent / "qrels.tsv").write_text("new\n")
    judged = write(tmp_path / "out" / "qrels.tsv", [])
    result = run(corpus, tmp_path / "i", "--vectors", judged.parent)
    assert result.exit_code == 1
    assert f"{judged} is there already" in result.output
    assert judged.read_text() == ""
    assert run(corpus, tmp_path / "i", "--vectors", judged.parent, "--overwrite").exit_code == 0
    assert judged.read_text() == "new\n"


def test_no_tokens_replace_tokens(fake, corpus, tmp_path):
    folder, index = tmp_path / "out", tmp_path / "i"
    assert run(corpus, index, "--vectors", folder, "--token-dim", 2).exit_code == 0
    again = run(corpus, index, "--vectors", folder)
    assert again.exit_code == 1
    assert f"{index} is there already; choose another name, or replace it with --overwrite" in again.output
    assert run(corpus, tmp_path / "j", "--vectors", folder).exit_code == 1  # the folder's files alone
    assert run(corpus, index, "--vectors", folder, "--no-tokens", "--overwrite").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["doc_ids.json", "docs.npy", "meta.json"]
    assert not (tmp_path / "i.projection.npy").exists()
    bridge = ab.AttentionVectorBridge.open(index)
    with pytest.raises(ab.errors.InvalidInputError, match="stores no tokens"):
        bridge.get_tokens("d0")


def test_projection_keeps_what_varies_most(rng):
    tokens = unit(rng.standard_normal((200, 6)) * [8, 5, 3, 0.01, 0.01, 0.01])
    projection = embed_text.fit_projection(tokens.T @ tokens, 3)
    np.testing.assert_allclose(projection.T @ projection, np.eye(3), atol=1e-5)
    np.testing.assert_allclose((tokens @ projection) @ (tokens @ projection).T, tokens @ tokens.T, atol=0.02)
    one = embed_text.project(tokens[:4], projection)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
    assert embed_text.fit_projection(np.eye(6), 6) is None
    assert embed_text.project(np.zeros((2, 6)), projection).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"corpus.jsonl, line 3: not JSON: "),
        ("[1]", r"line 3: must be a JSON object, got list"),
        ('{"text": "a"}', r"line 3: no id: '_id' or 'id' must be text or a whole number, got None"),
        ('{"_id": true, "text": "a"}', r"line 3: no id: .* got True"),
        ('{"_id": "", "text": "a"}', r"line 3: no id: .* got ''"),
        ('{"_id": "x"}', r"line 3: no text: 'text' must be a string, got None"),
        ('{"_id": "x", "title": " ", "text": ""}', r"line 3: no text: title and text are empty; drop it"),
        ('{"_id": "x", "title": 3, "text": "a"}', r"line 3: 'title' must be a string, got 3"),
        ('{"_id": "d0", "text": "a"}', r"line 3: id 'd0' is that of line 1 too"),
        ('{"_id": "x", "text": "\xe9"}', r"must be UTF-8"),
    ],
)
def test_bad_lines_are_named(line, message, fake, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(b'{"_id": "d0", "text": "alpha"}\n\n' + line.encode("latin-1") + b"\n")
    result = run(corpus, tmp_path / "i", "--vectors", tmp_path / "out")
    assert result.exit_code == 1
    assert re.search(message, result.output)
    assert fake.seen == []  # said before the time to encode is spent
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_lines_are_what_they_can_be(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 3, "title": null, "text": "a"}\n{"_id": "x", "title": "t", "text": ""}')
    assert [tuple(record) for record in embed_text.read_records(path)] == [("3", None, "a"), ("x", "t", "")]
    path.write_text("\n")
    with pytest.raises(ab.errors.InvalidInputError, match=r"corpus\.jsonl holds no records"):
        list(embed_text.read_records(path))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--queries", "QUERIES"], 2, "--queries needs --vectors FOLDER"),
        (["--no-tokens", "--token-dim", 2], 2, "--no-tokens leaves nothing to apply --token-dim to"),
        (["--token-dim", 6], 1, "--token-dim must be at most 5, the model's own; got 6"),
        (["--vectors", "no/where"], 1, "--vectors must be in a folder that is there"),
    ],
)
def test_options_that_cannot_be(arguments, code, message, fake, corpus, queries, tmp_path):
    result = run(corpus, tmp_path / "i", *(queries if value == "QUERIES" else value for value in arguments))
    assert result.exit_code == code
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_output_that_is_something_else(fake, corpus, tmp_path):
    assert "holds other files" in run(corpus, corpus.parent).output
    assert "OUTPUT must be in a folder that is there" in run(corpus, tmp_path / "no" / "where").output
    assert fake.seen == []


def test_a_failure_leaves_nothing(fake, corpus, queries, tmp_path, monkeypatch):
    def fail(texts):
        if "omega" in texts:
            raise OSError("out of space")
        return Fake().encode(texts)

    monkeypatch.setattr(fake, "encode", fail)
    result = run(corpus, tmp_path / "i", "--queries", queries, "--vectors", tmp_path / "out")
    assert (result.exit_code, result.output) == (1, "Error: out of space\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_without_the_library_the_extra_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'attnbridge\[text\]'"):
        embed_text.load_model("any", 32)
    result = run(corpus, tmp_path / "i", "--model", "any")
    assert result.exit_code == 1
    assert "pip install 'attnbridge[text]'" in result.output


@pytest.fixture(scope="module")
def real():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip(embed_text.PACKAGED)
    return embed_text.load_model(None, 2)


def test_real_model(real):
    model, name = real
    assert name == embed_text.PACKAGED
    pooled, tokens = model.encode(["Attention reranks ☃ neighbours.", "walk"])
    assert pooled.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)
    words = model.model.tokenizer.tokenize("Attention reranks ☃ neighbours.")
    assert [len(rows) for rows in tokens] == [len(words), 1]  # neither [CLS] nor [SEP], but the unknown word
    alone, one = model.encode(["walk"])
    np.testing.assert_allclose(alone[0], pooled[1], atol=1e-5)  # padding changes nothing
    np.testing.assert_allclose(one[0], tokens[1], atol=1e-4)


def test_real_model_that_is_not_there(real, tmp_path):
    with pytest.raises(ab.errors.InvalidConfigError, match=r"--model .*nothing cannot be loaded"):
        embed_text.SentenceModel(str(tmp_path / "nothing"), 2)
