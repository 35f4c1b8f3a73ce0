"""A bridge's life in any order of all its methods, against a dict and an exact search in numpy."""

import itertools
import pickle
import shutil
import tempfile
import warnings
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import SLOW
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import attnbridge as ab

Bridge = ab.AttentionVectorBridge
DIM = 3

# Small whole numbers: equal rows and equal scores are common, and under ip all arithmetic is exact.
vectors = st.tuples(*[st.integers(-2, 2)] * DIM).map(lambda v: v if any(v) else (1, 0, 0))
numbers = st.integers(0, 25)
years = st.one_of(st.none(), st.integers(1990, 1995))
langs = st.one_of(st.none(), st.sampled_from(["en", "de", "日本"]))


@dataclass
class Row:
    """One document of the model."""

    vector: tuple
    tokens: int = 0
    payload: dict = field(default_factory=dict)


@dataclass
class Model:
    """What a bridge holds: documents in order of insertion, the payload's columns, and the next id."""

    rows: dict = field(default_factory=dict)
    columns: list = field(default_factory=list)
    following: int = 0
    with_tokens: bool = False

    def record(self, id):
        return {column: self.rows[id].payload.get(column) for column in self.columns}

    def learn(self, columns):
        self.columns += [column for column in columns if column not in self.columns]


def similarities(metric, query, rows):
    q, x = np.array(query, np.float64), np.array(rows, np.float64).reshape(-1, DIM)
    if metric == "l2":
        return -0.5 * ((x - q) ** 2).sum(axis=1)
    if metric == "cosine":
        return (x @ q) / np.sqrt((q**2).sum() * (x**2).sum(axis=1))
    return x @ q


@st.composite
def conditions(draw):
    """Return a where, its params, and what it means: whether an id and its payload pass; None stands for NULL."""
    low, high = draw(st.integers(1989, 1996)), draw(st.integers(1989, 1996))
    some = draw(st.lists(numbers, max_size=5))
    return draw(
        st.sampled_from(
            [
                (None, None, lambda id, get: True),
                ("year >= $low", {"low": low}, lambda id, get: get("year") is not None and get("year") >= low),
                (
                    "year BETWEEN $a AND $b AND lang <> 'de'",
                    {"a": low, "b": high},
                    lambda id, get: (
                        get("year") is not None
                        and low <= get("year") <= high
                        and get("lang") is not None
                        and get("lang") != "de"
                    ),
                ),
                ("lang IS NULL OR year IS NULL", None, lambda id, get: get("lang") is None or get("year") is None),
                ("NOT (lang = '日本')", {}, lambda id, get: get("lang") is not None and get("lang") != "日本"),
                ("id IN $ids", {"ids": some}, lambda id, get: id in some),
                ("false", None, lambda id, get: False),
            ]
        )
    )


@st.composite
def filters(draw):
    """Return a function of all ids that gives a filter and the ids that it lets pass."""
    kind = draw(st.sampled_from(["none", "none", "mask", "list", "set"]))
    some = set(draw(st.lists(numbers, max_size=8)))
    if kind == "none":
        return lambda ids: (None, set(ids))
    if kind == "mask":
        return lambda ids: (np.array([id in some for id in ids], bool), some)
    return lambda ids: (list(some) if kind == "list" else some, some)


KINDS = {
    "walk": {},
    "hnswlib": {"engine": "hnswlib"},
    "int8": {"dtype": "int8"},
    "reduced": {"dtype": "int8", "index_dim": 2},
    "float16": {"dtype": "float16"},
    "packed": {"dtype": "float16", "keep_full": False},  # exact for small whole numbers
    "exact": {"index": "exact"},
}


class Life(RuleBasedStateMachine):
    """Every rule does the same to the bridge and to the model; after each the two must agree."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="attnbridge-"))
        # So that graph, tail and background linking come into play with few rows.
        self.patches = [
            mock.patch(f"attnbridge.integrations.{module}.LINK_FROM", 4) for module in ("graph", "documents")
        ]
        self.patches.append(mock.patch("attnbridge.integrations.store.rows_needed", return_value=6))
        for patch in self.patches:
            patch.start()
        self.model, self.durable = Model(), None
        self.home = self.reader = None
        self.journal = False
        self.folders = 0

    def teardown(self):
        for bridge in (self.bridge, self.reader):
            if bridge is not None:
                bridge.close()
        for patch in self.patches:
            patch.stop()
        shutil.rmtree(self.root)

    @initialize(
        metric=st.sampled_from(["cosine", "ip", "l2"]),
        kind=st.sampled_from(list(KINDS)),
        token_dtype=st.sampled_from(["float16", "int8"]),
    )
    def begin(self, metric, kind, token_dtype):
        self.metric, options = metric, KINDS[kind] | {"token_dtype": token_dtype}
        self.index = options.get("index", "hnsw")
        narrow = {"M": 4, "ef": 10, "ef_construction": 20} if self.index == "hnsw" else {}
        self.bridge = Bridge(dim=DIM, metric=metric, **{"index": "hnsw"} | options, **narrow)

    def done(self):
        """Remember what is on the disk, after a change."""
        if self.journal:
            self.durable = deepcopy(self.model)

    # ---- writes

    @rule(
        given=st.lists(st.tuples(numbers, vectors, years, langs, st.integers(0, 2)), max_size=8),
        numbered=st.booleans(),
        columns=st.sets(st.sampled_from(["year", "lang"])),
        tokens=st.sampled_from(["none", "floats", "codes"]),
        wait=st.booleans(),
    )
    def add(self, given, numbered, columns, tokens, wait):
        payload = {"year": [g[2] for g in given], "lang": [g[3] for g in given]}
        payload = {column: values for column, values in payload.items() if column in columns} or None
        ids = [g[0] for g in given] if numbered else None
        token_options = {}
        if tokens != "none":
            token_options["tokens"] = [
                np.full((g[4], 2), g[0], float if tokens == "floats" else np.int8) for g in given
            ]
        if tokens == "codes":
            token_options["token_scale"] = [g[4] / 2 for g in given]
        rows = np.array([g[1] for g in given], float).reshape(-1, DIM)
        added = self.bridge.add(rows, ids, **token_options, payload=payload, wait=wait)
        expected = ids if numbered else list(range(self.model.following, self.model.following + len(given)))
        assert added == expected
        last = {id: position for position, id in enumerate(added)}
        for position, (id, (number, vector, year, lang, count)) in enumerate(zip(added, given, strict=True)):
            if last[id] == position:
                self.model.rows.pop(id, None)
                values = {"year": year, "lang": lang} if payload else {}
                one = Row(vector, 0, {column: value for column, value in values.items() if column in columns})
                value = number * count / 2 if tokens == "codes" else self.kept(number)
                one.tokens = (0, 0) if tokens == "none" else (count, value)
                self.model.rows[id] = one
                self.model.with_tokens |= tokens != "none" and count > 0
        if given:
            self.model.learn(payload or {})
        self.model.following = max([self.model.following, *(id + 1 for id in added)])
        self.done()

    def kept(self, number):
        """Return the number that a token's values come back as: int8 has them as 127 times a float32."""
        if self.bridge.config["token_dtype"] == "float16":
            return number
        return float(np.float32(127) * np.float32(number / 127))

    @rule(ids=st.lists(numbers, max_size=5))
    def delete(self, ids):
        unknown = [id for id in ids if id not in self.model.rows]
        if unknown:
            with pytest.raises(ab.UnknownIdError, match=f"id {unknown[0]} "):
                self.bridge.delete(ids)
            return
        assert self.bridge.delete(ids) == len(set(ids))
        for id in set(ids):
            del self.model.rows[id]
        self.done()

    @rule(condition=conditions())
    def delete_where(self, condition):
        where, params, passes = condition
        if where is None or not self.can_ask(where):
            return
        gone = [id for id in self.model.rows if passes(id, self.model.record(id).get)]
        assert self.bridge.delete(where=where, params=params) == len(gone)
        for id in gone:
            del self.model.rows[id]
        self.done()

    @rule(
        ids=st.lists(numbers, min_size=1, max_size=5),
        column=st.sampled_from(["year", "lang", "new"]),
        value=st.integers(1990, 1995),
        scalar=st.booleans(),
    )
    def set_payload(self, ids, column, value, scalar):
        ids = [id for id in ids if id in self.model.rows]
        one = str(value) if column == "lang" else value
        values = [one if place % 3 else None for place in range(len(ids))]
        self.bridge.set_payload(ids, {column: one if scalar else values})
        self.model.learn([column])
        for place, id in enumerate(ids):
            self.model.rows[id].payload[column] = one if scalar else values[place]
        self.done()

    @rule()
    def set_payload_of_unknown(self):
        with pytest.raises(ab.UnknownIdError, match="id 999 "):
            self.bridge.set_payload([*self.model.rows, 999], {"other": 1})

    @precondition(lambda self: len(self.model.rows) > 4)
    @rule()
    def clear(self):
        self.bridge.clear()
        self.model = Model(following=self.model.following)
        self.done()

    @rule()
    def compact(self):
        self.bridge.compact()
        assert self.bridge.memory()["rows"] >= 2 * DIM * len(self.model.rows)
        assert self.bridge.compact() == 0

    @rule()
    def link(self):
        self.bridge.link()

    @precondition(lambda self: self.bridge.config.get("engine") != "hnswlib")
    @rule(query=vectors, again=st.booleans())
    def freeze_and_thaw(self, query, again):
        self.bridge.freeze()
        assert self.bridge.config["frozen"]
        self.compare(self.bridge.search(query), query, set(self.model.rows), {})
        for write in (self.bridge.compact, self.bridge.clear, lambda: self.bridge.add([(1, 1, 1)])):
            with pytest.raises(ab.InvalidConfigError, match="a frozen bridge cannot be written to"):
                write()
        if again:
            self.pickled()
            assert self.bridge.config["frozen"]
        self.bridge.thaw()

    @precondition(lambda self: self.index == "hnsw" and len(self.model.rows) > 12)
    @rule()
    def tune(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no setting may reach the target
            before = self.bridge.config
            self.bridge.tune(0.9, k=3, sample=6, progress=False)
        self.bridge._set_search(before["ef"], before["candidates"])  # a recall of 0.9 is not what the model has

    # ---- copies

    @rule()
    def pickled(self):
        made = pickle.loads(pickle.dumps(self.bridge))
        self.bridge.close()
        if self.reader is not None:
            self.reader.close()
        self.bridge, self.home, self.reader, self.durable, self.journal = made, None, None, None, False

    @rule(mmap=st.booleans(), verify=st.sampled_from(["full", "lazy"]), journal=st.booleans())
    def save_elsewhere_and_open(self, mmap, verify, journal):
        self.folders += 1
        folder = self.root / str(self.folders)
        self.bridge.save(folder)
        self.bridge.close()
        if self.reader is not None:
            self.reader.close()
        self.bridge = Bridge.open(folder, mmap=mmap, verify=verify, journal=journal)
        self.reader = Bridge.open(folder, mmap=not mmap, verify=verify, read_only=True)
        self.home, self.journal, self.durable = folder, journal, deepcopy(self.model)

    @precondition(lambda self: self.home is not None)
    @rule()
    def save(self):
        self.bridge.save(self.home)
        self.durable = deepcopy(self.model)

    @precondition(lambda self: self.home is not None)
    @rule(mmap=st.booleans(), verify=st.sampled_from(["full", "lazy"]), journal=st.booleans())
    def reopen(self, mmap, verify, journal):
        """What was not saved is lost; what was journalled is not."""
        self.bridge.close()
        self.bridge = Bridge.open(self.home, mmap=mmap, verify=verify, journal=journal)
        self.model, self.journal = deepcopy(self.durable), journal

    @precondition(lambda self: self.reader is not None)
    @rule()
    def reload(self):
        self.reader.reload()
        assert self.reader.reload() is False
        self.agree(self.reader, self.durable)

    # ---- searches

    def can_ask(self, where):
        return all(column in self.model.columns for column in ("year", "lang") if where and column in where)

    def compare(self, hits, query, passing, options, exclude=None):
        """Hold one query's hits against the model."""
        k, offset = options.get("k", 10), options.get("offset", 0)
        names = [id for id in self.model.rows if id in passing and id != exclude]
        rows = np.array([self.model.rows[id].vector for id in names], float).reshape(-1, DIM)
        sim = similarities(self.metric, query, rows)
        far = -2 * sim if self.metric == "l2" else 1 - sim
        scores = sim * self.bridge.config["options"]["scale"]
        keep = np.ones(len(names), bool)
        if "radius" in options:
            keep &= far <= options["radius"]
        if "threshold" in options:
            keep &= scores >= options["threshold"]
        for bound, values in (("radius", far), ("threshold", scores)):
            if bound in options and (np.abs(values - options[bound]) < 1e-5).any():
                return  # rounding decides
        order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind="stable")][offset : offset + k]
        expected = [names[i] for i in order]
        place = {id: i for i, id in enumerate(names)}
        assert set(hits.ids) - set(place) == set()  # says which
        found = [place[id] for id in hits.ids]
        np.testing.assert_allclose(hits.scores, scores[found], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(hits.distances, far[found], rtol=1e-5, atol=1e-5)
        assert (np.diff(hits.scores) <= 0).all()
        assert len(set(hits.ids)) == len(hits)
        if options.get("candidates", 100) >= len(self.model.rows) or self.index == "exact" or options.get("exact"):
            if self.metric != "ip":  # rows that are not equal but equally near may differ by rounding
                assert len(hits) == len(expected)
                np.testing.assert_allclose(hits.scores, scores[order], rtol=1e-5, atol=1e-5)
            else:
                assert hits.ids == expected
        elif "radius" not in options and "threshold" not in options:
            assert len(hits) == len(expected)  # no difference but recall
        for a, b in itertools.pairwise(found):
            assert a < b or tuple(rows[a]) != tuple(rows[b])
        assert hits.payload == [self.model.record(id) for id in hits.ids]
        assert hits.complete

    @rule(
        query=vectors,
        k=st.integers(1, 30),
        candidates=st.sampled_from([100, 100, 1, 4]),
        offset=st.integers(0, 4),
        exact=st.booleans(),
        bound=st.sampled_from([None, None, "radius", "threshold"]),
        value=st.integers(-4, 12),
        allow=filters(),
        condition=conditions(),
        like=st.one_of(st.none(), numbers),
    )
    def search(self, query, k, candidates, offset, exact, bound, value, allow, condition, like):
        where, params, passes = condition
        options = {"k": k, "candidates": candidates, "offset": offset, "exact": exact}
        if bound == "radius":
            options["radius"] = 0.15 * value if self.metric == "cosine" else value + 0.5
        elif bound == "threshold":
            options["threshold"] = (value / 12.7 if self.metric == "cosine" else 0.25 - value) * self.bridge.config[
                "options"
            ]["scale"]
        ids = list(self.model.rows)
        filter, passing = allow(ids)
        asked = {"filter": filter}
        if self.can_ask(where):
            asked |= {"where": where, "params": params}
            passing = {id for id in ids if id in passing and passes(id, self.model.record(id).get)}
        if like in self.model.rows:
            hits = self.bridge.search(id=like, **options, **asked)
            self.compare(hits, self.model.rows[like].vector, passing, options, exclude=like)
        else:
            hits = self.bridge.search(query, **options, **asked)
            self.compare(hits, query, passing, options)

    @rule(
        queries=st.lists(st.tuples(vectors, filters(), conditions()), max_size=6),
        k=st.integers(1, 12),
        exact=st.booleans(),
        threads=st.integers(1, 3),
    )
    def search_batch(self, queries, k, exact, threads):
        ids = list(self.model.rows)
        queries = [query for query in queries if self.can_ask(query[2][0])]
        allowed = [allow(ids) for _, allow, _ in queries]
        batch = self.bridge.search_batch(
            np.array([query for query, _, _ in queries], float).reshape(-1, DIM),
            k=k,
            exact=exact,
            threads=threads,
            filter=[filter for filter, _ in allowed] or None,
            where=[where for _, _, (where, _, _) in queries],
            params=[params for _, _, (_, params, _) in queries],
        )
        assert len(batch) == len(queries)
        for hits, (query, _, (_, _, passes)), (_, passing) in zip(batch, queries, allowed, strict=True):
            passing = {id for id in ids if id in passing and passes(id, self.model.record(id).get)}
            self.compare(hits, query, passing, {"k": k, "exact": exact})

    # ---- what holds always

    def agree(self, bridge, model):
        ids = list(model.rows)
        assert bridge.ids() == ids
        assert len(bridge) == len(ids)
        assert bridge.get(ids).tolist() == [list(model.rows[id].vector) for id in ids]
        assert bridge.payload(ids) == [{c: model.rows[id].payload.get(c) for c in model.columns} for id in ids]
        if model.with_tokens:
            for tokens, id in zip(bridge.get_tokens(ids), ids, strict=True):
                count, number = model.rows[id].tokens
                assert tokens.tolist() == [[number, number]] * count

    @invariant()
    def the_bridge_holds_what_the_model_holds(self):
        if hasattr(self, "bridge"):
            self.agree(self.bridge, self.model)


Life.TestCase.settings = settings(
    max_examples=600 if SLOW else 40,
    stateful_step_count=50 if SLOW else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLife = Life.TestCase
