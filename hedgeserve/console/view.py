"""How the status looks: the same picture for ``serve``'s live view, ``status`` and ``status --watch``."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import shorten, wrap
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hedgeserve.units import format_cap, format_duration, format_usd

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
_WHY_LEAST_CHARACTERS = 24
_LEAST_EVENTS = 2
_LEAST_MESSAGE_CHARACTERS = 24


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
        with Live(status_view(ask(), fits_height=True), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_EVERY_S)
                live.update(status_view(ask(), fits_height=True), refresh=True)
    except KeyboardInterrupt:
        return


def _stdout_console() -> Console:
    width = None if sys.stdout.isatty() else _WIDE_ENOUGH
    return Console(width=width, highlight=False, soft_wrap=False)


def status_view(status: Mapping[str, Any], *, fits_height: bool = False) -> RenderableType:
    """The status as something to print: a headline, the load, the cost, the replicas, the latest events.

    It keeps to the width that it is printed at: lines are broken between what they say, and of a replica is shown
    what has room. Events are told in full; with ``fits_height`` only as many as the terminal has lines left for,
    the newest, cut to a line each where there are none for the rest of them.
    """
    return _View(status, fits_height=fits_height)


class _View:
    """A status, laid out when its width is known."""

    def __init__(self, status: Mapping[str, Any], *, fits_height: bool) -> None:
        self._status = status
        self._fits_height = fits_height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status, width = self._status, options.max_width
        parts: list[RenderableType] = [_headline(status, width), *_load(status), _cost(status)]
        if "cost" in status:
            parts.append(_month(status, width))
        parts += [Text(f"trouble: {_clean(text)}", style="red") for text in status.get("trouble", ())]
        parts += [Text(f"note: {_clean(note)}", style="dim") for note in status["plan"]["notes"]]
        if rollout := status.get("rollout"):
            parts += _rollout(rollout)
        parts.append(_replicas(status["replicas"], width, rolling=rollout is not None))
        events, spare = status["events"], None
        if self._fits_height:
            lines = sum(len(console.render_lines(part, options)) for part in parts)
            # One line stays free: where the last one is written too, terminals scroll.
            room = max(_LEAST_EVENTS, console.size.height - 1 - lines)
            events = events[-room:]
            spare = room - len(events)
        yield from parts
        yield from _events(events, width, spare)


def _line(parts: Sequence[Text], width: int) -> Text:
    """These parts with commas between them, in a new line where one has no room in the last."""
    line, used = Text(), 0
    for number, part in enumerate(parts):
        fits = used + len(", ") + part.cell_len + len(",") <= width
        if number:
            line.append(", " if fits else ",\n  ")
            used += 2 if fits else 2 - used
        line.append_text(part)
        used += part.cell_len
    return line


def _rollout(rollout: Mapping[str, Any]) -> Iterator[Text]:
    """Which version takes the place of which, how far that is, and in a line each what it waits for."""
    left, anyway = "", rollout.get("goes_anyway", 0)
    if rollout["left"] is not None:
        left = f", {rollout['left'] - anyway} to replace"
        left += f" and {anyway} on-demand to go anyway" if anyway else ""
    failures = f", {rollout['failures']} failed" if rollout["failures"] else ""
    said = f"{rollout['ready']} of the new are ready{left}{failures}"
    yield Text(
        f"version {rollout['from']} → {rollout['to']} ({rollout['strategy']}): {said}",
        style="bold",
    )
    by = "at the start" if rollout["who"] == "start" else f"by {_clean(rollout['who'])}"
    yield Text(f"  begun {by}: {_clean(rollout['why'])}")
    for told in rollout.get("waits_for", ())[1:]:  # the first sentence says how far it is
        yield Text(f"  {_clean(told)}")
    if rollout["can_roll_back"]:
        yield Text(f"  `hedgeserve rollback` takes it back to version {rollout['from']}", style="dim")


def _headline(status: Mapping[str, Any], width: int) -> Text:
    parts = [
        Text.assemble((str(status["service"]), "bold"), f" {_state(status)}"),
        Text.assemble(f"{_clean(status['model'])} at ", (str(status["url"]), "bold")),
        Text(f"up {format_duration(round(status['uptime_s'])) or '0s'}"),
    ]
    return _line(parts, width)


def _state(status: Mapping[str, Any]) -> str:
    """What it is doing in one word: a service that serves may be paused or asleep."""
    rest = status.get("standing", {}).get("rest", "awake")
    return str(status["state"] if rest == "awake" or status["state"] != "serving" else rest)


def _load(status: Mapping[str, Any]) -> list[Text]:
    enough = status["ready"] >= status["target"]
    plan = status["plan"]
    replicas = Text.assemble(
        "replicas: ",
        (f"{status['ready']} ready of {status['target']} needed", "green" if enough else "yellow"),
        f" (plan: {plan['spot_wanted']} spot, {plan['on_demand_wanted']} on-demand)",
    )
    requests = (
        f"requests: {status['in_flight']} in flight, {status['queued']} queued, "
        f"{status['requests_total']} since the start"
    )
    return [replicas, Text(requests)]


def _cost(status: Mapping[str, Any]) -> Text:
    now, alone = status["usd_per_hour"], status["on_demand_usd_per_hour"]
    text = Text.assemble((f"{now:.2f} USD/h", "bold"))
    if alone:
        text.append(f", {now / alone:.0%} of the {alone:.2f} USD/h that the target would cost on demand")
    return text


def _month(status: Mapping[str, Any], width: int) -> Text:
    """What this month has cost so far, and how much of each cap is used."""
    cost = status["cost"]
    parts = [Text(f"this month {format_usd(cost['spent_usd'])} spent")]
    saved, alone = cost["saved_usd"], cost["baseline_usd"]
    if cost.get("compares") and (alone or saved):
        more = "saved against" if saved >= 0 else "more than"
        share = f" ({abs(saved) / alone:.0%})" if alone else ""
        parts.append(Text(f"{format_usd(abs(saved))}{share} {more} on-demand alone"))
    if cost["forecast_month_usd"] is not None:
        parts.append(Text(f"forecast {format_usd(cost['forecast_month_usd'])}"))
    for cap in cost["budget"]:
        state = cap["state"]
        style = "red" if state == "reached" else "" if state == "open" else "yellow"
        of = format_cap(cap["limit_usd"], cap["period"])
        step = "" if state == "open" else f" ({_committed_in_words(cap)})"
        parts.append(Text(f"{cap['used_ratio']:.0%} of {of} used{step}", style=style))
    return _line(parts, width)


def _committed_in_words(cap: Mapping[str, Any]) -> str:
    """What decides on the next launch; a service of an earlier release does not say what its step means."""
    step = str(cap.get("means") or cap["state"]).replace("_", " ")
    ratio = cap.get("committed_ratio")
    return step if ratio is None else f"{ratio:.0%} at worst prices: {step}"


def _replicas(replicas: Sequence[Mapping[str, Any]], width: int, *, rolling: bool) -> Table:
    """One line a replica: all that is known of it, or what has room. Its version where there are several."""
    ordered = sorted(replicas, key=lambda one: (one["zone"], one["market"], one["id"]))
    columns = {heading: [cell(one) for one in ordered] for heading, cell in _CELLS.items()}
    if not rolling and len({one.get("version") for one in replicas} - {None, 0}) < 2:
        del columns["version"]
    if _width_of(columns) > width:
        columns["zone"] = [_short(zone) for zone in columns["zone"]]
    for heading in _DISPENSABLE:
        if _width_of(columns) > width:
            columns.pop(heading, None)
    if "why" in columns:  # the table would take room from all columns alike
        room = width - _width_of(columns) + min(_WHY_LEAST_CHARACTERS, max(map(len, ("why", *columns["why"]))))
        columns["why"] = [why if len(why) <= room else f"{why[: room - 1]}…" for why in columns["why"]]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in columns:
        table.add_column(
            heading, justify="right" if heading in _NUMBERS else "left", no_wrap=True, overflow="ellipsis"
        )
    for number, replica in enumerate(ordered):
        styles = {"state": _STATE_STYLES.get(str(replica["state"]), ""), "why": "dim"}
        table.add_row(*(Text(cells[number], style=styles.get(heading, "")) for heading, cells in columns.items()))
    return table


def _width_of(columns: Mapping[str, Sequence[str]]) -> int:
    """What these columns need; reasons may be cut, down to what still tells something."""
    needed = {heading: max(map(len, (heading, *cells))) for heading, cells in columns.items()}
    if "why" in needed:
        needed["why"] = min(needed["why"], _WHY_LEAST_CHARACTERS)
    return sum(needed.values()) + _GAP * (len(needed) - 1)


def _short(zone: str) -> str:
    """A zone without its region, where its own name says that too: ``aws/us-east-1a``."""
    cloud, _, rest = zone.partition("/")
    region, _, name = rest.partition("/")
    return f"{cloud}/{name}" if region and name.startswith(region) else zone


def _state_of(replica: Mapping[str, Any]) -> str:
    notice_in_s = replica["notice_in_s"]
    state = _clean(replica["state"])
    if replica.get("in_doubt"):
        state = f"{state}, in doubt"
    return state if notice_in_s is None else f"{state}, ends in {max(0.0, notice_in_s):.0f}s"


_CELLS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "replica": lambda one: _clean(one["id"]),
    "zone": lambda one: _clean(one["zone"]),
    "market": lambda one: _MARKET_NAMES.get(one["market"], _clean(one["market"])),
    "version": lambda one: str(one.get("version") or ""),
    "state": _state_of,
    "for": lambda one: format_duration(round(one["since_s"])) or "0s",
    "USD/h": lambda one: f"{one['usd_per_hour']:.2f}",
    "in flight": lambda one: str(one["outstanding"]),
    "why": lambda one: shorten(_clean(one["why"]), _WHY_CHARACTERS, placeholder="…"),
}
_NUMBERS = frozenset({"version", "for", "USD/h", "in flight"})
_DISPENSABLE = ("why", "for", "USD/h", "version")
"""What is left out first where there is no room: the events say why, too."""
_GAP = 2


def _events(events: Sequence[Mapping[str, Any]], width: int, spare: int | None) -> Iterator[Text]:
    """The events, the newest last; so many ``spare`` lines may be taken to tell them in full, the newest first."""
    names = [str(event["replica"] or event["zone"] or "") for event in events]
    beside = max(map(len, names), default=0)
    indent = len("hh:mm:ss") + 2 * _GAP + beside
    told: list[list[str]] = []
    for event in reversed(events):
        message = _clean(event["message"])
        lines = wrap(message, width - indent) if width - indent >= _LEAST_MESSAGE_CHARACTERS else [message]
        if spare is not None and len(lines) - 1 > spare:
            lines = [message]
        elif spare is not None:
            spare -= max(0, len(lines) - 1)
        told.append(lines or [""])
    for event, name, lines in zip(events, names, reversed(told), strict=True):
        yield _uncut(Text.assemble((event["at"][11:19], "dim"), f"  {name:<{beside}}  {lines[0]}"))
        yield from (_uncut(Text(" " * indent + line)) for line in lines[1:])


def _uncut(line: Text) -> Text:
    """It in one line, whatever the width."""
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _clean(text: Any) -> str:
    """Text from elsewhere, without characters that would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in str(text))
