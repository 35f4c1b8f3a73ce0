"""The README's sessions run, and what it tells people to type is what CI runs."""

import doctest
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_sessions_run():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_ci_runs_the_two_commands():
    first, second = re.findall(r"```bash\n(.*?)\n(.*?)\n```", README)[0]
    script = (ROOT / ".ci" / "run").read_text()
    assert first.split(" && ")[-1] in script
    assert second.split(" && ")[-1] in script


def test_ci_needs_nothing_outside_the_project():
    assert "shared" not in (ROOT / ".ci" / "run").read_text()
    assert "../shared" not in README


# embed_text.py asks for a corpus, and sql_analytics.py takes long: they have tests of their own.
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.glob("examples/*.py")) if path.name not in ("embed_text.py", "sql_analytics.py")],
    ids=lambda path: path.name,
)
def test_examples_run(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
