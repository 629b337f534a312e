"""The options that ``backtest`` and ``sweep`` share, and what they ask for. Light: the parser needs it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from datetime import datetime

    from hedgeserve.console.backtest import Asked

_Command = TypeVar("_Command", bound=Callable[..., Any])


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The option's duration in seconds; a bare number is refused, as in a model file."""
    from hedgeserve.units import parse_duration_s

    if value is None:
        return None
    try:
        seconds = parse_duration_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not seconds and param.name in ("window", "tick"):
        raise click.BadParameter("it must be above 0")
    return seconds


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> "datetime | None":
    """The option's time; UTC where it says nothing else."""
    from datetime import UTC, datetime

    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f'"{value}" is no time; write one such as 2026-01-05T00:00 (UTC) or 2026-01-05T00:00+01:00'
        ) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


_PAPER_ONLY = {
    "target": "replicas.min",
    "price_ratio": "the prices of the zones",
    "cold_start": "backtest.cold_start",
    "notice": "backtest.notice",
}
"""Options of the paper's world, and what takes their place in a model file."""


def back_test_options(command: _Command) -> _Command:
    """The argument and options that say what is back-tested, on which record."""
    above_zero = click.FloatRange(0, min_open=True)
    for decorate in reversed(
        (
            click.argument("model", required=False),
            click.option("--paper", is_flag=True, help="The world of the SpotHedge paper in place of MODEL."),
            click.option(
                "--traces", metavar="DIR", required=True, help="Folder of recorded capacity, one file a zone."
            ),
            click.option(
                "--ones-are",
                type=click.Choice(["auto", "one", "unlimited"]),
                default="auto",
                show_default=True,
                help="What a count of 1 means; auto: no end of VMs where no count is higher.",
            ),
            click.option("--requests", metavar="FILE", help="Recorded requests (CSV); they set the target."),
            click.option(
                "--request-scale",
                metavar="X",
                type=above_zero,
                default=1.0,
                help="This many times the requests of FILE, in the same time.",
            ),
            click.option("--poisson", metavar="RATE", type=above_zero, help="Random requests, RATE a second."),
            click.option(
                "--policy", "policies", metavar="NAME", multiple=True, help="A policy to try; may be repeated."
            ),
            click.option(
                "--window", metavar="DURATION", callback=duration, default="24h", help="How long each is (24h)."
            ),
            click.option(
                "--windows",
                metavar="N",
                type=click.IntRange(1, 100_000),
                default=20,
                help="How many windows of the record to try (20).",
            ),
            click.option(
                "--seed",
                metavar="N",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                help="Draws the windows and all that is random in them (0).",
            ),
            click.option(
                "--tick", metavar="DURATION", callback=duration, help="Time between two moments to act (30s)."
            ),
            click.option(
                "--target", metavar="N", type=click.IntRange(1, 1000), help="Replicas needed, with --paper (3)."
            ),
            click.option(
                "--price-ratio",
                metavar="X",
                type=above_zero,
                help="On-demand's price over spot's, with --paper (3).",
            ),
            click.option(
                "--cold-start",
                metavar="DURATION",
                callback=duration,
                help="From launch to ready, with --paper (120s).",
            ),
            click.option(
                "--notice",
                metavar="DURATION",
                callback=duration,
                help="From notice to the end, with --paper (0s).",
            ),
            click.option(
                "--overprovision",
                metavar="N",
                type=click.IntRange(0, 100),
                help="N_extra, for every policy that has one.",
            ),
            click.option(
                "--ignore-missing-zones", is_flag=True, help="Leave out zones of MODEL that have no trace."
            ),
            click.option(
                "--starts-at", metavar="WHEN", callback=_moment, help="When the record began, for [schedule]."
            ),
            click.option("--jobs", metavar="N", type=click.IntRange(1, 4096), help="Processes (one a core)."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
            click.option("--csv", "as_csv", is_flag=True, help="Print CSV."),
        )
    ):
        command = decorate(command)
    return command


def asked_for(given: dict[str, Any]) -> "tuple[Asked, str]":
    """What was asked for, and how it is to be printed."""
    from hedgeserve.console.backtest import Asked
    from hedgeserve.simulate.scenario import PaperSetting

    paper = given.pop("paper")
    if paper and given["model"] is not None:
        raise click.UsageError("--paper and MODEL are two worlds; give one.")
    if paper and given["starts_at"] is not None:
        raise click.UsageError("--starts-at is for the schedule of a model file; --paper has none.")
    if given["requests"] is not None and given["poisson"] is not None:
        raise click.UsageError("--requests and --poisson are two sources of requests; give one.")
    if given["request_scale"] != 1.0 and given["requests"] is None:
        raise click.UsageError("--request-scale needs --requests.")
    own = {name: given.pop(name) for name in _PAPER_ONLY}
    for name, key in _PAPER_ONLY.items():
        if own[name] is not None and not paper:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} is for --paper; a model file says it as {key}.")
    as_json, as_csv = given.pop("as_json"), given.pop("as_csv")
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms of one output; give one.")
    window_s, tick_s = given.pop("window"), given.pop("tick")
    usual = PaperSetting(window_s=window_s, overprovision=given["overprovision"])
    names = {"cold_start": "cold_start_s", "notice": "notice_s"}
    said = {names.get(name, name): value for name, value in own.items() if value is not None}
    if tick_s is not None:
        said["tick_s"] = tick_s
    model = None if paper else given.pop("model") or "model.toml"
    given.pop("model", None)
    asked = Asked(model=model, paper=replace(usual, **said), window_s=window_s, tick_s=tick_s, **given)
    return asked, "json" if as_json else "csv" if as_csv else "table"
