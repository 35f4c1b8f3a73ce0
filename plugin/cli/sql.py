"""`attnbridge sql`: statements of SQL in which the attention functions are known."""

import json
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from attnbridge.cli.graph_inputs import load_graph
from attnbridge.cli.inputs import FILE, FOLDER, named_values
from attnbridge.cli.output import jsonable, print_table, shown, table, widened
from attnbridge.errors import InvalidInputError
from attnbridge.whole_file import require_folder

if TYPE_CHECKING:
    import duckdb

    from attnbridge.integrations.networkx import AttentionGraph

_FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".pq": "parquet"}
# Rows that a table shows at most.
_MOST_ROWS = 1000
# What Python's types would cut (nanoseconds, months) or cannot hold (the year 10000): text says it as it is.
_AS_TEXT = ("date", "time", "interval", "uuid", "bit")
_NUMBERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|BIGNUM|DECIMAL\(.*\)")


@click.command()
@click.argument("statements", metavar="[SQL]", required=False)
@click.option("--file", "file", metavar="FILE", type=FILE, help="Read the statements from a file.")
@click.option(
    "--database", metavar="FILE", type=FILE, help="DuckDB database, made where there is none; else in memory."
)
@click.option("--read-only", is_flag=True, help="Open the database without writing to it.")
@click.option("--index", metavar="FOLDER", type=FOLDER, help="What ruvector_search searches.")
@click.option("--graph", metavar="FILE", type=FILE, help="What ruvector_k_hop and ruvector_match walk.")
@click.option("--embedding", metavar="NAME", help="--graph: nodes' attribute with the vector. [default: embedding]")
@click.option("--embeddings", metavar="FILE", type=FILE, help="--graph: or a row for each node, in their order.")
@click.option("--prefix", metavar="TEXT", default="ruvector_", show_default=True, help="Of the functions' names.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of $NAME: JSON (a number, true, null, a list such as a query vector), else text; may be given again.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="Of the result; by default as --output ends, else a table.",
)
@click.option("-o", "--output", metavar="FILE", type=FILE, help="Write the result there: .csv, .json or .parquet.")
@click.option("--threads", type=click.IntRange(min=1), help="DuckDB's threads; by default as many as there are cores.")
def sql(
    statements: str | None,
    file: Path | None,
    database: Path | None,
    read_only: bool,
    index: Path | None,
    graph: Path | None,
    embedding: str | None,
    embeddings: Path | None,
    prefix: str,
    params: tuple[str, ...],
    form: str | None,
    output: Path | None,
    threads: int | None,
) -> None:
    """Run SQL, one or several statements with ";" between them, and print what the last one returns.

    SQL is "-" to read it from stdin. Parquet and CSV files are read in place:

    \b
    attnbridge sql "SELECT id, ruvector_attention_score(\\$q, embedding) AS score
      FROM 'documents.parquet' ORDER BY score DESC LIMIT 10" --param q=[0.1,0.2,0.3]
    """  # noqa: D301 (what begins the example is a backspace, as click has it)
    form = _format(form, output)
    if read_only and database is None:
        raise click.UsageError("--read-only needs --database")
    for name, value in (("--embedding", embedding), ("--embeddings", embeddings)):
        if value is not None and graph is None:
            raise click.UsageError(f"{name} needs --graph")
    text = _text(statements, file)
    values = named_values(params, "--param")
    with ExitStack() as stack, _reported():
        parsed = _parsed(text)
        _check_params(values, parsed)
        walked = None if graph is None else load_graph(graph, embedding=embedding, embeddings_file=embeddings)
        con = stack.enter_context(_connection(stack, database, read_only, index, walked, prefix, threads))
        stack.enter_context(_interruptible(con))
        for statement in parsed[:-1]:
            con.execute(statement, _given(values, statement))
            con.complete()
        relation = con.sql(_bare(con, parsed[-1].query), params=_given(values, parsed[-1]))
        _deliver(relation, parsed[-1], form, output)


def _format(form: str | None, output: Path | None) -> str:
    """Return the format of the result: the one given, or the output's."""
    if output is None:
        if form == "parquet":
            raise click.UsageError("--format parquet needs --output FILE")
        return form or "table"
    require_folder(output, "--output")
    if form == "table":
        raise click.UsageError("--format table is for people to read: give it without --output")
    if form is None and output.suffix.lower() not in _FORMATS:
        raise click.UsageError(f"--output must end in {', '.join(_FORMATS)}, got {output.name}; or give --format")
    return form or _FORMATS[output.suffix.lower()]


def _text(statements: str | None, file: Path | None) -> str:
    """Return the SQL: the argument, or what stdin or a file holds."""
    if (statements is None) == (file is None):
        raise click.UsageError('give either SQL ("-" reads it from stdin) or --file')
    if file is None and statements != "-":
        return statements or ""
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file or 'stdin'} must be SQL in UTF-8: {error}") from error


@contextmanager
def _reported() -> Iterator[None]:
    """Turn DuckDB's errors into messages: those of our functions as the Python API says them."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        message = str(error).strip()
        _, within, ours = message.partition("Python exception occurred while executing the UDF: ")
        raise click.ClickException(_for_the_shell(ours.partition(": ")[2]) if within else message) from error


def _for_the_shell(message: str) -> str:
    """Return a message of the Python API, with the shell's remedy where it has one of its own."""
    needs, register, _ = message.partition("; call attnbridge.integrations.duckdb.register(")
    option = "file with --graph" if "graph" in needs else "folder with --index"
    return f"{needs}; name its {option}" if register else message


def _parsed(text: str) -> "list[duckdb.Statement]":
    """Return the statements, before a database is made for them."""
    import duckdb

    with duckdb.connect() as con:
        parsed = con.extract_statements(text)
    if not parsed:
        raise click.UsageError("SQL must hold a statement, it is empty")
    return parsed


@contextmanager
def _interruptible(con: "duckdb.DuckDBPyConnection") -> Iterator[None]:
    """Have Ctrl-C end what runs: of several threads DuckDB's may lose the exception, or report it as another one."""
    asked = False

    def stop(*_: Any) -> None:
        nonlocal asked
        asked = True
        con.interrupt()
        raise KeyboardInterrupt

    def unraisable(told: Any) -> None:
        """Say nothing of ours where it cannot be raised, as in a callback of ctypes: it is raised at the end."""
        if not (asked and told.exc_type is KeyboardInterrupt):
            hook(told)

    previous, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or previous is not signal.default_int_handler:  # ignored, or somebody else's
        yield
        return
    signal.signal(signal.SIGINT, stop)
    sys.unraisablehook = unraisable
    try:
        yield
    except Exception as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
        sys.unraisablehook = hook
    if asked:
        raise KeyboardInterrupt


def _bare(con: "duckdb.DuckDBPyConnection", query: str) -> str:
    """Return a statement without the semicolon that ends it and the comments behind it, which a relation would keep."""
    import duckdb

    for found in re.finditer(";", query):
        with suppress(duckdb.Error):  # one within quotes, or within a comment
            if not con.extract_statements(query[found.end() :]) and con.extract_statements(query[: found.start()]):
                return query[: found.start()]
    return query


def _given(values: dict[str, Any], statement: "duckdb.Statement") -> dict[str, Any] | None:
    """Return the parameters of one statement."""
    return {name: value for name, value in values.items() if name in statement.named_parameters} or None


def _check_params(values: dict[str, Any], parsed: "Sequence[duckdb.Statement]") -> None:
    """Refuse parameters that are nowhere, and statements without theirs, before any of them runs."""
    wanted = {name for statement in parsed for name in statement.named_parameters}
    if unknown := values.keys() - wanted:
        raise click.UsageError(f"--param {min(unknown)}: the SQL has no ${min(unknown)}")
    if missing := wanted - values.keys():
        raise click.UsageError(f"the SQL has ${min(missing)}: give its value with --param {min(missing)}=VALUE")


def _connection(
    stack: ExitStack,
    database: Path | None,
    read_only: bool,
    index: Path | None,
    graph: "AttentionGraph | None",
    prefix: str,
    threads: int | None,
) -> "duckdb.DuckDBPyConnection":
    """Return the database, with the functions, and the index and the graph where they are named."""
    from attnbridge.integrations import AttentionVectorBridge
    from attnbridge.integrations.duckdb import connect

    bridge = None if index is None else stack.enter_context(AttentionVectorBridge.open(index, read_only=True))
    config = {} if threads is None else {"threads": threads}
    con = connect(database or ":memory:", read_only=read_only, config=config, prefix=prefix, index=bridge, graph=graph)
    terminal = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
    con.execute(f"SET enable_progress_bar = {terminal}")
    con.execute("SET GLOBAL python_enable_replacements = false")  # a table that is not there is no variable of ours
    return con


def _deliver(relation: Any, statement: "duckdb.Statement", form: str, output: Path | None) -> None:
    """Print or write the result of the last statement."""
    done = _done(relation, statement)
    if done is not None:
        if output is not None:
            raise click.ClickException(f"the last statement returns no rows to write to {output}: {done}")
        click.echo(done, err=form != "table")  # where a machine reads stdout, no rows are no output
    elif form == "table" and statement.type.name == "EXPLAIN":
        for row in relation.fetchall():
            click.echo(row[-1])
    elif form == "table":
        _print_table(relation)
    elif output is None:
        _print(relation, form)
    else:
        _write(relation, form, output)


def _done(relation: Any, statement: "duckdb.Statement") -> str | None:
    """Return in words what a statement without a result has done, None for one with a result."""
    import duckdb

    if statement.type == duckdb.StatementType.SELECT:
        return None
    if relation is None or relation.columns == ["Success"]:
        return "ok"
    if relation.columns != ["Count"] or duckdb.ExpectedResultType.CHANGED_ROWS not in statement.expected_result_type:
        return None
    counts = relation.fetchall()
    if not counts:
        return "ok"
    return f"{counts[0][0]} row{'' if counts[0][0] == 1 else 's'}"


def _names(relation: Any) -> list[str]:
    """Return the names of the columns, each once."""
    names: list[str] = []
    for name in relation.columns:
        unique, number = name, 0
        while unique in names:
            number += 1
            unique = f"{name}_{number}"
        names.append(unique)
    return names


def _print_table(relation: Any) -> None:
    """Print rows for people, as DuckDB writes their values."""
    names, kinds = _names(relation), [str(kind) for kind in relation.types]
    texts = ", ".join(f"#{place}::VARCHAR" for place in range(1, 1 + len(names)))
    rows = relation.limit(_MOST_ROWS + 1).project(texts).fetchall()
    records = [dict(zip(names, row, strict=True)) for row in rows[:_MOST_ROWS]]
    made, count = widened([], [[] for _ in records], records, len(names)) if rows else (table(*names), len(names))
    for column, kind in zip(made.columns, kinds, strict=False):
        column.justify = "right" if _NUMBERS.fullmatch(kind) else "left"
    print_table(made)
    if not rows:
        click.echo("0 rows")
    if count < len(names):
        click.echo(f"More columns with --format json: {', '.join(map(shown, names[count:]))}")
    if len(rows) > _MOST_ROWS:
        click.echo(f"The first {_MOST_ROWS} rows; all of them with --format csv or json")


def _print(relation: Any, form: str) -> None:
    """Print CSV or JSON."""
    if form == "json":
        _write_json(relation, sys.stdout)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "result.csv")
        relation.write_csv(str(made))
        with made.open("rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer)


def _write(relation: Any, form: str, output: Path) -> None:
    """Write a file, as a whole or not at all."""
    from attnbridge.whole_file import whole_file

    with whole_file(output) as beside:
        if form == "csv":
            relation.write_csv(str(beside))
        elif form == "parquet":
            relation.write_parquet(str(beside))
        else:
            with beside.open("x", encoding="utf-8") as stream:
                _write_json(relation, stream)


def _write_json(relation: Any, stream: IO[str]) -> None:
    """Write a list of objects, one a line."""
    names = _names(relation)
    documents = [str(kind) == "JSON" for kind in relation.types]
    values = ", ".join(
        f"#{place}::{_json_type(kind)}" if not document else f"#{place}"
        for place, (kind, document) in enumerate(zip(relation.types, documents, strict=True), 1)
    )
    before = "["
    for row in relation.project(values).iter_rows():
        record = {
            name: jsonable(json.loads(value) if document and value is not None else value)
            for name, value, document in zip(names, row, documents, strict=True)
        }
        stream.write(f"{before}\n{json.dumps(record, allow_nan=False)}")
        before = ","
    stream.write("[]\n" if before == "[" else "\n]\n")
    stream.flush()


def _json_type(kind: Any) -> str:
    """Return the SQL type of which Python has all that a value says."""
    if kind.id == "list":
        return f"{_json_type(kind.children[0][1])}[]"
    if kind.id == "array":
        return f"{_json_type(kind.children[0][1])}[{kind.children[1][1]}]"
    if kind.id == "map":
        return f"MAP({', '.join(_json_type(inner) for _, inner in kind.children)})"
    if kind.id == "struct":
        inner = [f'"{name.replace(chr(34), chr(34) * 2)}" {_json_type(child)}' for name, child in kind.children]
        return f"STRUCT({', '.join(inner)})"
    return "VARCHAR" if kind.id.startswith(_AS_TEXT) else str(kind)
