"""Recorded spot capacity: how many spot VMs each zone had, over time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from hedgeserve.replica import ZoneId

UNLIMITED = 1_000_000_000
"""The count that stands for "as many as anybody asks for"."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ZoneTrace:
    """Spot VMs that could be had or held in one zone: ``counts[i]`` from ``i * gap_s`` to ``(i + 1) * gap_s``."""

    zone: ZoneId
    gap_s: float
    counts: Counts

    @property
    def duration_s(self) -> float:
        """How long the record is, in seconds."""
        return self.gap_s * len(self.counts)

    def at(self, time_s: float) -> int:
        """The capacity at a time since the first count; past its end the record begins anew."""
        return int(self.counts[int(time_s // self.gap_s) % len(self.counts)])


@dataclass(frozen=True, slots=True, eq=False)
class TraceSet:
    """The zones that were recorded together: one gap, one length; ``notes``: what to know before using them.

    ``begins_at`` is when the first count was taken (UTC); None: nobody says.
    """

    name: str
    zones: tuple[ZoneTrace, ...]
    notes: tuple[str, ...] = ()
    begins_at: datetime | None = None

    @property
    def gap_s(self) -> float:
        """Seconds between two counts."""
        return self.zones[0].gap_s

    @property
    def duration_s(self) -> float:
        """How long the record is, in seconds."""
        return self.zones[0].duration_s

    def __iter__(self) -> Iterator[ZoneTrace]:
        return iter(self.zones)

    def called(self, zones: Sequence[ZoneId]) -> "TraceSet":
        """The same record, its zones by these names; as many as there are zones."""
        named = tuple(replace(trace, zone=zone) for trace, zone in zip(self.zones, zones, strict=True))
        return replace(self, zones=named)

    def only(self, zones: Sequence[ZoneId]) -> "TraceSet":
        """The same record with these zones alone, in this order."""
        known = {zone.zone: zone for zone in self.zones}
        return TraceSet(self.name, tuple(known[zone] for zone in zones), self.notes, self.begins_at)
