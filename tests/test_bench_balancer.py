"""The balancer's benchmark judges honestly: what was not measured has not passed, wrong answers pass nothing."""

import pytest

from benchmarks.balancer.bars import BARS, NOT_MEASURED, Kind, judge
from benchmarks.balancer.measured import LoadError, Measurement, Measurements, measurement, report
from benchmarks.balancer.processes import Cost
from benchmarks.balancer.scenarios import DIRECT, NGINX, OURS, SCENARIOS
from benchmarks.markdown import FAIL, PASS

JSON = next(bar for bar in BARS if bar.scenario == "json32" and bar.peer == NGINX)
LATENCY = next(bar for bar in BARS if bar.kind is Kind.ADDED_AT_MOST)
MEMORY = next(bar for bar in BARS if bar.kind is Kind.NO_MORE)
LOST = next(bar for bar in BARS if bar.figure == "lost")
SAID = {
    "done": 512,
    "failed": 0,
    "wrong": 0,
    "events": 102_400,
    "wall_s": 5.0,
    "latency": {"p50_ms": 4.0, "p99_ms": 5.0},
    "first_byte": {"p50_ms": 0.5, "p99_ms": 2.0},
    "gap": {"p99_ms": 21.0},
    "example": "",
}


def rounds(bar, **figures: list[float]) -> Measurements:
    """So many rounds of ours, of nginx and of nothing in between, each with one figure."""
    all_of_them = Measurements()
    for target, values in zip((OURS, NGINX, DIRECT), (figures.get(n, []) for n in ("ours", "nginx", "direct")),
                              strict=True):  # fmt: skip
        for value in values:
            all_of_them.add(target, bar.scenario, Measurement({bar.figure: value}))
    return all_of_them


@pytest.mark.parametrize(("ours", "verdict"), [([44.0, 46.0, 45.0], PASS), ([44.0, 44.9, 90.0], FAIL)])
def test_the_median_round_is_held_against_the_peers(ours: list[float], verdict: str) -> None:
    """0.45 of what nginx does; one good round does not help."""
    assert judge(JSON, rounds(JSON, ours=ours, nginx=[100.0, 100.0, 100.0])).verdict == verdict


def test_a_peer_that_could_not_be_had_is_told_and_never_passed() -> None:
    """With the reason."""
    lacking = rounds(JSON, ours=[9e9])
    lacking.lack(NGINX, JSON.scenario, "it could not be unpacked")
    judged = judge(JSON, lacking)
    assert judged.verdict == NOT_MEASURED
    assert "it could not be unpacked" in judged.measured
    assert judge(JSON, rounds(JSON, nginx=[1.0])).verdict == NOT_MEASURED


def test_added_latency_is_what_is_above_asking_directly() -> None:
    """0.1 ms directly, 0.3 through nginx, 0.4 through us: 1.5 times what nginx adds."""
    judged = judge(LATENCY, rounds(LATENCY, ours=[0.4], nginx=[0.3], direct=[0.1]))
    assert (judged.verdict, judged.measured[:5]) == (PASS, "1.5 ×")


def test_wrong_answers_miss_every_bar() -> None:
    """However fast they came."""
    wrong = Measurements()
    wrong.add(OURS, MEMORY.scenario, Measurement({MEMORY.figure: 1.0}, "3 wrong"))
    assert judge(MEMORY, wrong).verdict == f"{FAIL}: 3 wrong"


def test_one_lost_stream_in_one_round_is_a_failure() -> None:
    """The worst round counts where nothing may be lost."""
    assert judge(LOST, rounds(LOST, ours=[0.0, 0.0])).verdict == PASS
    assert judge(LOST, rounds(LOST, ours=[0.0, 1.0, 0.0])).verdict == FAIL


def test_work_is_counted_in_the_targets_own_cpu_seconds() -> None:
    """Events for streams; a target that had to wait for its core is marked."""
    paced = next(one for one in SCENARIOS if one.name == "paced512")
    taken = measurement(paced, SAID, Cost(cpu_s=2.0, waited_s=0.1), None)
    assert taken.figures["work_per_cpu_s"] == 51_200
    assert not taken.crowded
    assert measurement(paced, SAID, Cost(cpu_s=2.0, waited_s=2.0), None).crowded
    assert "unfinished" in measurement(paced, {**SAID, "done": 500}, None, None).faults


def test_a_load_generator_that_says_nothing_is_an_error() -> None:
    """And not a zero."""
    with pytest.raises(LoadError):
        report("Segmentation fault")
