"""`hedgeserve backtest` and `hedgeserve sweep`: what they print, where, and what they refuse."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result

from hedgeserve.simulate.aggregate import MEASURES
from hedgeserve.simulate.tracefiles import save_traces
from tests.shell import in_a_clean_shell, run
from tests.test_sim_backtest import record

MODEL = (
    '[model]\nengine = "demo"\n[replicas]\nmin = 2\nmax = 4\ntarget_requests_per_second = 0.5\n'
    '[[pools]]\ncloud = "local"\nzones = ["us-east-1/us-east-1a", "us-west-2/us-west-2a"]\n'
)
SHORT = ("--window", "2h", "--windows", "2", "--jobs", "1")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_a_clean_shell(monkeypatch, tmp_path)
    save_traces(record(), tmp_path / "traces")
    (tmp_path / "model.toml").write_text(MODEL)


def paper(*arguments: str) -> Result:
    return run("backtest", "--paper", "--traces", "traces", *SHORT, *arguments)


# What is printed


def test_a_table_with_a_row_for_each_policy() -> None:
    """On stdout, nothing on stderr: it is no terminal."""
    done = paper()
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2 windows of 2 h on traces, target 3")
    rows = [line.split()[0] for line in lines[2:]]
    assert rows[0] == "on-demand"
    assert {"even-spread", "round-robin", "spothedge", "spothedge-artifact", "omniscient"} <= set(rows)
    assert "latency" not in lines[1]


def test_json_is_one_object_of_the_documented_shape() -> None:
    """Each measure an object of mean and sd, or null."""
    done = paper("--json", "--policy", "spothedge", "--policy", "omniscient")
    document = json.loads(done.stdout)
    assert document["windows"] == 2
    assert [figures["policy"] for figures in document["policies"]] == ["spothedge", "omniscient"]
    keys = {measure.key for measure in MEASURES}
    for figures in document["policies"]:
        assert set(figures) == {"policy", *keys}
        assert all(figures[key] is None or set(figures[key]) == {"mean", "sd"} for key in keys)
    spot = document["policies"][0]
    assert spot["latency_p50_s"] is None
    assert 0 < spot["cost_vs_on_demand"]["mean"] <= 1
    assert document["policies"][1]["cost_vs_omniscient"] == {"mean": 1.0, "sd": 0.0}
    assert document["settings"]["seed"] == 0
    assert len(document["settings"]["starts_s"]) == 2
    assert document["notes"] == []


def test_csv_has_a_line_for_each_policy() -> None:
    """Mean and sd of each measure, empty where there is none."""
    done = paper("--csv", "--policy", "spothedge", "--poisson", "0.1")
    [row] = csv.DictReader(io.StringIO(done.stdout))
    assert row["policy"] == "spothedge"
    assert row["cost_vs_omniscient_mean"] == ""
    assert float(row["latency_p50_s_mean"]) > 0
    assert len(row) == 2 + 2 * len(MEASURES)


def test_decisions_are_shown_with_their_reasons() -> None:
    """After the table, or in the object."""
    told = paper("--policy", "spothedge", "--show-decisions", "3").stdout.split("\nThe first of ")[1].splitlines()
    assert len(told) == 4
    assert told[1].startswith("00:00:00  launch ")
    document = json.loads(paper("--policy", "spothedge", "--show-decisions", "3", "--json").stdout)
    assert len(document["decisions"]["decisions"]) == 3
    assert document["decisions"]["policy"] == "spothedge"


def test_the_model_file_is_back_tested() -> None:
    """model.toml of the current directory where none is named; the note on what it lacks."""
    done = run("backtest", "--traces", "traces", *SHORT, "--policy", "spothedge")
    assert done.exit_code == 0
    assert "target 2" in done.stdout
    assert "note: traces of zones that no pool names are left out: aws/us-east-1/us-east-1b" in done.stdout
    scaled = run(
        "backtest", "model.toml", "--traces", "traces", *SHORT, "--policy", "spothedge", "--poisson", "1.5"
    )
    assert "target set by the requests" in scaled.stdout
    assert "TTFT P50" in scaled.stdout


def test_recorded_requests_are_scaled(tmp_path: Path) -> None:
    """Arrivals by a factor, counts before requests are made of them."""
    (tmp_path / "mine.csv").write_text("arrival_s\n" + "".join(f"{second * 10}\n" for second in range(360)))
    (tmp_path / "counts.csv").write_text("Time (min),Requests\n0,6000\n1,6000\n")
    for name, scale, rate in (("mine.csv", "2", 0.2), ("counts.csv", "0.001", 0.1)):
        done = paper("--policy", "on-demand", "--requests", name, "--request-scale", scale, "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["settings"]["requests"]["rate_per_s"] == pytest.approx(rate, rel=0.4)


def test_the_report_is_written(tmp_path: Path) -> None:
    """And where, is said on stderr."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    done = paper("--policy", "spothedge", "--out", "report")
    assert done.exit_code == 0
    assert "Wrote report/index.html." in done.stderr
    assert "<!DOCTYPE html>" in (tmp_path / "report" / "index.html").read_text()


def test_a_sweep_prints_every_combination() -> None:
    """As a table, as JSON, as CSV."""
    asked = ("sweep", "--paper", "--traces", "traces", *SHORT, "--policy", "spothedge",
             "--vary", "cold-start=60s,120s", "--vary", "zones=1..3")  # fmt: skip
    table = run(*asked)
    assert (table.exit_code, table.stderr) == (0, "")
    assert len(table.stdout.splitlines()) == 1 + 6
    cells = json.loads(run(*asked, "--json").stdout)["cells"]
    assert [cell["vary"] for cell in cells][:2] == [
        {"cold-start": "1m", "zones": 1},
        {"cold-start": "1m", "zones": 2},
    ]
    assert all(cell["policies"][0]["policy"] == "spothedge" for cell in cells)
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--csv").stdout)))
    assert [(row["cold-start"], row["zones"]) for row in rows][-1] == ("2m", "3")


# What is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--paper", "model.toml"), "two worlds"),
        (("--target", "4"), "replicas.min"),
        (("--cold-start", "60s"), "backtest.cold_start"),
        (("--paper", "--cold-start", "60"), "not a duration"),
        (("--paper", "--window", "0s"), "above 0"),
        (("--paper", "--json", "--csv"), "two forms"),
        (("--paper", "--requests", "x.csv", "--poisson", "1"), "two sources"),
        (("--paper", "--request-scale", "2"), "needs --requests"),
        (("--paper", "--policy", "spothegde"), "did you mean spothedge"),
        (("--paper", "--window", "100d"), "less than one window"),
        (("--paper", "--requests", "nowhere.csv"), "nowhere.csv"),
        (("nowhere.toml",), "nowhere.toml"),
    ],
)
def test_what_cannot_be_is_told(arguments: tuple[str, ...], says: str) -> None:
    """In a sentence, before anything runs, with nothing on stdout."""
    done = run("backtest", "--traces", "traces", *arguments)
    assert done.exit_code in (1, 2)
    assert says in done.stderr
    assert done.stdout == ""


def test_traces_that_are_not_there() -> None:
    """The folder is named."""
    done = run("backtest", "--paper", "--traces", "nowhere")
    assert done.exit_code == 1
    assert "nowhere" in done.stderr


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        (("weather=1",), "price-ratio"),
        (("cold-start=60",), "not a duration"),
        (("zones=1", "zones=2"), "there twice"),
        (("zones=9",), "there are 3"),
    ],
)
def test_what_cannot_be_varied_is_told(vary: tuple[str, ...], says: str) -> None:
    """With what can be."""
    options = [part for text in vary for part in ("--vary", text)]
    done = run("sweep", "--paper", "--traces", "traces", *SHORT, *options)
    assert done.exit_code in (1, 2)
    assert says in done.stderr


def test_a_missing_zone_can_be_ignored(tmp_path: Path) -> None:
    """Once it has been said that it is missing."""
    (tmp_path / "model.toml").write_text(MODEL.replace("us-west-2a", "us-west-2z"))
    asked: tuple[Any, ...] = ("backtest", "--traces", "traces", *SHORT, "--policy", "spothedge")
    refused = run(*asked)
    assert refused.exit_code == 1
    assert "us-west-2/us-west-2z" in refused.stderr
    done = run(*asked, "--ignore-missing-zones")
    assert done.exit_code == 0
    assert "pool zones without a trace are left out: us-west-2/us-west-2z" in done.stdout


def test_ctrl_c_ends_without_a_traceback(tmp_path: Path) -> None:
    """All processes, soon, with nothing on stdout."""
    command = [sys.executable, "-m", "hedgeserve", "backtest", "--paper", "--traces", "traces", "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--windows", "20000", "--window", "24h", "--policy", "spothedge"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    )
    try:
        while process.poll() is None and len(psutil.Process(process.pid).children()) < 2:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert stdout == ""
