"""The commands that look after an index: delete, compact, audit, tune, verify; and who may write."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner

import attnbridge as ab
import attnbridge.cli as command_line
from attnbridge.integrations import HnswIndex

Bridge = ab.AttentionVectorBridge
ROWS, DIM = 400, 6


def run(*args, **options):
    """Run in this process; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(command_line.cli, [str(arg) for arg in args], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeeds(*args):
    result = run(*args)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def fails(*args, code=1):
    """Return the message of a command that must fail; nothing goes to stdout."""
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


@pytest.fixture
def vectors():
    return np.random.default_rng(5).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture
def folder(vectors, tmp_path):
    made = Bridge(DIM, threads=1)
    names = ["ä 日", "-7", *(f"d{i}" for i in range(2, ROWS))]
    made.add(vectors, names, payload={"year": [1600 + i for i in range(ROWS)]})
    made.save(tmp_path / "named")
    return tmp_path / "named"


@pytest.fixture
def numbered(vectors, tmp_path):
    made = Bridge(DIM, index="exact")
    made.add(vectors, [i - 3 for i in range(ROWS)])
    made.save(tmp_path / "numbered")
    return tmp_path / "numbered"


def ids(folder):
    return set(Bridge.open(folder, mmap=False).ids())


def snapshot(folder):
    return (folder / "CURRENT").read_text()


# ---- delete


def test_delete_by_id(folder, numbered):
    assert succeeds("delete", folder, "d5", "ä 日", "d5") == f"{folder}: 2 rows deleted, 398 left\n"
    assert not ids(folder) & {"d5", "ä 日"}
    assert succeeds("delete", folder, "--", "-7") == f"{folder}: 1 rows deleted, 397 left\n"
    assert succeeds("delete", folder, "d6", "-q") == ""
    assert len(ids(folder)) == 396
    assert json.loads(succeeds("delete", numbered, "--json", "--", "-3", "8")) == {
        "folder": str(numbered), "deleted": 2, "rows": 398, "dry_run": False, "ids": [-3, 8],
    }  # fmt: skip
    assert len(ids(numbered)) == 398


def test_unknown_ids_delete_nothing(folder, numbered):
    before = snapshot(folder), snapshot(numbered)
    assert fails("delete", folder, "d5", "nope").startswith("id 'nope' is not in the index")
    assert fails("delete", numbered, "1", "9000").startswith("id 9000 is not in the index")
    assert fails("delete", numbered, "1", "x") == "ID must be a whole number, as this index's ids are; got 'x'"
    assert (snapshot(folder), snapshot(numbered)) == before
    assert len(ids(folder)) == len(ids(numbered)) == ROWS


def test_delete_by_condition(folder):
    out = succeeds("delete", folder, "--where", "year < $y", "--param", "y=1612", "--yes")
    assert out == f"{folder}: 12 rows deleted, 388 left\n"
    before = snapshot(folder)
    assert succeeds("delete", folder, "--where", "year < 0", "-y") == f"{folder}: 0 rows deleted, 388 left\n"
    assert snapshot(folder) == before
    assert "cannot be evaluated" in fails("delete", folder, "--where", "nope = 1", "-y")


def test_dry_run_deletes_nothing(folder):
    before = snapshot(folder)
    out = succeeds("delete", folder, "--where", "year < 1603", "--dry-run")
    assert out == f"{folder}: would delete 3 of 400 rows: ä 日, -7, d2\n"
    assert succeeds("delete", folder, "--where", "true", "--dry-run").endswith(", d9, and 390 more\n")
    assert succeeds("delete", folder, "--where", "false", "--dry-run") == f"{folder}: would delete 0 of 400 rows\n"
    assert json.loads(succeeds("delete", folder, "d3", "--dry-run", "--json")) == {
        "folder": str(folder), "deleted": 1, "rows": 400, "dry_run": True, "ids": ["d3"],
    }  # fmt: skip
    assert snapshot(folder) == before
    assert len(ids(folder)) == ROWS


def test_a_condition_asks_before_it_deletes(folder, monkeypatch):
    monkeypatch.setattr("attnbridge.cli.delete.can_ask", lambda: True)
    result = run("delete", folder, "--where", "year < 1602", input="n\n")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"ä 日, -7\nDelete 2 of 400 rows from {folder}? [y/N]:")
    assert len(ids(folder)) == ROWS
    result = run("delete", folder, "--where", "year < 1602", input="y\n")
    assert result.exit_code == 0
    assert result.stdout.endswith(f"{folder}: 2 rows deleted, 398 left\n")
    assert len(ids(folder)) == ROWS - 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either IDs or --where"),
        (["d1", "--where", "true"], "give either IDs or --where"),
        (["--where", "true"], "--where needs --yes or --dry-run where nobody can be asked"),
        (["d1", "--param", "y=1"], "--param needs --where"),
    ],
)
def test_delete_wrong_usage(folder, args, message):
    assert fails("delete", folder, *args, code=2) == message
    assert len(ids(folder)) == ROWS


# ---- compact


def test_compact_gives_space_back(folder):
    succeeds("delete", folder, "--where", "year >= 1700", "-y")
    before = sum(file.stat().st_size for file in folder.glob("snapshot-*/*"))
    result = json.loads(succeeds("compact", folder, "--json"))
    assert result.pop("seconds") >= 0
    after = sum(file.stat().st_size for file in folder.glob("snapshot-*/*"))
    assert result == {
        "folder": str(folder), "rows": 100, "removed": 300, "bytes_before": before, "bytes": after,
    }  # fmt: skip
    assert after < before / 2
    assert json.loads(succeeds("info", folder, "--json"))["dead_rows"] == 0
    current = snapshot(folder)
    out = succeeds("compact", folder)
    pattern = r": 100 rows before, 0 of them dead, 100 now; [\d,]+ bytes before, [\d,]+ now, [\d.]+ s\n"
    assert re.fullmatch(re.escape(str(folder)) + pattern, out)
    assert snapshot(folder) == current  # nothing to do, nothing written
    assert succeeds("compact", folder, "-q") == ""


def test_compact_takes_the_journal_in(folder):
    with Bridge.open(folder, journal=True) as bridge:
        bridge.set_payload("d9", {"year": 9})
    assert list(folder.glob("journal-*"))
    assert json.loads(succeeds("compact", folder, "--json"))["removed"] == 0
    assert not list(folder.glob("journal-*"))
    assert Bridge.open(folder, mmap=False).payload("d9") == {"year": 9}


# ---- audit and tune


def test_audit(folder, tmp_path, vectors):
    options = ["-k", 3, "--sample", 20, "--selectivity", 1, "--selectivity", 0.1, "-q"]
    found = json.loads(succeeds("audit", folder, *options, "--json"))
    assert list(found) == ["folder", "k", "queries", "threads", "rows", "bytes"]
    assert (found["k"], found["queries"]) == (3, 20)
    assert [(row["selectivity"], row["rows"], row["hits"]) for row in found["rows"]] == [
        (1.0, 400, 3.0),
        (0.1, 40, 3.0),
    ]
    assert all(0.9 <= row["recall"] <= 1.0 for row in found["rows"])
    assert found["bytes"]["rows"] == vectors.nbytes
    text = succeeds("audit", folder, *options)
    assert text.startswith("recall@3 against exact search, 20 queries")
    np.save(tmp_path / "q.npy", vectors[:7])
    (tmp_path / "one.json").write_text(json.dumps(vectors[0].tolist()))
    assert json.loads(succeeds("audit", folder, "--queries", tmp_path / "q.npy", "--json"))["queries"] == 7
    assert json.loads(succeeds("audit", folder, "--queries", tmp_path / "one.json", "--json"))["queries"] == 1


@pytest.mark.parametrize("command", ["audit", "tune"])
def test_bad_queries(folder, tmp_path, command):
    np.save(tmp_path / "q.npy", np.eye(3))
    assert "queries must have dimension 6, got 3" in fails(command, folder, "--queries", tmp_path / "q.npy")
    assert fails(command, folder, "--queries", "q.txt", code=2) == "--queries must be a .npy or .json file, got q.txt"
    assert fails(command, folder, "-k", 400).startswith("k must be at most the bridge's rows besides the query's own")
    option = "--selectivity" if command == "audit" else "--recall"
    assert "is not in the range 0<x<=1" in fails(command, folder, option, 0, code=2)


def test_tune_saves_what_it_finds(folder):
    before = snapshot(folder)
    options = ["--recall", 0.5, "-k", 3, "--sample", 20, "--min-candidates", 3]
    dry = json.loads(succeeds("tune", folder, *options, "--dry-run", "--json"))
    assert (dry["reached"], dry["saved"]) == (True, False)
    assert snapshot(folder) == before
    found = json.loads(succeeds("tune", folder, *options, "--json"))
    assert list(found) == ["folder", "target", "k", "queries", "threads", "reached", "saved", "best", "rows"]
    assert (found["target"], found["k"], found["queries"], found["reached"], found["saved"]) == (0.5, 3, 20, True, True)
    assert found["best"] in found["rows"]
    config = Bridge.open(folder, mmap=False).config
    assert (config["ef"], config["candidates"]) == (found["best"]["ef"], found["best"]["candidates"])
    assert config["candidates"] < 100
    about = json.loads(succeeds("info", folder, "--json"))["config"]
    assert (about["hnsw"]["ef"], about["candidates"]) == (config["ef"], config["candidates"])
    assert succeeds("tune", folder, *options, "-q") == ""


def test_tune_shows_a_table_and_what_was_saved(folder):
    out = succeeds("tune", folder, "--recall", 0.5, "--sample", 20)
    assert out.startswith("recall@10 >= 0.5 wanted, 20 queries")
    last = out.splitlines()[-1]
    assert last == f"{folder}: has already ef=100, candidates=100"
    out = succeeds("tune", folder, "--recall", 0.1, "--sample", 20, "--min-candidates", 10)
    assert re.fullmatch(rf"{re.escape(str(folder))}: saved ef=\d+, candidates=\d+", out.splitlines()[-1])
    assert "saved" not in succeeds("tune", folder, "--recall", 0.5, "--sample", 20, "--dry-run")


@pytest.mark.filterwarnings("default")
def test_tune_that_falls_short_leaves_the_index(folder, monkeypatch):
    monkeypatch.setattr(
        "attnbridge.integrations.tuning.Probe.recalls", lambda self, found, truth: np.full(len(found), 0.25)
    )
    before = snapshot(folder)
    result = run("tune", folder, "--sample", 20)
    assert result.exit_code == 1
    assert "best, short of the target" in result.stdout
    assert result.stderr.startswith("Warning: no ef up to 400 reaches recall@10 >= 0.95: the best is 0.2500")
    assert snapshot(folder) == before


def test_tune_needs_a_graph(numbered):
    assert fails("tune", numbered).startswith("tune needs a bridge with index='hnsw', got 'exact'")


# ---- verify


def test_verify_lists_what_it_checked(folder, tmp_path, vectors):
    found = json.loads(succeeds("verify", folder, "--json"))
    name = snapshot(folder).split()[0]
    files = {f"{name}/{path.name}": path.stat().st_size for path in (folder / name).iterdir()}
    files["CURRENT"] = (folder / "CURRENT").stat().st_size
    assert {file["file"]: file["bytes"] for file in found["files"]} == files
    assert found["bytes"] == sum(files.values())
    assert all(file["blocks"] >= 1 for file in found["files"])
    lines = succeeds("verify", folder).splitlines()
    assert lines[-1] == f"{folder}: {len(files)} files, {sum(files.values()):,} bytes, no damage"
    assert any(f"{name}/links.npy" in line for line in lines)
    assert succeeds("verify", folder, "-q") == ""
    graph = HnswIndex(DIM)
    graph.add(vectors, np.arange(ROWS))
    graph.save(tmp_path / "graph")
    assert "no damage" in succeeds("verify", tmp_path / "graph")


@pytest.mark.parametrize("file", ["rows.npy", "links.npy", "payload.parquet", "ids.json", "manifest.json"])
@pytest.mark.parametrize("form", [[], ["--json"], ["-q"]], ids=["table", "json", "quiet"])
def test_verify_names_the_damaged_file(folder, file, form):
    (path,) = folder.glob(f"snapshot-*/{file}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert fails("verify", folder, *form).startswith(f"{path} is damaged")


def test_verify_of_no_index(tmp_path):
    assert "is no index" in fails("verify", tmp_path)
    assert "does not exist" in fails("verify", tmp_path / "none")


# ---- one writer

_HOLDER = """
import sys, attnbridge as ab
bridge = ab.AttentionVectorBridge.open(sys.argv[1], journal=True)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(folder):
    """Have another process keep the folder open for writing."""
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.skipif(os.name == "nt", reason="flock of POSIX")
def test_a_locked_folder_is_read_but_not_written(folder, tmp_path, vectors, monkeypatch):
    np.save(tmp_path / "docs.npy", vectors)
    monkeypatch.setattr(Bridge, "from_file", lambda *a, **o: pytest.fail("built an index"))
    monkeypatch.setattr(Bridge, "tune", lambda *a, **o: pytest.fail("tuned"))
    before = snapshot(folder)
    with held(folder) as holder:
        for command in (
            ["delete", folder, "d5"],
            ["delete", folder, "--where", "true", "-y"],
            ["compact", folder],
            ["tune", folder],
            ["index", tmp_path / "docs.npy", "-o", folder, "--overwrite"],
        ):
            message = fails(*command)
            assert message.startswith(f"folder {folder} is open for writing by process {holder} on host ")
        for command in (["search", "--like", "d5"], ["info"], ["verify"], ["audit", "--sample", "5", "--json"]):
            succeeds(command[0], folder, *command[1:])
    assert snapshot(folder) == before
    assert succeeds("delete", folder, "d5") == f"{folder}: 1 rows deleted, 399 left\n"
    assert not (folder / "LOCK").exists()


_INTERRUPTED = """
import os, signal, sys, time
import attnbridge as ab
from attnbridge.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
setattr(ab.AttentionVectorBridge, sys.argv[1], lambda *a, **o: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60)))
sys.argv[:2] = ["attnbridge"]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("compact", ["compact", "F"]),
        ("save", ["delete", "F", "d5"]),
        ("tune", ["tune", "F"]),
        ("audit", ["audit", "F"]),
    ],
    ids=["compact", "delete", "tune", "audit"],
)
def test_ctrl_c_leaves_the_index_as_it_was(folder, method, args):
    before = snapshot(folder)
    words = [str(folder) if word == "F" else word for word in args]
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, method, *words], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "Interrupted\n")
    assert snapshot(folder) == before
    assert len(ids(folder)) == ROWS
    assert {path.name for path in folder.iterdir()} == {"CURRENT", before.split()[0]}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder):
    folder.chmod(0o555)
    try:
        assert "Permission denied" in fails("delete", folder, "d5")
        assert "Permission denied" in fails("compact", folder)
        succeeds("search", folder, "--like", "d5")
    finally:
        folder.chmod(0o755)
