"""`attnbridge info`: what an index folder holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbridge.cli.inputs import FOLDER
from attnbridge.cli.output import print_json, print_table, shown, table
from attnbridge.errors import IndexCorruptError

if TYPE_CHECKING:
    from attnbridge.integrations.snapshot import Snapshot


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Show what the index in FOLDER holds; `attnbridge verify` checks its files."""
    about = _about(folder)
    if as_json:
        print_json(about)
        return
    made = table("", "", left=1)
    made.columns[0].justify = "left"
    for name, value in _lines(about):
        made.add_row(shown(name), shown(value))
    print_table(made)


def _about(folder: Path) -> dict[str, Any]:
    """Return what the manifest tells, the payload's schema, and the sizes; little of the files is read."""
    from attnbridge.integrations.journal import journal_path
    from attnbridge.integrations.persistent import KIND
    from attnbridge.integrations.snapshot import Snapshot, load_snapshot

    def read(snapshot: Snapshot) -> dict[str, Any]:
        manifest = snapshot.manifest
        settings = ["metric", "attention", "options", "dtype", "index_dim", "keep_full", "token_dtype", "candidates"]
        settings += ["index", "engine", "frozen", "hnsw"]
        files = {name: snapshot.size(name) for name in snapshot.files}
        stored = _stored_rows(snapshot)
        journal = journal_path(folder, snapshot.name)
        return {
            "folder": str(folder),
            "format_version": manifest["format_version"],
            "snapshot": snapshot.name,
            "rows": snapshot.setting("rows", int),
            "dead_rows": stored - snapshot.setting("rows", int),
            "linked_rows": snapshot.setting("linked", int) if "linked" in manifest else None,
            "dim": snapshot.setting("dim", int),
            "model": manifest.get("model"),
            "tokens": "tokens.npy" in files,
            "payload": _columns(snapshot),
            "config": {name: manifest[name] for name in settings if name in manifest},
            "files": files,
            "bytes": sum(files.values()),
            "journal_bytes": journal.stat().st_size if journal.exists() else 0,
        }

    return load_snapshot(folder, KIND, read, verify="lazy")


def _stored_rows(snapshot: "Snapshot") -> int:
    """Return how many rows are stored, dead ones included: what the header of their file says."""
    from attnbridge.integrations.arrays import load_array

    rows, _ = load_array(snapshot, "rows.npy", "float32", 2, mmap=True)
    return len(rows)


def _columns(snapshot: "Snapshot") -> dict[str, str]:
    """Return the payload's columns and their types, as the file's end tells them."""
    if "payload.parquet" not in snapshot:
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    blocks = snapshot.blocks("payload.parquet")
    blocks.check(blocks.size - 1, blocks.size)  # the block in which the schema is, or ends
    path = blocks.path
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise IndexCorruptError(f"{path} cannot be read as a payload: {reason}; restore it from a backup") from error
    return {field.name: str(field.type) for field in schema}


def _lines(about: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what to print, one line a value."""
    lines: list[tuple[str, object]] = []
    for name, value in about.items():
        if name == "config":
            lines += _flat(value)
        elif name == "payload":
            lines += [(f"payload {column}", kind) for column, kind in value.items()]
        elif value is None or (name == "journal_bytes" and not value):
            continue
        elif name == "journal_bytes":
            lines.append(("journal", f"{value} bytes of changes since, not counted above"))
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
