"""Windows that stand for the others, played once more with everything that happened in them."""

from collections import Counter
from dataclasses import dataclass, replace

from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate.backtests import Backtest, Steps, run_window, solve_window, targets_of
from hedgeserve.simulate.omniscient import OmniscientOutcome
from hedgeserve.simulate.outcome import Decision, FleetOutcome
from hedgeserve.simulate.parallel import Task
from hedgeserve.simulate.policies import OMNISCIENT
from hedgeserve.units import format_duration

_FIRST_CHOICES = ("forecast", "spothedge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One window under one policy. ``rank`` says why this one: ``"worst"`` or ``"median"``."""

    policy: str
    rank: str
    window: int
    start_s: float
    outcome: FleetOutcome


def focus(result: Backtest) -> str | None:
    """The policy to look at closely: the model's own, else one of production, else the first that decides."""
    tried = [figures.policy for figures in result.policies if figures.policy != OMNISCIENT]
    own: tuple[str, ...] = () if result.scenario.name == "paper" else (result.scenario.hedge.policy,)
    for name in (*own, *_FIRST_CHOICES):
        if name in tried:
            return name
    return next((name for name in tried if name != "on-demand"), tried[0] if tried else None)


def replay(result: Backtest, policy: str | None = None, rank: str = "worst") -> Replay | None:
    """The ``"worst"`` or the ``"median"`` window of a policy (None: the one in :func:`focus`), by availability.

    Among equally available ones the dearest is the worst. None: no policy was tried that acts without hindsight.
    """
    name = policy or focus(result)
    if name is None:
        return None
    windows = sorted(result.policy(name).windows, key=lambda one: (one.availability or 0.0, -one.cost_usd))
    chosen = windows[0 if rank == "worst" else len(windows) // 2]
    task = Task(0, name, chosen.window, chosen.start_s, result.seed)
    return Replay(
        policy=name,
        rank=rank,
        window=chosen.window,
        start_s=chosen.start_s,
        outcome=run_window(result.scenario, task),
    )


def rival(result: Backtest, policy: str, window: int) -> FleetOutcome:
    """The same window under another policy."""
    return run_window(result.scenario, Task(0, policy, window, result.starts_s[window], result.seed))


def bound(result: Backtest, window: int) -> OmniscientOutcome:
    """The same window in hindsight."""
    task = Task(0, OMNISCIENT, window, result.starts_s[window], result.seed)
    targets: Steps = targets_of(result.scenario, task)
    return solve_window(result.scenario, task, targets)


@dataclass(frozen=True, slots=True)
class Told:
    """A decision and what came of it: refused or not, and how often it was asked in vain again, until when."""

    decision: Decision
    refused: bool
    again: int = 0
    until_s: float = 0.0

    @property
    def where(self) -> str:
        """What is done with which market."""
        market = "on-demand" if self.decision.market is Market.ON_DEMAND else str(self.decision.market)
        return f"{self.decision.what} {market}"

    @property
    def outcome(self) -> str:
        """What came of a launch, where nothing did."""
        if not self.refused:
            return ""
        more = f", and {self.again} time{'s' * (self.again != 1)} more" if self.again else ""
        return f"refused{more}" + (f" until {clock(self.until_s)}" if self.until_s > self.decision.at_s else "")

    def line(self) -> str:
        """When, what, where, why, and whether it was refused."""
        told = f"{clock(self.decision.at_s)}  {self.where} in {self.decision.zone}: {self.decision.reason}"
        return f"{told} ({self.outcome})" if self.refused else told


def story(outcome: FleetOutcome) -> list[Told]:
    """The decisions in their order; launches that are refused again and again are told once, until any other."""
    refusals = Counter((one.at_s, one.zone, one.market) for one in outcome.refusals)
    told: list[Told] = []
    asked: dict[tuple[ZoneId, Market], int] = {}
    for decision in outcome.decisions:
        place = (decision.zone, decision.market)
        refused = decision.what == "launch" and refusals[decision.at_s, *place] > 0
        if refused:
            refusals[decision.at_s, *place] -= 1
            if place in asked:
                index = asked[place]
                told[index] = replace(told[index], again=told[index].again + 1, until_s=decision.at_s)
                continue
            asked[place] = len(told)
        else:
            asked.clear()
        told.append(Told(decision, refused))
    return told


def clock(time_s: float) -> str:
    """A time since the window began, as ``hh:mm:ss``."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def title(played: Replay) -> str:
    """Which window it is, in words."""
    begins = format_duration(played.start_s)
    return f"the {played.rank} window of {played.policy} (number {played.window + 1}, from {begins} of the record)"
