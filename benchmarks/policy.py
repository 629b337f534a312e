"""Measure the policies, and write what came out into docs/benchmarks.md: ``python -m benchmarks.policy``.

Exits with 1 where a criterion failed; the page then says which.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from benchmarks.comparison import SEED, WINDOWS, comparison
from benchmarks.markdown import Section, put
from benchmarks.reproduction import NAMES, reproduction
from benchmarks.speed import speed
from hedgeserve.simulate import TraceSet, load_traces
from hedgeserve.simulate.backtests import available_cores

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
SECTIONS = ("reproduction", "forecast", "speed")


@click.command(help="Measure the policies on recorded capacity, and write the figures into docs/benchmarks.md.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("HEDGESERVE_DATA") or ROOT.parent / "shared" / "data"),
    help="The folder with spot/aws-1 and spot/aws-3.  [default: $HEDGESERVE_DATA, else ../shared/data]",
)
@click.option("--jobs", type=click.IntRange(1), default=available_cores, help="Processes.  [default: one a core]")
@click.option(
    "--windows", type=click.IntRange(1), default=WINDOWS, show_default=True, help="Windows of the comparison."
)
@click.option("--only", type=click.Choice(SECTIONS), help="One section; the others stay as they are.")
def main(data: Path, jobs: int, windows: int, only: str | None) -> None:
    records = _records(data)
    parts: Mapping[str, Callable[[], Section]] = {
        "reproduction": lambda: reproduction(records, jobs),
        "forecast": lambda: comparison(records, jobs, windows, SEED),
        "speed": lambda: speed(records),
    }
    tried, failures = 0, []
    for name in SECTIONS if only is None else (only,):
        began = time.perf_counter()
        section = parts[name]()
        PAGE.write_text(put(PAGE.read_text(), name, section.text()))
        tried += section.tried
        failures += section.failures
        took = time.perf_counter() - began
        click.echo(f"{name}: {len(section.failures)} of {section.tried} criteria fail, {took:.0f} s")
        for failure in section.failures:
            click.echo(f"  FAIL {failure}")
    click.echo(f"written into {PAGE.relative_to(ROOT)}: {tried - len(failures)} of {tried} criteria pass")
    if failures:
        raise SystemExit(1)


def _records(data: Path) -> dict[str, TraceSet]:
    missing = [name for name in NAMES if not (data / "spot" / name).is_dir()]
    if missing:
        raise click.ClickException(
            f"there is no recorded capacity in {data}: no {' and no '.join(f'spot/{name}' for name in missing)}; "
            f"fetch it with `hedgeserve traces pull {missing[0]} --out FOLDER/spot/{missing[0]}`, then say --data "
            "FOLDER, or set HEDGESERVE_DATA to it"
        )
    return {name: load_traces(data / "spot" / name) for name in NAMES}


if __name__ == "__main__":
    main()
