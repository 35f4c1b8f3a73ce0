"""`attnbridge compact`: an index without what was deleted and replaced."""

import time
from pathlib import Path

import click

from attnbridge.cli.inputs import FOLDER, opened
from attnbridge.cli.output import print_json


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar and no summary.")
def compact(folder: Path, as_json: bool, quiet: bool) -> None:
    """Rewrite the index in FOLDER without deleted and replaced rows; its graph is built anew from those that live."""
    started = time.perf_counter()
    with opened(folder, write=True) as bridge:
        before = _bytes(folder)
        dead = bridge.compact(progress=not quiet)
        bridge.link(progress=not quiet)
        bridge.save(folder)
        after, rows = _bytes(folder), len(bridge)
    seconds = time.perf_counter() - started
    if as_json:
        result = {"rows": rows, "removed": dead, "bytes_before": before, "bytes": after}
        print_json({"folder": str(folder), **result, "seconds": round(seconds, 3)})
    elif not quiet:
        click.echo(
            f"{folder}: {rows + dead} rows before, {dead} of them dead, {rows} now; {before:,} bytes before, "
            f"{after:,} now, {seconds:.1f} s"
        )


def _bytes(folder: Path) -> int:
    """Return the bytes of the current snapshot and its journal."""
    from attnbridge.integrations.journal import journal_path
    from attnbridge.integrations.snapshot import current_snapshot

    name = current_snapshot(folder)
    journal = journal_path(folder, name)
    files = [*(folder / name).iterdir(), *([journal] if journal.exists() else [])]
    return sum(file.stat().st_size for file in files)
