"""The balancer's benchmark judges honestly: what was not measured has not passed, wrong answers pass nothing."""

from pathlib import Path

import pytest

from benchmarks.balancer import page
from benchmarks.balancer.bars import BARS, NOT_MEASURED, Kind, Verdict, judge
from benchmarks.balancer.measured import LoadError, Measurement, Measurements, measurement, report
from benchmarks.balancer.processes import Cost, cost, parent_in, pss_mib, tree
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


def process(proc: Path, pid: int, parent: int, *, threads: list[str], pss_kb: int) -> None:
    """A process as /proc tells of it; its name has what trips a parser that splits at blanks."""
    home = proc / str(pid)
    for number, ran in enumerate(threads):
        (home / "task" / str(pid + number)).mkdir(parents=True)
        (home / "task" / str(pid + number) / "schedstat").write_text(ran)
    (home / "stat").write_text(f"{pid} (a) b (c) S {parent} 1 1")
    (home / "smaps_rollup").write_text(f"Rss: 9999 kB\nPss: {pss_kb} kB\nPss_Anon: 1 kB\n")


def test_a_target_costs_what_all_threads_of_all_its_processes_cost(tmp_path: Path) -> None:
    """A master with two threads and its worker; a stranger beside them counts for nothing."""
    process(tmp_path, 10, 1, threads=["1000000000 500000000 7", "250000000 0 1"], pss_kb=1024)
    process(tmp_path, 20, 10, threads=["750000000 0 1"], pss_kb=512)
    process(tmp_path, 30, 1, threads=["9000000000 0 1"], pss_kb=9999)
    assert sorted(tree(10, proc=tmp_path)) == [10, 20]
    assert cost(10, proc=tmp_path) == Cost(cpu_s=2.0, waited_s=0.5)
    assert pss_mib(10, proc=tmp_path) == 1.5


def test_a_process_may_be_called_anything() -> None:
    """Blanks and brackets in its name do not move the fields behind it."""
    assert parent_in("7 (x) S 1 (y)) R 42 7 7 0") == 42


def test_each_bar_is_a_row_with_what_was_measured_required_and_found() -> None:
    """As the page shows it."""
    rows = page.verdicts([Verdict(MEMORY, "64 MiB", PASS), Verdict(JSON, "nginx: gone", NOT_MEASURED)])
    assert rows.splitlines()[2:] == [
        "| memory with 1,000 open streams | 64 MiB | ≤ 70 MiB | pass |",
        "| JSON, 32 connections | nginx: gone | ≥ 0.45 × nginx | not measured |",
    ]


@pytest.mark.parametrize(
    ("verdict", "asked", "good"),
    [(PASS, [NGINX], True), (FAIL, [NGINX], False), (NOT_MEASURED, [NGINX], False), (NOT_MEASURED, [], True)],
)
def test_only_peers_that_nobody_asked_for_may_be_lacking(verdict: str, asked: list[str], good: bool) -> None:
    """The command's exit status."""
    assert page.passed([Verdict(JSON, "", verdict)], Measurements(), asked=asked) is good


def test_a_run_in_which_ours_did_not_start_has_not_passed() -> None:
    """Not even where no peer was asked for."""
    lacking = Measurements()
    lacking.lack(OURS, JSON.scenario, "it ended before it was ready")
    assert not page.passed([judge(JSON, lacking)], lacking, asked=[])


def test_wrong_answers_and_crowded_runs_are_told_below_the_figures() -> None:
    """Of peers too, whose bars they cannot miss."""
    some = Measurements()
    some.add(NGINX, JSON.scenario, Measurement({JSON.figure: 1.0}, "2 failed", crowded=True))
    remarks = page.figures(some, (NGINX,)).splitlines()[-2:]
    assert [remark.startswith("- nginx, `json32`: ") for remark in remarks] == [True, True]
