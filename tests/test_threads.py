"""The thread pool, the read-write lock, and searches from many threads and processes."""

import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.threads import ReadWriteLock, for_chunks, usable_threads

# Long enough for any machine; only a test that fails waits for it.
PATIENCE = 30


def in_threads(*works):
    """Run each work in a thread of its own, to the end, and return their errors."""
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - returned
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "deadlock"
    return errors


# A job in the background has Ctrl-C ignored, and hands that down.
_HEEDS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def in_process(code, *arguments, **environment):
    run = subprocess.run(
        [sys.executable, "-c", _HEEDS_CTRL_C + textwrap.dedent(code), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


# ---- how many


def test_usable_threads(monkeypatch):
    monkeypatch.delenv("ATTNBRIDGE_NUM_THREADS", raising=False)
    assert usable_threads() == len(os.sched_getaffinity(0))
    assert usable_threads(7) == 7
    assert usable_threads(np.int64(2)) == 2
    monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", "5")
    assert usable_threads() == 5
    assert usable_threads(1) == 1
    assert ab.AttentionVectorBridge(dim=2, index="exact").config["threads"] == 5
    monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", "")
    assert usable_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("setting", ["0", "-1", "two", "1.5", " 2", "1e3"])
def test_a_bad_number_of_threads_in_the_environment(monkeypatch, setting):
    monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", setting)
    with pytest.raises(
        ab.InvalidConfigError, match=f"ATTNBRIDGE_NUM_THREADS must be a whole number >= 1, got {setting!r}"
    ):
        usable_threads()
    with pytest.raises(ab.InvalidConfigError, match="ATTNBRIDGE_NUM_THREADS"):
        ab.AttentionVectorBridge(dim=2)


@pytest.mark.parametrize("threads", [0, -3, 1.0, "2", True])
def test_a_bad_number_of_threads(threads):
    with pytest.raises(ab.InvalidConfigError, match="threads must be a whole number >= 1"):
        usable_threads(threads)


# ---- for_chunks


@pytest.mark.parametrize("threads", [1, 2, 3, 50])
@pytest.mark.parametrize(("count", "chunk"), [(0, 5), (1, 5), (5, 5), (6, 5), (103, 10), (3, 1000), (64, 1)])
def test_every_piece_is_done_once(count, chunk, threads):
    done, pieces = np.zeros(count, int), []

    def work(start, stop):
        done[start:stop] += 1
        pieces.append((start, stop))

    for_chunks(work, count, chunk, threads)
    assert (done == 1).all()
    assert sorted(pieces) == [(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def test_helpers_take_part(monkeypatch):
    monkeypatch.setenv("ATTNBRIDGE_NUM_THREADS", "2")
    monkeypatch.setattr("attnbridge.threads._pool", None)
    together = threading.Barrier(3, timeout=PATIENCE)  # passes only where three threads work at a time
    for_chunks(lambda start, stop: together.wait() and None, 3, 1, 3)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError("seven"), KeyboardInterrupt()])
def test_an_error_ends_the_work_and_comes_out(threads, error):
    done = []

    def work(start, stop):
        if start == 7:
            raise error
        done.append(start)

    with pytest.raises(type(error)) as caught:
        for_chunks(work, 100_000, 1, threads)
    assert caught.value is error
    assert len(done) < 100_000
    for_chunks(lambda start, stop: done.clear(), 10, 1, threads)  # the pool goes on
    assert done == []


def test_an_error_in_a_helper_stops_the_calling_thread():
    main, failed = threading.current_thread(), threading.Event()
    after = []

    def work(start, stop):
        if threading.current_thread() is main:
            assert failed.wait(PATIENCE)
            after.append(start)
        elif not failed.is_set():
            failed.set()
            raise ValueError(start)

    with pytest.raises(ValueError, match=r"\d"):
        for_chunks(work, 100_000, 1, 2)
    assert len(after) < 50_000


def test_the_first_error_wins():
    first, together = ValueError("first"), threading.Barrier(2, timeout=PATIENCE)
    main = threading.current_thread()

    def work(start, stop):
        together.wait()
        if threading.current_thread() is not main:
            raise first
        while first.__traceback__ is None or first.__traceback__.tb_next is None:  # until it has left work()
            threading.Event().wait(0.001)
        threading.Event().wait(0.2)
        raise ValueError("later")

    with pytest.raises(ValueError, match="first"):
        for_chunks(work, 2, 1, 2)


def test_nested_use_does_not_deadlock():
    total = np.zeros((20, 30))

    def outer(start, stop):
        for i in range(start, stop):
            for_chunks(lambda a, b, i=i: total[i, a:b].__iadd__(1), 30, 1, 4)

    assert in_threads(lambda: for_chunks(outer, 20, 1, 4)) == []
    assert (total == 1).all()


def test_many_callers_at_once():
    totals = np.zeros((12, 500), int)

    def caller(i):
        def work(start, stop):
            totals[i, start:stop] += 1

        for_chunks(work, 500, 3, 3)

    assert in_threads(*(lambda i=i: caller(i) for i in range(12))) == []
    assert (totals == 1).all()


def test_ctrl_c_in_the_calling_thread():
    out = in_process(
        """
        import os, signal, threading, time
        from attnbridge.threads import for_chunks
        done = []
        def work(start, stop):
            done.append(start)
            if len(done) == 20:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.001)
        try:
            for_chunks(work, 100_000, 1, 3)
        except KeyboardInterrupt:
            print("stopped", len(done) < 2_000)
        for_chunks(lambda start, stop: done.clear(), 1, 1, 1)
        print(done)
        """
    )
    assert out == "stopped True\n[]\n"


def test_ctrl_c_in_a_search():
    out = in_process(
        """
        import os, signal, threading
        import numpy as np, attnbridge as ab
        bridge = ab.AttentionVectorBridge(dim=64, index="exact", threads=2)
        rows = np.random.default_rng(0).standard_normal((5_000, 64))
        bridge.add(rows)
        expected = bridge.search(rows[0])
        queries = np.tile(rows, (200, 1))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            bridge.search_batch(queries)
        except KeyboardInterrupt:
            print("stopped")
        bridge.add(rows[:1])
        bridge.delete([5_000])
        print(bridge.search(rows[0]) == expected)
        """
    )
    assert out == "stopped\nTrue\n"


def test_a_forked_child_searches():
    out = in_process(
        """
        import os, threading, warnings
        import numpy as np, attnbridge as ab
        from attnbridge.threads import for_chunks
        bridge = ab.AttentionVectorBridge(dim=8, threads=3)
        rows = np.random.default_rng(0).standard_normal((2_000, 8))
        bridge.add(rows)
        expected = bridge.search_batch(rows)  # the pool's threads are there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from Python 3.12 on
            child = os.fork()
        if child == 0:
            together = threading.Barrier(3, timeout=30)  # passes only where the pool has threads again
            for_chunks(lambda start, stop: together.wait(), 3, 1, 3)
            bridge.add(rows[:5] + 1)
            bridge.delete([2000, 2001, 2002, 2003, 2004])
            os._exit(0 if bridge.search_batch(rows) == expected else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bridge.search_batch(rows) == expected)
        """,
        ATTNBRIDGE_NUM_THREADS="3",
    )
    assert out == "0 True\n"


def test_search_at_the_end_of_the_interpreter():
    out = in_process(
        """
        import atexit
        import numpy as np, attnbridge as ab
        bridge = ab.AttentionVectorBridge(dim=4, threads=2)
        bridge.add(np.eye(4))
        atexit.register(lambda: print([hits.ids[0] for hits in bridge.search_batch(np.eye(4))]))
        bridge.search_batch(np.eye(4))
        """
    )
    assert out == "[0, 1, 2, 3]\n"


def test_searches_from_many_threads_agree():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 16))
    bridge = ab.AttentionVectorBridge(dim=16, threads=2)
    bridge.add(rows, tokens=[rng.standard_normal((2, 4)) for _ in rows])
    options = {"rerank": [ab.QueryExpansion(), ab.LateInteraction()], "query_tokens": [np.eye(4)] * 100}
    plain, staged = bridge.search_batch(rows[:100]), bridge.search_batch(rows[:100], **options)

    def search():
        for _ in range(3):
            assert bridge.search_batch(rows[:100]) == plain
            assert bridge.search_batch(rows[:100], **options) == staged
            assert [bridge.search(row) for row in rows[:20]] == plain[:20]

    assert in_threads(*[search] * 8) == []


# ---- ReadWriteLock


def test_readers_together():
    lock, together = ReadWriteLock(), threading.Barrier(4, timeout=PATIENCE)

    def read():
        with lock.read():
            together.wait()

    assert in_threads(*[read] * 4) == []


def test_a_writer_is_alone():
    lock, inside, most = ReadWriteLock(), [], []
    value = [0]

    def write():
        for _ in range(200):
            with lock.write():
                inside.append("w")
                assert inside == ["w"]
                before = value[0]
                threading.Event().wait(0)  # lets the others run
                value[0] = before + 1
                inside.remove("w")

    def read():
        for _ in range(200):
            with lock.read():
                inside.append("r")
                assert "w" not in inside
                most.append(len(inside))
                inside.remove("r")

    assert in_threads(write, write, write, read, read, read) == []
    assert value == [600]


def test_a_waiting_writer_goes_before_new_readers():
    lock, order = ReadWriteLock(), []
    reading, release, reader_came = threading.Event(), threading.Event(), threading.Event()

    def first_reader():
        with lock.read():
            reading.set()
            assert release.wait(PATIENCE)
        order.append("first reader")

    def writer():
        assert reading.wait(PATIENCE)
        with lock.write():
            order.append("writer")

    def second_reader():
        while not lock._writers_waiting:
            reader_came.wait(0.001)
        reader_came.set()
        with lock.read():
            order.append("second reader")

    def releaser():
        assert reader_came.wait(PATIENCE)
        threading.Event().wait(0.05)  # were it let in, it would be by now
        order.append("released")
        release.set()

    assert in_threads(first_reader, writer, second_reader, releaser) == []
    assert order.index("released") < order.index("writer") < order.index("second reader")


def test_a_writer_is_not_starved():
    lock, stop, written = ReadWriteLock(), threading.Event(), []

    def read():
        while not stop.is_set():
            with lock.read():
                threading.Event().wait(0.002)

    def write():
        try:
            for _ in range(10):
                with lock.write():
                    written.append(1)
        finally:
            stop.set()

    assert in_threads(read, read, read, read, write) == []  # four that overlap leave no moment without a reader
    assert len(written) == 10


@pytest.mark.parametrize("kind", ["read", "write"])
def test_an_error_lets_the_lock_go(kind):
    lock = ReadWriteLock()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), getattr(lock, kind)():
            raise ZeroDivisionError

    def write():
        with lock.write():
            pass

    assert in_threads(write) == []


def test_a_writer_that_gives_up_waiting_does_not_block_readers():
    """Ctrl-C while waiting: the count of waiting writers goes down again."""
    out = in_process(
        """
        import os, signal, threading
        from attnbridge.threads import ReadWriteLock
        lock, release = ReadWriteLock(), threading.Event()
        def read():
            with lock.read():
                ready.set()
                release.wait()
        ready = threading.Event()
        reader = threading.Thread(target=read)
        reader.start()
        ready.wait()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            with lock.write():
                print("never")
        except KeyboardInterrupt:
            with lock.read():
                print("read")
        release.set()
        reader.join()
        with lock.write():
            print("written")
        """
    )
    assert out == "read\nwritten\n"


def test_a_child_forked_while_others_search_and_write_goes_on():
    """The threads that held the locks are not in the child: their locks are free there, and half a write is undone."""
    out = in_process(
        """
        import os, threading, warnings
        import numpy as np, attnbridge as ab
        from attnbridge.integrations.store import Store
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads
        rows = np.random.default_rng(0).standard_normal((3000, 8))
        bridge = ab.AttentionVectorBridge(dim=8)
        bridge.add(rows)
        inside, leave, writing = threading.Event(), threading.Event(), threading.Event()
        class Wait:
            name, requires_tokens = "wait", False
            def apply(self, pool):
                inside.set()
                leave.wait()
        searcher = threading.Thread(target=lambda: bridge.search(rows[0], rerank=Wait()))
        searcher.start()
        inside.wait()
        publish = Store._publish
        def slow(self, *args):  # in the middle of a write: ids are in place, the new view is not
            writing.set()
            leave.wait()
            publish(self, *args)
        Store._publish = slow
        writer = threading.Thread(target=lambda: bridge.add(rows[:1], ids=[5000]))
        writer.start()
        writing.wait()
        child = os.fork()
        if child == 0:
            Store._publish = publish
            print(5000 in bridge, len(bridge), bridge.add(rows[:500], ids=range(7000, 7500))[0])
            print(bridge.search(rows[3], k=1).ids, 7000 in bridge, len(bridge), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        leave.set()
        searcher.join()
        writer.join()
        print(len(bridge), 5000 in bridge)
        """
    )
    assert out == "False 3000 7000\n[3] True 3500\n3001 True\n"


def test_a_child_forked_while_rows_are_linked_goes_on():
    """A fork waits for hnswlib; what the child has not linked it links itself."""
    out = in_process(
        """
        import os, warnings
        import numpy as np, attnbridge as ab
        warnings.simplefilter("ignore")
        rows = np.random.default_rng(0).standard_normal((30_000, 16))
        bridge = ab.AttentionVectorBridge(dim=16)
        bridge.add(rows, wait=False)
        for round in range(5):
            child = os.fork()
            if child == 0:
                assert round or bridge._state.source.linked < 30_000
                assert bridge.search(rows[29_999], k=1).ids == [29_999]
                if round == 4:
                    bridge.link()
                    assert len(bridge._state.source.index) == 30_000
                    found = bridge.search_batch(rows[::100], k=1)
                    print(np.mean([hits.ids == [100 * i] for i, hits in enumerate(found)]) > 0.95, flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        bridge.link()
        print(len(bridge._state.source.index))
        """
    )
    assert out == "True\n30000\n"


def test_a_stage_may_write():
    """Searches hold no lock: a stage that writes waits for nobody, and its own search sees the rows as they were."""
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")
    bridge.add([[1.0, 0.0]])

    class Writing:
        name, requires_tokens = "writing", False

        def apply(self, pool):
            bridge.add([[0.0, 1.0]])

    assert bridge.search([1.0, 0.0], rerank=Writing()).ids == [0]
    assert [hits.ids for hits in bridge.search_batch([[1.0, 0.0]] * 9, threads=2, rerank=Writing(), k=1)] == [[0]] * 9
    assert len(bridge) == 11


def test_a_write_within_a_write_is_told_so(monkeypatch):
    bridge = ab.AttentionVectorBridge(dim=2, index="exact")

    class Ids(list):
        def tolist(self):
            bridge.add([[1.0, 0.0]])

    with pytest.raises(ab.ConcurrencyError, match="cannot be changed from within one of its own writes"):
        bridge.add([[1.0, 0.0]], ids=Ids())
    assert bridge.add([[0.0, 1.0]]) == [0]


def test_an_index_changed_from_within_its_own_query_is_told_so():
    lock = ReadWriteLock()
    message = "cannot be changed from within one of its own searches"
    with lock.read(), pytest.raises(ab.ConcurrencyError, match=message), lock.write():
        pass


def test_readers_that_waited_go_before_the_next_writer():
    lock, order, done = ReadWriteLock(), [], threading.Event()

    def write():
        for _ in range(50):
            with lock.write():
                order.append("w")
                time.sleep(0.002)
        done.set()

    def read():
        while not done.is_set():
            with lock.read():
                order.append("r")

    assert in_threads(write, read, read) == []
    writes = [i for i, kind in enumerate(order) if kind == "w"]
    alone = sum(b == a + 1 for a, b in itertools.pairwise(writes))
    assert alone <= 10  # a reader that was about to wait may miss a turn


def test_a_batch_s_stages_may_ask_the_bridge_while_a_writer_waits():
    out = in_process(
        """
        import threading
        import numpy as np, attnbridge as ab
        rows = np.random.default_rng(0).standard_normal((50, 4))
        bridge = ab.AttentionVectorBridge(dim=4, index="exact")
        bridge.add(rows)
        writer = threading.Thread(target=lambda: bridge.add(rows[:1], ids=[900]))
        start = threading.Lock()
        class Asking:
            name, requires_tokens = "asking", False
            def apply(self, pool):
                with start:
                    if not writer.ident:
                        writer.start()
                bridge.get([3])  # from the calling thread and from the pool's
        found = bridge.search_batch(rows, rerank=Asking(), threads=3)
        writer.join()
        print(len(found), 900 in bridge)
        """
    )
    assert out == "50 True\n"
