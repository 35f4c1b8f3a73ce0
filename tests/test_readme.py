"""The README's sessions run, and what it tells people to type is what CI runs."""

import doctest
import re
from pathlib import Path

import attnbridge as ab

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


def test_sql_functions_are_listed_with_their_parameters():
    table = README.partition("| function | returns |")[2].partition("\n\n")[0]
    listed = {
        name: [parameter.partition(" :=")[0] for parameter in re.split(r", ", parameters) if parameter]
        for name, parameters in re.findall(r"`(ruvector_\w+)\((.*?)\)`", table)
    }
    with ab.connect() as con:
        known = con.execute(
            "SELECT function_name, parameters FROM duckdb_functions() WHERE starts_with(function_name, 'ruvector_')"
        ).fetchall()
    alias = "ruvector_attention_softmax"  # of ruvector_softmax, for where the prefix is another
    assert listed == {name: parameters for name, parameters in known if name != alias}
