"""Where compiled kernels are cached: never in the way, never stale."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from attnbridge.kernels import _jit

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled, nothing cached")

# A kernel whose callee, dot, lives in another file; prints the result and what the cache did.
RUN_RERANK = """
import json, numba, numpy as np
before = numba.config.CACHE_DIR
from attnbridge import kernels
from attnbridge.kernels import _jit
positions, logits, weights = np.empty((1, 1), np.int64), np.empty((1, 1)), np.empty((1, 1))
query, ids, count = np.ones((1, 2), np.float32), np.array([[0]]), np.array([1])
kernels.rerank(query, np.zeros(1), query, None, None, ids, count, 1.0, positions, logits, weights)
print(json.dumps({
    "result": logits[0, 0],
    "folder": str(_jit.CACHE_FOLDER),
    "hits": sum(kernels.rerank.stats.cache_hits.values()),
    "files": len(list(_jit.CACHE_FOLDER.rglob("rerank.*.nbi"))),
    "users": [before, numba.config.CACHE_DIR],
}))
"""


def run(code, **environment):
    """Run code in a fresh process and return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def copied(tmp_path):
    """A copy of the kernels as a package of its own, to edit and to lock."""
    source, package = Path(_jit.__file__).parent, tmp_path / "copy" / "attnbridge"
    shutil.copytree(source, package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    return package


@pytest.fixture
def key():
    return f"attnbridge-{_jit.source_key()}"


@pytest.fixture
def unwritable(monkeypatch):
    """Return a function that locks folders; root may write anywhere, so permission bits would not do."""

    def lock(*folders):
        writable = _jit._writable
        monkeypatch.setattr(
            _jit, "_writable", lambda folder: not any(map(folder.is_relative_to, folders)) and writable(folder)
        )

    return lock


def test_package_folder_comes_first(monkeypatch, key):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert _jit.cache_folder() == Path(_jit.__file__).parent / "__pycache__" / key


def test_numba_cache_dir_is_honoured(monkeypatch, tmp_path, key):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "made"))
    assert _jit.cache_folder() == tmp_path / "made" / key


def test_unwritable_numba_cache_dir_is_passed_over(monkeypatch, tmp_path, unwritable, key):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    unwritable(tmp_path)
    assert _jit.cache_folder() == Path(_jit.__file__).parent / "__pycache__" / key


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the variable is that of Linux")
def test_user_folder_where_the_package_cannot_be_written(monkeypatch, tmp_path, unwritable, key):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unwritable(Path(_jit.__file__).parent)
    assert _jit.cache_folder() == tmp_path / "attnbridge" / key


@pytest.mark.parametrize("home", [True, False], ids=["home", "no-home"])
def test_temporary_folder_where_nothing_else_can_be_written(monkeypatch, tmp_path, unwritable, key, home):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_jit.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_jit.Path, "home", staticmethod((lambda: tmp_path / "home") if home else no_home))
    unwritable(Path(_jit.__file__).parent, tmp_path / "home")
    first, second = _jit.cache_folder(), _jit.cache_folder()
    assert first != second
    for folder in (first, second):
        assert folder.parent == tmp_path
        assert folder.name.startswith(f"{key}-")
        assert folder.is_dir()


def test_writable_means_that_a_file_can_be_made(monkeypatch, tmp_path):
    assert _jit._writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    assert not _jit._writable(tmp_path / "file")
    assert not _jit._writable(tmp_path / "file" / "below")

    def full(**_):
        raise OSError("No space left on device")

    monkeypatch.setattr(_jit.tempfile, "TemporaryFile", full)
    assert not _jit._writable(tmp_path / "new")


def test_key_changes_with_any_kernel_source(monkeypatch, copied):
    monkeypatch.setattr(_jit, "__file__", str(copied / "kernels" / "_jit.py"))
    keys = [_jit.source_key()]
    for name in ("dot.py", "softmax.py", "__init__.py"):
        path = copied / "kernels" / name
        path.write_text(path.read_text() + "\n# edited\n")
        keys.append(_jit.source_key())
    (copied / "kernels" / "topk.py").rename(copied / "kernels" / "best.py")
    keys.append(_jit.source_key())
    assert len(set(keys)) == 5
    assert _jit.source_key() == keys[-1]


def test_key_changes_with_the_version_and_needs_none(monkeypatch):
    def none(_):
        raise _jit.PackageNotFoundError

    keys = [_jit.source_key()]
    for version in (lambda _: "9.9.9", none):
        monkeypatch.setattr(_jit, "version", version)
        keys.append(_jit.source_key())
    assert len(set(keys)) == 3


def test_jit_leaves_the_users_cache_folder_alone(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "theirs")
    _jit.jit(run)
    assert numba.config.CACHE_DIR == "theirs"
    with pytest.raises(TypeError):
        _jit.jit("no function")
    assert numba.config.CACHE_DIR == "theirs"


def test_an_edited_callee_in_another_file_is_seen(copied):
    """Numba alone would go on running the old code: rerank.py itself does not change."""
    path = {"PYTHONPATH": str(copied.parent)}
    first, again = run(RUN_RERANK, **path), run(RUN_RERANK, **path)
    assert first["result"] == again["result"] == 2.0
    assert first["folder"] == again["folder"]
    assert Path(first["folder"]).is_relative_to(copied)
    assert (first["hits"], again["hits"]) == (0, 1)
    dot = copied / "kernels" / "dot.py"
    source = dot.read_text()
    edited = source.replace("out[i] = value + bias * scale", "out[i] = 5 * value + bias * scale")
    assert edited != source
    dot.write_text(edited)
    after = run(RUN_RERANK, **path)
    assert after["folder"] != first["folder"]
    assert (after["result"], after["hits"]) == (10.0, 0)


def test_users_numba_cache_dir_holds_our_files_apart(tmp_path, key):
    result = run(RUN_RERANK, NUMBA_CACHE_DIR=str(tmp_path))
    assert result["folder"] == str(tmp_path / key)
    assert result["files"] > 0
    assert result["users"] == [str(tmp_path)] * 2
    assert [path.name for path in tmp_path.iterdir()] == [key]


# Nothing but the places named can be written.
LOCKED = """
import tempfile
real_file, real_folder = tempfile.TemporaryFile, tempfile.mkdtemp
only = {only!r}
def file(*args, dir=None, **options):
    if only is None or not str(dir).startswith(only):
        raise OSError(30, "Read-only file system")
    return real_file(*args, dir=dir, **options)
def folder(*args, **options):
    if only is None:
        raise FileNotFoundError("No usable temporary directory found")
    return real_folder(*args, dir=only, **options)
tempfile.TemporaryFile, tempfile.mkdtemp = file, folder
"""


def test_a_temporary_cache_is_used_and_taken_away(copied, tmp_path):
    only = tmp_path / "tmp"
    only.mkdir()
    result = run(LOCKED.format(only=str(only)) + RUN_RERANK, PYTHONPATH=str(copied.parent))
    assert result["result"] == 2.0
    assert Path(result["folder"]).parent == only
    assert result["files"] > 0
    assert list(only.iterdir()) == []


def test_kernels_run_uncached_where_nothing_can_be_written(copied):
    result = run(LOCKED.format(only=None) + RUN_RERANK, PYTHONPATH=str(copied.parent))
    assert result["result"] == 2.0
    assert result["files"] == 0
    assert not Path(result["folder"]).exists()


# No file may grow beyond so many bytes: that is what a full disk comes to, and root needs no mount for it.
SMALL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
@pytest.mark.parametrize("most", [0, 2_000], ids=["nothing fits", "the index fits"])
def test_a_full_disk_costs_no_call(copied, most):
    path = {"PYTHONPATH": str(copied.parent)}
    result = run(SMALL_DISK.format(most=most) + RUN_RERANK, **path)
    assert (result["result"], result["hits"], result["files"]) == (2.0, 0, 0)
    assert not [file for file in Path(result["folder"]).rglob("*") if file.is_file()]
    assert run(RUN_RERANK, **path)["hits"] == 0  # there is room again
    assert run(RUN_RERANK, **path)["hits"] == 1


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"no pickle", None], ids=["empty", "garbage", "cut short"])
def test_a_damaged_cache_is_compiled_anew(copied, suffix, damage):
    path = {"PYTHONPATH": str(copied.parent)}
    folder = Path(run(RUN_RERANK, **path)["folder"])
    files = list(folder.rglob(f"rerank.*.{suffix}"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100] if damage is None else damage)
    mended, again = run(RUN_RERANK, **path), run(RUN_RERANK, **path)
    assert (mended["result"], mended["hits"]) == (2.0, 0)
    assert (again["result"], again["hits"]) == (2.0, 1)


def test_a_folder_that_went_leaves_kernels_uncached(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(_jit, "CACHE_FOLDER", tmp_path / "file" / "below")

    def double(x):
        return 2 * x

    assert _jit.jit(double)(3) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_another_thread_compiles_can_compile():
    program = """
import os, signal, threading, time, warnings
import numba
from numba.core.compiler_lock import global_compiler_lock
import attnbridge.kernels
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of a fork with threads
held = threading.Event()
def compile():
    with global_compiler_lock:
        held.set()
        time.sleep(1.0)
thread = threading.Thread(target=compile)
thread.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(numba.njit(lambda x: x + 1)(41) - 42)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert numba.njit(lambda x: x + 2)(40) == 42
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
