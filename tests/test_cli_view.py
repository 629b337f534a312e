"""The picture of a status: what people see of replicas, load and cost."""

import io
from typing import Any

import pytest
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
    assert drawn(status()).splitlines()[:4] == [
        "chatty serving, demo at http://127.0.0.1:8000, up 3m20s",
        "replicas: 1 ready of 2 needed (plan: 3 spot, 0 on-demand)",
        "requests: 4 in flight, 3 queued, 50 since the start",
        "0.60 USD/h, 30% of the 2.00 USD/h that the target would cost on demand",
    ]


def test_a_cost_without_comparison_stands_alone() -> None:
    """No pool has on-demand VMs, or nothing is wanted."""
    assert drawn(status(on_demand_usd_per_hour=None)).splitlines()[3] == "0.60 USD/h"


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


EVENT = {"at": "2026-01-01T10:20:30+00:00", "replica": "chatty-1", "zone": None, "message": "long " * 60}


def test_a_narrow_terminal_gets_the_whole_of_each_event_in_its_column() -> None:
    """Reasons are what events are read for; nothing is cut where the picture may grow."""
    lines = drawn(status(events=[EVENT]), width=80).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("10:20:30  chatty-1  long"))
    assert " ".join(" ".join(lines[start:]).split()[2:]) == str(EVENT["message"]).strip()
    assert all(line.startswith(" " * len("10:20:30  chatty-1  ") + "long") for line in lines[start + 1 :])
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("height", "whole"), [(12, 0), (16, 1), (60, 3)])
def test_a_live_picture_tells_as_many_events_in_full_as_there_are_lines_for(height: int, whole: int) -> None:
    """The newest first; the others are cut to a line each, and none is left out for that."""
    out = io.StringIO()
    console = Console(file=out, width=80, height=height, color_system=None, force_terminal=True)
    console.print(status_view(status(events=[EVENT] * 3), fits_height=True))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert len(lines) <= height - 1
    begins = [number for number, line in enumerate(lines) if line.startswith("10:20:30")]
    assert len(begins) == 3
    assert [lines[number].endswith("…") for number in begins] == [True] * (3 - whole) + [False] * whole


def test_a_cap_is_written_as_in_the_model_file() -> None:
    """Of an hour as prices are: USD/h."""
    caps = [
        {"limit_usd": limit, "period": period, "used_ratio": 0.0, "state": "open"}
        for limit, period in [(0.5, "hour"), (20, "day"), (300, "month")]
    ]
    told = month(budget=caps)
    assert "0% of 0.5 USD/h used, 0% of 20 USD/day used" in told


CLOUDY = [
    replica(id=f"chatty-{number}", zone=zone, market=market, instance_type="g6.12xlarge", why="it answered " * 5)
    for number, (zone, market) in enumerate(
        [("aws/us-east-1/us-east-1a", "spot"), ("gcp/us-central1/us-central1-b", "on_demand")], 118
    )
]
BUSY = status(
    cost={
        "spent_usd": 1062.31,
        "baseline_usd": 3211.8,
        "saved_usd": 2149.49,
        "compares": True,
        "forecast_month_usd": 2095.12,
        "budget": [{"limit_usd": 80, "period": "day", "used_ratio": 0.85, "state": "no_spares"}],
    },
    replicas=[
        *CLOUDY,
        replica(id="chatty-120", zone="aws/us-east-1/us-east-1b", state="noticed", notice_in_s=98.0),
    ],
    events=[
        {"at": f"2026-01-01T10:20:{second}+00:00", "replica": "chatty-119", "zone": None, "message": "asked " * 30}
        for second in range(30, 42)
    ],
)


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_keeps_to_the_width_of_the_terminal(width: int) -> None:
    """No line is broken in a word or in a row: what has no room is left out, the reasons first."""
    lines = drawn(BUSY, width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("chatty-")]
    assert len(rows) == 3, "one line a replica"
    heading = next(line.split() for line in lines if line.startswith("replica "))
    assert heading[:4] == ["replica", "zone", "market", "state"]
    assert ("why" in heading) == (width == 120)
    assert heading[-3 if width == 120 else -2 :][:2] == ["in", "flight"]
    assert rows[0].split()[1] == "aws/us-east-1a", "the region is in the zone's name already"
    assert "noticed, ends in 98s" in rows[1]
    assert len([line for line in lines if line.startswith("10:20:")]) == 12
    assert not any(line.rstrip().endswith("…") for line in lines if "asked" in line), "events are told in full"
    months = [line.rstrip() for line in lines if "USD (67%)" in line or "forecast" in line]
    assert all(line.startswith(("this month", "  ")) for line in months), "money is broken between its parts"


@pytest.mark.parametrize("width", [80, 120])
def test_a_live_picture_shows_the_newest_events_that_have_room(width: int) -> None:
    """The terminal would cut the end off, and that is where the news is."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=16, color_system=None, force_terminal=True)
    console.print(status_view(BUSY, fits_height=True))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 15
    assert lines[-1].startswith("10:20:41")
    assert lines[-2].startswith("10:20:40")


def month(**changes: Any) -> str:
    cost = {
        "spent_usd": 0.0116,
        "baseline_usd": 0.0078,
        "saved_usd": -0.0037,
        "compares": False,
        "forecast_month_usd": None,
        "budget": [],
    }
    return next(line for line in drawn(status(cost=cost | changes)).splitlines() if line.startswith("this month"))


def test_small_sums_have_the_digits_that_tell_something_and_nothing_is_compared_too_early() -> None:
    """While spot and on-demand boot side by side, "34% more" would speak of the boots alone."""
    assert month().rstrip() == "this month 0.012 USD spent"
    early = {"spent_usd": 0.2, "baseline_usd": 0.5, "saved_usd": 0.3}
    assert month(**early).rstrip() == "this month 0.20 USD spent", (
        "the same rule as that of `cost`, also in a pause"
    )
    later = early | {"compares": True}
    assert month(**later).rstrip() == "this month 0.20 USD spent, 0.30 USD (60%) saved against on-demand alone"
    assert month(spent_usd=0.0).rstrip() == "this month 0.00 USD spent"


def test_a_roll_out_says_what_it_waits_for_and_each_replica_its_version() -> None:
    """And the way back; without one, and with one version, there is no column for it."""
    waits = [
        "Version 2 (rolling): 1 of 2 ready replicas run it",
        "chatty-2 has been ready for 5s of the 30s \x1b[31m",
    ]
    rollout = {
        "from": 1, "to": 2, "strategy": "rolling", "ready": 1, "left": 1, "failures": 0, "why": "asked for",
        "who": "ann", "waits_for": waits, "can_roll_back": True,
    }  # fmt: skip
    both = [replica(version=1), replica(id="chatty-2", version=2)]
    told = drawn(status(rollout=rollout, replicas=both)).splitlines()
    at = told.index("version 1 → 2 (rolling): 1 of the new are ready, 1 to replace")
    assert told[at + 1] == "  begun by ann: asked for"
    assert told[at + 2] == "  chatty-2 has been ready for 5s of the 30s  [31m"
    assert told[at + 3] == "  `hedgeserve rollback` takes it back to version 1"
    assert told[at + 4].split()[:5] == ["replica", "zone", "market", "version", "state"]
    assert told[at + 6].split()[:5] == ["chatty-2", "local/east/a", "spot", "2", "ready"]
    beside = drawn(status(rollout={**rollout, "left": 5, "goes_anyway": 2}, replicas=both))
    assert "1 of the new are ready, 3 to replace and 2 on-demand to go anyway\n" in beside
    assert "version" in drawn(status(replicas=both))
    assert "version" not in drawn(status(replicas=both[:1]))
    assert "version" not in drawn(status(rollout=rollout, replicas=both), width=30).splitlines()[-3]
