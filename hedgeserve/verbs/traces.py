"""``hedgeserve traces``: recorded spot capacity."""

from pathlib import Path
from typing import Any

import click

from hedgeserve.verbs.group import Verbs, agreement, client_of, target


@click.group(cls=Verbs)
def traces() -> None:
    """Fetch, describe, make up or derive capacity traces."""


@traces.command()
@click.argument("name", type=click.Choice(["aws-1", "aws-3"]))
@click.option("--out", metavar="DIR", required=True, help="Folder for the files; made if it is not there.")
@click.option("--mirror", metavar="URL", help="Fetch from here instead of raw.githubusercontent.com.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def pull(name: str, out: str, mirror: str | None, yes: bool) -> None:
    """Fetch a public trace and check it.

    Says first under which licence, and asks. What is there already is kept, so that an interrupted call can be
    taken up again.
    """
    from hedgeserve.console.traces import pull_traces
    from hedgeserve.simulate.pull import BASE_URL

    pull_traces(
        name,
        Path(out),
        base_url=(mirror or BASE_URL).rstrip("/"),
        agreed=agreement(yes, otherwise="Nothing was fetched."),
    )


_ones_are = click.option(
    "--ones-are",
    type=click.Choice(["auto", "one", "unlimited"]),
    default="auto",
    show_default=True,
    help="What a 1 means; auto: no end of VMs where no count is above 1.",
)


@traces.command()
@click.argument("folder")
@_ones_are
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(folder: str, ones_are: Any, as_json: bool) -> None:
    """Show what the traces in FOLDER are like."""
    from hedgeserve.console.traces import print_info

    print_info(Path(folder), ones_are=ones_are, as_json=as_json)


@traces.command()
@click.option("--like", metavar="DIR", help="Traces to be like.")
@click.option("--preset", type=click.Choice(["calm", "volatile"]), help="Be like this instead; needs no data.")
@click.option(
    "--days",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="How long.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same traces.")
@click.option("--zones", metavar="N", type=click.IntRange(1, 1000), help="How many zones (as many as there are).")
@click.option("--for", "model", metavar="MODEL", help="One for each zone in which this model.toml wants spot.")
@click.option("--out", metavar="DIR", required=True, help="New or empty folder for the files.")
def synth(
    like: str | None, preset: str | None, days: float, seed: int, zones: int | None, model: str | None, out: str
) -> None:
    """Make up traces that are like recorded ones."""
    if (like is None) == (preset is None):
        raise click.UsageError("Say what the traces should be like: --like DIR or --preset NAME, one of them.")
    if model is not None and zones is not None:
        raise click.UsageError("--for MODEL says how many zones there are, and so does --zones; give one of them.")
    from hedgeserve.console.traces import write_synthetic

    write_synthetic(
        Path(out),
        like=None if like is None else Path(like),
        preset_name=preset,
        days=days,
        seed=seed,
        zones=zones,
        model_file=None if model is None else Path(model),
    )


@traces.command()
@target
@click.option("--out", metavar="DIR", required=True, help="New or empty folder for the files.")
@click.option("--gap", metavar="DURATION", default="60s", show_default=True, help="From one count to the next.")
@click.option("--since", metavar="WHEN", help="Only what was after this time (UTC), or in the last 7d.")
@click.option("--instance-type", metavar="TYPE", help="Only this one; needed where a zone was asked for several.")
def record(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    out: str,
    gap: str,
    since: str | None,
    instance_type: str | None,
) -> None:
    """Derive traces from a service's own journal.

    The service may be running or not.
    """
    journal = client_of(model, state_dir, service, stopped=True).directory / "journal.db"
    from hedgeserve.console.traces import record_traces

    try:
        record_traces(journal, Path(out), gap=gap, since=since, instance_type=instance_type)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
