"""The memory that a saved index takes: how much a fresh process grows by when it opens it.

Run as a module it is that process: it opens the index named on its command line and prints its memory before and after.
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attnbridge.integrations.bridge import AttentionVectorBridge
from attnbridge.integrations.configurations import OURS
from attnbridge.integrations.contenders import Contender, Setting
from attnbridge.integrations.peers import PEERS

CONTENDERS: Mapping[str, Callable[[Setting], Contender]] = {**OURS, **PEERS}

# Rows of the index on which the process loads and compiles what every search needs, ahead of the first figure.
_WARM_ROWS = 256


class Footprint(NamedTuple):
    """Bytes of one index.

    Parameters
    ----------
    told : int or None
        In memory, as the library counts them; None where it does not.
    on_disk : int
        Of the files that it saves.
    resident : int
        What the resident memory of a fresh process grew by when it loaded those files and answered some queries.
        Code and what it compiled count as there before.

    Examples
    --------
    >>> from attnbridge.integrations.footprint import Footprint
    >>> Footprint(None, 1_000, 1_500).on_disk
    1000
    """

    told: int | None
    on_disk: int
    resident: int


def footprint(name: str, contender: Contender, queries: npt.NDArray[np.float32], k: int, ef: int) -> Footprint:
    """Save an index, and open it in a process of its own.

    Parameters
    ----------
    name : str
        A key of `CONTENDERS`.
    contender : Contender
        Built.
    queries : ndarray of float32, (b, d)
        What the process asks once it has opened it.
    k, ef : int

    Returns
    -------
    Footprint

    Raises
    ------
    RuntimeError
        The process failed; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="attnbridge-bench-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "index"
        folder.mkdir()
        contender.save(folder)
        on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        np.save(Path(temporary) / "queries.npy", queries)
        task = json.dumps([name, contender.setting, temporary, k, ef])
        done = subprocess.run(
            [sys.executable, "-m", "attnbridge.integrations.footprint", task], capture_output=True, text=True
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"the process that opened the index of {name} ended with {done.returncode}: {said}")
    before, after = json.loads(done.stdout)
    return Footprint(contender.told_bytes(), on_disk, after - before)


def _resident() -> int:
    gc.collect()
    return AttentionVectorBridge(1, index="exact").memory()["resident"]


def _probe(name: str, setting: Setting, folder: Path, k: int, ef: int) -> tuple[int, int]:
    """Return the resident bytes before and after an index is opened and asked."""
    queries = np.load(folder / "queries.npy")
    rows = np.random.default_rng(0).standard_normal((_WARM_ROWS, setting.dim)).astype(np.float32)
    warm = CONTENDERS[name](setting)
    warm.build(rows / np.linalg.norm(rows, axis=1, keepdims=True), 1)
    with tempfile.TemporaryDirectory() as temporary:
        warm.save(Path(temporary))
        warm.load(Path(temporary))
    warm.search(queries, min(k, _WARM_ROWS), min(ef, _WARM_ROWS), 1)
    before = _resident()
    contender = CONTENDERS[name](setting)
    contender.load(folder / "index")
    contender.search(queries, k, ef, 1)
    return before, _resident()


if __name__ == "__main__":
    _name, _setting, _folder, _k, _ef = json.loads(sys.argv[1])
    print(json.dumps(_probe(_name, Setting(*_setting), Path(_folder), _k, _ef)))
