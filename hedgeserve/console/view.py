"""How the status looks: the same picture for ``serve``'s live view, ``status`` and ``status --watch``."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from textwrap import shorten
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hedgeserve.units import format_duration

_STATE_STYLES = {
    "ready": "green",
    "noticed": "red",
    "draining": "yellow",
    "terminating": "yellow",
    "loading": "cyan",
    "booting": "cyan",
    "provisioning": "cyan",
    "planned": "cyan",
}
_MARKET_NAMES = {"spot": "spot", "on_demand": "on-demand", "external": "external"}
_WATCH_EVERY_S = 1.0
_WIDE_ENOUGH = 10_000
_WHY_CHARACTERS = 70


def print_status(status: Mapping[str, Any]) -> None:
    """Write the status to stdout: coloured and fitted on a terminal, plain and unfolded elsewhere."""
    _stdout_console().print(status_view(status))


def watch_status(ask: Callable[[], Mapping[str, Any]], *, as_json: bool) -> None:
    """Show the status once a second until Ctrl-C; what ``ask`` raises ends it."""
    console = _stdout_console()
    try:
        if as_json or not console.is_terminal:
            while True:
                status = ask()
                if as_json:
                    sys.stdout.write(json.dumps(status) + "\n")
                    sys.stdout.flush()
                else:
                    console.print(status_view(status))
                time.sleep(_WATCH_EVERY_S)
        with Live(status_view(ask()), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_EVERY_S)
                live.update(status_view(ask()), refresh=True)
    except KeyboardInterrupt:
        return


def _stdout_console() -> Console:
    width = None if sys.stdout.isatty() else _WIDE_ENOUGH
    return Console(width=width, highlight=False, soft_wrap=False)


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """The status as something to print: a headline, the load, the cost, the replicas, the latest events."""
    parts: list[RenderableType] = [_headline(status), _load(status), _cost(status)]
    if "cost" in status:
        parts.append(_month(status["cost"]))
    parts += [Text(f"trouble: {_clean(text)}", style="red") for text in status.get("trouble", ())]
    parts += [Text(f"note: {_clean(note)}", style="dim") for note in status["plan"]["notes"]]
    if rollout := status.get("rollout"):
        parts.append(_rollout(rollout))
    parts.append(_replicas(status["replicas"]))
    parts += _events(status["events"])
    return Group(*parts)


def _rollout(rollout: Mapping[str, Any]) -> Text:
    left = "" if rollout["left"] is None else f", {rollout['left']} to replace"
    failures = f", {rollout['failures']} failed" if rollout["failures"] else ""
    said = f"{rollout['ready']} of the new are ready{left}{failures}"
    return Text(
        f"version {rollout['from']} → {rollout['to']} ({rollout['strategy']}): {said}; {_clean(rollout['why'])}",
        style="bold",
    )


def _headline(status: Mapping[str, Any]) -> Text:
    return Text.assemble(
        (str(status["service"]), "bold"),
        f" {_state(status)}, {_clean(status['model'])} at ",
        (str(status["url"]), "bold"),
        f", up {format_duration(round(status['uptime_s']))}",
    )


def _state(status: Mapping[str, Any]) -> str:
    """What it is doing in one word: a service that serves may be paused or asleep."""
    rest = status.get("standing", {}).get("rest", "awake")
    return str(status["state"] if rest == "awake" or status["state"] != "serving" else rest)


def _load(status: Mapping[str, Any]) -> Text:
    enough = status["ready"] >= status["target"]
    plan = status["plan"]
    return Text.assemble(
        "ready ",
        (f"{status['ready']} of {status['target']}", "green" if enough else "yellow"),
        f" (plan: {plan['spot_wanted']} spot, {plan['on_demand_wanted']} on-demand), "
        f"{status['queued']} queued, {status['in_flight']} in flight, {status['requests_total']} requests",
    )


def _cost(status: Mapping[str, Any]) -> Text:
    now, alone = status["usd_per_hour"], status["on_demand_usd_per_hour"]
    text = Text.assemble((f"{now:.2f} USD/h", "bold"))
    if alone:
        text.append(f", {now / alone:.0%} of the {alone:.2f} USD/h that the target would cost on demand")
    return text


def _month(cost: Mapping[str, Any]) -> Text:
    """What this month has cost so far, and how much of each cap is used."""
    text = Text(f"this month {cost['spent_usd']:.2f} USD spent")
    saved, alone = cost["saved_usd"], cost["baseline_usd"]
    if alone > 0:
        more = "saved against" if saved >= 0 else "more than"
        text.append(f", {abs(saved):.2f} USD ({abs(saved) / alone:.0%}) {more} on-demand alone")
    if cost["forecast_month_usd"] is not None:
        text.append(f", forecast {cost['forecast_month_usd']:.2f} USD")
    for cap in cost["budget"]:
        style = "red" if cap["state"] == "reached" else "yellow" if cap["used_ratio"] >= 0.8 else ""
        of = f"{cap['limit_usd']:g} USD/{cap['period']}"
        text.append("; ").append(f"{cap['used_ratio']:.0%} of {of} used", style=style)
    return text


def _replicas(replicas: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("replica", "zone", "market", "state", "for", "USD/h", "requests", "why"):
        right = heading in ("for", "USD/h", "requests")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading != "why", overflow="ellipsis"
        )
    for replica in sorted(replicas, key=lambda one: (one["zone"], one["market"], one["id"])):
        state = str(replica["state"])
        notice_in_s = replica["notice_in_s"]
        shown = state if notice_in_s is None else f"{state}, ends in {max(0.0, notice_in_s):.0f}s"
        table.add_row(
            Text(str(replica["id"])),
            Text(str(replica["zone"])),
            _MARKET_NAMES.get(replica["market"], str(replica["market"])),
            Text(shown, style=_STATE_STYLES.get(state, "")),
            format_duration(round(replica["since_s"])),
            f"{replica['usd_per_hour']:.2f}",
            str(replica["outstanding"]),
            Text(shorten(_clean(replica["why"]), _WHY_CHARACTERS, placeholder="…"), style="dim"),
        )
    return table


def _events(events: list[Mapping[str, Any]]) -> Iterator[Text]:
    names = [str(event["replica"] or event["zone"] or "") for event in events]
    width = max(map(len, names), default=0)
    for event, name in zip(events, names, strict=True):
        line = Text.assemble((event["at"][11:19], "dim"), f"  {name:<{width}}  {_clean(event['message'])}")
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


def _clean(text: Any) -> str:
    """Text from elsewhere, without characters that would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in str(text))
