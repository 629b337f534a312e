"""A trace from a fleet's own journal: what launches, refusals and preemptions told of each zone's spot capacity.

A fleet sees capacity only through what it asks for, so this is a lower bound with corrections:

* while N spot VMs are held in a zone its capacity is at least N, and what is believed of it rises to that;
* when a launch is refused for capacity, or a VM is preempted, it is exactly as many as are then held;
* what a drill staged tells nothing: its refusals are passed over, and its VMs count as let go;
* in between nothing is known, and the last knowledge is carried forward (before a zone's first news: the first
  one backward). A zone that was never asked is left out.

A sample is the least that was believed within it, so that no refusal or preemption falls between two samples.
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from hedgeserve.errors import TraceError
from hedgeserve.replica import GoneReason, Market, State, ZoneId
from hedgeserve.simulate.traces import TraceSet, ZoneTrace

_STEP = re.compile(r"(\w+) → (\w+)")
"""How the message of a ``state`` or ``gone`` event begins."""

_BUSY_S = 5.0
_MOST_SAMPLES = 10_000_000

_News = Literal["granted", "released", "preempted", "refused"]


@dataclass(frozen=True, slots=True)
class Recording:
    """The trace, and for each zone what its file's metadata should say about how it came about.

    ``observed_share``: the share of the samples in which a VM was held there or something was heard of the zone.
    """

    traces: TraceSet
    metadata: Mapping[ZoneId, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Heard:
    at: datetime
    zone: ZoneId
    instance_type: str
    news: _News
    order: int


def record(
    journal: Path,
    *,
    gap_s: float = 60.0,
    since: datetime | timedelta | None = None,
    instance_type: str | None = None,
) -> Recording:
    """The spot capacity that a journal tells of, up to its last entry; the service may be running.

    ``since`` cuts off what was before a time, or more than so long before the last entry. ``instance_type``
    is needed where a zone was asked for several: each has a capacity of its own.

    Raises:
        TraceError: There is no journal, it cannot be read, it tells nothing of spot capacity, or of several
            instance types in one zone.
    """
    heard, end = _read(journal)
    types: dict[ZoneId, set[str]] = defaultdict(set)
    for each in heard:
        if instance_type in (None, each.instance_type):
            types[each.zone].add(each.instance_type)
    several = next((zone for zone in types if len(types[zone]) > 1), None)
    if several is not None:
        raise TraceError(
            f"{several} was asked for {' and '.join(sorted(types[several]))}, each with a capacity of its own; "
            "say which with --instance-type"
        )
    heard = [each for each in heard if instance_type in (None, each.instance_type)]
    if not heard:
        what = f" of {instance_type}" if instance_type else ""
        raise TraceError(f"{journal} tells of no spot launch{what} yet; record once the service has asked for one")
    begin = heard[0].at
    if since is not None:
        begin = max(begin, end - since if isinstance(since, timedelta) else since)
    known_s = max(0.0, (end - begin).total_seconds())
    samples = int(known_s // gap_s)
    if not 1 <= samples <= _MOST_SAMPLES:
        raise TraceError(
            f"{journal} holds {known_s:.0f} s since {begin.isoformat()}: that makes {samples} samples of "
            f"{gap_s:g} s, and 1 to {_MOST_SAMPLES} are possible; choose another --gap or --since"
        )
    by_zone: dict[ZoneId, list[_Heard]] = defaultdict(list)
    for each in heard:
        by_zone[each.zone].append(each)
    zones, metadata = [], {}
    for zone in sorted(by_zone):
        trace, share = _zone(zone, by_zone[zone], begin, samples, gap_s)
        zones.append(trace)
        metadata[zone] = {
            "observed_share": round(share, 4),
            "recorded_from": begin.isoformat(),
            "instance_type": next(iter(types[zone])),
        }
    note = (
        "derived from a fleet's journal: a zone's capacity is known only as far as VMs were held, refused or "
        "preempted there; the last knowledge is carried forward (metadata.observed_share says how much was seen)"
    )
    return Recording(TraceSet(journal.absolute().parent.name, tuple(zones), (note,)), metadata)


def _zone(
    zone: ZoneId, heard: list[_Heard], begin: datetime, samples: int, gap_s: float
) -> tuple[ZoneTrace, float]:
    """The least that was believed in each sample, and the share of samples in which something was seen."""
    held, believed = 0, 0
    steps: list[tuple[float, int, int]] = []
    for each in heard:
        if each.news == "granted":
            held += 1
        elif each.news != "refused":
            held -= 1
        believed = max(believed, held) if each.news in ("granted", "released") else held
        steps.append(((each.at - begin).total_seconds(), believed, held))
    times, beliefs, holds = (np.array(column) for column in zip(*steps, strict=True))
    before = np.searchsorted(times, np.arange(samples) * gap_s, side="right") - 1
    counts = beliefs[np.maximum(before, 0)].astype(np.int64)
    seen = (before >= 0) & (holds[np.maximum(before, 0)] > 0)
    within = np.floor(times / gap_s).astype(np.int64)
    inside = (within >= 0) & (within < samples)
    np.minimum.at(counts, within[inside], beliefs[inside])
    seen[within[inside]] = True
    return ZoneTrace(zone, gap_s, counts), float(seen.mean())


def _read(journal: Path) -> tuple[list[_Heard], datetime]:
    """All news in order of time, and the time of the journal's last entry. Nothing is written to the file."""
    if not journal.is_file():
        raise TraceError(f"there is no journal {journal}; name a service that runs or has run here")
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(journal))}?mode=ro", uri=True, timeout=_BUSY_S)
        ) as database:
            database.row_factory = sqlite3.Row
            database.execute("BEGIN")  # one moment of a journal that may be written meanwhile
            replicas = database.execute("SELECT * FROM replicas WHERE market = ?", (Market.SPOT,)).fetchall()
            events = database.execute(
                "SELECT id, at, kind, message, replica, json_extract(data, '$.kind') AS refusal, "
                "json_extract(data, '$.gone') AS gone, json_extract(data, '$.staged') AS staged FROM events "
                "WHERE kind IN ('state', 'gone', 'refused') AND replica IS NOT NULL ORDER BY id"
            ).fetchall()
            [last] = database.execute(
                "SELECT max(at) FROM (SELECT max(at) AS at FROM events UNION ALL SELECT max(at) FROM ledger "
                "UNION ALL SELECT max(state_since) FROM replicas)"
            ).fetchone()
    except sqlite3.Error as error:
        raise TraceError(
            f"the journal {journal} cannot be read: {error}; is it one of this HedgeServe?"
        ) from error
    told: dict[str, list[sqlite3.Row]] = defaultdict(list)
    for event in events:
        told[event["replica"]].append(event)
    heard = [each for replica in replicas for each in _life(replica, told[replica["id"]])]
    heard.sort(key=lambda each: (each.at, each.order))
    return heard, datetime.fromisoformat(last) if last else datetime.now(UTC)


def _life(replica: sqlite3.Row, events: list[sqlite3.Row]) -> list[_Heard]:
    """What one replica's life told of its zone."""

    def heard(at: str, news: _News, order: int) -> _Heard:
        return _Heard(datetime.fromisoformat(at), ZoneId(replica["zone"]), replica["instance_type"], news, order)

    granted: _Heard | None = None
    ended: _Heard | None = None
    staged = any(event["staged"] for event in events)
    end: _News = "preempted" if replica["gone"] == GoneReason.PREEMPTED and not staged else "released"
    refusals: list[_Heard] = []
    for event in events:
        step = _STEP.match(event["message"])
        if event["kind"] == "refused":
            real = event["refusal"] == "capacity" and not event["staged"]
            refusals += [heard(event["at"], "refused", event["id"])] if real else []
        elif step and step[2] == State.BOOTING:
            granted = heard(event["at"], "granted", event["id"])
        elif step and step[2] in (State.TERMINATING, State.GONE) and ended is None:
            ended = heard(event["at"], end, event["id"])
    # Old events are forgotten; the row of the replica is not.
    if granted is None and replica["vm_id"] is not None:
        granted = heard(replica["created_at"], "granted", 0)
    if ended is None and replica["state"] in (State.TERMINATING, State.GONE):
        ended = heard(replica["state_since"], end, events[-1]["id"] + 1 if events else 1)
    if granted is None:
        return refusals
    return [*refusals, granted, *([ended] if ended is not None else [])]
