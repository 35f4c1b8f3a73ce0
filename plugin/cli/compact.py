"""`attnbridge compact`: an index without what was deleted and replaced."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbridge.cli.inputs import FOLDER, opened
from attnbridge.cli.output import print_json

if TYPE_CHECKING:
    from attnbridge.integrations.snapshot import Snapshot


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar and no summary.")
def compact(folder: Path, as_json: bool, quiet: bool) -> None:
    """Rewrite the index in FOLDER without deleted and replaced rows; its graph is built anew from those that live."""
    started = time.perf_counter()
    with opened(folder, write=True) as bridge:
        before, whole = _on_disk(folder)
        dead = bridge.compact(progress=not quiet)
        if dead or not whole:
            bridge.link(progress=not quiet)
            bridge.save(folder)
        after, _ = _on_disk(folder)
        rows = len(bridge)
    seconds = time.perf_counter() - started
    if as_json:
        result = {"rows": rows, "removed": dead, "bytes_before": before, "bytes": after}
        print_json({"folder": str(folder), **result, "seconds": round(seconds, 3)})
    elif not quiet:
        click.echo(
            f"{folder}: {rows + dead} rows before, {dead} of them dead, {rows} now; {before:,} bytes before, "
            f"{after:,} now, {seconds:.1f} s"
        )


def _on_disk(folder: Path) -> tuple[int, bool]:
    """Return the bytes of the current snapshot and its journal, and whether a save would add nothing to them."""
    from attnbridge.integrations.journal import journal_path
    from attnbridge.integrations.snapshot import load_snapshot

    def read(snapshot: "Snapshot") -> tuple[int, bool]:
        journal, rows = journal_path(folder, snapshot.name), snapshot.setting("rows", int)
        files = [*snapshot.folder.iterdir(), *([journal] if journal.exists() else [])]
        whole = not journal.exists() and snapshot.manifest.get("linked", rows) == rows
        return sum(file.stat().st_size for file in files), whole

    return load_snapshot(folder, None, read, verify="lazy")
