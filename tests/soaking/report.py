"""The figures of a soak, and whether they are good."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

from tests.soaking.answers import EQUAL
from tests.soaking.load import Tally
from tests.soaking.watching import Watched

_GROWTH = 1.15
_MORE_TASKS = 10
_MORE_DESCRIPTORS = 20


@dataclass(frozen=True, slots=True)
class End:
    """How the controller ended (None: it did not and was killed), and what it left behind."""

    exit_status: int | None
    processes: list[str]
    vms: list[str]


def problems(tally: Tally, watched: Watched, end: End) -> list[str]:
    """What must not be; empty after a good run.

    An honest error is no loss without a word, but none of the kinds that are asked may end with one.
    """
    found = [f"{count} × {outcome}" for outcome, count in tally.outcomes.items() if outcome != EQUAL.outcome]
    if sum(tally.outcomes.values()) != tally.asked:
        found.append(f"{tally.asked} requests were sent and {sum(tally.outcomes.values())} have ended")
    if end.exit_status is None:
        found.append("it did not stop when it was told to")
    elif end.exit_status:
        found.append(f"exit status {end.exit_status}")
    if end.processes or end.vms:
        found.append(f"left behind: {end.processes} {end.vms}")
    early, late = _rss(watched)
    if late > early * _GROWTH:
        found.append(f"memory grew from {early:.1f} to {late:.1f} MiB")
    for name, more in (("tasks", _MORE_TASKS), ("descriptors", _MORE_DESCRIPTORS)):
        growth = _growth(watched, name)
        if growth > more:
            found.append(f"{name} grew by {growth:.0f} with as many replicas as before")
    return found


def _growth(watched: Watched, name: str) -> float:
    """From the first half to the second, between times with as many replicas: each replica has some of its own.

    Where the fleet was never as large as before, the whole of what there is more of counts.
    """
    half = len(watched.samples) // 2
    halves: list[dict[int, list[int]]] = [defaultdict(list), defaultdict(list)]
    for number, sample in enumerate(watched.samples):
        halves[number >= half][sample.replicas].append(getattr(sample, name))
    early, late = halves
    grown = [
        statistics.median(late[size]) - statistics.median(early[size])
        for size in early.keys() & late.keys()
        for _ in range(min(len(early[size]), len(late[size])))
    ]
    if grown:
        return statistics.median(grown)
    first, last = (statistics.median(chain(*side.values())) if side else 0.0 for side in halves)
    return last - first if half else 0.0


def print_report(tally: Tally, watched: Watched, end: End, *, took_s: float) -> None:
    """The figures, for people."""
    ended = sum(tally.outcomes.values())
    print(f"answers            {ended} in {took_s:.0f} s ({ended / took_s:.1f} a second)")
    for outcome in (EQUAL.outcome, "lost", "corrupted", "honest error", "refused"):
        print(f"  {outcome:<16} {tally.outcomes[outcome]}")
    print(f"kinds              {dict(sorted(tally.kinds.items()))}")
    print(f"VMs taken          {dict(watched.weather)}")
    for name, count in sorted(watched.metrics.items()):
        print(f"  {name:<44} {count}")
    print(f"in one piece       {tally.resumed} resumed, by their header")
    for name, values in (
        ("latency s", tally.latencies_s),
        ("first byte s", tally.first_bytes_s),
        ("longest pause s", tally.pauses_s),
    ):
        shares = "  ".join(f"p{100 * share:g} {_quantile(values, share):.2f}" for share in (0.5, 0.95, 0.99))
        print(f"{name:<18} {shares}  max {max(values, default=0):.2f}")
    early, late = _rss(watched)
    print(
        f"controller         CPU {watched.cpu_s:.0f} s, RSS first third {early:.1f} MiB, last third {late:.1f} MiB"
    )
    for name in ("tasks", "descriptors"):
        counts = [getattr(sample, name) for sample in watched.samples]
        print(f"{name:<18} median {statistics.median(counts):.0f}, most {max(counts)}, last {counts[-1]}")
    print(f"exit status        {end.exit_status}; processes left {end.processes}; VMs left {end.vms}")
    for text in tally.wrong:
        print("  wrong:", text)


def _rss(watched: Watched) -> tuple[float, float]:
    third = max(1, len(watched.samples) // 3)
    early = statistics.median(sample.rss_mib for sample in watched.samples[:third])
    return early, statistics.median(sample.rss_mib for sample in watched.samples[-third:])


def _quantile(values: list[float], share: float) -> float:
    """The value below which this share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
