"""Back-tests and sweeps: which windows, which zones, which figures, and the same ones wherever they are made."""

import os
import re
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.errors import BacktestError
from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate import PaperSetting, PoissonRequests, TraceSet, Workload, ZoneTrace, backtest, sweep
from hedgeserve.simulate.aggregate import QUANTILES, Stat, WindowFigures, figures_of, over_windows
from hedgeserve.simulate.backtests import figures, run_window
from hedgeserve.simulate.fromspec import model_scenario
from hedgeserve.simulate.outcome import FleetOutcome, LoadOutcome
from hedgeserve.simulate.parallel import Task, _ctrl_c_later, run_tasks
from hedgeserve.simulate.policies import OMNISCIENT, check_policies, make, policy_names
from hedgeserve.simulate.scenario import (
    PAPER_POLICIES,
    Scenario,
    paper_scenario,
    window_starts_s,
    with_cold_start,
    with_notice,
    with_overprovision,
    with_price_ratio,
    with_target,
    with_zones,
)
from hedgeserve.simulate.sweeps import parse_vary, written
from hedgeserve.simulate.tracefiles import load_traces
from hedgeserve.spec import Spec
from hedgeserve.specfile import load_spec, parse_spec

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("HEDGESERVE_DATA") or ROOT.parent / "shared" / "data")
HOUR = 3600.0

real_data = pytest.mark.skipif(
    not (DATA / "spot" / "aws-1").is_dir(),
    reason=f"no recorded capacity in {DATA}; HEDGESERVE_DATA names the folder",
)


def record(*zones: str, hours: int = 48, seed: int = 1) -> TraceSet:
    """A made-up record of so many hours, a count every five minutes, each zone with spells of its own."""
    dice = np.random.default_rng(seed)
    traces = []
    for zone in zones or ("aws/us-east-1/us-east-1a", "aws/us-east-1/us-east-1b", "aws/us-west-2/us-west-2a"):
        spells = np.repeat(dice.integers(0, 5, hours), 12)
        traces.append(ZoneTrace(ZoneId(zone), 300.0, spells.astype(np.int64)))
    return TraceSet("made-up", tuple(traces))


def small(**changes: float) -> PaperSetting:
    return PaperSetting(window_s=6 * HOUR, **changes)  # type: ignore[arg-type]


def spec(text: str = "") -> Spec:
    return parse_spec(
        '[model]\nengine = "demo"\n[replicas]\nmin = 2\nmax = 5\ntarget_requests_per_second = 0.5\n'
        '[[pools]]\ncloud = "local"\nzones = ["us-east-1/us-east-1a", "us-west-2/us-west-2a"]\n' + text,
        "model.toml",
        ROOT,
        {},
    )


# Windows


def test_windows_begin_where_the_papers_simulator_begins_them() -> None:
    """`RandomState(seed).randint(0, ticks - window)`, one draw a window; a tick is 30 s."""
    scenario = paper_scenario(record(hours=72), PaperSetting())
    draw = np.random.RandomState(0)
    expected = [float(draw.randint(0, 72 * 120 - 2880)) * 30 for _ in range(5)]
    assert list(window_starts_s(scenario, windows=5, seed=0)) == expected
    assert window_starts_s(scenario, windows=3, seed=0) == tuple(expected[:3])


def test_a_record_as_long_as_a_window_has_one() -> None:
    """It says so."""
    result = backtest(record(hours=6), small(), policies=["on-demand"], windows=7)
    assert (result.windows, result.starts_s) == (1, (0.0,))
    assert any("only one" in note for note in result.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"window_s": 96 * HOUR}, "less than one window"),
        ({"window_s": 100.0}, "no whole number of ticks"),
        ({"window_s": 120.0}, "ends before the warm-up"),
    ],
)
def test_windows_that_cannot_be(changes: dict[str, float], says: str) -> None:
    """Each with what to change."""
    with pytest.raises(BacktestError, match=says):
        backtest(record(), PaperSetting(**changes), windows=1)  # type: ignore[arg-type]


# Figures


def test_on_demand_alone_is_always_there_and_costs_what_it_costs() -> None:
    """The warm-up is free and the denominator is the whole window: the paper's 99.9 % for a day."""
    result = backtest(record(), PaperSetting(), policies=["on-demand"], windows=2)
    alone = result.policy("on-demand")
    assert alone.availability == Stat(1.0, 0.0)
    assert alone.cost_usd.mean == pytest.approx(9 * (24 - 120 / 3600))
    assert alone.cost_vs_on_demand is not None
    assert alone.cost_vs_on_demand.mean == pytest.approx(1 - 120 / 86400)
    assert alone.cost_vs_omniscient is None
    assert alone.latency_p50_s is None


def test_nobody_undercuts_the_omniscient_who_is_as_available() -> None:
    """The bound is one, in every window; its own ratio is 1."""
    result = backtest(record(), small(), windows=4)
    best = result.policy(OMNISCIENT)
    assert best.cost_vs_omniscient == Stat(1.0, 0.0)
    for tried in result.policies:
        for one in tried.windows:
            assert one.cost_vs_omniscient is not None
            if one.availability == 1.0:
                assert one.cost_vs_omniscient >= 1 - 1e-9


def test_figures_over_windows_leave_out_what_was_not_measured() -> None:
    """A window in which nobody was answered has no latency, and does not count as 0."""
    load = LoadOutcome(arrived=10, latencies_s=(1.0, 3.0), ttfts_s=(0.5, 0.5), failed={"timeout": 2, "lost": 1})
    outcomes = [
        FleetOutcome(
            policy="x", window_s=HOUR, warm_up_s=0, counted_s=HOUR, available_s=available_s, spot_usd=1.0,
            on_demand_usd=1.0, on_demand_h=0.5, preemptions=1, launches=2, refused=0, lives=(), refusals=(),
            decisions=(), ready={}, targets=((0.0, 1),), load=served,
        )
        for available_s, served in ((HOUR, load), (HOUR / 2, None))
    ]  # fmt: skip
    windows = [figures_of(one, window=0, start_s=0.0, on_demand_usd=4.0) for one in outcomes]
    both = over_windows("x", windows)
    assert both.latency_p50_s == Stat(2.0, 0.0)
    assert both.failed_ratio == Stat(0.3, 0.0)
    assert both.cost_vs_on_demand == Stat(0.5, 0.0)
    assert both.availability == Stat(0.75, 0.25)
    assert len(windows[0].latency_quantiles_s) == len(QUANTILES)
    assert (windows[0].latency_quantiles_s[0], windows[0].latency_quantiles_s[-1]) == (1.0, 3.0)


def test_the_same_arguments_give_the_same_figures_whatever_the_jobs() -> None:
    """Two processes and one; twice."""
    asked = {"policies": ["spothedge", "spothedge-artifact", "omniscient"], "windows": 3, "seed": 7}
    alone = backtest(record(), small(), **asked)  # type: ignore[arg-type]
    together = backtest(record(), small(), jobs=2, **asked)  # type: ignore[arg-type]
    assert alone.policies == together.policies
    other = backtest(record(), small(), **{**asked, "seed": 8})  # type: ignore[arg-type]
    assert other.starts_s != alone.starts_s


def test_progress_counts_every_window_of_every_policy() -> None:
    """For a bar."""
    told: list[tuple[int, int]] = []
    backtest(
        record(),
        small(),
        policies=["on-demand", "spothedge"],
        windows=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


# Policies


def test_every_named_policy_runs() -> None:
    """Each of them for an hour."""
    result = backtest(record(), PaperSetting(window_s=HOUR), policies=policy_names(), windows=1)
    assert [figures.policy for figures in result.policies] == list(policy_names())


def test_n_extra_is_each_policys_own_unless_it_is_said() -> None:
    """0 for spot alone, 1 for the others; `--overprovision` is for all."""
    scenario = paper_scenario(record(), PaperSetting())
    assert [make(name, scenario, seed=0).overprovision for name in ("round-robin", "round-robin-fallback")] == [  # type: ignore[attr-defined]
        0,
        1,
    ]
    two = with_overprovision(scenario, 2)
    assert make("round-robin", two, seed=0).overprovision == 2  # type: ignore[attr-defined]
    assert two.hedge.overprovision == 2


def test_an_unknown_policy_is_told_with_its_nearest() -> None:
    """Before anything runs."""
    with pytest.raises(BacktestError, match="did you mean spothedge-artifact"):
        check_policies(["spothedge-artefact"])
    with pytest.raises(BacktestError, match="no policy was asked for"):
        backtest(record(), small(), policies=[])
    assert set(PAPER_POLICIES) <= set(policy_names())


# The world of a model file


def test_pool_zones_find_their_traces_by_their_last_part() -> None:
    """And a trace that no pool names is left out, with a note."""
    scenario = model_scenario(spec(), record())
    assert {model.offer.zone for model in scenario.offers} == {
        "local/us-east-1/us-east-1a",
        "local/us-west-2/us-west-2a",
    }
    assert any("us-east-1b" in note for note in scenario.notes)
    assert all(
        model.capacity is not None and model.capacity.zone == model.offer.zone
        for model in scenario.offers
        if model.offer.market is Market.SPOT
    )


def test_a_pool_zone_without_a_trace_is_an_error_that_names_both_lists() -> None:
    """Unless it may be left out; then on-demand there is left out too."""
    other = record("aws/us-east-1/us-east-1a", "aws/eu-west-1/eu-west-1a")
    with pytest.raises(BacktestError, match=r"us-west-2/us-west-2a; it holds .*eu-west-1a.*--ignore-missing"):
        model_scenario(spec(), other)
    scenario = model_scenario(spec(), other, ignore_missing_zones=True)
    assert {model.offer.zone for model in scenario.offers} == {"local/us-east-1/us-east-1a"}
    with pytest.raises(BacktestError, match="no trace"):
        model_scenario(spec(), record("gcp/x/y"), ignore_missing_zones=True)


def test_two_traces_for_one_zone_are_an_error() -> None:
    """Nobody can say which is meant; a full match settles it."""
    twice = record("aws/us-east-1/us-east-1a", "other/us-east-2/us-east-1a", "aws/us-west-2/us-west-2a")
    assert model_scenario(spec(), twice).record == "made-up"
    with pytest.raises(BacktestError, match="may be any of"):
        model_scenario(spec(), record("a/x/us-east-1a", "b/x/us-east-1a", "aws/us-west-2/us-west-2a"))


def test_prices_notices_and_cold_starts_are_those_of_the_file() -> None:
    """`[local]` tells prices; `[backtest]` the rest, and stands above `[local]` for notices."""
    text = (
        '[local]\nnotice = "20s"\nno_notice_share = 0.5\nspot_price = "1 USD/h"\non_demand_price = "4 USD/h"\n'
        '[[local.zones]]\nzone = "us-east-1/us-east-1a"\nspot_price = "2 USD/h"\n'
    )
    scenario = model_scenario(spec(text), record())
    spot = [model for model in scenario.offers if model.offer.market is Market.SPOT]
    assert sorted(model.offer.usd_per_hour for model in spot) == [1.0, 2.0]
    assert {(model.notice_s, model.no_notice_share) for model in spot} == {(20.0, 0.5)}
    assert scenario.on_demand_usd_per_hour == 4.0
    own = '[backtest]\nnotice = "2m"\nno_notice_share = 0.0\ncold_starts = ["1m", "3m"]\ntick = "10s"\n'
    scenario = model_scenario(spec(text + own), record())
    assert {model.notice_s for model in scenario.offers if model.capacity} == {120.0}
    assert {model.cold_start_s for model in scenario.offers} == {(60.0, 180.0)}
    assert (scenario.warm_up_s, scenario.tick_s) == (180.0, 10.0)


def test_dear_offers_are_not_taken() -> None:
    """`max_usd_per_hour`, as the driver reads it."""
    scenario = model_scenario(spec('max_usd_per_hour = "0.5 USD/h"\n'), record())
    assert {model.offer.market for model in scenario.offers} == {Market.SPOT}
    assert scenario.on_demand_usd_per_hour is None
    with pytest.raises(BacktestError, match="max_usd_per_hour"):
        model_scenario(spec('max_usd_per_hour = "0.1 USD/h"\n'), record())


def test_pools_of_real_clouds_have_the_catalogues_prices_and_their_clouds_notice() -> None:
    """A record is of one kind of VM: of several in a zone only the cheapest for its work is simulated."""
    pools = (
        '[[pools]]\ncloud = "aws"\nzones = ["us-east-1/us-east-1a"]\nregions = []\n'
        'instance_types = ["p3.8xlarge", "p3.2xlarge"]\n'
        '[[pools]]\ncloud = "gcp"\nzones = ["us-central1/us-central1-a"]\ngpu = "L4:1"\n'
        '[[pools]]\ncloud = "azure"\nzones = ["eastus/1"]\ngpu = "A100-80GB:1"\nmax_usd_per_hour = "2 USD/h"\n'
    )
    world = parse_spec(f'[model]\nengine = "demo"\n{pools}', "model.toml", ROOT, {})
    traces = record(
        "aws/us-east-1/us-east-1a", "gcp/us-central1/us-central1-a", "azure/eastus/1", "azure/westus2/1"
    )
    scenario = model_scenario(world, traces)
    spot = {model.offer.cloud: model for model in scenario.offers if model.offer.market is Market.SPOT}
    assert {cloud: (model.offer.instance_type, model.notice_s) for cloud, model in spot.items()} == {
        "aws": ("p3.2xlarge", 120.0),
        "gcp": ("g2-standard-4", 30.0),
        "azure": ("Standard_NC24ads_A100_v4", 30.0),
    }
    assert spot["azure"].offer.usd_per_hour == 2.0, "nobody tells the price: it counts as the limit"
    assert spot["azure"].capacity is not None
    assert len(scenario.offers) == 5, "on-demand of azure costs more than its limit"
    assert any("azure/westus2/1" in note for note in scenario.notes)
    assert any("only the cheapest" in note for note in scenario.notes)
    own = parse_spec(
        f'[model]\nengine = "demo"\n[gcp]\nnotice = "2m"\n[backtest]\nno_notice_share = 0.5\n{pools}',
        "model.toml",
        ROOT,
        {},
    )
    there = {model.offer.cloud: model for model in model_scenario(own, traces).offers if model.capacity}
    assert [(one.notice_s, one.no_notice_share) for one in there.values()] == [(120, 0.5), (120, 0.5), (30, 0.5)]


@real_data
def test_a_pool_on_aws_runs_on_the_recorded_zones() -> None:
    """The example, with a real cloud in place of the make-believe one."""
    text = (ROOT / "examples" / "backtest.toml").read_text().split("# What a p3.2xlarge")[0]
    world = parse_spec(text.replace('cloud = "local"', 'cloud = "aws"'), "model.toml", ROOT, {})
    outcome = backtest(load_traces(DATA / "spot" / "aws-1"), world, policies=["forecast"], windows=2)
    (policy,) = outcome.policies
    assert policy.availability is not None
    assert policy.availability.mean > 0.5


def test_static_pools_are_left_out_or_refused() -> None:
    """Nothing is recorded of other people's servers."""
    static = '[[pools]]\ncloud = "static"\nurls = ["http://10.0.0.5:8000"]\n'
    assert any("static" in note for note in model_scenario(spec(static), record()).notes)
    alone = parse_spec(f'[model]\nengine = "demo"\n{static}', "model.toml", ROOT, {})
    with pytest.raises(BacktestError, match="only static pools"):
        model_scenario(alone, record())


def test_without_requests_the_target_is_the_least_and_a_note_says_so() -> None:
    """The autoscaler has nothing to follow."""
    scenario = model_scenario(spec(), record())
    assert scenario.target == 2
    assert any("replicas.min" in note for note in scenario.notes)


def test_requests_scale_the_target() -> None:
    """Two a second are work for four at half a request a second each; the autoscaler is production's."""
    scenario = model_scenario(spec(), record(), requests=PoissonRequests(2.0))
    task = Task(0, "on-demand", 0, 0.0, 0)
    short = Scenario(**{**_fields(scenario), "window_s": 2 * HOUR})
    outcome = run_window(short, task)
    assert outcome.targets[0] == (0.0, 2)
    assert max(target for _, target in outcome.targets) in (4, 5)
    found = figures(short, task)
    assert found.latency_p99_s is not None
    assert found.ttft_p50_s is not None
    assert found.ttft_p50_s < found.latency_p99_s
    assert found.failed_ratio is not None
    best = figures(short, Task(0, OMNISCIENT, 0, 0.0, 0))
    assert best.cost_vs_on_demand is not None
    assert 0 < best.cost_vs_on_demand <= 1.01


def test_recorded_requests_begin_where_the_window_begins() -> None:
    """An hour of requests on a record of two days: the same hour again and again, from the window's place on."""
    arrivals = np.arange(0, 3600, 10.0)
    tokens = np.full(len(arrivals), 100)
    workload = Workload("mine", arrivals, tokens, tokens, 3600.0)
    result = backtest(record(), small(), policies=["on-demand"], windows=2, requests=workload)
    assert result.policy("on-demand").latency_p50_s is not None
    other = backtest(record(), small(), policies=["on-demand"], windows=2, requests=PoissonRequests(0.1))
    assert other.policy("on-demand").latency_p50_s != result.policy("on-demand").latency_p50_s


def _fields(scenario: Scenario) -> dict[str, object]:
    return {name: getattr(scenario, name) for name in Scenario.__dataclass_fields__}


# What can be varied


def test_varied_scenarios_differ_in_what_was_varied() -> None:
    """Each of the knobs."""
    scenario = paper_scenario(record(), PaperSetting())
    assert with_price_ratio(scenario, 8).on_demand_usd_per_hour == 8.0
    assert {model.offer.zone for model in with_zones(scenario, 2).offers} == {
        "aws/us-east-1/us-east-1a",
        "aws/us-east-1/us-east-1b",
    }
    assert with_cold_start(scenario, (60.0,)).warm_up_s == 60.0
    assert {model.notice_s for model in with_notice(scenario, 30.0).offers if model.capacity} == {30.0}
    assert with_target(scenario, 5).target == 5
    with pytest.raises(BacktestError, match="there are 3"):
        with_zones(scenario, 4)


def test_a_sweep_is_the_back_test_of_every_combination() -> None:
    """Each cell as if it had been asked for alone."""
    result = sweep(
        record(),
        small(),
        vary={"overprovision": [0, 1], "cold-start": [60, 240]},
        policies=["spothedge-artifact"],
        windows=2,
    )
    assert [tuple(cell.values.values()) for cell in result.cells] == [(0, 60), (0, 240), (1, 60), (1, 240)]
    alone = backtest(
        record(), small(overprovision=1, cold_start_s=240.0), policies=["spothedge-artifact"], windows=2
    )
    assert result.cells[-1].result.policies == alone.policies
    assert written(result.cells[1].values) == {"overprovision": 0, "cold-start": "4m"}


def test_sweeps_that_cannot_be() -> None:
    """Told before anything runs."""
    with pytest.raises(BacktestError, match="cannot be varied"):
        sweep(record(), small(), vary={"weather": [1]})
    with pytest.raises(BacktestError, match="no values"):
        sweep(record(), small(), vary={"notice": []})
    with pytest.raises(BacktestError, match="combinations"):
        sweep(record(), small(), vary={"notice": list(range(200)), "cold-start": list(range(200))})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("cold-start=60s,2m,480s", (60.0, 120.0, 480.0)),
        ("overprovision=0..3", (0.0, 1.0, 2.0, 3.0)),
        ("zones=1..2,5", (1.0, 2.0, 5.0)),
        ("price-ratio=2,3.5", (2.0, 3.5)),
        ("notice=0s,30s,0s", (0.0, 30.0)),
    ],
)
def test_what_is_varied_is_read(text: str, values: tuple[float, ...]) -> None:
    """Each value once."""
    assert parse_vary(text) == (text.split("=")[0], values)


@pytest.mark.parametrize(
    "text", ["cold-start", "cold-start=60", "overprovision=3..1", "overprovision=1.5", "price-ratio=0", "x=1", "="]
)
def test_what_is_varied_is_misspelt(text: str) -> None:
    """The message shows how it is written."""
    with pytest.raises(ValueError, match=r"such as|takes"):
        parse_vary(text)


# Elsewhere


def broken(scenario: Scenario, task: Task) -> object:
    """Work that fails in a process of its own."""
    raise BacktestError(f"no luck with {task.policy}")


def test_a_failure_in_another_process_names_the_window_and_the_policy() -> None:
    """Whatever the exception was there."""
    scenario = paper_scenario(record(), PaperSetting())
    tasks = [Task(0, "spothedge", window, 300.0, 0) for window in range(2)]
    for jobs in (1, 2):
        with pytest.raises(BacktestError, match=r"begins 300 s .* under spothedge: no luck with spothedge"):
            run_tasks(broken, [scenario], tasks, jobs=jobs)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8786"])
def test_only_dask_is_supported(address: str) -> None:
    """And the message shows an address."""
    with pytest.raises(BacktestError, match="only Dask"):
        sweep(record(), small(), vary={"overprovision": [0]}, windows=1, scheduler=address)


def test_a_dask_cluster_gives_the_same_figures_bit_for_bit() -> None:
    """Its workers are threads here; the work and its results travel as they would between machines."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    asked = {"vary": {"overprovision": [0, 1]}, "policies": ["spothedge", "omniscient"], "windows": 2}
    here = sweep(record(), small(), **asked)
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
        ) as cluster,
    ):
        warnings.simplefilter("ignore")
        there = sweep(record(), small(), scheduler=cluster.scheduler_address, **asked)
    assert [cell.values for cell in there.cells] == [cell.values for cell in here.cells]
    assert [cell.result.policies for cell in there.cells] == [cell.result.policies for cell in here.cells]


# Real records


@real_data
def test_the_papers_figures_on_aws_1() -> None:
    """Ten windows, seed 0, against the artifact's own simulator: exact where it rolls no dice."""
    traces = load_traces(DATA / "spot" / "aws-1")
    names = ["on-demand", "round-robin", "round-robin-fallback", "spothedge-artifact"]
    result = backtest(traces, PaperSetting(), policies=names, windows=10)

    def percent(stat: Stat | None) -> tuple[float, float]:
        assert stat is not None
        return 100 * stat.mean, 100 * stat.sd

    assert percent(result.policy("on-demand").cost_vs_on_demand) == (pytest.approx(99.86, abs=0.01), 0.0)
    assert percent(result.policy("round-robin").availability) == pytest.approx((88.0, 13.6), abs=0.3)
    assert percent(result.policy("round-robin").cost_vs_on_demand) == pytest.approx((30.0, 3.9), abs=0.2)
    assert percent(result.policy("round-robin-fallback").cost_vs_on_demand) == pytest.approx((51.4, 7.9), abs=0.3)
    assert percent(result.policy("spothedge-artifact").availability) == pytest.approx((99.2, 0.9), abs=0.3)
    assert percent(result.policy("spothedge-artifact").cost_vs_on_demand) == pytest.approx((51.3, 7.8), abs=0.5)


@real_data
def test_the_example_runs_on_the_recorded_zones() -> None:
    """examples/backtest.toml, as the documentation runs it."""
    traces = load_traces(DATA / "spot" / "aws-1")
    result = backtest(traces, load_spec(ROOT / "examples" / "backtest.toml"), policies=["spothedge"], windows=1)
    assert result.policy("spothedge").cost_usd.mean > 0


# The documentation


def test_the_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/backtest.md, on a small record."""
    from hedgeserve.simulate.tracefiles import save_traces

    save_traces(record(hours=30), tmp_path / "traces" / "aws-1")
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "backtest.md").read_text(), re.DOTALL)
    exec(compile(code, "docs/backtest.md", "exec"), {})


def test_the_documentation_names_every_policy_and_every_measure() -> None:
    """And no measure that there is not."""
    page = (ROOT / "docs" / "backtest.md").read_text()
    for name in policy_names():
        assert f"`{name}`" in page
    from hedgeserve.simulate.aggregate import MEASURES

    assert not [measure.key for measure in MEASURES if measure.key not in page]


# Properties


@given(
    hours=st.integers(1, 200),
    window=st.integers(1, 60),
    windows=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_window_lies_within_the_record(hours: int, window: int, windows: int, seed: int) -> None:
    """On the grid of ticks, as many as asked, or one where only one fits."""
    scenario = paper_scenario(record(hours=hours), PaperSetting(window_s=window * HOUR))
    if hours < window:
        with pytest.raises(BacktestError):
            window_starts_s(scenario, windows=windows, seed=seed)
        return
    starts_s = window_starts_s(scenario, windows=windows, seed=seed)
    assert len(starts_s) == (1 if hours == window else windows)
    assert all(0 <= start_s <= (hours - window) * HOUR and start_s % 30 == 0 for start_s in starts_s)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_a_mean_lies_among_what_it_is_of(costs: list[float]) -> None:
    """And a deviation is none where all are equal."""
    windows = [WindowFigures(window=index, start_s=0.0, cost_usd=cost) for index, cost in enumerate(costs)]
    stat = over_windows("x", windows).cost_usd
    assert min(costs) - 1e-6 <= stat.mean <= max(costs) + 1e-6
    assert 0 <= stat.sd <= max(costs) - min(costs) + 1e-6


def test_a_ctrl_c_waits_until_the_workers_are_whole() -> None:
    """Also where another thread takes the signal: a worker left half told would end with a traceback."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()  # with no mask of its own
    try:
        steps: list[str] = []

        def start() -> None:
            with _ctrl_c_later():
                os.kill(os.getpid(), signal.SIGINT)
                steps.append("started")

        with pytest.raises(KeyboardInterrupt):
            start()
        assert steps == ["started"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        done.set()
        other.join()
