"""`attnbridge verify`: every byte of an index held against its checksum."""

from pathlib import Path

import click

from attnbridge.cli.inputs import FOLDER
from attnbridge.cli.output import print_json, print_table, table


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing where all is well.")
def verify(folder: Path, as_json: bool, quiet: bool) -> None:
    """Check every file of the index in FOLDER for damage; the exit code is 1 where there is some.

    A saved HnswIndex can be checked as well.
    """
    from attnbridge.integrations.snapshot import check_folder

    checked = check_folder(folder)
    size = sum(file.bytes for file in checked)
    if as_json:
        files = [{"file": file.file, "bytes": file.bytes, "blocks": file.parts} for file in checked]
        print_json({"folder": str(folder), "files": files, "bytes": size})
    elif not quiet:
        made = table("file", "bytes", "blocks", left=0)
        for file in checked:
            made.add_row(file.file, f"{file.bytes:,}", f"{file.parts:,}")
        print_table(made)
        click.echo(f"{folder}: {len(checked)} files, {size:,} bytes, no damage")
