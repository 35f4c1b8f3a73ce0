"""Random damage and hostile manifests: always an IndexCorruptError that names a file, soon, and without much memory.

`corrupt` damages a folder that holds an index, at random; other tests use it too.
"""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import attnbridge as ab
from attnbridge.integrations.arrays import load_array
from attnbridge.integrations.journal import Journal
from attnbridge.integrations.operations import encode, operations
from attnbridge.integrations.snapshot import load_snapshot, write_snapshot

BLOCK = 65536


# ---- what damages a folder; each returns the names of the files that it may have changed


def pick(folder, rng, count=1):
    """Return some of the files of an index, whatever they are called."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return [paths[i] for i in rng.choice(len(paths), count, replace=False)]


def part(rng, size, most=None):
    """Return a random range within a file, short ones often."""
    length = min(size, int(2 ** rng.uniform(0, 18)), most or size)
    start = int(rng.integers(0, size - length + 1))
    return start, start + length


def overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def flip(folder, rng):
    (path,) = pick(folder, rng)
    raw = bytearray(path.read_bytes())
    for at in rng.integers(0, max(1, len(raw)), rng.integers(1, 4)):
        if raw:
            raw[at] ^= 1 << rng.integers(8)
    path.write_bytes(raw)
    return [path.name]


def truncate(folder, rng):
    (path,) = pick(folder, rng)
    os.truncate(path, rng.integers(0, path.stat().st_size + 1))
    return [path.name]


def extend(folder, rng):
    (path,) = pick(folder, rng)
    data = [rng.bytes(rng.integers(1, 100)), bytes(rng.integers(1, 3 * BLOCK)), b"\n"][rng.integers(3)]
    with path.open("ab") as file:
        file.write(data)
    return [path.name]


def swap_files(folder, rng):
    a, b = pick(folder, rng, 2)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    return [a.name, b.name]


def swap_blocks(folder, rng):
    """Swap two stretches of files, of the size of checksummed blocks where they are long enough."""
    paths = pick(folder, rng, 2) if rng.integers(2) else pick(folder, rng) * 2
    size = min(BLOCK, *(max(1, path.stat().st_size // 2) for path in paths))
    starts = [size * int(rng.integers(0, max(1, path.stat().st_size // size))) for path in paths]
    data = [path.read_bytes()[start : start + size] for path, start in zip(paths, starts, strict=True)]
    if paths[0] == paths[1] or len(data[0]) == len(data[1]):
        overwrite(paths[0], starts[0], data[1])
        overwrite(paths[1], starts[1], data[0])
    return [path.name for path in paths]


def zero(folder, rng):
    (path,) = pick(folder, rng)
    start, stop = part(rng, path.stat().st_size)
    overwrite(path, start, bytes(stop - start))
    return [path.name]


def scramble(folder, rng):
    (path,) = pick(folder, rng)
    start, stop = part(rng, path.stat().st_size)
    overwrite(path, start, rng.bytes(stop - start))
    return [path.name]


def delete(folder, rng):
    (path,) = pick(folder, rng)
    path.unlink()
    return [path.name]


_NASTY = [
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, -(2**70), 10**300, 0.5, 1e999, float("nan"), "", "x", "../x",
    "/etc/passwd", "\x00", "ä" * 100, [], [[]], [1, 2], {}, {"a": 1}, {"bytes": 5}, "0" * 8, [None] * 10,
]  # fmt: skip


def _places(value, path=()):
    """Yield the way to every value within a JSON value."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def resign(folder, text):
    """Replace the manifest and make its checksum in CURRENT right."""
    (path,) = folder.rglob("manifest.json")
    raw = text.encode("utf-8", "surrogatepass")
    path.write_bytes(raw)
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    (folder / "CURRENT").write_text(f"{path.parent.name} {digest}\n")


def hostile(folder, rng):
    """Replace, remove, or add values in the manifest, its checksum made right as an attacker would."""
    (path,) = folder.rglob("manifest.json")
    manifest = json.loads(path.read_text())
    for _ in range(rng.integers(1, 4)):
        ways = list(_places(manifest))
        if not ways:
            break
        way = ways[rng.integers(len(ways))]
        at = manifest
        for key in way[:-1]:
            at = at[key]
        nasty = copy.deepcopy(_NASTY[rng.integers(len(_NASTY))])
        what = rng.integers(4)
        if what == 0:
            del at[way[-1]]
        elif what == 1 and isinstance(at, dict):
            at[["../up.npy", "a/b.npy", "new.npy", "", "manifest.json", "x" * 300 + ".npy"][rng.integers(6)]] = nasty
        else:
            at[way[-1]] = nasty
    text = json.dumps(manifest)
    if not rng.integers(20):
        text = [text[: len(text) // 2], "[" * 100_000, text + text, text.replace(":", ":" + "9" * 5000, 1)][
            rng.integers(4)
        ]
    resign(folder, text)
    return ["manifest.json"]


RANDOM = [flip, truncate, extend, swap_files, swap_blocks, zero, scramble, delete]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def corrupt(folder, rng):
    """Damage an index's folder at random; return by what, the files' names, and whether anything differs now."""
    before = content(folder)
    damage = hostile if not rng.integers(4) else RANDOM[rng.integers(len(RANDOM))]
    names = damage(folder, rng)
    return damage.__name__, names, content(folder) != before


# ---- a loader that reads everything


ROWS = np.random.default_rng(5).random((1500, 64), np.float32)  # 6 blocks
DONE = [{"op": "add", "n": n} for n in range(4)]


def make(folder):
    files = {
        "rows.npy": lambda path: np.save(path, ROWS),
        "lengths.npy": lambda path: np.save(path, np.arange(100)),
        "ids.json": lambda path: path.write_text(json.dumps(list(range(1500)))),
        "empty.bin": lambda path: path.write_bytes(b""),
    }
    about = {"rows": 1500, "hnsw": {"M": 16, "ef": 100}, "metric": "cosine", "scale": 1.5}
    journal = Journal(folder, write_snapshot(folder, "Test", about, files))
    for done in DONE:
        journal.append(encode(done, {"rows": ROWS[:3]}, {"tokens": b"x" * done["n"]}))
    journal.close()


def load_all(folder, verify, mmap):
    def load(snapshot):
        rows, offset = load_array(snapshot, "rows.npy", np.float32, 2, mmap=mmap)
        if mmap:
            chosen = np.random.default_rng(0).integers(0, len(rows), 20)
            snapshot.blocks("rows.npy").check_rows(chosen, offset, rows.shape[1] * 4)
            snapshot.blocks("rows.npy").check_all()
        lengths, _ = load_array(snapshot, "lengths.npy", np.int64, 1, mmap=False)
        ids = json.loads(snapshot.path("ids.json").read_text())
        snapshot.path("empty.bin")
        for name, kind, least in [("rows", int, 0), ("hnsw.M", int, 2), ("metric", str, 1), ("scale", float, 0)]:
            snapshot.setting(name, kind, least)
        done = []
        for operation in operations(folder, snapshot.name):
            assert operation.arrays["rows"].tobytes() == ROWS[:3].tobytes()
            done.append(operation.values)
        return rows.tobytes(), lengths.tolist(), ids, done

    return load_snapshot(folder, "Test", load, verify=verify)


@pytest.mark.slow
def test_random_damage(tmp_path, rounds):
    rng = np.random.default_rng(11)
    make(tmp_path / "index")
    refused = []
    for round in range(rounds(250, 2000)):
        folder = Path(shutil.copytree(tmp_path / "index", tmp_path / "copy"))
        damage, names, differs = corrupt(folder, rng)
        where = f"round {round}: {damage} of {names}"
        verify, mmap = ("full", "lazy")[rng.integers(2)], bool(rng.integers(2))
        begun = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a journal's end that was cut off
            try:
                rows, lengths, ids, done = load_all(folder, verify, mmap)
            except ab.IndexCorruptError as error:
                message = str(error)
            else:
                message = None
                # What is lost at the journal's end cannot be told from an append that a crash has cut off.
                journals = [name.startswith("journal-") for name in names]
                assert not differs or damage == "hostile" or all(journals), where
                assert (rows, lengths, ids) == (ROWS.tobytes(), list(range(100)), list(range(1500))), where
                assert done == (DONE[: len(done)] if any(journals) else DONE), where
        if message is not None:
            assert differs, where
            named = [str(folder)] if damage == "hostile" else names
            assert any(name in message for name in named), f"{where}: {message}"
            refused.append(damage)
        assert time.monotonic() - begun < 5, where
        shutil.rmtree(folder)
    assert set(refused) == {"hostile", *(damage.__name__ for damage in RANDOM)}


@pytest.mark.slow
def test_hostile_manifests_take_little_memory(tmp_path, rounds):
    rng = np.random.default_rng(12)
    make(tmp_path / "index")
    tracemalloc.start()
    try:
        for _ in range(rounds(60, 1000)):
            folder = Path(shutil.copytree(tmp_path / "index", tmp_path / "copy"))
            hostile(folder, rng)
            tracemalloc.reset_peak()
            with suppress(ab.IndexCorruptError):
                load_all(folder, "lazy", False)
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
            shutil.rmtree(folder)
    finally:
        tracemalloc.stop()


_LIMITED = """
import resource, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[2])
import test_fuzz
import attnbridge as ab
from attnbridge.integrations import hnswlib  # what is needed is loaded before the limit
from pathlib import Path
import shutil
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
rng = np.random.default_rng(13)
refused = 0
for _ in range(int(sys.argv[3])):
    folder = Path(shutil.copytree(Path(sys.argv[1]) / "index", Path(sys.argv[1]) / "copy"))
    test_fuzz.hostile(folder, rng)
    try:
        test_fuzz.load_all(folder, ("full", "lazy")[rng.integers(2)], bool(rng.integers(2)))
    except ab.IndexCorruptError:
        refused += 1
    shutil.rmtree(folder)
print("refused", refused)
"""


@pytest.mark.slow
def test_hostile_manifests_in_a_process_with_little_memory(tmp_path, rounds):
    make(tmp_path / "index")
    run = subprocess.run(
        [sys.executable, "-B", "-c", _LIMITED, str(tmp_path), str(Path(__file__).parent), str(rounds(60, 1000))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.stdout.startswith("refused "), run.stderr
    assert int(run.stdout.split()[1]) > 20
