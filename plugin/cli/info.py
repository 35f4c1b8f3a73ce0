"""`attnbridge info`: what an index folder holds."""

from pathlib import Path
from typing import Any

import click

from attnbridge.cli.output import print_json, print_table, shown, table


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Show what the index in FOLDER holds, every file's checksum verified."""
    about = _about(folder)
    if as_json:
        print_json(about)
        return
    made = table("", "", left=1)
    made.columns[0].justify = "left"
    for name, value in _lines(about):
        made.add_row(name, shown(value))
    print_table(made)


def _about(folder: Path) -> dict[str, Any]:
    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.integrations.snapshot import read_snapshot

    manifest, snapshot = read_snapshot(folder, AttentionVectorBridge.__name__)
    settings = ("metric", "attention", "options", "index", "hnsw")
    files = {name: listed["bytes"] for name, listed in manifest["files"].items()}
    return {
        "folder": str(folder),
        "format_version": manifest["format_version"],
        "snapshot": snapshot.name,
        "rows": manifest["rows"],
        "dim": manifest["dim"],
        "tokens": "tokens.npy" in files,
        "config": {name: manifest[name] for name in settings if name in manifest},
        "files": files,
        "bytes": sum(files.values()),
    }


def _lines(about: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what to print, one line a value."""
    lines: list[tuple[str, object]] = []
    for name, value in about.items():
        if name == "config":
            lines += _flat(value)
        elif name == "files":
            lines += [(file, f"{size} bytes") for file, size in value.items()]
        elif name == "bytes":
            lines.append(("all files", f"{value} bytes"))
        else:
            lines.append((name.replace("_", " "), {True: "yes", False: "no"}[value] if name == "tokens" else value))
    return lines


def _flat(config: dict[str, Any]) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = []
    for name, value in config.items():
        lines += _flat(value) if isinstance(value, dict) else [(name, value)]
    return lines
