"""Traces that are made up: a small model of each zone and of what zones suffer together, fitted or hand-chosen.

Each zone is a semi-Markov chain over its capacity levels. How long it stays at a level is a mixture of two
geometric distributions, short stays and long ones, because recorded spells are heavy-tailed: many of minutes, some
of days. Losses are correlated, which independent chains miss by orders of magnitude; so there are outages on top,
of a whole region or of everywhere, with the same kind of lengths, during which nobody there has any capacity.

Limits: zones that lose or gain a part of their capacity together, without all of them running dry, are not
modelled, so correlations between zones come out lower than recorded; nor are the hours of the day and slow
trends. What holds in the long run (up to the chance of a finite trace): each zone's mean spells with and without
capacity, therefore its availability, and about the share of the time in which no zone has any.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import numpy.typing as npt

from hedgeserve.errors import TraceError
from hedgeserve.replica import ZoneId
from hedgeserve.simulate.traceinfo import region_of, runs, spells
from hedgeserve.simulate.traces import Counts, TraceSet, ZoneTrace

_SPIN_UP_S = 60 * 86400.0
"""What is made up and thrown away before a synthetic trace begins, so that it begins at no special time."""

_CALIBRATION_CYCLES = 1500
_CALIBRATION_SAMPLES = (20_000, 432_000)
_CALIBRATION_ROUNDS = 8
_CALIBRATION_SEED = 1

_FEW = 8
"""Fewer stays than this are described by their mean alone."""

PRESETS = {
    "calm": (30.0, 1.0, 1.0, 1.0, 60.0),
    "volatile": (2.0, 0.5, 1.0, 3.0, 15.0),
}
"""Hours: mean stay with four VMs, with one, with none; length of an outage, and from one to the next."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stay:
    """How long something lasts: short or long, with these means in seconds; at least one sample."""

    short_s: float
    long_s: float
    long_share: float

    def draw(self, random: Random, gap_s: float) -> int:
        """One length, in samples."""
        mean = (self.long_s if random.random() < self.long_share else self.short_s) / gap_s
        if mean <= 1:
            return 1
        return 1 + int(math.log(1.0 - random.random()) / math.log1p(-1 / mean))

    def scaled(self, factor: float) -> "Stay":
        """The same, so many times as long."""
        return replace(self, short_s=self.short_s * factor, long_s=self.long_s * factor)


@dataclass(frozen=True, slots=True)
class Level:
    """A count at which a zone stays, and the counts that follow with their shares; none: it stays for ever."""

    count: int
    stay: Stay
    then: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class ZoneModel:
    """A zone's own chain, and the count with which it comes back after an outage."""

    zone: ZoneId
    levels: tuple[Level, ...]
    back: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Outages:
    """Times in which a region (``""``: everywhere) has nothing, and how long it is from one to the next."""

    region: str
    lasting: Stay
    between: Stay


@dataclass(frozen=True, slots=True)
class TraceModel:
    """All zones that are made up together; plain data, ``dataclasses.asdict`` makes JSON of it."""

    name: str
    gap_s: float
    zones: tuple[ZoneModel, ...]
    outages: tuple[Outages, ...]


def preset(name: str) -> TraceModel:
    """A model that needs no data: six zones in three regions, up to four VMs each, round numbers chosen by hand.

    ``"calm"``: a zone has spot VMs more than nine tenths of the time, for half a day or so at once.
    ``"volatile"``: six tenths of it, for two hours or so, and at times a region has none for hours. Neither is a
    measurement of any cloud.

    Raises:
        TraceError: There is no such preset.
    """
    if name not in PRESETS:
        raise TraceError(f"there is no preset {name!r}; the presets are {' and '.join(PRESETS)}")
    hour_s = 3600.0
    full, partly, dry, outage, between = PRESETS[name]
    levels = (
        Level(0, Stay(dry * hour_s / 4, dry * hour_s * 2, 0.4), ((1, 0.5), (4, 0.5))),
        Level(1, Stay(partly * hour_s, partly * hour_s, 0.0), ((0, 0.6), (4, 0.4))),
        Level(4, Stay(full * hour_s / 4, full * hour_s * 2, 0.4), ((0, 0.4), (1, 0.6))),
    )
    back = ((0, 0.3), (4, 0.7))
    regions = ("east", "west", "north")
    return TraceModel(
        name,
        60.0,
        tuple(
            ZoneModel(ZoneId(f"synthetic/{region}/{region}-{letter}"), levels, back)
            for letter in "ab"
            for region in regions
        ),
        tuple(
            Outages(region, Stay(outage * hour_s, outage * hour_s, 0.0), Stay(often * hour_s, often * hour_s, 0.0))
            for region, often in (("", between * 20), *((f"synthetic/{each}", between) for each in regions))
        ),
    )


def fit(traces: TraceSet) -> TraceModel:
    """The model whose traces are like these.

    Of the times in which all zones of a region are dry, the longest are taken for outages, as many as chance
    (zones that are independent otherwise) does not explain; the same for all regions together. What is left of a
    zone's record gives its chain: stays by expectation maximisation with cut stays as censored, jumps by counting.
    Last, the chains are adjusted until a long synthetic trace has the recorded mean spells.
    """
    dry = {trace.zone: trace.counts == 0 for trace in traces}
    regions: dict[str, list[ZoneId]] = defaultdict(list)
    for zone in dry:
        regions[region_of(zone)].append(zone)
    region_dry = {
        region: np.logical_and.reduce([dry[zone] for zone in zones]) for region, zones in regions.items()
    }
    everywhere = _shared(list(region_dry.values()))
    outages: list[Outages] = _outages("", everywhere, traces.gap_s)
    out: dict[ZoneId, Mask] = {}
    for region, zones in regions.items():
        known = ~everywhere
        mask = everywhere.copy()
        mask[known] = _shared([dry[zone][known] for zone in zones])
        outages += _outages(region, mask & known, traces.gap_s)
        out |= dict.fromkeys(zones, mask)
    model = TraceModel(
        traces.name,
        traces.gap_s,
        tuple(_zone_model(trace, out[trace.zone]) for trace in traces),
        tuple(outages),
    )
    return _calibrated(model, traces)


def synthesize(model: TraceModel, duration_s: float, seed: int, *, zones: int | None = None) -> TraceSet:
    """A trace of so many seconds; the same seed makes the same one.

    ``zones``: how many, from the model's first on; above what it has, zones are made up again under new names
    (``us-east-1f-2``), with the same chain in the same region and luck of their own.

    Raises:
        TraceError: No sample fits into the duration, or no zone is asked for.
    """
    samples = int(duration_s // model.gap_s)
    wanted = len(model.zones) if zones is None else zones
    if samples < 1 or wanted < 1:
        raise TraceError(
            f"a trace of {duration_s:g} s with {wanted} zones and a count every {model.gap_s:g} s would be empty; "
            "ask for at least one count and one zone"
        )
    skip = int(_SPIN_UP_S // model.gap_s)
    outages = {each.region: _outage_mask(each, samples, skip, seed, model.gap_s) for each in model.outages}
    made = []
    for number in range(wanted):
        zone_model = model.zones[number % len(model.zones)]
        again = number // len(model.zones)
        zone = ZoneId(f"{zone_model.zone}-{again + 1}" if again else zone_model.zone)
        down = np.zeros(samples + skip, bool)
        for region in ("", region_of(zone)):
            if region in outages:
                down |= outages[region]
        counts = _chain(zone_model, down, Random(f"{seed}/zone/{zone}"), model.gap_s)
        made.append(ZoneTrace(zone, model.gap_s, counts[skip:]))
    note = f"made up: like {model.name}, seed {seed}"
    return TraceSet(f"synthetic-{model.name}", tuple(made), (note,))


# Making up


def _alternating(first: Stay, second: Stay, total: int, random: Random, gap_s: float) -> Iterator[int]:
    at, turn = 0, 0
    while at < total:
        length = min((first, second)[turn].draw(random, gap_s), total - at)
        yield length
        at, turn = at + length, 1 - turn


def _outage_mask(outages: Outages, samples: int, skip: int, seed: int, gap_s: float) -> Mask:
    random = Random(f"{seed}/outages/{outages.region}")
    lengths = list(_alternating(outages.between, outages.lasting, samples + skip, random, gap_s))
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _chain(model: ZoneModel, down: Mask, random: Random, gap_s: float) -> Counts:
    """The zone's counts, zero while ``down``; after each such time the chain begins anew."""
    levels = {level.count: level for level in model.levels}
    counts = np.zeros(len(down), np.int64)
    starts, lengths = runs(down)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if down[start]:
            continue
        at, end = start, start + length
        count = _choose(model.back, random)
        while at < end:
            level = levels[count]
            until = min(end, at + level.stay.draw(random, gap_s)) if level.then else end
            counts[at:until] = count
            at = until
            if level.then:
                count = _choose(level.then, random)
    return counts


def _choose(shares: Sequence[tuple[int, float]], random: Random) -> int:
    dice = random.random()
    for count, share in shares:
        dice -= share
        if dice < 0:
            return count
    return shares[-1][0]


# Fitting


def _shared(dry: Sequence[Mask]) -> Mask:
    """When all are dry for a shared reason: the longest times, as far as chance does not explain them.

    With a share ``o`` of shared outages, members that are dry a share ``d`` of the time are dry
    ``(d - o) / (1 - o)`` of the rest; ``o`` is such that ``o + (1 - o) * product`` is the recorded share.
    """
    together: Mask = np.logical_and.reduce(list(dry))
    share, each = float(together.mean()), [float(one.mean()) for one in dry]
    if len(dry) < 2 or share in (0.0, 1.0):
        return np.zeros_like(together)
    low, high = 0.0, share
    if math.prod(each) >= share:
        return np.zeros_like(together)
    for _ in range(50):
        middle = (low + high) / 2
        explained = middle + (1 - middle) * math.prod((one - middle) / (1 - middle) for one in each)
        low, high = (middle, high) if explained < share else (low, middle)
    mask = np.zeros_like(together)
    starts, lengths = runs(together)
    left = low * len(together)
    for start, length in sorted(zip(starts.tolist(), lengths.tolist(), strict=True), key=lambda run: -run[1]):
        if together[start] and length <= 2 * left:  # take what brings the sum nearer
            mask[start : start + length] = True
            left -= length
    return mask


def _outages(region: str, mask: Mask, gap_s: float) -> list[Outages]:
    if not mask.any() or mask.all():
        return []
    starts, lengths = runs(mask)
    on = mask[starts]
    inner = np.ones(len(starts), bool)
    inner[[0, -1]] = False  # cut by the record's begin or end
    return [Outages(region, _stay(lengths[on], inner[on], gap_s), _stay(lengths[~on], inner[~on], gap_s))]


def _zone_model(trace: ZoneTrace, out: Mask) -> ZoneModel:
    stays: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    jumps: dict[int, Counter[int]] = defaultdict(Counter)
    back: Counter[int] = Counter()
    starts, lengths = runs(np.where(out, -1, trace.counts))
    values = [-1 if out[start] else int(trace.counts[start]) for start in starts]
    for index, (count, length) in enumerate(zip(values, lengths.tolist(), strict=True)):
        if count < 0:
            continue
        after = values[index + 1] if index + 1 < len(values) else -1
        stays[count].append((length, after >= 0))
        if after >= 0:
            jumps[count][after] += 1
        if index and values[index - 1] < 0:
            back[count] += 1
    if not stays:
        return ZoneModel(trace.zone, (Level(0, Stay(trace.gap_s, trace.gap_s, 0.0), ()),), ((0, 1.0),))
    if not back:
        back.update({count: sum(length for length, _ in seen) for count, seen in stays.items()})
    levels = []
    for count, seen in sorted(stays.items()):
        length, ended = np.array([one for one, _ in seen]), np.array([whole for _, whole in seen])
        levels.append(Level(count, _stay(length, ended, trace.gap_s), _shares(jumps[count])))
    return ZoneModel(trace.zone, tuple(levels), _shares(back))


def _shares(counted: Counter[int]) -> tuple[tuple[int, float], ...]:
    total = counted.total()
    return tuple((value, times / total) for value, times in sorted(counted.items()))


def _stay(lengths: npt.NDArray[np.int64], ended: Mask, gap_s: float) -> Stay:
    """Two geometric phases by expectation maximisation; lengths (samples, from 1 on) not ended are censored."""
    mean = float(lengths.sum()) / max(1, int(ended.sum())) if len(lengths) else 1.0
    if int(ended.sum()) < _FEW or mean <= 1.0:
        return Stay(mean * gap_s, mean * gap_s, 0.0)
    n = lengths.astype(np.float64)
    rate, weight = np.array([min(1.0, 4 / mean), 1 / (2 * mean)]), np.array([0.5, 0.5])
    for _ in range(200):
        rate = np.clip(rate, 1e-9, 1 - 1e-9)
        log = np.log(weight) + np.outer(n, np.log1p(-rate)) + np.outer(ended, np.log(rate) - np.log1p(-rate))
        log -= log.max(axis=1, keepdims=True)
        belongs = np.exp(log)
        belongs /= belongs.sum(axis=1, keepdims=True)
        weight = np.clip(belongs.mean(axis=0), 1e-6, 1.0)
        weight /= weight.sum()
        rate = (belongs[ended].sum(axis=0) + 1e-9) / (belongs.T @ n + 1e-9)
    short, long = sorted((1 / float(rate[k]), float(weight[k])) for k in (0, 1))
    longest = float(n.max())
    return Stay(min(short[0], longest) * gap_s, min(long[0], 4 * longest) * gap_s, long[1])


def _calibrated(model: TraceModel, traces: TraceSet) -> TraceModel:
    """The model with the recorded mean spells with and without any VM, zone by zone.

    A spell without any is as long as the stay at zero: that is scaled. A spell with some may go through many
    levels, and long ones do in another way than short ones: there the odds of a jump to zero are scaled, so that
    dips stay as short as they are; where there is one level only, the stay.
    """
    wanted = [[float(part.mean()) if len(part) else 0.0 for part in spells(trace.counts)] for trace in traces]
    least, most = _CALIBRATION_SAMPLES
    samples = min(most, max(least, _CALIBRATION_CYCLES * max(sum(each) for each in wanted)))
    for _ in range(_CALIBRATION_ROUNDS):
        made = synthesize(model, samples * model.gap_s, _CALIBRATION_SEED)
        model = replace(
            model,
            zones=tuple(
                _nearer(zone, goal, spells(trace.counts))
                for zone, trace, goal in zip(model.zones, made, wanted, strict=True)
            ),
        )
    return model


def _nearer(
    zone: ZoneModel, goal: Sequence[float], made: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> ZoneModel:
    now = [float(part.mean()) if len(part) else 0.0 for part in made]
    up, down = (
        min(4.0, max(0.25, there / here)) if there and here else 1.0 for there, here in zip(goal, now, strict=True)
    )
    winding = any(count and level.count for level in zone.levels for count, _ in level.then)
    levels = []
    for level in zone.levels:
        if level.count == 0:
            levels.append(replace(level, stay=level.stay.scaled(down)))
        elif winding:
            odds = [(count, share if count else share / up) for count, share in level.then]
            total = sum(share for _, share in odds)
            levels.append(replace(level, then=tuple((count, share / total) for count, share in odds)))
        else:
            levels.append(replace(level, stay=level.stay.scaled(up)))
    return replace(zone, levels=tuple(levels))
