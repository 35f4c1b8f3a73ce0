"""The command line: one command a module, imported when it is called."""

import errno
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from attnbridge.errors import AttentionError

# Command -> (where it is, its line in the list of commands). The line stands here so that the list imports none.
_COMMANDS = {
    "demo": ("attnbridge.cli.demo:demo", "Ask the docstrings of the installed packages a question."),
    "index": ("attnbridge.cli.index:index", "Build an index from a file of vectors."),
    "search": ("attnbridge.cli.search:search", "Search an index, ranked by attention."),
    "graph": ("attnbridge.cli.graph:graph", "Walk a graph, or match a pattern in it, by attention."),
    "sql": ("attnbridge.cli.sql:sql", "Ask a DuckDB database with the attention functions in SQL."),
    "delete": ("attnbridge.cli.delete:delete", "Take rows out of an index, by id or by a condition."),
    "compact": ("attnbridge.cli.compact:compact", "Give back the space of deleted and replaced rows."),
    "audit": ("attnbridge.cli.audit:audit", "Measure an index's recall, speed and size."),
    "tune": ("attnbridge.cli.tune:tune", "Set an index to the fastest search that reaches a recall."),
    "evaluate": ("attnbridge.cli.evaluate:evaluate", "Measure rankings on judged queries of your own."),
    "tune-rerank": ("attnbridge.cli.tune_rerank:tune_rerank", "Choose rerank stages by cross-validation on those."),
    "bench": ("attnbridge.cli.bench:bench", "Measure speed, recall and memory beside other libraries."),
    "test": ("attnbridge.cli.test:test", "Check this installation against slow float64 formulas."),
    "visualize": ("attnbridge.cli.visualize:visualize", "Draw which query attends to which key."),
    "verify": ("attnbridge.cli.verify:verify", "Check every file of an index for damage."),
    "info": ("attnbridge.cli.info:info", "Show what an index holds."),
    "warmup": ("attnbridge.cli.warmup:warmup", "Compile the kernels once, ahead of the first search."),
}


def _message(error: BaseException) -> str:
    """Return one line for a shell user; the operating system's errors as its own tools print them."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return str(error)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


@contextmanager
def _reported() -> Iterator[None]:
    """Turn the errors that a user can do something about into a message and an exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except (AttentionError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader has gone: click leaves without a word
            raise click.ClickException(_message(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(130) from None  # as shells report it: 128 + SIGINT


class _Commands(click.Group):
    """The commands of the table above, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with _reported():
            return super().invoke(ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attnbridge", message="%(package)s %(version)s")
def cli() -> None:
    """Attention on top of the vectors you already have."""


def main() -> None:
    """Run the command line; this is what the shell's `attnbridge` calls.

    Raises
    ------
    SystemExit
        Always: 0 fine, 1 a failure that stderr explains, 2 wrong usage, 130 interrupted.

    Examples
    --------
    >>> import contextlib, sys
    >>> from unittest.mock import patch
    >>> from attnbridge.cli import main
    >>> with patch.object(sys, "argv", ["attnbridge", "--version"]), contextlib.suppress(SystemExit):
    ...     main()
    attnbridge 0.1.0
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an id that the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    cli()
