"""Verbs that try policies on recorded capacity."""

import sys
from pathlib import Path
from typing import Any

import click

from hedgeserve.console.backtestflags import asked_for, back_test_options
from hedgeserve.verbs.group import EXIT_FAILED, verb


@verb()
@back_test_options
@click.option("--out", metavar="DIR", help="Write a report with pictures there (HTML).")
@click.option(
    "--show-decisions", type=click.IntRange(0), default=0, metavar="N", help="Print N decisions of a bad window."
)
def backtest(out: str | None, show_decisions: int, **given: Any) -> None:
    """Try policies on recorded spot capacity.

    MODEL (model.toml) says which zones, prices and replicas; --paper takes the world of the SpotHedge paper
    instead. Each window of the record is simulated under each policy; nothing is launched or paid for.
    """
    from hedgeserve.console.backtest import run_backtest

    asked, output = asked_for(given)
    run_backtest(asked, out=out, output=output, show_decisions=show_decisions)


@verb()
@back_test_options
@click.option(
    "--vary",
    metavar="NAME=VALUES",
    multiple=True,
    required=True,
    help="A setting and its values, such as cold-start=60s,120s or overprovision=0..3; may be repeated.",
)
@click.option(
    "--on", "scheduler", metavar="ADDRESS", help="A Dask scheduler to work for, such as tcp://host:8786."
)
def sweep(vary: tuple[str, ...], scheduler: str | None, **given: Any) -> None:
    """Back-test every combination of some settings.

    Settings: cold-start, notice, overprovision, target, zones, price-ratio.
    """
    from hedgeserve.console.backtest import run_sweep
    from hedgeserve.simulate.sweeps import parse_vary

    asked, output = asked_for(given)
    varied: dict[str, tuple[float, ...]] = {}
    for text in vary:
        try:
            key, values = parse_vary(text)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--vary") from None
        if key in varied:
            raise click.BadParameter(f"{key} is there twice; write all of its values once", param_hint="--vary")
        varied[key] = values
    run_sweep(asked, vary=varied, scheduler=scheduler, output=output)


@verb()
@click.argument("file")
@click.option(
    "--policy", type=click.Choice(["spothedge", "forecast"]), help="Ask this policy instead of the recorded one."
)
@click.option(
    "--overprovision", type=click.IntRange(0, 100), metavar="N", help="N_extra, in place of the recorded."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def replay(file: str, policy: str | None, overprovision: int | None, as_json: bool) -> None:
    """Make a service's recorded decisions anew.

    FILE is what `hedgeserve serve --transcript FILE` wrote. A fresh policy is told and asked the same; with
    another policy you see what that one would have done at those moments. Exits with 1 where the recorded
    settings do not give the recorded decisions.
    """
    from hedgeserve.console.replay import run_replay

    if not run_replay(Path(file), policy=policy, overprovision=overprovision, as_json=as_json):
        sys.exit(EXIT_FAILED)
