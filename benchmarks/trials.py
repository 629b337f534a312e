"""SpotHedge, the forecast and the omniscient bound in the same windows, and how the forecast comes out."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from math import isnan

from benchmarks.markdown import FAIL, PASS, Section
from benchmarks.paired import difference, mean
from hedgeserve.simulate.aggregate import WindowFigures

OURS, BOUND = "forecast", "omniscient"
CODINGS = ("spothedge-artifact", "spothedge-printed", "spothedge")
"""SpotHedge as its authors' simulator codes it, by the letter of the paper, and as HedgeServe ran it before."""

POLICIES = (*CODINGS, OURS, BOUND)
DAY_S = 86400.0
LEAST_AVAILABILITY, MOST_OF_BOUND, LEAST_GONE = 0.999, 1.10, 0.5
SAME_AVAILABILITY_POINTS = 0.01

Figures = Mapping[str, tuple[WindowFigures, ...]]

HEADINGS = (
    "setting", "policy", "availability %", "cost %", "× bound", "excess gone", "on-demand h", "preemptions",
    "launches", "verdict",
)  # fmt: skip
SHORT_HEADINGS = ("setting", "part", "windows", "against", *HEADINGS[2:-1], "gone of the cheapest's", HEADINGS[-1])


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting on one record: the figures of every policy, window by window.

    ``criterion`` is the letter of what the forecast has to meet, empty: nothing. ``groups``: windows that see
    the same hours have the same.
    """

    name: str
    criterion: str
    figures: Figures
    groups: tuple[Hashable, ...]

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.groups)

    def where(self, wanted: Callable[[WindowFigures], bool]) -> "Trial":
        """The same, with some of the windows alone."""
        kept = [index for index, one in enumerate(self.figures[OURS]) if wanted(one)]
        figures = {name: tuple(windows[index] for index in kept) for name, windows in self.figures.items()}
        return Trial(self.name, self.criterion, figures, tuple(self.groups[index] for index in kept))

    def mean(self, policy: str, key: str) -> float:
        """One measure of a policy, over the windows."""
        return mean(self.values(policy, key))

    def values(self, policy: str, key: str) -> list[float]:
        """One measure of a policy, window by window."""
        return [getattr(one, key) for one in self.figures[policy]]

    def rival(self) -> str:
        """SpotHedge in the better of its codings: the most available; of those as available the cheapest."""
        shares = {name: self.mean(name, "availability") for name in CODINGS}
        least = max(shares.values()) - SAME_AVAILABILITY_POINTS / 100
        equals = [name for name in CODINGS if shares[name] >= least]
        return min(equals, key=lambda name: self.mean(name, "cost_usd"))

    def of_bound(self, policy: str) -> float:
        """What a policy costs, in multiples of the omniscient."""
        return self.mean(policy, "cost_usd") / self.mean(BOUND, "cost_usd")

    def gone(self, rival: str) -> float | None:
        """The share of the rival's excess over the bound that the forecast does not pay; None: it has none."""
        excess = self.mean(rival, "cost_usd") - self.mean(BOUND, "cost_usd")
        return (self.mean(rival, "cost_usd") - self.mean(OURS, "cost_usd")) / excess if excess > 1e-9 else None


def misses(trial: Trial, rival: str | None = None) -> list[str]:
    """What of its criterion the forecast misses, against this rival; None: the better of SpotHedge's codings."""
    rival = rival or trial.rival()
    ours, theirs = trial.mean(OURS, "availability"), trial.mean(rival, "availability")
    gone = trial.gone(rival)
    cheaper = trial.mean(OURS, "cost_usd") < trial.mean(rival, "cost_usd")
    found = []
    if trial.criterion and ours < theirs - 1e-12:
        found.append(f"availability {100 * (ours - theirs):+.3f} points")
    if trial.criterion == "a" and ours < LEAST_AVAILABILITY:
        found.append(f"availability {100 * ours:.3f} %")
    if trial.criterion == "a" and trial.of_bound(OURS) > MOST_OF_BOUND:
        found.append(f"{trial.of_bound(OURS):.3f} × bound")
    if trial.criterion == "b" and gone is not None and gone < LEAST_GONE:
        found.append(f"{100 * gone:.0f} % of the excess gone")
    if trial.criterion == "c" and not cheaper:
        found.append("it costs more")
    return found


def verdict(trial: Trial, place: str, section: Section) -> str:
    """The cell of the forecast's row."""
    if not trial.criterion:
        return "–"
    return f"({trial.criterion}) " + section.judge(f"({trial.criterion}) {place}, {trial.name}", misses(trial))


def rows(trial: Trial, place: str, section: Section) -> list[list[str]]:
    """The rival, the forecast and the bound."""
    rival = trial.rival()
    theirs = [
        f"{100 * trial.mean(rival, 'availability'):.3f}",
        f"{100 * trial.mean(rival, 'cost_vs_on_demand'):.2f}",
        f"{trial.of_bound(rival):.3f}",
        "0 %",
        *(f"{trial.mean(rival, key):.2f}" for key in ("on_demand_hours", "preemptions", "launches")),
    ]
    bound = [
        f"{100 * trial.mean(BOUND, 'availability'):.3f}",
        f"{100 * trial.mean(BOUND, 'cost_vs_on_demand'):.2f}",
        "1.000",
        "100 %",
        f"{trial.mean(BOUND, 'on_demand_hours'):.2f}",
        "–",
        "–",
    ]
    return [
        [trial.name, f"`{rival}`", *theirs, ""],
        ["", f"`{OURS}`", *_ours(trial, rival), verdict(trial, place, section)],
        ["", f"`{BOUND}`", *bound, ""],
    ]


def short_row(trial: Trial, place: str, part: str, section: Section) -> list[str]:
    """The forecast alone, with its differences to the rival."""
    rival = trial.rival()
    told = [trial.name, part, str(trial.windows), f"`{rival}`", *_ours(trial, rival)]
    cheapest = min(CODINGS, key=lambda name: trial.mean(name, "cost_usd"))
    return [*told, _gone(trial.gone(cheapest)), verdict(trial, f"{place}, {part}", section)]


def _ours(trial: Trial, rival: str) -> list[str]:
    gone = trial.gone(rival)
    bounds = trial.values(BOUND, "cost_usd")
    level = mean(bounds)
    return [
        f"{100 * trial.mean(OURS, 'availability'):.3f} {_apart(trial, rival, 'availability', 3, 100)}",
        f"{100 * trial.mean(OURS, 'cost_vs_on_demand'):.2f} {_apart(trial, rival, 'cost_vs_on_demand', 2, 100)}",
        f"{trial.of_bound(OURS):.3f} {_apart(trial, rival, 'cost_usd', 3, 1 / level)}",
        _gone(gone),
        *(
            f"{trial.mean(OURS, key):.2f} {_apart(trial, rival, key, 2)}"
            for key in ("on_demand_hours", "preemptions", "launches")
        ),
    ]


def _gone(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _against(trial: Trial, rival: str) -> str:
    if not trial.criterion:
        return "–"
    missed = misses(trial, rival)
    return f"({trial.criterion}) " + (f"{FAIL}: {'; '.join(missed)}" if missed else PASS)


def _apart(trial: Trial, rival: str, key: str, digits: int, scale: float = 1.0) -> str:
    found = difference(trial.values(OURS, key), trial.values(rival, key), trial.groups)
    error = "" if isnan(found.error) else f" ± {found.error * scale:.{digits}f}"
    return f"({found.mean * scale:+.{digits}f}{error})"


def codings_rows(trial: Trial, place: str) -> list[list[str]]:
    """How every coding of SpotHedge did, how the forecast did against it, and which was taken."""
    taken = trial.rival()
    return [
        [
            place,
            trial.name,
            f"`{name}`",
            f"{100 * trial.mean(name, 'availability'):.3f}",
            f"{100 * trial.mean(name, 'cost_vs_on_demand'):.2f}",
            f"{trial.of_bound(name):.3f}",
            _apart(trial, name, "availability", 3, 100)[1:-1],
            _gone(trial.gone(name)),
            "yes" if name == taken else "",
            _against(trial, name),
        ]
        for name in CODINGS
    ]


CODINGS_HEADINGS = (
    "trace", "setting", "coding", "availability %", "cost %", "× bound", "forecast: availability", "excess gone",
    "taken", "verdict",
)  # fmt: skip
