"""What befalls the zones of the local driver: capacities, refused launches, preemptions. Pure: the clock and
the seed are arguments, and the fate of a VM depends on its name alone, so that a restart changes nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

from hedgeserve.drivers.base import Dialect
from hedgeserve.errors import SpecError, SpecProblem
from hedgeserve.replica import ZoneId
from hedgeserve.spec import LocalSpec, LocalZoneSpec


@dataclass(frozen=True, slots=True)
class CapacityTrace:
    """A recorded number of spot VMs that a zone had, one count every ``gap_s``; it repeats when it ends."""

    gap_s: float
    counts: tuple[int, ...]

    def at(self, elapsed_s: float) -> int:
        """The capacity so long after the first count."""
        return self.counts[int(max(elapsed_s, 0.0) / self.gap_s) % len(self.counts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneClimate:
    """What a zone is like. ``capacity`` None: no end of spot VMs. ``preempt_every_s`` None: none at random."""

    zone: ZoneId
    dialect: Dialect
    spot_usd_per_hour: float
    on_demand_usd_per_hour: float
    capacity: int | CapacityTrace | None
    boot_time_s: float
    launch_failure: float
    preempt_every_s: float | None
    notice_s: float
    no_notice_share: float
    vanish_share: float
    vanish_seen_after_s: float


@dataclass(frozen=True, slots=True)
class SpotVm:
    """A spot VM as the weather sees it."""

    name: str
    zone: ZoneId
    launched_at: datetime


@dataclass(frozen=True, slots=True)
class Preemption:
    """A spot VM that is to go, ``notice_s`` after it has been told; 0: without a word.

    ``seen_after_s`` is set where it falls silent with its connections open: so long the cloud still lists it.
    """

    vm: str
    notice_s: float
    why: str
    seen_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The seeded fate of all zones, from ``began_at`` on; traces run ``trace_speed`` times as fast as recorded."""

    climates: Mapping[ZoneId, ZoneClimate]
    seed: int
    began_at: datetime
    trace_speed: float = 1.0

    @property
    def calm(self) -> bool:
        """Whether no VM will ever be preempted."""
        return all(
            climate.preempt_every_s is None and climate.capacity is None for climate in self.climates.values()
        )

    def capacity(self, zone: ZoneId, now: datetime) -> int | None:
        """Spot VMs that the zone has now; None: no end of them."""
        capacity = self.climates[zone].capacity
        if isinstance(capacity, CapacityTrace):
            return capacity.at((now - self.began_at).total_seconds() * self.trace_speed)
        return capacity

    def refusal(self, zone: ZoneId, *, token: str, in_use: int, now: datetime) -> str | None:
        """Why the zone refuses a spot launch now; None when it does not. The same token has the same luck."""
        capacity = self.capacity(zone, now)
        if capacity is not None and in_use >= capacity:
            return f"{zone} has no spot capacity: {in_use} of {capacity} in use"
        share = self.climates[zone].launch_failure
        if self._dice("launch", token).random() < share:
            return f"{zone} has no spot capacity: it refuses {share:.0%} of launches at random"
        return None

    def preemptions(self, vms: Iterable[SpotVm], now: datetime) -> Sequence[Preemption]:
        """Which of these VMs the cloud takes back now: those whose time has come, then those above capacity."""
        taken: list[Preemption] = []
        staying: dict[ZoneId, list[SpotVm]] = {}
        for vm in vms:
            if self._life_s(vm) <= (now - vm.launched_at).total_seconds():
                taken.append(self._preempt(vm, "its time has come"))
            else:
                staying.setdefault(vm.zone, []).append(vm)
        for zone, there in staying.items():
            capacity = self.capacity(zone, now)
            if capacity is not None and len(there) > capacity:
                there.sort(key=lambda vm: self._dice("drop", vm.name).random())
                why = f"the capacity of {zone} fell to {capacity}"
                taken.extend(self._preempt(vm, why) for vm in there[capacity:])
        return taken

    def _life_s(self, vm: SpotVm) -> float:
        mean_s = self.climates[vm.zone].preempt_every_s
        return float("inf") if mean_s is None else self._dice("life", vm.name).expovariate(1 / mean_s)

    def _preempt(self, vm: SpotVm, why: str) -> Preemption:
        climate = self.climates[vm.zone]
        told = self._dice("notice", vm.name).random() >= climate.no_notice_share
        if told:
            return Preemption(vm.name, climate.notice_s, why)
        silent = self._dice("vanish", vm.name).random() < climate.vanish_share
        return Preemption(vm.name, 0.0, why, climate.vanish_seen_after_s if silent else None)

    def _dice(self, what: str, name: str) -> Random:
        return Random(f"{self.seed}/{what}/{name}")


def climates_of(local: LocalSpec, zones: Iterable[str]) -> dict[ZoneId, ZoneClimate]:
    """The climate of each of these zones (``region/zone``), traces read from their files.

    Raises:
        SpecError: A trace cannot be used.
    """
    special = {zone.zone: zone for zone in local.zones}
    climates = (_climate(local, special.get(name, LocalZoneSpec(zone=name))) for name in dict.fromkeys(zones))
    return {climate.zone: climate for climate in climates}


def _climate(local: LocalSpec, zone: LocalZoneSpec) -> ZoneClimate:
    def pick(own: float | None, common: float) -> float:
        return common if own is None else own

    return ZoneClimate(
        zone=ZoneId(f"local/{zone.zone}"),
        dialect=Dialect(zone.dialect),
        spot_usd_per_hour=pick(zone.spot_price, local.spot_price),
        on_demand_usd_per_hour=pick(zone.on_demand_price, local.on_demand_price),
        capacity=read_trace(Path(zone.trace)) if zone.trace else zone.capacity,
        boot_time_s=pick(zone.boot_time, local.boot_time),
        launch_failure=pick(zone.launch_failure, local.launch_failure),
        preempt_every_s=local.preempt_every if zone.preempt_every is None else zone.preempt_every,
        notice_s=pick(zone.notice, local.notice),
        no_notice_share=pick(zone.no_notice_share, local.no_notice_share),
        vanish_share=pick(zone.vanish_share, local.vanish_share),
        vanish_seen_after_s=pick(zone.vanish_seen_after, local.vanish_seen_after),
    )


def read_trace(path: Path) -> CapacityTrace:
    """The capacity recorded in a file such as ``{"metadata": {"gap_seconds": 300}, "data": [3, 2, 0, 4]}``.

    Raises:
        SpecError: The file cannot be read or holds something else.
    """
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        gap_s, counts = recorded["metadata"]["gap_seconds"], recorded["data"]
    except OSError as error:
        raise _trace_error(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _trace_error(path, f"is not a capacity trace ({type(error).__name__}: {error})") from error
    if not isinstance(gap_s, int | float) or gap_s <= 0:
        raise _trace_error(path, f"has gap_seconds = {gap_s!r}")
    if not isinstance(counts, list) or not counts or not all(type(n) is int and n >= 0 for n in counts):
        raise _trace_error(path, "has no list of VM counts as its data")
    return CapacityTrace(float(gap_s), tuple(counts))


def _trace_error(path: Path, what: str) -> SpecError:
    hint = 'write {"metadata": {"gap_seconds": 300}, "data": [3, 2, 0, 4]}'
    return SpecError(str(path), [SpecProblem("local.zones.trace", f"the trace {what}", hint=hint)])
