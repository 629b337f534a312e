"""What a trace is like: how much of the time a zone has spot VMs, for how long, and with whom it loses them."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from hedgeserve.replica import ZoneId
from hedgeserve.simulate.traces import UNLIMITED, Counts, TraceSet, ZoneTrace

_SOON_S = 300.0
"""How soon a second drop must follow a first one: 5 minutes, as in the SpotHedge paper (section 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneInfo:
    """One zone. ``any_share``: the share of the time with at least one spot VM.

    ``mean`` and ``highest`` counts are None where 1 stands for any number. A spell is an unbroken time with
    (up) or without (down) any VM; those that the record's begin or end cuts count with what is seen of them, and
    a mean is None where there is no spell. A drop is a fall of the count, however deep.
    ``second_drop_share``: of the drops that come 5 minutes after no other, the share that takes a second VM at
    once or is followed by another drop within 5 minutes; None where counts are not numbers, or nothing drops.
    """

    zone: ZoneId
    any_share: float
    mean: float | None
    highest: int | None
    up_spells: int
    mean_up_s: float | None
    mean_down_s: float | None
    drops_per_day: float
    second_drop_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo:
    """A whole record. ``none_share``: the share of the time in which no zone has any spot VM.

    The correlations are means over pairs of zones of the phi coefficient of "has any" (the correlation of two
    yes-or-no values: 0 unrelated, 1 always together); zones that never change are left out, and None means that
    there is no pair.
    """

    name: str
    gap_s: float
    duration_s: float
    counts: int
    none_share: float
    same_region_correlation: float | None
    other_region_correlation: float | None
    second_drop_share: float | None
    zones: tuple[ZoneInfo, ...]
    notes: tuple[str, ...]


def describe(traces: TraceSet) -> TraceInfo:
    """Sum up a record."""
    has_any = np.array([trace.counts > 0 for trace in traces])
    same, other = _correlations([trace.zone for trace in traces], has_any)
    pooled = [_second_drops(trace) for trace in traces]
    return TraceInfo(
        name=traces.name,
        gap_s=traces.gap_s,
        duration_s=traces.duration_s,
        counts=has_any.shape[1],
        none_share=float(np.mean(~has_any.any(axis=0))),
        same_region_correlation=same,
        other_region_correlation=other,
        second_drop_share=_share(pooled),
        zones=tuple(_zone_info(trace) for trace in traces),
        notes=traces.notes,
    )


def runs(values: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each unbroken run of one value begins, and how long it is."""
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1)).astype(np.int64)
    return starts, np.diff(np.append(starts, len(values)))


def spells(counts: Counts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The lengths, in samples, of the spells with any VM and of those without."""
    has_any = counts > 0
    starts, lengths = runs(has_any)
    up = has_any[starts]
    return lengths[up], lengths[~up]


def region_of(zone: ZoneId) -> str:
    """The part of a zone's id before its last slash."""
    return zone.rsplit("/", 1)[0]


def _zone_info(trace: ZoneTrace) -> ZoneInfo:
    up, down = spells(trace.counts)
    numbers = int(trace.counts.max()) < UNLIMITED
    days = trace.duration_s / 86400
    return ZoneInfo(
        zone=trace.zone,
        any_share=float(np.mean(trace.counts > 0)),
        mean=float(trace.counts.mean()) if numbers else None,
        highest=int(trace.counts.max()) if numbers else None,
        up_spells=len(up),
        mean_up_s=float(up.mean()) * trace.gap_s if len(up) else None,
        mean_down_s=float(down.mean()) * trace.gap_s if len(down) else None,
        drops_per_day=int((np.diff(trace.counts) < 0).sum()) / days,
        second_drop_share=_share([_second_drops(trace)]),
    )


def _second_drops(trace: ZoneTrace) -> tuple[int, int]:
    """First drops, and those of them that a second VM follows."""
    if int(trace.counts.max()) in (1, UNLIMITED):
        return 0, 0
    change = np.diff(trace.counts)
    at = np.flatnonzero(change < 0)
    reach = int(_SOON_S // trace.gap_s)
    apart = np.diff(at) > reach
    first = np.concatenate((np.ones(min(len(at), 1), bool), apart))
    followed = np.concatenate((~apart, np.zeros(min(len(at), 1), bool))) | (change[at] < -1)
    return int(first.sum()), int((first & followed).sum())


def _share(pairs: Iterable[tuple[int, int]]) -> float | None:
    of, part = (sum(column) for column in zip(*pairs, strict=True))
    return part / of if of else None


def _correlations(zones: list[ZoneId], has_any: npt.NDArray[np.bool_]) -> tuple[float | None, float | None]:
    changing = [index for index, row in enumerate(has_any) if row.any() and not row.all()]
    if len(changing) < 2:
        return None, None
    phi = np.atleast_2d(np.corrcoef(has_any[changing].astype(np.float64)))
    same: list[float] = []
    other: list[float] = []
    for one, two in combinations(range(len(changing)), 2):
        together = region_of(zones[changing[one]]) == region_of(zones[changing[two]])
        (same if together else other).append(float(phi[one, two]))
    return _mean(same), _mean(other)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
