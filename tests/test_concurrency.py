"""Eight threads search while one writes, others copy, save and fork, and another process reads what is saved."""

import copy
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import attnbridge as ab

Bridge = ab.AttentionVectorBridge
DIM, PATIENCE = 32, 120


class Stress:
    """One writer's changes, and what everybody else may hold against them.

    Row r of `base` is stored once only, with payload n = r: so a hit's id, payload and distance must agree. `owner[r]`
    is the id that it is stored under. Whatever a reader looks at was put down before the write began, or after it has
    returned.
    """

    def __init__(self, rows, metric="l2", index="hnsw"):
        self.base = np.random.default_rng(0).standard_normal((rows, DIM)).astype(np.float32)
        self.owner = np.full(rows, -1)
        self.bridge = Bridge(dim=DIM, metric=metric, index=index)
        self.used = 0
        self.row_of = {}  # what the writer knows
        self.acknowledged = []  # (id, row) of everything that add has returned for
        self.touched = set()  # rows that are no longer sure to be there
        self.deleted = {}  # id: how many ids had been deleted before
        self.over = threading.Event()
        self.errors = []
        self.missed = self.looked = 0

    # ---- the one that writes

    def add(self, count, ids=None):
        rows = np.arange(self.used, self.used + count)
        self.used += count
        names = rows.tolist() if ids is None else ids
        for id in names if ids is not None else ():
            self.touched.add(self.row_of[id])
        self.owner[rows] = names
        self.bridge.add(self.base[rows], names, payload={"n": rows}, progress=False, wait=bool(count % 2))
        for id, row in zip(names, rows.tolist(), strict=True):
            self.row_of[id] = row
            self.acknowledged.append((id, row))
        id, row = self.acknowledged[-1]
        self.own(id, row)

    def pick(self, rng, count):
        ids = list(self.row_of)
        return sorted({ids[i] for i in rng.integers(0, len(ids), count)})

    def delete(self, ids):
        for id in ids:
            self.touched.add(self.row_of[id])
            del self.row_of[id]
        assert self.bridge.delete(ids) == len(ids)
        for id in ids:
            self.deleted[id] = len(self.deleted)

    def write(self, adds, changes, folder):
        """Add rows, and upsert and delete about `changes` each; set payload, compact and save now and then."""
        rng = np.random.default_rng(1)
        step, generation = max(50, adds // 100), 0
        for number in range(adds // step):
            self.add(step + number % 2)
            some = self.pick(rng, changes * step // adds + 1)
            self.add(len(some), some)
            self.delete(self.pick(rng, len(some)))
            some = self.pick(rng, 20)
            self.bridge.set_payload(some, {"tag": [f"t{id}" for id in some]})
            if number % 20 == 9:
                self.bridge.compact(progress=False)
            if number % 20 == 4:
                generation += 1
                self.bridge.set_payload(list(self.row_of), {"generation": generation})
                self.bridge.save(folder)

    # ---- those that read

    def check(self, hits, query, begun=0):
        """Hold hits against what was put down: `begun` ids had been deleted when the search began."""
        assert len(set(hits.ids)) == len(hits)
        assert all(self.deleted.get(id, np.inf) >= begun for id in hits.ids)
        records = hits.payload
        rows = [record["n"] for record in records]
        assert self.owner[rows].tolist() == hits.ids
        far = ((self.base[rows].astype(np.float64) - query) ** 2).sum(axis=1)
        np.testing.assert_allclose(hits.distances, far, rtol=1e-4, atol=1e-4)
        assert all(record.get("tag") in (None, f"t{id}") for record, id in zip(records, hits.ids, strict=True))
        assert (np.diff(hits.scores) <= 0).all()
        return rows

    def own(self, id, row):
        """Look for a row that was there, and is unless it has been touched since."""
        hits = self.bridge.search(self.base[row], k=1)
        found = hits.ids == [id]
        if not found and row not in self.touched:  # the graph's recall is not 1: then the rows have it
            found = self.bridge.search(self.base[row], k=1, exact=True).ids == [id]
            self.missed += 1
        self.looked += 1
        assert found or row in self.touched, (id, row, hits.ids)

    def search(self, rng):
        """Search in one of many ways and check what comes."""
        query, begun = rng.standard_normal(DIM).astype(np.float32), len(self.deleted)
        way = rng.integers(7)
        if way == 0:
            assert len(self.check(self.bridge.search(query, k=10), query, begun)) == 10
        elif way == 1:
            rows = self.check(self.bridge.search(query, k=10, where="n % 3 = $r", params={"r": 1}), query, begun)
            assert [row % 3 for row in rows] == [1] * 10
        elif way == 2:
            allowed = rng.integers(0, self.used, 200).tolist()
            hits = self.bridge.search(query, k=5, filter=allowed)
            self.check(hits, query, begun)
            assert set(hits.ids) <= set(allowed)
        elif way == 3:
            queries = rng.standard_normal((6, DIM)).astype(np.float32)
            wheres = [None, "n % 2 = 0", "tag IS NULL"] * 2
            batch = self.bridge.search_batch(queries, k=4, where=wheres, threads=2)
            for hits, one, where in zip(batch, queries, wheres, strict=True):
                rows = self.check(hits, one, begun)
                assert len(rows) == 4
                assert where != "n % 2 = 0" or not any(row % 2 for row in rows)
        elif way == 4:
            id, row = self.acknowledged[rng.integers(len(self.acknowledged))]
            try:
                hits = self.bridge.search(id=id, k=5)
            except ab.UnknownIdError:
                assert id not in self.row_of
            else:
                assert id not in hits.ids
                if row not in self.touched:
                    self.check(hits, self.base[row], begun)
        elif way == 5:
            self.own(*self.acknowledged[-1 - int(rng.integers(min(500, len(self.acknowledged))))])
        else:
            hits = self.bridge.search(query, k=5, exact=True, where="n >= $n", params={"n": self.used // 2})
            self.check(hits, query, begun)

    def guarded(self, work):
        def run():
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised by the test's thread
                self.errors.append(error)
                self.over.set()

        return run

    def read(self, seed):
        rng = np.random.default_rng(seed)
        while not self.over.is_set():
            self.search(rng)

    def whole(self, bridge):
        """Check a copy: rows, payload and graph are of one moment."""
        table = bridge.to_arrow()
        rows = table["n"].to_numpy()
        assert self.owner[rows].tolist() == table["id"].to_pylist()
        assert bridge.get(bridge.ids()).tobytes() == self.base[rows].tobytes()
        fresh = np.random.default_rng(len(rows)).standard_normal((400, DIM)).astype(np.float32)
        ids = range(10**9, 10**9 + 400)
        bridge.add(fresh, ids, payload={"n": [0] * 400})
        found = sum(bridge.search(row, k=1).ids == [id] for id, row in zip(ids, fresh, strict=True))
        assert found >= 396
        some = rows[:: max(1, len(rows) // 200)]
        found = sum(bridge.search(self.base[row], k=1).ids == [self.owner[row]] for row in some.tolist())
        assert found >= 0.98 * len(some)

    def copy(self, folder):
        """Pickle, copy and save, over and over."""
        ways = (lambda: pickle.loads(pickle.dumps(self.bridge)), lambda: copy.deepcopy(self.bridge), self.saved)
        self.folder = folder
        number = 0
        while not self.over.is_set():
            self.whole(ways[number % 3]())
            number += 1
            self.over.wait(0.2)
        assert number

    def saved(self):
        self.bridge.save(self.folder)
        return Bridge.open(self.folder)


_READER = """
import sys, numpy as np, attnbridge as ab
reader, seen = ab.AttentionVectorBridge.open(sys.argv[1], read_only=True), set()
print("open", flush=True)
base = np.random.default_rng(0).standard_normal((int(sys.argv[2]), 32)).astype(np.float32)
def look(bridge):
    table = bridge.to_arrow()
    rows = table["n"].to_numpy()
    assert bridge.get(bridge.ids()).tobytes() == base[rows].tobytes()
    generations = set(table["generation"].to_pylist())
    assert len(generations) == 1, generations
    assert bridge.search(base[rows[-1]], k=1).ids == [table["id"][len(rows) - 1].as_py()]
    seen.update(generations)
number = 0
import select
stopped = False
while not stopped:  # once more in the end
    stopped = bool(select.select([sys.stdin], [], [], 0)[0])
    reader.reload()
    look(reader)
    verify = ("full", "lazy")[number % 2]
    look(ab.AttentionVectorBridge.open(sys.argv[1], read_only=True, verify=verify, mmap=bool(number % 3)))
    number += 1
print("seen", len(seen), number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("index", ["hnsw", "exact"])
def test_searches_and_copies_while_one_writes(tmp_path, rounds, index):
    adds, changes = rounds(3_000, 50_000), rounds(600, 10_000)
    stress = Stress(2 * (adds + changes) + 5_000, index=index)
    stress.add(1_000)
    stress.bridge.set_payload(list(stress.row_of), {"tag": None, "generation": 0})
    stress.bridge.save(tmp_path / "index")
    other = subprocess.Popen(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", _READER, tmp_path / "index", str(len(stress.base))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    works = [lambda seed=seed: stress.read(seed) for seed in range(8)]
    works.append(lambda: stress.copy(tmp_path / "copies"))

    def write():
        stress.write(adds, changes, tmp_path / "index")
        stress.over.set()

    threads = [threading.Thread(target=stress.guarded(work), daemon=True) for work in (write, *works)]
    try:
        assert other.stdout.readline() == "open\n", other.stderr.read()
        for thread in threads:
            thread.start()
        children = forked_searches(stress, PATIENCE * rounds(1, 5))
        for thread in threads:
            thread.join(PATIENCE * rounds(1, 20))
            assert not thread.is_alive(), "deadlock"
        if stress.errors:
            raise stress.errors[0]
        assert children == {0}
        out, err = other.communicate("stop\n", timeout=PATIENCE)
        assert not err, err
        assert int(out.split()[1]) >= 2
    finally:
        stress.over.set()
        other.kill()
        other.communicate()
    assert stress.looked > 50
    assert stress.missed <= max(1, 0.005 * stress.looked)
    stress.bridge.compact(progress=False)
    assert sorted(stress.bridge.ids()) == sorted(stress.row_of)
    stress.whole(stress.bridge)


def forked_searches(stress, patience=PATIENCE):
    """Fork now and then until the writer is done; return the exit codes of the children, which search and write."""
    codes = set()
    while not codes or not stress.over.wait(0.3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of a fork with threads
            child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(patience - 5)  # where it hangs, if it does
            signal.alarm(patience)
            code = 1
            try:
                rng = np.random.default_rng(5)
                for _ in range(20):
                    stress.search(rng)
                stress.whole(stress.bridge)
                code = 0
            except BaseException:  # noqa: BLE001 - told by the exit code
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        time.sleep(0.01)
    return codes


def test_a_pickle_made_between_two_writes_is_of_one_moment(monkeypatch):
    """Rows and graph of a copy belong together, whatever is written while it is made."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((2_000, DIM)).astype(np.float32)
    bridge = Bridge(dim=DIM, metric="l2")
    bridge.add(rows[:1_000])
    real, writers = type(bridge._state.store).__getstate__, []

    def state_and_a_write(store):
        state = real(store)
        if not writers:

            def write():
                bridge.add(rows[1_000:])
                bridge.delete(range(500))

            writers.append(threading.Thread(target=write))
            writers[0].start()
            writers[0].join(0.5)  # as long as it takes, where nothing holds it
        return state

    monkeypatch.setattr(type(bridge._state.store), "__getstate__", state_and_a_write)
    made = pickle.loads(pickle.dumps(bridge))
    writers[0].join()
    assert made.ids() == list(range(1_000))
    assert len(bridge) == 1_500
    made.add(-rows[:1_000])
    found = sum(made.search(-row, k=1).ids == [1_000 + i] for i, row in enumerate(rows[:1_000]))
    assert found >= 995
    assert sum(made.search(row, k=1).ids == [i] for i, row in enumerate(rows[:500])) >= 495
