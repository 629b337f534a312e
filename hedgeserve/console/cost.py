"""``hedgeserve cost``: what was spent, in words, rows or JSON, of a service that runs or has stopped."""

import csv
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from hedgeserve.books import read_account
from hedgeserve.console.admin import AdminClient
from hedgeserve.console.clouds import aligned
from hedgeserve.console.since import parse_since
from hedgeserve.console.stopped import say_stopped
from hedgeserve.console.which import answers
from hedgeserve.hedge import COMPARABLE_S, Period, begin_of, compares
from hedgeserve.remains import remains_in
from hedgeserve.units import format_cap, format_duration, format_usd

_COMPARABLE = format_duration(COMPARABLE_S)


def show_cost(client: AdminClient, *, since: str | None, by: str | None, as_csv: bool, as_json: bool) -> None:
    """Print it.

    Raises:
        ValueError: ``since`` is no time, or both ways to print it are asked for.
        StateDirectoryError: No service runs there and there is no journal.
    """
    if as_csv and as_json:
        raise ValueError("--csv and --json are two ways to print it; choose one")
    now = datetime.now(UTC)
    begin = _begin(since, now)
    if answers(client.directory):
        told = client.cost(int(begin.timestamp()))
    else:
        account, forecast = read_account(client.directory / "journal.db", begin, now)
        forecast = None if forecast is None else round(forecast, 2)
        named = {"service": client.directory.name, **account.document()}
        told = {**named, "forecast_month_usd": forecast, "caps": [], "left_running": None}
        if (remains := remains_in(client.directory, now, begin)) is not None:
            told["left_running"] = {
                "vms": remains.vms,
                "usd_per_hour": round(remains.usd_per_hour, 6),
                "estimated_usd": round(remains.unbilled_usd, 6),
            }
        say_stopped(client.directory)
    if as_json:
        click.echo(json.dumps(told))
    elif as_csv:
        _print_csv(told, by or "day")
    else:
        _print(told, by)


def _begin(since: str | None, now: datetime) -> datetime:
    if since is None:
        return begin_of(Period.MONTH, now)
    at = parse_since(since)
    begin = now - at if isinstance(at, timedelta) else at
    if begin > now:
        raise ValueError(f"{since!r} has not come yet")
    return begin


def _print_csv(told: Mapping[str, Any], by: str) -> None:
    rows = told["by"][by]
    names = [by, "usd", "seconds", *(["baseline_on_demand_usd"] if by == "day" else [])]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if (cell := row["name" if name == by else name]) is None else cell for name in names])


def _print(told: Mapping[str, Any], by: str | None) -> None:
    spent, alone, saved = told["spent_usd"], told["baseline_on_demand_usd"], told["saved_usd"]
    rows = [["spent", format_usd(spent), f"since {told['since'][:16].replace('T', ' ')} UTC"]]
    if left := told.get("left_running"):
        vms = f"the {left['vms']} VMs run" if left["vms"] > 1 else "the VM runs"
        why = f"estimate: since the journal's last entries, if {vms} on at {left['usd_per_hour']:.2f} USD/h"
        rows.append(["up to", format_usd(left["estimated_usd"]), f"more; {why}"])
    if alone is None and not told["baseline_s"]:
        rows.append(["on demand", "not known", "nothing was counted in this time: that is done once a minute"])
    elif alone is None:
        rows.append(["on demand", "not known", "no on-demand price was known in this time"])
    else:
        partly = told["baseline_unpriced_s"]
        why = f"without {format_duration(round(partly))} in which no price was known" if partly >= 1 else ""
        rows.append(["on demand", format_usd(alone), why or "what the same targets would have cost"])
        ran_s = told["baseline_s"]
        if alone:
            share = f"{abs(saved) / alone:.0%} of that"
            if not told.get("compares", compares(ran_s)):
                share += (
                    f" in {format_duration(round(ran_s)) or '0s'}; until {_COMPARABLE} the start weighs much in it"
                )
            rows.append(["saved" if saved >= 0 else "lost", format_usd(abs(saved)), share])
    forecast = told["forecast_month_usd"]
    if forecast is not None:
        rows.append(["this month", format_usd(forecast), "forecast, if it goes on like the last day"])
    for cap in told["caps"]:
        used, limit = format_usd(cap["used_usd"]), format_cap(cap["limit_usd"], cap["period"])
        rows.append([cap["name"], used, f"{cap['used_ratio']:.0%} of {limit}; {_committed(cap)}"])
    for line in aligned(rows):
        click.echo(line.rstrip())
    if by is not None:
        click.echo()
        _print_split(told["by"][by], by)


def _committed(cap: Mapping[str, Any]) -> str:
    """What decides on the next launch: not what is used, but what that and all that runs may come to."""
    goes_on = "at worst prices" if cap["period"] == Period.HOUR else "if what runs goes on at worst prices"
    committed, state = format_usd(cap["committed_usd"]), cap["state"].replace("_", " ")
    means = f", {told}" if (told := cap.get("means")) else ""
    return f"{committed} ({cap['committed_usd'] / cap['limit_usd']:.0%}) {goes_on}: {state}{means}"


def _print_split(found: list[Mapping[str, Any]], by: str) -> None:
    head = [by, "USD", "VM time"] + (["on demand, USD"] if by == "day" else [])
    rows = [head]
    for row in found:
        cells = [str(row["name"]), f"{row['usd']:.4f}", format_duration(round(row["seconds"])) or "0s"]
        if by == "day":
            alone = row["baseline_on_demand_usd"]
            cells.append("not known" if alone is None else f"{alone:.4f}")
        rows.append(cells)
    for line in aligned(rows):
        click.echo(line.rstrip())
