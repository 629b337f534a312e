"""Back-testing: recorded spot capacity and a load, with the very policies that run in production."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hedgeserve.simulate.aggregate import PolicyFigures, Stat, WindowFigures
    from hedgeserve.simulate.backtests import Backtest, backtest
    from hedgeserve.simulate.outcome import Decision, FleetOutcome, Life, LoadOutcome
    from hedgeserve.simulate.replaying import Difference, ReplayReport, replay_transcript
    from hedgeserve.simulate.report import write_report
    from hedgeserve.simulate.scenario import PaperSetting, PoissonRequests
    from hedgeserve.simulate.setting import OfferModel, PriceTrace, WorldSetting
    from hedgeserve.simulate.sweeps import Sweep, SweepCell, sweep
    from hedgeserve.simulate.tracefiles import load_traces
    from hedgeserve.simulate.traces import TraceSet, ZoneTrace
    from hedgeserve.simulate.workload import Workload, poisson, read_requests
    from hedgeserve.simulate.world import run

__all__ = [
    "Backtest",
    "Decision",
    "Difference",
    "FleetOutcome",
    "Life",
    "LoadOutcome",
    "OfferModel",
    "PaperSetting",
    "PoissonRequests",
    "PolicyFigures",
    "PriceTrace",
    "ReplayReport",
    "Stat",
    "Sweep",
    "SweepCell",
    "TraceSet",
    "WindowFigures",
    "Workload",
    "WorldSetting",
    "ZoneTrace",
    "backtest",
    "load_traces",
    "poisson",
    "read_requests",
    "replay_transcript",
    "run",
    "sweep",
    "write_report",
]

_HOMES = {
    "aggregate": ("PolicyFigures", "Stat", "WindowFigures"),
    "backtests": ("Backtest", "backtest"),
    "outcome": ("Decision", "FleetOutcome", "Life", "LoadOutcome"),
    "replaying": ("Difference", "ReplayReport", "replay_transcript"),
    "report": ("write_report",),
    "scenario": ("PaperSetting", "PoissonRequests"),
    "setting": ("OfferModel", "PriceTrace", "WorldSetting"),
    "sweeps": ("Sweep", "SweepCell", "sweep"),
    "tracefiles": ("load_traces",),
    "traces": ("TraceSet", "ZoneTrace"),
    "workload": ("Workload", "poisson", "read_requests"),
    "world": ("run",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Imported at first use, as numpy is only needed by who simulates.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
