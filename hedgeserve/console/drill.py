"""``hedgeserve drill``: asks, has the service make the trouble, sends it requests meanwhile, prints the report."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.clouds import aligned
from hedgeserve.console.load import Load, Loaded
from hedgeserve.errors import LimitError
from hedgeserve.units import format_duration

_LOOK_EVERY_S = 0.5


def run_drill(
    client: AdminClient,
    asked: Mapping[str, Any],
    *,
    load: int,
    as_json: bool,
    agreed: Callable[[str], bool],
    environ: Mapping[str, str],
) -> bool:
    """See a drill through; whether nothing was lost and capacity was back in time.

    Raises:
        LimitError: No replica would be left ready, or another drill goes on.
        HedgeServeError: It cannot be done here, or the endpoint does not take our requests.
    """
    drill = {key: value for key, value in asked.items() if value is not None}
    status, plan = client.status(), client.rehearse(drill)
    for sentence in plan["sentences"]:
        click.echo(sentence, err=True)
    if plan["refusal"]:
        raise LimitError(plan["refusal"])
    agreed(f"Do this to {status['service']}, which serves {status['ready']} ready replicas now?")
    drill |= _as_agreed(plan, drill)
    sent: Loaded | None = None
    if load:
        with Load(status["url"], status["model"], load, api_key=environ.get("HEDGESERVE_API_KEY")) as streams:
            click.echo(f"{load} streams run; the drill begins.", err=True)
            streams.mark()
            report = _see_through(client, drill, plan)
            sent = streams.finish()
    else:
        report = _see_through(client, drill, plan)
    ok = bool(report["ok"]) and (sent is None or sent.ok)
    if as_json:
        click.echo(json.dumps({**report, "ok": ok, "load": None if sent is None else sent.document()}))
    else:
        _print(report, sent)
    return ok


def _as_agreed(plan: Mapping[str, Any], drill: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen by itself, named: by the time it begins another replica or zone may be felt more.

    A replica is only preferred. It may be gone by then, by an update or by its cloud, and nobody has asked for
    this very one.
    """
    named: dict[str, Any] = {}
    if plan["zones"]:
        named["zone"] = plan["zones"][0]
    if plan["cloud"]:
        named["cloud"] = plan["cloud"]
    if len(plan["victims"]) == 1 and not any(map(drill.get, ("zone", "replica"))) and plan["kind"] != "blackout":
        named["prefer"] = plan["victims"][0]["replica"]
    return named


def _see_through(client: AdminClient, drill: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    begun = client.start_drill(drill)
    name, started_s, told = begun["drill"], time.monotonic(), ""
    if drill.get("prefer") and begun["victims"] != plan["victims"]:
        click.echo(f"{drill['prefer']} goes by itself by now, so that another one is taken:", err=True)
        for sentence in begun["sentences"]:
            click.echo(sentence, err=True)
    click.echo(
        f"{name} goes on; well again within {format_duration(begun['within_s'])} is what is expected.", err=True
    )
    while client.drills()["running"] == name:
        time.sleep(_LOOK_EVERY_S)
        if sys.stderr.isatty():
            status = client.status()
            ready, target = status["ready"], status["target"]
            told = f"{format_duration(round(time.monotonic() - started_s))}: {ready} ready, {target} needed"
            click.echo(f"\r{told:<60}", nl=False, err=True)
    if told:
        click.echo(err=True)
    found: dict[str, Any] = client.drills()["last"]
    return found


def _print(report: Mapping[str, Any], sent: Loaded | None) -> None:
    requests = report.get("requests")
    if requests is None:  # the drill itself failed, through a mistake of ours
        click.echo(f"{report['drill']} failed: {report['cut_short']}")
        return
    short = format_duration(report["short_s"]) or "0s"
    went = f", of {', '.join(report['victims'])}" if report["victims"] else ""
    rows = [
        ["drill", f"{report['drill']}{went}: {'passed' if report['ok'] else 'FAILED'}"],
        ["requests", f"{requests['ended']} ended during the drill, whoever sent them; {requests['lost']} lost, "
         f"{requests['turned_away']} turned away"],
        ["moved early", str(requests["moved"])],
        ["continued", f"{requests['continued']} elsewhere, from the very token"],
        ["replayed", str(requests["replayed"])],
        ["retried", f"{requests['retried']} attempts, before their clients had a byte"],
        ["replacement", _readiness(report)],
        ["capacity", f"back {_after(report['restored_s'])}; short for {short}; {_least(report)}"],
        ["extra cost", report["price"]],
    ]  # fmt: skip
    if _told(report):
        rows.insert(1, ["notice", _heard(report)])
    if sent is not None:
        rows += [
            ["our streams", f"{sent.whole} whole, {sent.failed} failed, also those that ended after the drill"],
            ["longest pause", f"{format_duration(round(sent.longest_pause_s, 2))} in the middle of an answer"],
            ["longest wait", f"{format_duration(round(sent.longest_wait_s, 2))} for an answer to begin"],
            ["same text", sent.compared()],
        ]
    for line in aligned(rows):
        click.echo(line)
    if report["decisions"]:
        click.echo("What happened, and why:")
        for sentence in report["decisions"]:
            click.echo(f"  {sentence}")
    heard = report["notices"]
    if unheard := [victim for victim in _told(report) if heard is not None and victim not in heard]:
        told = f"{', '.join(unheard)} heard no notice; `hedgeserve events` may have a trouble of its watcher."
        click.echo(told, err=True)
    for failure in [] if sent is None else sent.failures[:5]:
        click.echo(f"A stream failed: {failure}", err=True)
    if report["cut_short"]:
        click.echo(f"{report['drill']} was cut short: {report['cut_short']}", err=True)
    elif report["restored_s"] is None:
        click.echo(f"Capacity was not back within {format_duration(report['within_s'])}.", err=True)


def _least(report: Mapping[str, Any]) -> str:
    """How many were ready at the least, and how many are needed or wanted, and for what."""
    wanted, needed = report["wanted"], report["needed"]
    more = ""
    if wanted > needed:
        more = f", {wanted} with spares and bridges"
    elif wanted < needed:
        more = f", and {wanted} {'was' if wanted == 1 else 'were'} ready before"
    return f"{report['least_ready']} ready at the least; the load needs {needed}{more}"


def _told(report: Mapping[str, Any]) -> list[str]:
    """The replicas that were to hear of their end."""
    return [] if report["kind"] in ("vanish", "blackout") else list(report["victims"])


def _heard(report: Mapping[str, Any]) -> str:
    """How many have heard of it, and from whom."""
    heard: Mapping[str, str] | None = report["notices"]
    if heard is None:
        return "not known: the journal could not be read"
    sources = ", ".join(dict.fromkeys(heard.values()))
    return f"heard by {len(heard)} of {len(report['victims'])}{': ' + sources if sources else ''}"


def _readiness(report: Mapping[str, Any]) -> str:
    """What became of the replacement; that the drill did not have to wait for it is said where it was so."""
    back = report["restored_s"] is not None
    if report["launched_s"] is None:
        return f"none was launched{': enough were ready without one' if back else ''}"
    launched = f"launched {_after(report['launched_s'])}"
    if report["ready_again_s"] is not None:
        return f"{launched}, ready {_after(report['ready_again_s'])}"
    if back:
        return f"{launched}, still starting when the drill ended: capacity was back without it"
    return f"{launched}, not ready in time"


def _after(seconds: float | None) -> str:
    if seconds is None:
        return "not seen"
    return "at once" if seconds == 0 else f"after {format_duration(seconds)}"
