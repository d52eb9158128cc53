"""The commands, what each takes, and what ``$?`` says afterwards."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from enum import IntEnum, StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

import featurestore as fs
from featurestore.cli import monitoring
from featurestore.cli.inputs import keys_from_text, rows_of, schema_of
from featurestore.cli.outputs import (
    counted,
    counts_table,
    duration_text,
    err,
    measured,
    out,
    pairs_table,
    print_csv,
    print_json,
    print_json_rows,
    progress_bar,
    rows_table,
    spelled,
)
from featurestore.errors import FeatureStoreError, InvalidInput, NotInstalled

if TYPE_CHECKING:
    from featurestore.schema import FeatureGroup
    from featurestore.store import FeatureStore


class ExitCode(IntEnum):
    """What a script learns from ``$?``."""

    OK = 0
    FAULT_FOUND = 1
    USAGE = 2
    UNAVAILABLE = 3

    @classmethod
    def of(cls, error: FeatureStoreError) -> ExitCode:
        """Return USAGE where another request would help, UNAVAILABLE where the store cannot."""
        asked_wrongly = isinstance(error, InvalidInput | NotInstalled)
        return cls.USAGE if asked_wrongly else cls.UNAVAILABLE


class Commands(TyperGroup):
    """The commands; an error of the store ends any of them with a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except FeatureStoreError as error:
            err.print(Text(f"Error: {error}", style="red"), soft_wrap=True)
            raise typer.Exit(ExitCode.of(error)) from error


def examples(*lines: str) -> str:
    """Return the part of a help text that shows the command in use."""
    return "\b\n[bold]Examples[/bold]\n" + "\n".join(f"  {line}" for line in lines)


EXIT_CODES = """\b
[bold]Exit codes[/bold]
  0  done
  1  verify found a fault
  2  the request is wrong: change it
  3  the store is busy, full, corrupt or cannot be opened"""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A feature store in a directory: online records, offline history, point-in-time joins.",
    epilog="\n\n".join(
        [
            examples(
                "featurestore demo",
                "featurestore ingest weather w.csv --create --key origin --event-time at",
                "featurestore get weather JFK",
                'featurestore sql "SELECT origin, avg(temp) FROM weather GROUP BY 1"',
            ),
            EXIT_CODES,
        ]
    ),
)

StorePath = Annotated[
    Path,
    typer.Option("--store", "-s", envvar="FEATURESTORE_PATH", help="Directory of the store."),
]
DEFAULT_STORE = Path("store")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
GroupName = Annotated[str, typer.Argument(metavar="NAME", help="Feature group.")]
OptionalGroupName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Feature group; all of them when left out.")
]


def reading(path: Path) -> FeatureStore:
    """Open a store only to look at it."""
    return fs.open(path, read_only=True)


# ── what is there ────────────────────────────────────────────────────────────────────────────────


def show_version(asked: bool) -> None:
    """Print the version and stop, when asked for."""
    if asked:
        typer.echo(f"featurestore {installed_version('featurestore')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before any command."""


@app.command(
    epilog=examples(
        "featurestore demo",
        "featurestore demo --keep ./flights-store",
        "featurestore demo --full",
    )
)
def demo(
    keep: Annotated[
        Path | None,
        typer.Option(help="Directory to leave the store in; a temporary one when left out."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Go on to a model in use, tomorrow's scores, and what moved."),
    ] = False,
) -> None:
    """Will my flight arrive late?  The whole way on real data, in one command.

    Ingests the New York flights of 2013, looks a record up, runs SQL, builds a training set by
    point-in-time join, trains a model and shows what a leaky join would have cost.

    With --full, goes the whole circle instead: training set, model, approval, tomorrow's flights
    scored as of midnight and written back, monitors and their reports.
    """
    from featurestore import demo as flights

    if full:
        flights.run_full(keep, out)
    else:
        flights.run(keep, out)


@app.command(epilog=examples("featurestore groups", "featurestore groups --json | jq '.[].name'"))
def groups(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the feature groups of the store."""
    with reading(store) as opened:
        found = opened.list_feature_groups()
    if as_json:
        print_json([group.to_json() for group in found])
        return
    table = Table(title=f"{counted(len(found), 'feature group')} in {store}", title_justify="left")
    for column in ("name", "record identifier", "event time", "features", "ttl", "description"):
        table.add_column(column, justify="right" if column == "features" else "left")
    for group in found:
        table.add_row(
            group.name,
            ", ".join(group.record_identifier),
            group.event_time,
            str(len(group.features)),
            duration_text(group.ttl_us),
            group.description,
        )
    out.print(table)


@app.command(epilog=examples("featurestore describe weather"))
def describe(name: GroupName, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show a feature group: its settings and every feature with its type."""
    with reading(store) as opened:
        group = opened.describe_feature_group(name)
    if as_json:
        print_json(group.to_json())
        return
    stores = [word for word, on in (("online", group.online), ("offline", group.offline)) if on]
    settings = {
        "description": group.description,
        "tags": ", ".join(f"{tag}={value}" for tag, value in group.tags.items()),
        "schema version": str(group.version),
        "stores": ", ".join(stores),
        "ttl": duration_text(group.ttl_us),
        "max future": duration_text(group.max_future_us, none="unlimited"),
        "retention": duration_text(group.retention_us, none="unlimited"),
    }
    out.print(Text(group.name, style="bold"))
    out.print(pairs_table((name, text) for name, text in settings.items() if text))
    table = Table("id", "feature", "type", "role", "since", "description")
    for feature in group.features:
        table.add_row(
            str(feature.id),
            feature.name,
            str(feature.dtype),
            role(group, feature.name),
            f"v{feature.since}",
            feature.description,
        )
    out.print(table)


def role(group: FeatureGroup, name: str) -> str:
    """Return what a feature is to its group beside being a value."""
    if name in group.record_identifier:
        return "record identifier"
    return "event time" if name == group.event_time else ""


# ── records in ───────────────────────────────────────────────────────────────────────────────────


COUNTS = ("accepted", "late", "expired", "rejected", "replayed")


class OnError(StrEnum):
    """What a bad row does to the rest of its file."""

    RAISE = "raise"
    SKIP = "skip"


@app.command(
    epilog=examples(
        "featurestore ingest weather w.parquet --create --key origin --event-time at",
        "featurestore ingest weather more.csv --tz America/New_York --null NA",
        "featurestore ingest seats *.jsonl --create --key row --key seat --event-time at",
    )
)
def ingest(
    name: GroupName,
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True, dir_okay=False, metavar="FILES...", help="Parquet, CSV or JSON lines."
        ),
    ],
    store: StorePath = DEFAULT_STORE,
    create: Annotated[
        bool,
        typer.Option("--create", help="Create the group with the first file's columns."),
    ] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(help="With --create: record identifier; repeat it for a composite key."),
    ] = None,
    event_time: Annotated[
        str | None, typer.Option(help="With --create: the column of event times.")
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(help="With --create: how long a record lives, as 90s, 12h, 7d.")
    ] = None,
    tz: Annotated[
        str | None, typer.Option(help="Zone of times that carry none, as Europe/Oslo.")
    ] = None,
    null: Annotated[
        list[str] | None, typer.Option(help="CSV: text that means null, beside the empty cell.")
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="A bad row: raise refuses it, skip leaves it out.")
    ] = OnError.RAISE,
    max_lock: Annotated[
        str, typer.Option(help="How long other writers may have to wait, as 50ms.")
    ] = "50ms",
) -> None:
    """Add files of records to a feature group.

    A repeat of the same file adds nothing.  Late records go to history and are counted.
    """
    nulls = null or []
    with fs.open(store) as opened:
        if create:
            create_from(opened, name, files[0], key, event_time, ttl, nulls)
        group = opened.describe_feature_group(name)
        table = Table("file")
        for column in (*COUNTS, "seconds", "rows/s"):
            table.add_column(column, justify="right")
        for file in files:
            rows, total = rows_of(file, group, nulls)
            started = time.perf_counter()
            with progress_bar(file.name, total) as advance:
                result = opened.ingest(
                    name,
                    rows,
                    tz=tz,
                    on_error=on_error.value,
                    max_lock=max_lock,
                    progress=advance,
                )
            seconds = time.perf_counter() - started
            counts = {name: getattr(result, name) for name in COUNTS}
            table.add_row(
                file.name,
                *(f"{count:,}" for count in counts.values()),
                f"{seconds:.2f}",
                f"{(result.accepted + result.replayed) / seconds:,.0f}",
            )
    out.print(table)


def create_from(
    store: FeatureStore,
    name: str,
    file: Path,
    key: list[str] | None,
    event_time: str | None,
    ttl: str | None,
    nulls: list[str],
) -> None:
    """Create a group with a file's columns, unless it is there already just so."""
    if not (key and event_time):
        raise InvalidInput("--create needs --key and --event-time: which columns are they?")
    store.create_feature_group(
        name,
        record_identifier=key,
        event_time=event_time,
        features=schema_of(file, event_time, nulls),
        ttl=ttl,
        exist_ok=True,
    )


# ── records out ──────────────────────────────────────────────────────────────────────────────────


@app.command(
    epilog=examples(
        "featurestore get weather JFK",
        "featurestore get weather JFK EWR --features temp,wind_speed --json",
        "featurestore get seats UA1545 12A --status      (composite key: its parts in order)",
    )
)
def get(
    name: GroupName,
    key: Annotated[
        list[str],
        typer.Argument(metavar="KEY...", help="Record identifiers; a composite one part by part."),
    ],
    store: StorePath = DEFAULT_STORE,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", "-f", help="Only these, parted by commas or repeated."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Also status, age, sequence number and expiry.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the latest record of one or more keys.

    A key without a record is an answer, not an error.  With --json each key gives one line.
    """
    wanted = [part for text in features or [] for part in text.split(",")] or None
    with reading(store) as opened:
        group = opened.describe_feature_group(name)
        keys = keys_from_text(group, key)
        results = [opened.get_record(name, k, wanted, with_status=True) for k in keys]
    for parts, result in zip(keys, results, strict=True):
        facts = {
            "status": result.status,
            "age": result.age,
            "write_seq": result.write_seq,
            "expires_at": result.expires_at,
        }
        if as_json:
            print_json({**facts, "record": result.record} if status else result.record)
            continue
        if result.record is None:
            out.print(Text(f"no record of {parts!r} in {name}: {result.status.value}", "yellow"))
        else:
            out.print(pairs_table(result.record.items(), title=str(name)))
        if status:
            out.print(pairs_table(facts.items()))


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@app.command(
    epilog=examples(
        'featurestore sql "SELECT origin, avg(temp) FROM weather GROUP BY 1"',
        "featurestore sql \"SELECT * FROM history.weather WHERE origin = 'JFK'\" --format csv",
        "featurestore sql - < query.sql",
    )
)
def sql(
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT; - reads stdin.")],
    store: StorePath = DEFAULT_STORE,
    form: Annotated[Format, typer.Option("--format", help="How to print rows.")] = Format.TABLE,
    rows: Annotated[int, typer.Option(min=0, help="Rows shown at most in a table.")] = 40,
) -> None:
    """Query the offline store: every acknowledged write is seen.

    For each group there are three tables: NAME has the newest version of each key and event time,
    history.NAME every accepted version, latest.NAME what the online store serves now.
    """
    with reading(store) as opened:
        answer = opened.sql(sys.stdin.read() if query == "-" else query)
    if form is Format.CSV:
        print_csv(answer)
    elif form is Format.JSON:
        print_json_rows(answer)
    else:
        out.print(rows_table(answer, rows))


# ── upkeep ───────────────────────────────────────────────────────────────────────────────────────


@app.command(epilog=examples("featurestore flush", "featurestore flush weather"))
def flush(name: OptionalGroupName = None, store: StorePath = DEFAULT_STORE) -> None:
    """Move what the journal holds into files.

    Reads see a write at once; this only makes later ones cheaper.
    """
    with fs.open(store) as opened:
        rows = opened.flush(name)
    out.print(f"flushed {counted(rows, 'row')} of {name or 'every group'}")


@app.command(epilog=examples("featurestore compact", "featurestore compact weather"))
def compact(name: OptionalGroupName = None, store: StorePath = DEFAULT_STORE) -> None:
    """Rewrite small files as larger, sorted ones, and drop what is beyond a group's retention."""
    with fs.open(store) as opened, progress_bar("compact", None) as advance:
        rows = opened.compact(name, progress=advance)
    out.print(f"rewrote {counted(rows, 'row')} of {name or 'every group'}")


@app.command(epilog=examples("featurestore verify", "featurestore verify && echo sound"))
def verify(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Check the whole store against itself; exit with 1 and a list when it is not sound.

    Catalog, journal, manifest and files are checked against each other, and the online store
    against what history says it must be.
    """
    with reading(store) as opened:
        faults = [str(fault) for fault in opened.verify()]
    tell_faults(faults, store, as_json=as_json)


@app.command(epilog=examples("featurestore scrub", "featurestore scrub && echo sound"))
def scrub(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Read every byte of the store and hold it to its checksum; exit with 1 and a list of faults.

    Cheaper than verify, which looks for sense; once a week is often.
    """
    with reading(store) as opened, progress_bar("scrub", None) as advance:
        faults = [str(f) for f in opened.scrub(progress=lambda read, _: advance(read))]
    tell_faults(faults, store, as_json=as_json)


def tell_faults(faults: list[str], store: Path, *, as_json: bool) -> None:
    """Print what was found, and exit with 1 if there was anything."""
    if as_json:
        print_json(faults)
    elif faults:
        out.print(Text(f"{counted(len(faults), 'fault')} in {store}", "bold red"))
        for fault in faults:
            out.print(Text(f"  {fault}"), soft_wrap=True)
    else:
        out.print(Text(f"{store} is sound", "green"))
    if faults:
        raise typer.Exit(ExitCode.FAULT_FOUND)


@app.command(
    epilog=examples(
        "featurestore backup /mnt/other/monday",
        "featurestore backup /mnt/other/tuesday --since /mnt/other/monday",
    )
)
def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="New directory.")],
    store: StorePath = DEFAULT_STORE,
    since: Annotated[
        Path | None, typer.Option(help="An earlier backup there: only new files are copied.")
    ] = None,
) -> None:
    """Write a consistent, verified copy of the store, which may be in use."""
    with reading(store) as opened:
        count = opened.backup(path, since=since)
    out.print(f"backed {store} up to {path}: {counted(count, 'file')}")


@app.command(epilog=examples("featurestore restore /mnt/other/tuesday --store ./store"))
def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="Made by backup.")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Make a store of a backup, in a new directory, every byte checked first.

    Tokens and consumers of the old store are refused by the new one.
    """
    count = fs.restore(backup, store)
    out.print(f"restored {store} from {backup}: {counted(count, 'file')}")


@app.command(
    epilog=examples("featurestore erase planes N14228", "featurestore erase seats UA1545 12A")
)
def erase(
    name: GroupName,
    key: Annotated[
        list[str], typer.Argument(metavar="KEY...", help="Record identifier, part by part.")
    ],
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Erase a key with all its records, past and present.  There is no way back.

    Exits with 1 while old files wait for their readers: run it again.  Backups made before still
    have the key, and LMDB's file may, until its pages are used again: see traces; a new backup is
    free of it.
    """
    with fs.open(store) as opened:
        group = opened.describe_feature_group(name)
        keys = keys_from_text(group, key)
        if len(keys) != 1:
            raise InvalidInput(f"One key at a time; these are {len(keys)}.")
        receipt = opened.erase(name, keys[0])
    facts = {
        "group": receipt.group,
        "seq": receipt.seq,
        "at": receipt.at,
        "online": receipt.online,
        "records": receipt.records,
        "files": receipt.files,
        "requests": receipt.requests,
        "waiting": list(receipt.waiting),
        "traces": receipt.traces,
    }
    if as_json:
        print_json(facts)
    else:
        out.print(pairs_table((name, str(fact)) for name, fact in facts.items()))
    if receipt.waiting:
        raise typer.Exit(ExitCode.FAULT_FOUND)


@app.command(
    epilog=examples("featurestore retention weather 90d", "featurestore retention weather none")
)
def retention(
    name: GroupName,
    length: Annotated[
        str, typer.Argument(metavar="LENGTH", help="As 90d; none keeps all history.")
    ],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Set how far back the history of a group reaches.

    Older versions go with the next compaction, but the newest of each key.
    """
    with fs.open(store) as opened:
        group = opened.update_feature_group(name, retention=None if length == "none" else length)
    out.print(f"{name} keeps {duration_text(group.retention_us, none='all history')}")


@app.command(epilog=examples("featurestore stat", "featurestore stat --json"))
def stat(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show sizes and counts: records, journal, files, room; how fresh, and what upkeep does."""
    with reading(store) as opened:
        facts = opened.stat()
    if as_json:
        print_json(facts)
        return
    tables = {name: facts.pop(name) for name in ("groups", "consumers")}
    flat = {**facts, **{f"upkeep {name}": fact for name, fact in facts.pop("upkeep").items()}}
    flat.pop("upkeep")
    out.print(pairs_table((spelled(name), measured(name, fact)) for name, fact in flat.items()))
    for title, rows in tables.items():
        if rows:
            out.print(counts_table(title.removesuffix("s"), rows))


# ── watching ─────────────────────────────────────────────────────────────────────────────────────

app.add_typer(monitoring.app, name="monitor")


# ── the server ───────────────────────────────────────────────────────────────────────────────────

#: The server reads and checks its options itself; ``python -m featurestore_server`` lists them.
ITS_OWN = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(
    context_settings=ITS_OWN,
    epilog=examples(
        "featurestore serve ./store",
        "featurestore serve ./store --port 8080 --workers 2 --limit sql_seconds=10",
        "featurestore serve ./store --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
        "python -m featurestore_server serve --help      (every option)",
    ),
)
def serve(context: typer.Context) -> None:
    """Serve a store over HTTP, on this machine unless told otherwise."""
    hand_over("serve", context.args)


@app.command(
    context_settings=ITS_OWN,
    epilog=examples(
        "featurestore keys create trainer --role reader:weather* --role sql --expires-in 90d",
        "featurestore keys create me --role admin --access-key",
        "featurestore keys list --store ./store",
        "featurestore keys rotate 4f1d09aa21c3 --grace 1h",
        "featurestore keys revoke 4f1d09aa21c3",
    ),
)
def keys(context: typer.Context) -> None:
    """Make, list, rotate and revoke the API keys of a server."""
    hand_over("keys", context.args)


def hand_over(command: str, arguments: list[str]) -> None:
    """Become the server, which is a package of its own and stands on an optional library."""
    wanted = ("fastapi", "granian", "featurestore_server")
    if any(importlib.util.find_spec(library) is None for library in wanted):
        raise NotInstalled("The server", "server")
    server = [sys.executable, "-m", "featurestore_server", command, *arguments]
    os.execv(sys.executable, server)  # noqa: S606  the same Python
