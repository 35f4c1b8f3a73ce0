"""The journal: what append has returned for is there, what was cut off is dropped, and damage is told from both."""

import errno
import os
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.errors import ConcurrencyError
from attnbridge.integrations import files
from attnbridge.integrations.journal import Journal, journal_path, records
from attnbridge.integrations.operations import decode, encode, operations
from attnbridge.integrations.snapshot import write_snapshot

BODIES = [b"one", b"", b"three" * 1000, bytes(50), np.random.default_rng(0).bytes(70_000)]
HEADER, RECORD, END = 28, 28, 4


@pytest.fixture
def root(tmp_path):
    return tmp_path


@pytest.fixture
def snapshot(root):
    return write_snapshot(root, "Test", {}, {})


@pytest.fixture
def filled(root, snapshot):
    """Return the path of a journal of `BODIES`."""
    journal = Journal(root, snapshot)
    for body in BODIES:
        journal.append([body])
    journal.close()
    return journal.path


def read(root, snapshot):
    return [bytes(body) for body in records(root, snapshot)]


def starts():
    """Return where each record of `filled` begins, and where the last one ends."""
    ends = [HEADER]
    for body in BODIES:
        ends.append(ends[-1] + RECORD + len(body) + END)
    return ends


def failing(error):
    def fail(*arguments):
        raise error

    return fail


# ---- appending


def test_records_come_back_in_order(root, snapshot):
    journal = Journal(root, snapshot)
    assert (journal.count, journal.size, journal.path.exists(), read(root, snapshot)) == (0, 0, False, [])
    for number, body in enumerate(BODIES):
        journal.append([body[:2], memoryview(body)[2:], np.array([number]).data])
        assert (journal.count, journal.size) == (number + 1, journal.path.stat().st_size)
        expected = [body + struct.pack("<q", n) for n, body in enumerate(BODIES[: number + 1])]
        assert read(root, snapshot) == expected  # by another reader, at once
    journal.close()
    journal.close()
    again = Journal(root, snapshot)
    assert (again.count, again.size) == (5, journal.size)
    again.append([b"more"])
    assert read(root, snapshot) == [*expected, b"more"]
    again.close()
    assert journal_path(root, snapshot).name == snapshot.replace("snapshot", "journal")


def test_each_append_is_synced_before_it_returns(root, snapshot, monkeypatch):
    done = []

    def logging(name, call):
        def logged(*arguments):
            done.append(name)
            return call(*arguments)

        return logged

    for name in ("create", "write", "sync", "sync_path"):
        monkeypatch.setattr(files, name, logging(name, getattr(files, name)))
    journal = Journal(root, snapshot)
    journal.append([b"a"])
    assert done == ["create", "write", "write", "write", "write", "sync", "sync_path"]
    del done[:]
    journal.append([b"b", b"c"])
    assert done == ["write"] * 4 + ["sync"]
    del done[:]
    journal.undo()
    assert done == ["sync"]
    journal.close()


def test_undo_takes_one_record_back(root, snapshot):
    journal = Journal(root, snapshot)
    with pytest.raises(ab.InvalidInputError, match="undo needs a record that append has just written; there is none"):
        journal.undo()
    for number in (0, 1):
        journal.append([b"bad"])
        journal.undo()
        assert (journal.count, read(root, snapshot)) == (number, [b"good"] * number)
        with pytest.raises(ab.InvalidInputError, match="there is none"):
            journal.undo()
        journal.append([b"good"])
    journal.close()
    assert read(root, snapshot) == [b"good", b"good"]


def test_a_save_ends_the_journal(root, snapshot):
    journal = Journal(root, snapshot)
    journal.append([b"old"])
    after = write_snapshot(root, "Test", {}, {})
    assert not journal.path.exists()
    assert read(root, after) == []
    message = f"folder {root} was saved or changed by another bridge since it was opened; open it again"
    with pytest.raises(ConcurrencyError, match=message):
        journal.append([b"lost"])
    with pytest.raises(ConcurrencyError, match=message):
        Journal(root, snapshot).append([b"lost"])
    journal.close()
    again = Journal(root, after)
    again.append([b"new"])
    write_snapshot_elsewhere = write_snapshot(root / "deep", "Test", {}, {})
    assert (read(root, after), read(root / "deep", write_snapshot_elsewhere)) == ([b"new"], [])
    again.close()


def test_two_journals_of_one_file(root, snapshot):
    one, two = Journal(root, snapshot), Journal(root, snapshot)
    one.append([b"one"])
    with pytest.raises(ConcurrencyError, match="was saved or changed by another bridge"):
        two.append([b"two"])
    two = Journal(root, snapshot)
    two.append([b"two"])
    for call in (lambda: one.append([b"three"]), one.undo):
        with pytest.raises(ConcurrencyError, match="was saved or changed by another bridge"):
            call()
    assert read(root, snapshot) == [b"one", b"two"]
    two.path.unlink()
    with pytest.raises(ConcurrencyError, match="was saved or changed by another bridge"):
        two.append([b"three"])
    one.close()
    two.close()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["create", "write 1", "write 2", "write 3", "short write"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_failed_append_leaves_nothing(root, snapshot, monkeypatch, error, at, before):
    journal = Journal(root, snapshot)
    for number in range(before):
        journal.append([b"%d" % number])
    content = journal.path.read_bytes() if before else None
    name, _, which = at.partition(" ")
    write, calls = files.write, []

    def write_some(descriptor, data):
        calls.append(data)
        if which == str(len(calls)):
            raise error
        if which == "write" and len(calls) == 2:
            os.write(descriptor, bytes(data)[:3])
            raise error
        write(descriptor, data)

    with monkeypatch.context() as patch:
        if name == "create":
            patch.setattr(files, "create", failing(error))
        else:
            patch.setattr(files, "write", write_some)
        if name == "create" and before:
            journal.append([b"fine"])
            journal.undo()
        else:
            with pytest.raises(type(error)):
                journal.append([b"body"])
    assert (journal.path.read_bytes() if before else None) == content
    assert journal.path.exists() == bool(before)
    assert (journal.count, journal.broken) == (before, False)
    journal.append([b"after"])
    assert read(root, snapshot) == [b"%d" % number for number in range(before)] + [b"after"]
    journal.close()


@pytest.mark.parametrize(("at", "before"), [("sync", 0), ("sync", 2), ("sync_path", 0), ("truncate", 2)])
def test_after_a_failed_fsync_no_more_is_taken(root, snapshot, monkeypatch, at, before):
    error = OSError(errno.EIO, "Input/output error")
    journal = Journal(root, snapshot)
    for number in range(before):
        journal.append([b"%d" % number])
    with monkeypatch.context() as patch:
        if at == "truncate":
            patch.setattr(files, "write", failing(error))
        patch.setattr(files, at, failing(error))
        with pytest.raises(OSError, match="Input/output error"):
            journal.append([b"body"])
    assert journal.broken
    with pytest.raises(OSError, match=r"failed before and takes no more records; save the bridge to start a new one"):
        journal.append([b"after"])
    assert read(root, snapshot) == [b"%d" % number for number in range(before)]
    journal.close()
    after = Journal(root, write_snapshot(root, "Test", {}, {}))
    after.append([b"fine"])
    after.close()


def test_ctrl_c_in_an_append_leaves_the_journal_usable(root, snapshot, monkeypatch):
    """Python raises it when the call is over: nobody has said that the disk failed."""
    journal = Journal(root, snapshot)
    journal.append([b"one"])
    size, sync = journal.size, files.sync

    def interrupted(descriptor):
        monkeypatch.setattr(files, "sync", sync)
        sync(descriptor)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append([b"two"])
    assert (journal.size, journal.path.stat().st_size) == (size, size)
    journal.append([b"three"])
    journal.close()
    assert [bytes(record) for record in records(root, snapshot)] == [b"one", b"three"]


def test_an_undo_that_fails_breaks_the_journal(root, snapshot, monkeypatch):
    journal = Journal(root, snapshot)
    journal.append([b"a"])
    with monkeypatch.context() as patch:
        patch.setattr(files, "truncate", failing(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(OSError, match="Input/output error"):
            journal.undo()
    assert journal.broken
    with pytest.raises(OSError, match="failed before and takes no more records"):
        journal.append([b"b"])
    journal.close()


# ---- what a crash leaves


def test_cut_anywhere(root, snapshot, filled):
    """Wherever a crash cuts the file, the records before are whole, and appending goes on from there."""
    raw, begins = filled.read_bytes(), starts()
    assert begins[-1] == len(raw)
    places = {*range(begins[2] + 40), *range(begins[3] - 8, begins[4] + 40), *range(len(raw) - 8, len(raw)), 6000}
    for cut in sorted(places):
        whole = sum(end <= cut for end in begins[1:])
        filled.write_bytes(raw[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read(root, snapshot) == BODIES[:whole]
        assert len(caught) == (cut not in (0, *begins))
        for warning in caught:
            assert warning.category is RuntimeWarning
            assert f"{filled} ends in an operation that was cut off" in str(warning.message)
            at = 0 if cut < HEADER else begins[whole]
            assert f"{cut - at} bytes from byte {at}: it was never acknowledged and is dropped" in str(warning.message)
        journal = Journal(root, snapshot)
        journal.append([b"after"])
        journal.close()
        assert read(root, snapshot) == [*BODIES[:whole], b"after"]


def test_zeros_at_the_end(root, snapshot, filled):
    """A file that was made longer before its content came."""
    raw, begins = filled.read_bytes(), starts()
    last = begins[-2]
    for good in [
        0,
        5,
        HEADER - 5,
        last,
        last + 1,
        last + 20,
        last + RECORD - 4,
        last + RECORD,
        last + 9000,
        len(raw) - 4,
    ]:
        for size in {len(raw), good + 30, good + (3 << 20)} if good <= last else {len(raw)}:
            filled.write_bytes(raw[:good].ljust(size, b"\0"))
            with pytest.warns(RuntimeWarning, match="was cut off when its process or the machine stopped"):
                assert read(root, snapshot) == (BODIES[:-1] if good >= last else [])
            journal = Journal(root, snapshot)
            journal.append([b"after"])
            journal.close()
            assert read(root, snapshot)[-1] == b"after"


# ---- damage


def test_a_flipped_bit_is_damage(root, snapshot, filled, rounds):
    raw, begins = filled.read_bytes(), starts()
    rng = np.random.default_rng(1)
    heads = [range(HEADER), *(range(begin, begin + RECORD + 3) for begin in begins[:-1])]
    places = [*(at for head in heads for at in head if at < len(raw)), *rng.integers(0, len(raw), rounds(100, 2000))]
    for at in places:
        damaged = bytearray(raw)
        damaged[at] ^= 1 << int(rng.integers(8))
        filled.write_bytes(damaged)
        at_record = 0 if at < HEADER else max(begin for begin in begins if begin <= at)
        for open_journal in (lambda: read(root, snapshot), lambda: Journal(root, snapshot)):
            with pytest.raises(
                ab.IndexCorruptError, match=f"{filled} is damaged at byte {at_record}: .*; restore it fr"
            ):
                open_journal()


def signed(form, *fields):
    raw = struct.pack(form, *fields)
    return raw + struct.pack("<I", zlib.crc32(raw))


def record(number, body, **changes):
    fields = {"magic": b"rec:", "number": number, "length": len(body), "crc": zlib.crc32(body)} | changes
    return signed("<4sQQI", *fields.values()) + body + b".end"


def head(snapshot, magic=b"attnjrnl", version=1):
    return signed("<8sI12s", magic, version, snapshot.removeprefix("snapshot-").encode())


def test_the_format_is_as_described(root, snapshot, filled):
    assert filled.read_bytes() == head(snapshot) + b"".join(record(n, body) for n, body in enumerate(BODIES))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: head(s, magic=b"attnjrnX"), "at byte 0: it does not begin as a journal"),
        (lambda s: head(s)[:-1] + b"!", "at byte 0: the checksum of its header differs"),
        (lambda s: head("snapshot-0123456789ab"), "at byte 0: it is the journal of another snapshot than snapshot-"),
        (lambda s: head("snapshot-" + "\xe9" * 6), "at byte 0: it is the journal of another snapshot than"),
        (lambda s: head(s) + record(1, b""), "at byte 28: record 1 where record 0 must be"),
        (lambda s: head(s) + record(0, b"a") + record(2, b"b"), "at byte 61: record 2 where record 1 must be"),
        (lambda s: head(s) + record(0, b"a") * 2, "at byte 61: record 0 where record 1 must be"),
        (lambda s: head(s) + record(0, b"a", magic=b"rec!"), "at byte 28: the header of a record differs from its"),
        (lambda s: head(s) + record(0, b"a", crc=1), "at byte 28: the checksum of record 0 differs"),
        (lambda s: head(s) + record(0, b"abc", length=2), "at byte 28: the checksum of record 0 differs"),
        (lambda s: head(s) + record(0, b"a")[:-1] + b"!", "at byte 28: the checksum of record 0 differs"),
        (lambda s: head(s) + bytes(30) + b"x", "at byte 28: the header of a record differs from its checksum"),
        (lambda s: head(s) + record(0, b"a")[:-4] + bytes(4) + record(1, b""), "at byte 28: the checksum of record 0"),
    ],
    ids=range(13),
)
def test_damage_with_checksums_made_right(root, snapshot, make, message):
    path = journal_path(root, snapshot)
    path.write_bytes(make(snapshot))
    for open_journal in (lambda: read(root, snapshot), lambda: Journal(root, snapshot)):
        with pytest.raises(ab.IndexCorruptError, match=f"{path} is damaged {message}"):
            open_journal()


def test_a_newer_journal(root, snapshot):
    path = journal_path(root, snapshot)
    path.write_bytes(head(snapshot, version=2))
    with pytest.raises(
        ab.IndexCorruptError, match=f"{path} has journal version 2, this attnbridge reads up to 1; upgr"
    ):
        read(root, snapshot)


def test_a_claimed_length_is_not_allocated(root, snapshot):
    journal_path(root, snapshot).write_bytes(head(snapshot) + record(0, b"a", length=2**60))
    with pytest.warns(RuntimeWarning, match="was cut off"):
        assert read(root, snapshot) == []


def test_what_is_no_regular_file(root, snapshot, filled):
    shutil.move(filled, root / "elsewhere")
    filled.symlink_to(root / "elsewhere")
    with pytest.raises(ab.IndexCorruptError, match=r"cannot be read \(not a regular file\); restore it from a"):
        read(root, snapshot)
    filled.unlink()
    os.mkfifo(filled)
    with pytest.raises(ab.IndexCorruptError, match=r"cannot be read \(not a regular file\); restore it from a"):
        read(root, snapshot)


# ---- operations as bytes


ARRAYS = {
    "rows": np.random.default_rng(2).random((5, 7), np.float32),
    "tokens": np.arange(15, dtype=np.float16).reshape(3, 5),
    "codes": np.array([[-128, 127], [0, 5]], np.int8),
    "lengths": np.array([2**63 - 1, -1]),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(3.5, np.float32),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "swapped": np.arange(3, dtype=">i8"),
}
VALUES = {"op": "add", "ids": ["ä", "\x00", "🦆", "\ud800"], "n": [2**63, -1], "x": None, "y": {"z": 0.1}}
BLOBS = {"text": b"abc", "nothing": b"", "bytes": bytes(range(256))}


def joined(*arguments):
    return b"".join(encode(*arguments))


def test_operations_come_back(root, snapshot):
    journal = Journal(root, snapshot)
    journal.append(encode(VALUES, ARRAYS, BLOBS))
    journal.append(encode({}))
    journal.close()
    full, empty = operations(root, snapshot)
    assert (full.values, full.blobs) == (VALUES, BLOBS)
    assert full.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert full.arrays[name].dtype == array.dtype.newbyteorder("<")
        assert full.arrays[name].tolist() == array.tolist()
        assert full.arrays[name].shape == array.shape
        assert full.arrays[name].flags.aligned
        assert not full.arrays[name].flags.writeable
    assert empty == ({}, {}, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": float("nan")},), "values must be JSON values, got one that is not: Out of range float"),
        (({"x": {1, 2}},), "values must be JSON values, got one that is not: Object of type set is not JSON serializ"),
        (({}, {"rows": np.zeros(2)}), "arrays must be of float32, float16, int64, int8, got rows of float64"),
        (({}, {"rows": np.array([None])}), "arrays must be of float32, float16, int64, int8, got rows of object"),
    ],
)
def test_what_cannot_be_written(arguments, message):
    with pytest.raises(ab.InvalidInputError, match=message):
        encode(*arguments)


def body(text, rest=b""):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(-len(raw) % 8) + rest


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "it claims more than its 0 bytes"),
        (b"\xff" * 8, "it claims more than its 8 bytes"),
        (body(b"\xff"), "'utf-8' codec"),
        (body("[1]"), "it must hold a JSON object, got a list"),
        (body("{" * 9), "Expecting property name"),
        (body("[" * 200_000), "recursion"),
        (body("{}"), "it must have values, arrays, and blobs, got {}"),
        (body('{"values": [], "arrays": [], "blobs": []}'), "it must have values, arrays, and blobs"),
        (body('{"values": {}, "arrays": {}, "blobs": []}'), "it must list its arrays and blobs, got {}"),
        (body('{"values": {}, "arrays": [1], "blobs": []}'), "an array or a blob is listed as 1"),
        (body('{"values": {}, "arrays": [["a", "float32"]], "blobs": []}'), "an array or a blob is listed as"),
        (body('{"values": {}, "arrays": [["a", "object", [1]]], "blobs": []}', bytes(8)), "array 'a' is 'object' of"),
        (body('{"values": {}, "arrays": [["a", "int64", [true]]], "blobs": []}', bytes(8)), "array 'a' is 'int64' of"),
        (body('{"values": {}, "arrays": [["a", "int64", [-1]]], "blobs": []}', bytes(8)), "array 'a' is 'int64' of"),
        (body('{"values": {}, "arrays": [["a", "int64", [1e0]]], "blobs": []}', bytes(8)), "array 'a' is 'int64' of"),
        (body('{"values": {}, "arrays": [["a", "int64", [2]]], "blobs": []}', bytes(8)), "it claims more than its"),
        (
            body('{"values": {}, "arrays": [["a", "int64", [99, 99, 99, 99]]], "blobs": []}', bytes(96)),
            "it claims more",
        ),
        (body('{"values": {}, "arrays": [["a", "int64", [0, 999999999]]], "blobs": []}'), "array 'a' is 'int64' of"),
        (body('{"values": {}, "arrays": [["a", "int64", [1, 1, 1, 1, 1, 1, 1, 1, 1]]], "blobs": []}'), "array 'a' is"),
        (body('{"values": {}, "arrays": [], "blobs": [["b", 9]]}', bytes(8)), "it claims more than its"),
        (body('{"values": {}, "arrays": [], "blobs": [["b", -8]]}', bytes(8)), "blob 'b' has -8 bytes"),
        (body('{"values": {}, "arrays": [], "blobs": [["b", 1], ["b", 1]]}', bytes(16)), "it holds more than it lists"),
        (body('{"values": {}, "arrays": [], "blobs": []}', bytes(8)), "it holds more than it lists"),
    ],
    ids=range(23),
)
def test_nonsense(root, snapshot, raw, message):
    with pytest.raises(ab.IndexCorruptError, match=f"a record of the journal is damaged: .*{message}.*; restore it fr"):
        decode(memoryview(raw))
    journal = Journal(root, snapshot)
    journal.append([joined({}), b""])
    journal.append([raw])
    journal.close()
    with pytest.raises(ab.IndexCorruptError, match=f"{journal.path}: record 1 is damaged: .*{message}"):
        list(operations(root, snapshot))


def test_random_nonsense(rounds):
    """Whatever bytes come, it is an operation or an IndexCorruptError."""
    rng = np.random.default_rng(3)
    raw = joined({"op": "add", "ids": [1, 2]}, {"rows": np.ones((2, 3), np.float32)}, {"b": b"xyz"})
    refused = 0
    for _ in range(rounds(500, 20_000)):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        try:
            decode(memoryview(bytes(damaged[: rng.integers(len(raw) // 2, len(raw) + 1)])))
        except ab.IndexCorruptError:
            refused += 1
    assert refused > 100
