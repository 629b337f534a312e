"""``hedgeserve traces``: capacity traces fetched, described, made up and derived from a fleet's journal."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import click

from hedgeserve.console.since import parse_since
from hedgeserve.errors import TraceError
from hedgeserve.replica import ZoneId
from hedgeserve.simulate.fromspec import spot_zones
from hedgeserve.simulate.pull import LICENCE, SOURCES, pull_now
from hedgeserve.simulate.record import record
from hedgeserve.simulate.synth import fit, preset, synthesize
from hedgeserve.simulate.tracefiles import OnesAre, load_traces, save_traces
from hedgeserve.simulate.traceinfo import TraceInfo, ZoneInfo, describe
from hedgeserve.specfile import load_spec
from hedgeserve.units import format_duration, parse_duration_s


def pull_traces(name: str, out: Path, *, base_url: str, agreed: Callable[[str], bool]) -> None:
    """Say what is fetched and under which licence, ask, and fetch it.

    Raises:
        TraceError: It could not be fetched.
    """
    source = SOURCES[name]
    click.echo(f"{source.about}.\n{LICENCE}.", err=True)
    agreed(f"Fetch {len(source.files)} files to {out}?")
    pull_now(source, out, base_url=base_url, told=lambda line: click.echo(line, err=True))
    click.echo(f"Done: {name} is in {out}. Next: `hedgeserve traces info {out}`.", err=True)


def print_info(folder: Path, *, ones_are: OnesAre, as_json: bool) -> None:
    """Print what the traces of a folder are like.

    Raises:
        TraceError: They cannot be read.
    """
    info = describe(load_traces(folder, ones_are=ones_are))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(info)))
        return
    for line in _table(info):
        click.echo(line)


def write_synthetic(
    out: Path,
    *,
    like: Path | None,
    preset_name: str | None,
    days: float,
    seed: int,
    zones: int | None,
    model_file: Path | None = None,
) -> None:
    """Make traces up and write them; for a ``model_file`` one for each zone in which its pools want spot.

    Raises:
        TraceError: What they should be like cannot be read, they cannot be written, or the file wants no spot.
        SpecError: The file is no good.
    """
    names: list[str] = []
    if model_file is not None:
        names = spot_zones(load_spec(model_file, surroundings=False).pools)
        if not names:
            raise TraceError(f"no pool of {model_file} wants spot in any zone; there is nothing to make up for it")
        zones = len(names)
    model = preset(preset_name) if preset_name is not None else fit(load_traces(like or Path()))
    made = synthesize(model, days * 86400, seed, zones=zones)
    if names:
        made = made.called([ZoneId(f"synthetic/{name}") for name in names])
    paths = save_traces(made, out)
    click.echo(f"Wrote {_files(len(paths))} of {format_duration(made.duration_s)} to {out}.", err=True)


def record_traces(journal: Path, out: Path, *, gap: str, since: str | None, instance_type: str | None) -> None:
    """Derive traces from a journal and write them.

    Raises:
        TraceError: The journal tells nothing of spot capacity, or the traces cannot be written.
        ValueError: ``gap`` or ``since`` is not what it should be.
    """
    gap_s = parse_duration_s(gap)
    if gap_s <= 0:
        raise ValueError("the gap between two counts must be above 0s")
    recording = record(
        journal, gap_s=gap_s, since=None if since is None else parse_since(since), instance_type=instance_type
    )
    paths = save_traces(recording.traces, out, metadata=recording.metadata)
    for zone, told in recording.metadata.items():
        click.echo(f"{zone}: {told['observed_share']:.0%} of the time observed", err=True)
    click.echo(f"Wrote {_files(len(paths))} of {format_duration(recording.traces.duration_s)} to {out}.", err=True)


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _table(info: TraceInfo) -> list[str]:
    """The record in words and one row a zone, aligned."""
    head = ["zone", "any", "mean", "most", "spells", "mean up", "mean down", "drops/day", "2nd in 5 min"]
    rows = [head, *(_row(zone) for zone in info.zones)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        f"{info.name}: {len(info.zones)} zone{'s' * (len(info.zones) != 1)}, {info.counts} counts every "
        f"{format_duration(info.gap_s)}, {format_duration(info.duration_s)} in all",
        "",
    ]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells))
    lines += [
        "",
        f"no zone has any:             {info.none_share:.2%} of the time",
        f"correlation, same region:    {_number(info.same_region_correlation)}",
        f"correlation, other regions:  {_number(info.other_region_correlation)}",
        f"second drop within 5 min:    {_percent(info.second_drop_share)} of first drops",
    ]
    return lines + [f"note: {note}" for note in info.notes]


def _row(zone: ZoneInfo) -> list[str]:
    return [
        zone.zone,
        f"{zone.any_share:.1%}",
        _number(zone.mean),
        "-" if zone.highest is None else str(zone.highest),
        str(zone.up_spells),
        "-" if zone.mean_up_s is None else format_duration(zone.mean_up_s),
        "-" if zone.mean_down_s is None else format_duration(zone.mean_down_s),
        f"{zone.drops_per_day:.2f}",
        _percent(zone.second_drop_share),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
