"""`attnbridge delete`: rows out of an index, by id or by a condition."""

from pathlib import Path

import click

from attnbridge.cli.inputs import FOLDER, PARAM_HELP, WHERE_HELP, can_ask, ids_of, opened, params_of
from attnbridge.cli.output import print_json, shown

# Ids that are shown before they are deleted.
_SHOWN = 10


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--where", metavar="SQL", help=WHERE_HELP)
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help=PARAM_HELP)
@click.option("-y", "--yes", is_flag=True, help="With --where: do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave the index as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no summary.")
def delete(
    folder: Path,
    ids: tuple[str, ...],
    where: str | None,
    params: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete the rows with these IDs from the index in FOLDER, or those of --where; the rest is saved.

    All of them or, on an unknown id, none. Ids that begin with a dash come after "--". Their space is given back by
    `attnbridge compact`.
    """
    if bool(ids) == (where is not None):
        raise click.UsageError("give either IDs or --where")
    if where is not None and not yes and not dry_run and (as_json or not can_ask()):
        raise click.UsageError("--where needs --yes or --dry-run where nobody can be asked")
    values = params_of(params, where)
    with opened(folder, write=not dry_run) as bridge:
        before = len(bridge)
        if where is None:
            gone = ids_of(bridge, ids, "ID")
            bridge.get(gone)  # refuses unknown ones
            gone = list(dict.fromkeys(gone))
        else:
            gone = bridge.ids(where=where, params=values)
        if gone and where is not None and not yes and not dry_run:
            click.echo(_sample(gone), err=True)
            click.confirm(f"Delete {len(gone)} of {before} rows from {folder}?", abort=True, err=True)
        if gone and not dry_run:
            bridge.delete(gone)
            bridge.save(folder)
    left = before if dry_run else before - len(gone)
    if as_json:
        print_json({"folder": str(folder), "deleted": len(gone), "rows": left, "dry_run": dry_run, "ids": gone})
    elif not quiet and dry_run:
        click.echo(f"{folder}: would delete {len(gone)} of {before} rows" + (f": {_sample(gone)}" if gone else ""))
    elif not quiet:
        click.echo(f"{folder}: {len(gone)} rows deleted, {left} left")


def _sample(ids: list[str | int]) -> str:
    """Return the first of some ids in one line."""
    more = f", and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(shown(id) for id in ids[:_SHOWN]) + more
