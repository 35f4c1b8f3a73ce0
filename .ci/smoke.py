"""Search with the installed wheel, in an environment without the source tree and without any extra."""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import attnbridge as ab

assert "site-packages" in ab.__file__, ab.__file__
vectors = np.random.default_rng(0).standard_normal((2_000, 32)).astype(np.float32)
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    np.save(folder / "vectors.npy", vectors)
    command = [str(pathlib.Path(sys.executable).parent / "attnbridge")]
    subprocess.run([*command, "index", folder / "vectors.npy", "-o", folder / "index"], check=True)
    subprocess.run([*command, "search", folder / "index", "--like", "7", "-k", "3"], check=True)
    # The demo needs an extra; without it there is a message with the remedy and no traceback.
    demo = subprocess.run([*command, "demo"], capture_output=True, text=True)
    assert demo.returncode == 1, demo
    assert "pip install 'attnbridge[demo]'" in demo.stderr, demo.stderr
    assert "Traceback" not in demo.stderr, demo.stderr
    subprocess.run([*command, "index", folder / "vectors.npy", "-o", folder / "frozen", "--freeze"], check=True)
    frozen = ab.AttentionVectorBridge.open(folder / "frozen")
    assert frozen.config["frozen"], frozen.config
    assert frozen.search(vectors[7], k=1).ids == [7]
    bridge = ab.AttentionVectorBridge.open(folder / "index")
    hits = bridge.search(vectors[7], k=3, rerank=[ab.QueryExpansion()])
    assert hits.ids[0] == 7, hits
    assert bridge.config["index"] == "hnsw", bridge.config
    with ab.connect(index=bridge) as con:
        found = con.execute("SELECT id FROM ruvector_search($q, k := 1)", {"q": vectors[7]}).fetchall()
        assert found == [(7,)], found
    answer = subprocess.run([*command, "sql", "SELECT ruvector_softmax([0, 0])"], check=True, capture_output=True)
    assert b"0.5" in answer.stdout, answer
print(f"wheel {ab.__version__} works")
