"""The least that any policy could pay: who knows all capacity beforehand, and buys just what is needed.

The paper's Omniscient (arXiv 2411.01438, equations 1 to 5) is an integer program over ticks: the least cost of
spot and on-demand such that spot never exceeds a zone's capacity, a replica is ready at a tick only if it was
held throughout its cold start until then, and enough are ready at every tick that counts. Its relaxation, a
linear program, has been integral on every recorded window tried, so that is what is solved here, by HiGHS.

Ticks are merged first. Let ``r(t)`` be a zone's ready replicas; then it holds ``max r[t .. t + d]`` at ``t``,
with ``d`` ticks of cold start, and nothing else matters. When a switch from one zone to another moves in time,
its cost is linear as long as no price changes at the switch or ``d`` before it, save that a pause of no more
than ``d`` ticks in one zone saves nothing, which makes the cost concave. So among the cheapest schedules there is
one that switches only where something changes: the target, what can be ready in a zone, a price, or a price
``d`` ticks before. The program over these segments is small and has the same optimum; the tests compare it with
the program over ticks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from hedgeserve.errors import HedgeServeError
from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.site import ticks_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Steps = tuple[tuple[float, float], ...]
"""(seconds since the window began, replicas) at the begin and at each change."""

_INTEGRAL = 1e-6


class OmniscientError(HedgeServeError):
    """The program could not be solved; says what the solver said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OmniscientOutcome:
    """What the omniscient buys in one window; cost and hours leave out the warm-up, as elsewhere.

    ``spot`` (by zone) and ``on_demand`` are replicas held, billed from the launch on. ``integral``: the numbers
    of replicas are whole ones; if not, the cost is still a bound that no policy can undercut. ``available_s`` is
    less than ``counted_s`` only where no policy could have had as many ready as the target.
    """

    cost_usd: float
    spot_usd: float
    on_demand_usd: float
    on_demand_h: float
    counted_s: float
    available_s: float
    spot: Mapping[ZoneId, Steps]
    on_demand: Steps
    integral: bool

    @property
    def availability(self) -> float:
        """The share of the time with as many ready replicas as the target."""
        return self.available_s / self.counted_s if self.counted_s else 1.0


def omniscient(setting: WorldSetting, targets: Iterable[tuple[float, int]] | None = None) -> OmniscientOutcome:
    """The cheapest way through a window for one who knows its capacity, prices and targets beforehand.

    ``targets`` holds (seconds since the window began, target) at each change, as ``FleetOutcome.targets``; None
    is the setting's target throughout. It decides on the setting's ticks, like any policy. Where a cold start is
    drawn from several times, it always gets the shortest; a launch is granted wherever there is capacity, and a
    drain takes no time: each makes the bound lower, never higher. An offer with an ``available`` of 0 is not
    there. Where all offers together cannot have the target ready, it has as many ready as they can.

    The setting is one that :func:`~hedgeserve.simulate.settingcheck.check_setting` accepts.

    Raises:
        OmniscientError: The solver failed.
    """
    grid = _Grid(setting, targets)
    sources = _undominated([_Source(model, grid) for model in setting.offers if model.available > 0])
    most = np.sum([source.usable for source in sources], axis=0) if sources else np.zeros_like(grid.target)
    need = np.where(grid.counted, np.minimum(grid.target, most), 0)
    ready = _solve(sources, need, grid)

    spot: dict[ZoneId, Floats] = {
        model.offer.zone: np.zeros(grid.ticks) for model in setting.offers if model.offer.market is Market.SPOT
    }
    on_demand, usd = np.zeros(grid.ticks), {Market.SPOT: 0.0, Market.ON_DEMAND: 0.0}
    integral = True
    for source, ready_then in zip(sources, ready, strict=True):
        whole = np.round(ready_then)
        if np.abs(ready_then - whole).max(initial=0.0) > _INTEGRAL:
            integral, whole = False, ready_then
        held = _ahead_max(whole, source.cold_ticks)
        usd[source.market] += float(held @ source.usd)
        if source.market is Market.SPOT:
            spot[source.zone] += held
        else:
            on_demand += held
    return OmniscientOutcome(
        cost_usd=sum(usd.values()),
        spot_usd=usd[Market.SPOT],
        on_demand_usd=usd[Market.ON_DEMAND],
        on_demand_h=float(on_demand @ grid.seconds) / 3600,
        counted_s=float(grid.seconds.sum()),
        available_s=float(grid.seconds[need >= grid.target].sum()),
        spot={zone: _steps(held, grid) for zone, held in spot.items()},
        on_demand=_steps(on_demand, grid),
        integral=integral,
    )


class _Grid:
    """The ticks of a window: when each begins, how much of it counts, the target at each."""

    def __init__(self, setting: WorldSetting, targets: Iterable[tuple[float, int]] | None) -> None:
        self.setting = setting
        self.ticks = ticks_of(setting.window_s, setting.tick_s)
        self.times: Floats = np.arange(self.ticks, dtype=np.float64) * setting.tick_s
        edges = np.append(self.times, setting.window_s)
        self.billed: Floats = np.asarray(np.maximum(edges, setting.warm_up_s), dtype=np.float64)
        self.seconds: Floats = np.diff(self.billed)
        self.counted: npt.NDArray[np.bool_] = self.seconds > 0
        self.target: Ints = np.full(self.ticks, setting.target, dtype=np.int64)
        for at_s, target in () if targets is None else targets:
            self.target[self.times >= at_s - 1e-9] = target
        self.most = int(self.target.max(initial=0))


class _Source:
    """One offer on the grid: its capacity, what can be ready of it, and what a replica costs in each tick."""

    def __init__(self, model: OfferModel, grid: _Grid) -> None:
        setting = grid.setting
        self.zone, self.market = model.offer.zone, model.offer.market
        self.cold_ticks = ticks_of(setting.launch_latency_s + min(model.cold_start_s), setting.tick_s)
        capacity = np.full(grid.ticks, grid.most, dtype=np.int64)
        if model.capacity is not None:
            counts = model.capacity.counts
            samples = ((grid.times + setting.start_s) // model.capacity.gap_s).astype(np.int64) % len(counts)
            capacity = np.minimum(counts[samples], grid.most)
            if self.market is Market.ON_DEMAND:  # it is not taken back: what was granted once may be there still
                capacity = np.maximum.accumulate(capacity)
        self.endless = bool((capacity >= grid.most).all())
        # Ready at t is what was held throughout [t - d, t]; before the window began nothing was.
        before = np.zeros(min(self.cold_ticks, grid.ticks), dtype=np.int64)
        lowest = -_ahead_max(-np.concatenate([before, capacity]).astype(np.float64), self.cold_ticks)
        self.usable: Ints = lowest[: grid.ticks].astype(np.int64)
        self.usd: Floats = np.diff(_usd_until(model, grid.billed + setting.start_s))

    def beats(self, other: "_Source") -> bool:
        """Whether all that ``other`` does could be done here for no more."""
        return self.endless and self.cold_ticks <= other.cold_ticks and bool((self.usd <= other.usd).all())


def _undominated(sources: Sequence[_Source]) -> list[_Source]:
    """Those that are worth a thought: no endless one beats them. Of equal ones the first stays."""
    kept: list[_Source] = []
    for source in sources:
        if not any(other.beats(source) for other in kept):
            kept = [other for other in kept if not source.beats(other)] + [source]
    return kept


def _solve(sources: Sequence[_Source], need: Ints, grid: _Grid) -> list[Floats]:
    """Ready replicas of each source at each tick, at the least cost."""
    cuts = _cuts(sources, need, grid)
    begins, ends = cuts[:-1], cuts[1:]
    segments = [int(index) for index in np.flatnonzero(need[begins] > 0)]
    rows_of_need = {segment: row for row, segment in enumerate(segments)}
    program = _Program()
    program.rows([float(need[begins[segment]]) for segment in segments])
    columns: list[dict[int, int]] = []
    for source in sources:
        upper = source.usable[begins]
        here = [segment for segment in segments if upper[segment] > 0]
        columns.append({segment: program.column(upper=float(upper[segment])) for segment in here})
        for segment in here:
            program.entry(rows_of_need[segment], columns[-1][segment], 1.0)
        for together, usd in _bills(source, here, begins, ends).items():
            covered = columns[-1]
            if len(together) == 1:
                program.costs[covered[together[0]]] += usd
                continue
            held = program.column(upper=np.inf, cost=usd)
            for segment in together:
                row = program.row(0.0)
                program.entry(row, held, 1.0)
                program.entry(row, covered[segment], -1.0)
    values = program.solve()
    ready = [np.zeros(grid.ticks) for _ in sources]
    for then, covered in zip(ready, columns, strict=True):
        for segment, column in covered.items():
            then[begins[segment] : ends[segment]] = values[column]
    return ready


def _bills(source: _Source, segments: Sequence[int], begins: Ints, ends: Ints) -> dict[tuple[int, ...], float]:
    """For each set of segments that share time that must be held for any of them, what that time costs.

    Time that is held for a segment reaches from ``d`` ticks before its begin to its end.
    """
    if not segments:
        return {}
    firsts = np.maximum(begins[segments] - source.cold_ticks, 0)
    lasts = ends[segments]
    cells = np.unique(np.concatenate([firsts, lasts]))
    paid = np.concatenate([[0.0], np.cumsum(source.usd)])
    # Both are sorted, so the segments that hold a cell are those from the first that ends after it begins to
    # the last that begins, cold start included, no later than it.
    low = np.searchsorted(lasts, cells[:-1], side="right")
    high = np.searchsorted(firsts, cells[:-1], side="right")
    bills: dict[tuple[int, ...], float] = {}
    for index in range(len(cells) - 1):
        together = tuple(segments[low[index] : high[index]])
        usd = float(paid[cells[index + 1]] - paid[cells[index]])
        if together and usd > 0:
            bills[together] = bills.get(together, 0.0) + usd
    return bills


def _cuts(sources: Sequence[_Source], need: Ints, grid: _Grid) -> Ints:
    """The ticks at which a cheapest schedule may switch, the window's begin and end among them."""
    found = [np.array([0, grid.ticks]), _changes(need)]
    for source in sources:
        repriced = _changes(source.usd)
        found += [_changes(source.usable), repriced, repriced + source.cold_ticks]
    cuts = np.unique(np.concatenate(found))
    return cuts[cuts <= grid.ticks].astype(np.int64)


def _changes(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Ints:
    """Where a value differs from the one before, by more than rounding."""
    steps = np.abs(np.diff(values))
    return np.flatnonzero(steps > 1e-9 * np.abs(values).max(initial=0)) + 1


def _usd_until(model: OfferModel, times_s: Floats) -> Floats:
    """What one VM costs from the first price of its record to each time."""
    if model.price is None:
        return times_s * model.offer.usd_per_hour / 3600
    gap_s, prices = model.price.gap_s, np.asarray(model.price.usd_per_hour, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(prices * gap_s / 3600)])
    gaps = (times_s // gap_s).astype(np.int64)
    rounds, index = np.divmod(gaps, len(prices))
    until: Floats = rounds * sums[-1] + sums[index] + (times_s - gaps * gap_s) * prices[index] / 3600
    return until


def _ahead_max(values: Floats, reach: int) -> Floats:
    """The greatest of each value and the ``reach`` after it, as far as there are any."""
    padded = np.concatenate([values, np.full(reach, -np.inf)])
    greatest: Floats = np.lib.stride_tricks.sliding_window_view(padded, reach + 1).max(axis=1)
    return greatest


def _steps(held: Floats, grid: _Grid) -> Steps:
    at = np.concatenate([[0], _changes(held)])
    return tuple((float(grid.times[tick]), float(held[tick])) for tick in at)


class _Program:
    """A linear program, built up and handed to HiGHS at once: least cost, each row no less than its bound."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self._uppers: list[float] = []
        self._bounds: list[float] = []
        self._entry_rows: list[int] = []
        self._entry_columns: list[int] = []
        self._entry_values: list[float] = []

    def column(self, *, upper: float, cost: float = 0.0) -> int:
        """A new variable between 0 and ``upper``; its index."""
        self.costs.append(cost)
        self._uppers.append(upper)
        return len(self.costs) - 1

    def row(self, at_least: float) -> int:
        """A new row; its index."""
        self._bounds.append(at_least)
        return len(self._bounds) - 1

    def rows(self, at_least: Sequence[float]) -> None:
        """New rows."""
        self._bounds += at_least

    def entry(self, row: int, column: int, value: float) -> None:
        """A coefficient."""
        self._entry_rows.append(row)
        self._entry_columns.append(column)
        self._entry_values.append(value)

    def solve(self) -> Floats:
        """The variables at the optimum.

        Raises:
            OmniscientError: There is none.
        """
        columns, rows = len(self.costs), len(self._bounds)
        if not rows:
            return np.zeros(columns)
        import highspy  # a heavy import, and only few need it

        order = np.argsort(np.asarray(self._entry_rows, dtype=np.int64), kind="stable")
        starts = np.zeros(rows + 1, dtype=np.int32)
        np.cumsum(np.bincount(self._entry_rows, minlength=rows), out=starts[1:])
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = columns, rows
        program.col_cost_ = np.asarray(self.costs)
        program.col_lower_, program.col_upper_ = np.zeros(columns), np.asarray(self._uppers)
        program.row_lower_, program.row_upper_ = np.asarray(self._bounds), np.full(rows, np.inf)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = starts
        program.a_matrix_.index_ = np.asarray(self._entry_columns, dtype=np.int32)[order]
        program.a_matrix_.value_ = np.asarray(self._entry_values)[order]
        solver: highspy.Highs = cast(
            Callable[[], highspy.Highs], highspy.Highs
        )()  # its own stubs leave it untyped
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        solver.passModel(program)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            status = solver.modelStatusToString(solver.getModelStatus())
            raise OmniscientError(f"HiGHS found no optimum of {rows} rows and {columns} columns: {status}")
        return np.asarray(solver.getSolution().col_value, dtype=np.float64)
