"""Random damage of a bridge's folder: an error that names a file, or what was saved; never a crash, hang or garbage.

The damage is `test_fuzz.corrupt`. Processes with little memory and a time limit open what is left.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import attnbridge as ab

pytest.importorskip("test_fuzz", reason="tests/faults/test_fuzz.py is not there: it damages the folders")

Bridge = ab.AttentionVectorBridge
HERE = Path(__file__).parent
ROWS, DIM, OPERATIONS = 500, 48, 6
SECONDS, MEMORY = 60, 400 << 20


def made(folder, token_dtype):
    """Save an index with all that there is, and a journal; return what it holds after each operation."""
    rng = np.random.default_rng(0)
    bridge = Bridge(dim=DIM, metric="l2", token_dtype=token_dtype)
    bridge.add(
        rng.standard_normal((ROWS, DIM)),
        tokens=[np.full((1 + i % 3, 4), i) for i in range(ROWS)],
        payload={"n": np.arange(ROWS), "text": [f"text {i}" * (i % 5) for i in range(ROWS)]},
    )
    bridge.delete(range(0, ROWS, 10))
    bridge.save(folder)
    states = [state_of(bridge)]
    with Bridge.open(folder, journal=True) as bridge:
        for number in range(OPERATIONS):
            if number % 3 == 0:
                vectors = rng.standard_normal((20, DIM))
                bridge.add(vectors, payload={"n": [number] * 20}, tokens=[np.ones((2, 4))] * 20)
            elif number % 3 == 1:
                bridge.set_payload([1, 2, 3], {"n": number, "new": f"new {number}"})
            else:
                bridge.delete(where="n % 7 = $rest", params={"rest": number})
            states.append(state_of(bridge))
    return states


def state_of(bridge):
    """Return everything that a bridge holds, by all the ways there are to ask for it."""
    ids = bridge.ids()
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((3, DIM)).astype(np.float32)
    token = np.ones((2, 4))
    searches = [
        bridge.search(queries[0], k=5, exact=True),
        bridge.search(queries[1], k=5, where="n > 100"),
        bridge.search(queries[2], k=5, filter=ids[::3]),
        bridge.search(queries[0], k=5, exact=True, query_tokens=token, rerank=ab.LateInteraction()),
        bridge.search(id=ids[5], k=3, exact=True),
    ]
    bridge.link()
    near = bridge.search(bridge.get(ids[7]), k=1)
    table = bridge.to_arrow()
    return repr(
        [
            ids,
            bridge.get(ids).tolist(),
            [tokens.tolist() for tokens in bridge.get_tokens(ids)],
            [[hits.ids, hits.scores.round(4).tolist(), hits.payload] for hits in searches],
            near.ids,
            [[name, table[name].to_pylist()] for name in table.column_names[2:]],
        ]
    )


def outcome(folder, verify, mmap):
    """Open, ask for everything, reload; return what came of it: a state, or the error's type and message."""
    try:
        bridge = Bridge.open(folder, verify=verify, mmap=mmap, read_only=True)
        state = state_of(bridge)
        bridge.reload()
        again = state_of(bridge)
    except Exception as error:  # noqa: BLE001 - told to the test
        return [type(error).__name__, str(error)]
    return ["state", state] if state == again else ["differs", state + again]


def work(root, seed, count):
    """Damage and open `count` copies, and print a line for each: what was done, and what came of it."""
    import resource

    import test_fuzz

    root = Path(root)
    warnings.simplefilter("ignore", RuntimeWarning)  # of a journal's end that was cut off
    outcome(root / "index", "full", True)  # what is loaded late is loaded before the limit
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    rng = np.random.default_rng(seed)
    copy = root / f"copy{seed}"
    for _ in range(count):
        shutil.copytree(root / "index", copy)
        damage, names, differs = test_fuzz.corrupt(copy, rng)
        verify, mmap = ("full", "lazy")[rng.integers(2)], bool(rng.integers(2))
        print(json.dumps([damage, sorted(names), bool(differs), verify, mmap]), flush=True)
        signal.alarm(SECONDS)  # ends a process that hangs
        print(json.dumps(outcome(copy, verify, mmap)), flush=True)
        signal.alarm(0)
        shutil.rmtree(copy)


_WORK = """
import sys
sys.path.insert(0, sys.argv[1])
from test_bridge_fuzz import work
work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("token_dtype", ["float16", "int8"])
def test_a_damaged_folder_is_refused_or_right(tmp_path, rounds, token_dtype):
    states = made(tmp_path / "index", token_dtype)
    assert len(set(states)) == OPERATIONS + 1
    assert outcome(tmp_path / "index", "full", True) == ["state", states[-1]]
    seeds = range(4)
    count = rounds(160, 2_000) // len(seeds)
    processes = [
        subprocess.Popen(
            [sys.executable, "-B", "-c", _WORK, HERE, tmp_path, str(seed), str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"ATTNBRIDGE_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )
        for seed in seeds
    ]
    refused, right = 0, 0
    for process in processes:
        out, err = process.communicate()
        lines = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == 0, (process.returncode, lines[-1], err)
        assert len(lines) == 2 * count
        for (damage, names, differs, verify, mmap), (kind, told) in zip(lines[::2], lines[1::2], strict=True):
            where = f"{damage} of {names}, verify={verify}, mmap={mmap}: {kind}: {told[:2000]}"
            journals = all(name.startswith("journal-") for name in names)
            if kind == "state":
                # A journal's lost end cannot be told from an append that a crash has cut off. A file that nobody reads
                # may be damaged; and an attacker who signs the manifest anew may change settings.
                assert told in (states if journals and differs else states[-1:]) or damage == "hostile", where
                right += 1
            else:
                # A name of an attention type that is not known may be one that the user has yet to register.
                unknown = damage == "hostile" and kind == "InvalidConfigError" and "was saved with attention" in told
                assert kind == "IndexCorruptError" or unknown, where
                assert differs, where
                assert str(tmp_path) in told, where
                assert damage == "hostile" or any(name in told for name in names), where
                refused += 1
    assert refused > count
    assert right
