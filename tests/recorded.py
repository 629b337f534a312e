"""A live service on the local cloud whose capacity follows a script, and a simulated world of the same script."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from hedgeserve.core import Service
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.hedge import Drain, Launch, NewsKind, ZoneNews
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.replaying import decisions_of
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.traces import ZoneTrace
from hedgeserve.spec import HedgeSpec, Spec
from hedgeserve.specfile import parse_spec
from hedgeserve.transcript.entries import Planned, Started
from hedgeserve.transcript.reader import read_transcript
from tests.conftest import eventually, replicas, small_toml

SCRIPT = {"east/a": (1, 0), "east/b": (0, 0), "west/a": (1, 1), "west/b": (0, 1)}
"""The spot capacity of each zone in each act. The script goes on when the fleet has settled, not by the clock."""

BOOTS = {"east/a": "1s", "east/b": "2s", "west/a": "3s", "west/b": "2s"}
"""Seconds apart, so that who is ready first does not hang on a busy machine's moments."""

SPARES = {"spothedge": 1, "forecast": 0}
"""The forecast weighs a spare by measured cold starts, too fine a choice to be the same twice: it has none, since
it is told that little availability is worth paying for."""

NOTICE_S = 8.0
STILL_S = 1.5
"""Many ticks of the simulated world, in which what follows must not meet what was before."""

_GAP_S = 86400
_TICK_S = 0.25

Told = tuple[str, ZoneId, Market, str]
"""A decision without its words: what, where, which market, by which rule."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A transcript, and when (monotonic seconds) the second act began."""

    path: Path
    second_act_s: float


def recording_spec(directory: Path, policy: str) -> Spec:
    """One replica on four spot zones, on-demand in a fifth; no zone that refused is asked again while it runs."""
    zones = ""
    for number, (zone, counts) in enumerate(SCRIPT.items()):
        trace = f"{zone.replace('/', '-')}.json"
        (directory / trace).write_text(json.dumps({"metadata": {"gap_seconds": _GAP_S}, "data": counts}))
        zones += (
            f'[[local.zones]]\nzone = "{zone}"\ntrace = "{trace}"\nspot_price = "0.3{number} USD/h"\n'
            f'boot_time = "{BOOTS[zone]}"\n'
        )
    toml = (
        small_toml(
            directory,
            replicas="count = 1",
            overprovision=SPARES[policy],
            fallback="true",
            retry_delay="10m",
            boot="60s",
            initial_delay="60s",
            zones=json.dumps([*SCRIPT]),
            markets='["spot"]',
            pools='[[pools]]\ncloud = "local"\nzones = ["north/a"]\nmarkets = ["on_demand"]',
            local=f'notice = "{NOTICE_S:g}s"\n{zones}',
        )
        .replace('on_demand_hold = "1s"', 'on_demand_hold = "3s"')
        .replace('policy = "spothedge"', f'policy = "{policy}"\navailability = 0.9')
    )
    return parse_spec(toml, "recorded.toml", directory, {})


async def record(policy: str, transcript: Path) -> Recording:
    """Let a service live through the script."""
    directory = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
    try:
        async with Service(recording_spec(directory, policy), environ={}, transcript=transcript) as service:
            cloud = service._drivers["local"]
            assert isinstance(cloud, LocalDriver)
            await settle(service, policy)
            cloud._weather = replace(cloud._weather, began_at=cloud._weather.began_at - timedelta(seconds=_GAP_S))
            second_act_s = asyncio.get_running_loop().time()
            await eventually(lambda: all(one["zone"] != "local/east/a" for one in replicas(service)), within_s=60)
            await settle(service, policy)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Recording(transcript, second_act_s)


async def settle(service: Service, policy: str) -> None:
    """Wait until the fleet is what it is to be while nothing happens, and has been so for a while."""
    clock = asyncio.get_running_loop().time
    since_s, before = clock(), [""]

    def still() -> bool:
        nonlocal since_s, before
        fleet = replicas(service)
        if policy == "spothedge":  # on-demand stays for as long as it is held, and then goes
            settled = [one["market"] for one in fleet] == ["spot"] * (1 + SPARES[policy])
        else:
            settled = bool(fleet)
        there = [f"{one['id']} {one['state']}" for one in fleet]
        if there != before or not settled or any(one["state"] != "ready" for one in fleet):
            since_s, before = clock(), there
        return clock() - since_s >= STILL_S

    await eventually(still, within_s=60)


# What was decided


def live_decisions(recording: Recording) -> list[Told]:
    """The decisions of the transcript in their order; of one moment, launches first, then by zone."""
    told: list[tuple[float, Told]] = []
    for at_s, action, replica in decisions_of(recording.path):
        if isinstance(action, Launch):
            place, what = action.offer, "launch"
        else:
            assert replica is not None
            place, what = replica.offer, "drain" if isinstance(action, Drain) else "terminate"
        told.append((at_s, (what, place.zone, place.market, str(action.rule))))
    return _ordered(told)


def simulated_decisions(outcome: FleetOutcome) -> list[Told]:
    """The same of a simulated window."""
    return _ordered((one.at_s, (one.what, one.zone, one.market, one.rule)) for one in outcome.decisions)


def _ordered(told: Iterable[tuple[float, Told]]) -> list[Told]:
    return [one for _, one in sorted(told, key=lambda each: (each[0], each[1][0] != "launch", each[1]))]


# The world of the same script


def hedge_of(recording: Recording) -> HedgeSpec:
    """The settings that the service ran with."""
    return next(entry.hedge for entry in read_transcript(recording.path) if isinstance(entry, Started))


def world_of(recording: Recording) -> WorldSetting:
    """A world with the capacity of the script, and the cold starts and notices that were measured.

    Its time begins with the first plan. A capacity that falls does so when the notice that it gave ran out.
    """
    entries = [*read_transcript(recording.path)]
    plans = [entry for entry in entries if isinstance(entry, Planned)]
    news = [entry for entry in entries if isinstance(entry, ZoneNews)]
    begun_s = plans[0].observation.now_s
    window_s = plans[-1].observation.now_s - begun_s + 5.0  # it had settled: whatever is decided there is too much
    fell = {one.zone: one for one in news if one.kind is NewsKind.NOTICE}
    boots: dict[tuple[ZoneId, Market], list[float]] = {}
    for one in news:
        if one.kind is NewsKind.READY and one.held_s is not None:
            boots.setdefault((one.zone, one.market), []).append(one.held_s)
    usual = [boot for each in boots.values() for boot in each]

    def model(offer: Offer) -> OfferModel:
        cold_starts = boots.get((offer.zone, offer.market)) or usual
        mean_s = sum(cold_starts) / len(cold_starts)
        if offer.market is Market.ON_DEMAND:
            return OfferModel(offer=offer, cold_start_s=(mean_s,))
        turned_s, notice_s = recording.second_act_s, 0.0
        if (notice := fell.get(offer.zone)) is not None:
            notice_s = notice.lead_s or 0.0
            turned_s = notice.at_s + notice_s
        before, after = SCRIPT[offer.zone.removeprefix("local/")]
        ticks = np.arange(int((window_s + 60.0) / _TICK_S))  # a record that is too short would begin anew
        counts = np.where(ticks * _TICK_S < turned_s - begun_s, before, after).astype(np.int64)
        trace = ZoneTrace(offer.zone, _TICK_S, counts)
        return OfferModel(offer=offer, capacity=trace, cold_start_s=(mean_s,), notice_s=notice_s)

    return WorldSetting(
        offers=tuple(model(offer) for offer in plans[0].observation.offers),
        target=plans[0].observation.target,
        window_s=window_s,
        tick_s=_TICK_S,
    )
