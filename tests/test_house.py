"""The house rules that a machine can hold."""

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import tomllib
from enum import Enum
from pathlib import Path

import pytest
from numpydoc.validate import validate

import attnbridge
import attnbridge.integrations
import attnbridge.kernels
import attnbridge.mechanisms
import attnbridge.rerank

ROOT = Path(__file__).parent.parent
FLOORS = {"kernels": "attnbridge.kernels", "plugin": "attnbridge", "integrations": "attnbridge.integrations"}
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())

# numpydoc's codes for: no docstring; parameters missing, unknown, or in another order;
# no return section; a summary that is missing or does not end with a period.
DOCSTRING_RULES = {"GL08", "PR01", "PR02", "PR03", "RT01", "SS01", "SS03"}


def sources():
    return [path for folder in FLOORS for path in sorted((ROOT / folder).rglob("*.py"))]


def modules():
    walked = pkgutil.walk_packages(attnbridge.__path__, "attnbridge.")
    return ["attnbridge", *(module.name for module in walked if not module.name.endswith("__main__"))]


def public_objects():
    """Return {dotted name: object} of every public name, methods of public classes included."""
    found = {}
    for package in (attnbridge, attnbridge.integrations, attnbridge.mechanisms, attnbridge.rerank):
        for name in package.__all__:
            if name == "__version__":
                continue
            thing = getattr(package, name)
            home = f"{thing.__module__}.{thing.__qualname__}"
            found[home] = thing
            if inspect.isclass(thing):
                for owner in (c for c in thing.__mro__ if c.__module__.startswith("attnbridge")):
                    for member in vars(owner):
                        value = getattr(thing, member)
                        if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                            found[f"{owner.__module__}.{owner.__qualname__}.{member}"] = value
    return found


PUBLIC = public_objects()


def test_packages_on_disk_are_the_packages_shipped():
    on_disk = set()
    for folder, name in FLOORS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            on_disk.add(".".join([name, *inner]))
        assert all((p.parent / "__init__.py").exists() for p in (ROOT / folder).rglob("*.py"))
    assert on_disk == set(SETTINGS["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    """kernels <- plugin <- integrations; only the command line and the lazy face look up."""
    floor = path.relative_to(ROOT).parts[0]
    is_cli = "cli" in path.parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at {path}:{node.lineno}"
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if floor == "kernels":
                assert not name.startswith("attnbridge") or name.startswith("attnbridge.kernels"), (
                    f"{path}:{node.lineno}: a kernel imports {name}"
                )
            if floor == "plugin" and not is_cli and path != ROOT / "plugin" / "__init__.py":
                assert not name.startswith("attnbridge.integrations"), f"{path}:{node.lineno} imports {name}"


def test_no_parallel_and_no_plain_fastmath():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("parallel", "fastmath"):
                assert not (isinstance(node.value, ast.Constant) and node.value.value is True), path


def test_top_level_holds_nothing_else():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.stdout.split()}
    assert top <= {
        *FLOORS,
        "tests",
        "examples",
        "README.md",
        "pyproject.toml",
        ".ci",
        ".gitignore",
        "LICENSE",
        "CHANGELOG.md",
    }


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_are_documented(name):
    thing = PUBLIC[name]  # nobody calls a protocol, or an enumeration with its members
    uncalled = getattr(thing, "_is_protocol", False) or (isinstance(thing, type) and issubclass(thing, Enum))
    rules = DOCSTRING_RULES - ({"PR01"} if uncalled else set())
    problems = [f"{code}: {text}" for code, text in validate(name)["errors"] if code in rules]
    assert not problems


def classes_and_functions():
    return sorted(
        name
        for name, thing in PUBLIC.items()
        if inspect.isclass(thing) or (inspect.isfunction(thing) and "." not in thing.__qualname__)
    )


@pytest.mark.parametrize("name", [n for n in classes_and_functions() if ".errors." not in n])
def test_public_names_have_an_example(name):
    assert ">>> " in inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize("name", sorted(attnbridge.kernels.__all__))
def test_kernels_document_every_array(name):
    problems = [
        text
        for code, text in validate(f"attnbridge.kernels.{name}")["errors"]
        if code in {"GL08", "PR01", "PR02", "PR03", "SS01"}
    ]
    assert not problems


@pytest.mark.parametrize("name", modules())
def test_examples_run(name):
    """By import, never by path: that would poison Numba's cache under the wrong module name."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_all_extra_holds_every_users_extra():
    extras = SETTINGS["project"]["optional-dependencies"]
    for_users = set(extras) - {"all", "test", "peers", "dev"}
    assert extras["all"] == [f"attnbridge[{','.join(sorted(for_users))}]"]


def test_version_is_that_of_the_package():
    assert attnbridge.__version__ == SETTINGS["project"]["version"]


def test_face_lists_what_it_resolves():
    for name in attnbridge.__all__:
        assert getattr(attnbridge, name) is not None
        assert name in dir(attnbridge)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        attnbridge.nothing  # noqa: B018


def test_import_loads_nothing_heavy():
    heavy = ["numba", "hnswlib", "networkx", "duckdb", "pandas", "scipy", "numpy", "pyarrow", "click", "rich"]
    code = f"import sys, attnbridge; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ""}
    )
    assert run.stdout.strip() == "[]"
