"""``featurestore monitor ...``: what is watched, what is due, what moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import featurestore as fs
from featurestore.cli.outputs import cell, counted, err, out, pairs_table, print_json
from featurestore.errors import InvalidInput

StorePath = Annotated[
    Path,
    typer.Option("--store", "-s", envvar="FEATURESTORE_PATH", help="Directory of the store."),
]
DEFAULT_STORE = Path("store")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Monitor.")]
OptionalName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Monitor; all of them when left out.")
]
Source = Annotated[
    str, typer.Argument(help="group:NAME, capture:FOLDER, files:FOLDER or module:function.")
]
WindowOption = Annotated[
    tuple[str, str] | None,
    typer.Option("--window", metavar="START END", help="A stretch of time, with a zone."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting; values are JSON or text."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
VIOLATED = 1


def examples(*lines: str) -> str:
    """Return the part of a help text that shows the command in use."""
    return "\b\n[bold]Examples[/bold]\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Watch feature groups: baselines, drift, quality, schedules, reports.",
    epilog=examples(
        "featurestore monitor baseline group:weather ./october --every 7d",
        "featurestore monitor create weather-drift group:weather --kind drift --baseline ./october",
        "featurestore monitor due",
    ),
)


def settings_of(texts: list[str] | None) -> dict[str, Any]:
    """Return ``name=value`` pairs as settings: JSON where it is some, text otherwise."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidInput(f'"{text}" is no setting; write NAME=VALUE.')
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@app.command(
    epilog=examples(
        "featurestore monitor baseline group:weather ./october --every 7d \\",
        "    --window 2013-10-01T00:00Z 2013-11-01T00:00Z",
        "featurestore monitor baseline files:./training-set ./base --set time_column=asked_at",
    )
)
def baseline(
    source: Source,
    folder: Annotated[Path, typer.Argument(help="Where to write the baseline's files.")],
    window: WindowOption = None,
    every: Annotated[
        str | None, typer.Option(help="How long windows will be, as 1h, 1d, 7d.")
    ] = None,
    kind: Annotated[str, typer.Option(help="data, model_quality, bias or attribution.")] = "data",
    settings: Settings = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Describe a healthy period: statistics.json and constraints.json in Model Monitor's form."""
    from featurestore import monitor

    with fs.open(store, read_only=True) as opened:
        found = monitor.baseline(
            opened, source, window=window, kind=kind, every=every, **settings_of(settings)
        )
    written = found.save(folder)
    out.print(f"wrote the baseline of {counted(found.rows, 'row')} to {written}")


@app.command(
    epilog=examples(
        "featurestore monitor create weather-drift group:weather --kind drift \\",
        "    --baseline ./october --schedule 'cron(0 0 ? * MON *)' --alert file:alerts.jsonl",
        "featurestore monitor create fresh group:weather --kind freshness --set max_age=2h",
    )
)
def create(
    name: Name,
    source: Source,
    kind: Annotated[str, typer.Option(help="drift, data_quality, model_quality, skew, ...")],
    baseline: Annotated[
        Path | None, typer.Option(help="A folder written by monitor baseline.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="cron(0 * ? * * *), or five fields.")] = "",
    window: Annotated[
        str | None, typer.Option(help="Length of a window; else since the moment before.")
    ] = None,
    wait: Annotated[str, typer.Option(help="How long after its end a window is run.")] = "0s",
    start: Annotated[str | None, typer.Option(help="Where the first window starts.")] = None,
    alert: Annotated[
        list[str] | None,
        typer.Option(help="webhook:URL, file:PATH, function:M:F, prometheus:PATH; or JSON."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one.")] = False,
    settings: Settings = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Define a monitor."""
    from featurestore import monitor

    with fs.open(store) as opened:
        made = monitor.create(
            opened,
            name,
            kind=kind,
            source=source,
            baseline=baseline,
            schedule=schedule,
            window=window,
            wait=wait,
            start=start,
            alerts=[rule_of(text) for text in alert or []],
            replace=replace,
            **settings_of(settings),
        )
    out.print(pairs_table(made.facts().items(), title=name))


def rule_of(text: str) -> dict[str, Any]:
    """Return an alert's rule: ``to:target``, or JSON with more to say."""
    from featurestore.monitor.alerts import TARGETS

    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise InvalidInput(f"--alert {text} is not JSON: {error}.") from error
    to, _, target = text.partition(":")
    return {"to": to, TARGETS.get(to, "target"): target}


@app.command("list", epilog=examples("featurestore monitor list --json"))
def list_all(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the monitors, and how their last windows went."""
    from featurestore import monitor

    with fs.open(store, read_only=True) as opened:
        found = monitor.list_monitors(opened)
        last = {one.monitor: one for one in monitor.list_executions(opened)}
    if as_json:
        print_json([one.to_json() for one in found])
        return
    table = Table("monitor", "kind", "source", "schedule", "last window", "status", "violations")
    for one in found:
        ran = last.get(one.name)
        went = ["never", "", ""]
        if ran is not None:
            went = [str(ran.window), ran.status, str(len(ran.violations))]
        table.add_row(one.name, one.kind, one.source, one.schedule or "by hand", *went)
    out.print(table)


@app.command(
    epilog=examples(
        "featurestore monitor run weather-drift --window 2013-12-01T00:00Z 2013-12-08T00:00Z"
    )
)
def run(
    name: Name,
    window: WindowOption = None,
    again: Annotated[bool, typer.Option("--again", help="Also if it was run before.")] = False,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Run one window; exit with 1 if it has violations."""
    from featurestore import monitor

    with fs.open(store) as opened:
        found = monitor.run(opened, name, window, again=again)
    show([found], as_json=as_json)
    if found.violated:
        raise typer.Exit(VIOLATED)


@app.command(
    epilog=examples("featurestore monitor due", "featurestore monitor due --watch --poll 1m")
)
def due(
    name: OptionalName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until stopped.")] = False,
    poll: Annotated[str, typer.Option(help="With --watch: how often to look.")] = "30s",
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Run every window that is due, missed ones once each; exit with 1 if some has violations."""
    from featurestore import monitor

    with fs.open(store) as opened:
        if watch:
            if name is not None:
                raise InvalidInput("--watch runs all monitors; leave NAME out.")
            try:
                monitor.serve(opened, poll=poll, on_run=lambda ran: show([ran], as_json=as_json))
            except KeyboardInterrupt:
                err.print("stopped")
            return
        found = monitor.run_due(opened, name)
    show(found, as_json=as_json)
    if any(ran.violated for ran in found):
        raise typer.Exit(VIOLATED)


def show(found: list[Any], *, as_json: bool) -> None:
    """Print what became of windows."""
    if as_json:
        for ran in found:
            print_json({
                "monitor": ran.monitor, "window": str(ran.window), "status": ran.status,
                "rows": ran.rows, "violations": ran.violations, "error": ran.error,
            })  # fmt: skip
        return
    if not found:
        out.print("nothing is due")
    for ran in found:
        style = "red" if ran.violated or ran.error else "green"
        words = f"{ran.monitor}  {ran.window}  {ran.status}  {counted(ran.rows, 'row')}"
        out.print(Text(words, style=style), soft_wrap=True)
        if ran.error:
            out.print(Text(f"    {ran.error}"), soft_wrap=True)
        for violation in ran.violations:
            of = violation.get("feature_name") or violation.get("metric_name", "")
            words = f"    {of}: {violation['constraint_check_type']}: {violation['description']}"
            out.print(Text(words), soft_wrap=True)


@app.command(epilog=examples("featurestore monitor moved weather-drift"))
def moved(name: Name, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Say which features have moved, and since when."""
    from featurestore import monitor

    with fs.open(store, read_only=True) as opened:
        monitor.describe(opened, name)
        found = monitor.moved_features(opened, name)
    if as_json:
        print_json([{"feature": f, "since": since, "thresholds": far} for f, since, far in found])
        return
    if not found:
        out.print("nothing has moved")
        return
    table = Table("feature", "since", "times its threshold")
    for feature, since, far in found:
        table.add_row(feature, f"{since:%Y-%m-%d %H:%M} UTC", cell(round(far, 2)))
    out.print(table)


@app.command(epilog=examples("featurestore monitor report weather-drift report.html"))
def report(
    name: Name,
    path: Annotated[Path, typer.Argument(help="The HTML file to write.")],
    until: Annotated[str | None, typer.Option(help="As of a moment.")] = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Write a page: what moved and when it began, distributions then and now."""
    from featurestore import monitor

    with fs.open(store, read_only=True) as opened:
        monitor.report(opened, name, path, until=until)
    out.print(f"wrote {path}")


@app.command(epilog=examples("featurestore monitor metrics > /var/lib/node_exporter/m.prom"))
def metrics(name: OptionalName = None, store: StorePath = DEFAULT_STORE) -> None:
    """Print the latest results in Prometheus' text format."""
    from featurestore import monitor

    with fs.open(store, read_only=True) as opened:
        typer.echo(monitor.prometheus_text(opened, name), nl=False)


@app.command()
def delete(name: Name, store: StorePath = DEFAULT_STORE) -> None:
    """Stop watching; what was measured stays."""
    from featurestore import monitor

    with fs.open(store) as opened:
        monitor.delete(opened, name)
    out.print(f"deleted {name}")
