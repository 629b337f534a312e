"""``hedgeserve replay``: a transcript's decisions, made anew."""

import dataclasses
import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hedgeserve.simulate.replaying import Difference, ReplayReport, replay_transcript
from hedgeserve.units import format_duration


def run_replay(path: Path, *, policy: str | None, overprovision: int | None, as_json: bool) -> bool:
    """Replay and print; false where the recorded settings did not give the recorded plans.

    Raises:
        TranscriptError: The transcript cannot be read.
    """
    report = replay_transcript(path, policy=policy, overprovision=overprovision)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
    else:
        click.echo(_summary(report))
        if report.differences:
            _print_table(report)
    return report.other_settings or report.same == report.plans


def _summary(report: ReplayReport) -> str:
    run = "1 run" if report.runs == 1 else f"{report.runs} runs"
    record = f"{report.plans} plans with {report.decisions} decisions, made of {report.news} news in {run}"
    who = ", ".join(report.replayed)
    if report.other_settings:
        return f"{record}: {who} would have done the same at {report.same} of these {report.plans} moments."
    if report.same == report.plans:
        return f"{record}: all {report.plans} came out the same ({who})."
    return f"{record}: {report.plans - report.same} came out otherwise ({who}). Was it another version that ran?"


def _print_table(report: ReplayReport) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("plan", "after", "recorded", "replayed"):
        table.add_column(title, overflow="fold")
    for difference in report.differences:
        table.add_row(*(Text(cell) for cell in _row(difference)))
    Console(highlight=False).print(table)
    told = sum(1 + difference.again for difference in report.differences)
    if left := report.plans - report.same - told:
        click.echo(f"and {left} more")


def _row(difference: Difference) -> tuple[str, str, str, str]:
    last = f"-{difference.plan + difference.again}" if difference.again else ""
    after = format_duration(round(difference.at_s, 1))
    return f"{difference.plan}{last}", after, difference.recorded, difference.replayed
