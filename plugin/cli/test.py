"""`attnbridge test`: the installed copy checks itself on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.output import finite, print_json, print_table, table
from attnbridge.progress import progress_bar

if TYPE_CHECKING:
    from attnbridge.selftest import Outcome

# Failures that are told one by one.
_MOST = 20

_SUITES = ("all", "standard", "multihead", "geometric", "sparse", "graph")


@click.command()
@click.option("--suite", type=click.Choice(_SUITES), default="all", show_default=True, help="Which attention types.")
@click.option("-v", "--verbose", is_flag=True, help="Show every check.")
@click.option("--json", "as_json", is_flag=True, help="Print every check as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar.")
def test(suite: str, verbose: bool, as_json: bool, quiet: bool) -> None:
    """Check this installation: every attention type against slow float64 formulas, on this machine.

    Kernels are compiled for the processor at hand; this shows whether what they compute is right. An error is
    relative; the exit code is 1 where one is too large.
    """
    from attnbridge.selftest import checks, run

    wanted = checks(suite)
    found = []
    with progress_bar(len(wanted), "testing", not quiet) as advance:
        for check in wanted:
            found.append(run(check))
            advance(1)
    failed = [outcome for outcome in found if not outcome.passed]
    if as_json:
        print_json([_record(outcome) for outcome in found])
    else:
        _show(found, failed, verbose)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(found)} checks failed")


def _show(found: "Sequence[Outcome]", failed: "Sequence[Outcome]", verbose: bool) -> None:
    if verbose:
        made = table("check", "worst error", "limit", "seconds", "", left=0)
        for outcome in found:
            made.add_row(outcome.check.name, *_cells([outcome]), f"{outcome.seconds:.2f}", _word(outcome.passed))
        print_table(made)
        click.echo()
    made = table("suite", "checks", "worst error", "limit", "seconds", "", left=0)
    for suite in dict.fromkeys(outcome.check.suite for outcome in found):
        own = [outcome for outcome in found if outcome.check.suite == suite]
        seconds = sum(outcome.seconds for outcome in own)
        passed = all(outcome.passed for outcome in own)
        made.add_row(suite, str(len(own)), *_cells(own), f"{seconds:.2f}", _word(passed))
    print_table(made)
    for outcome in failed[:_MOST]:
        click.echo(f"failed: {outcome.check.suite}, {outcome.check.name}: {_problem(outcome)}")
    if len(failed) > _MOST:
        click.echo(f"and {len(failed) - _MOST} more; --json lists all")


def _cells(found: "Sequence[Outcome]") -> tuple[str, str]:
    """Return the worst error for its limit, and that limit."""
    worst = max(found, key=lambda outcome: (not outcome.passed, outcome.error))
    return f"{worst.error:.1e}", f"{worst.check.limit:g}"


def _word(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _problem(outcome: "Outcome") -> str:
    return outcome.raised or f"error {outcome.error:.2e}, limit {outcome.check.limit:g}"


def _record(outcome: "Outcome") -> dict[str, Any]:
    return {
        "suite": outcome.check.suite,
        "check": outcome.check.name,
        "error": finite(outcome.error),
        "limit": outcome.check.limit,
        "seconds": outcome.seconds,
        "passed": outcome.passed,
        "raised": outcome.raised,
    }
