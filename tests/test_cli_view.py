"""The picture of a status: what people see of replicas, load and cost."""

import io
from typing import Any

from rich.console import Console

from hedgeserve.console.view import status_view


def status(**changes: Any) -> dict[str, Any]:
    return {
        "service": "chatty",
        "model": "demo",
        "url": "http://127.0.0.1:8000",
        "state": "serving",
        "uptime_s": 200.4,
        "target": 2,
        "ready": 1,
        "queued": 3,
        "in_flight": 4,
        "requests_total": 50,
        "usd_per_hour": 0.6,
        "on_demand_usd_per_hour": 2.0,
        "trouble": [],
        "plan": {"spot_wanted": 3, "on_demand_wanted": 0, "notes": []},
        "replicas": [],
        "zones": [],
        "events": [],
        **changes,
    }


def replica(**changes: Any) -> dict[str, Any]:
    return {
        "id": "chatty-1",
        "zone": "local/east/a",
        "market": "spot",
        "instance_type": "small",
        "usd_per_hour": 0.3,
        "state": "ready",
        "since_s": 65.2,
        "why": "it answered",
        "url": None,
        "outstanding": 2,
        "notice_in_s": None,
        **changes,
    }


def drawn(picture: dict[str, Any], width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(status_view(picture))
    return out.getvalue()


def test_the_first_lines_say_service_load_and_cost() -> None:
    """Rounded as people read it."""
    assert drawn(status()).splitlines()[:3] == [
        "chatty serving, demo at http://127.0.0.1:8000, up 3m20s",
        "ready 1 of 2 (plan: 3 spot, 0 on-demand), 3 queued, 4 in flight, 50 requests",
        "0.60 USD/h, 30% of the 2.00 USD/h that the target would cost on demand",
    ]


def test_a_cost_without_comparison_stands_alone() -> None:
    """No pool has on-demand VMs, or nothing is wanted."""
    assert drawn(status(on_demand_usd_per_hour=None)).splitlines()[2] == "0.60 USD/h"


def test_a_replica_under_notice_shows_how_long_it_has() -> None:
    """Seconds, and never fewer than none."""
    assert "noticed, ends in 8s" in drawn(status(replicas=[replica(state="noticed", notice_in_s=8.2)]))
    assert "noticed, ends in 0s" in drawn(status(replicas=[replica(state="noticed", notice_in_s=-1.0)]))


def test_replicas_are_in_the_order_of_their_zones() -> None:
    """One looks for a zone, not for a number."""
    picture = drawn(status(replicas=[replica(id="chatty-1", zone="b"), replica(id="chatty-2", zone="a")]))
    assert picture.index("chatty-2") < picture.index("chatty-1")


def test_words_from_elsewhere_cannot_drive_the_terminal() -> None:
    """An engine's last words, or a server's reply, may hold anything: escape codes, markup, new lines."""
    event = {"at": "2026-01-01T10:20:30+00:00", "replica": None, "zone": "z", "message": "[red]a\x1b[2Jb\nc"}
    picture = drawn(status(replicas=[replica(why="x\x1b]0;y\x07[bold]z")], events=[event], trouble=["\x1b[31m!"]))
    assert "\x1b" not in picture
    assert "10:20:30  z  [red]a [2Jb c" in picture
    assert "[bold]z" in picture


def test_a_narrow_terminal_gets_one_line_for_each_event() -> None:
    """Cut, with an ellipsis, so that the picture keeps its height."""
    event = {"at": "2026-01-01T10:20:30+00:00", "replica": "chatty-1", "zone": None, "message": "long " * 60}
    lines = drawn(status(events=[event]), width=80).splitlines()
    assert lines[-1].startswith("10:20:30  chatty-1  long")
    assert lines[-1].rstrip().endswith("…")
