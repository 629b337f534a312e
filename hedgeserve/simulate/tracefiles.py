"""Capacity traces as files: one JSON file a zone, all of a folder together, every mistake told at once.

The format is that of the public traces (github skypilot-org/spot-traces) and of the local driver's zones:
``{"metadata": {"gap_seconds": 300}, "data": [3, 2, 0, 4]}``. HedgeServe adds, and understands, four more keys
of ``metadata``: ``zone`` (``cloud/region/zone``), ``ones_are`` (below), ``recorded_from`` and ``notes``.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hedgeserve.errors import TraceError
from hedgeserve.replica import ZoneId
from hedgeserve.simulate.traces import UNLIMITED, Counts, TraceSet, ZoneTrace

OnesAre = Literal["auto", "one", "unlimited"]

_SHOWN = 10
"""How many mistakes one error shows; the others are counted."""

_ONES_ARE_UNLIMITED = (
    "no count is above 1: these files say only whether a zone had any spot VM, so 1 is read as no end of VMs, "
    "as the simulator of the SpotHedge paper reads it; --ones-are one reads it as one VM"
)

_AWS = re.compile(r"([a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d+)(?:-[a-z]{2,4}-\d+)?[a-z]")
_GCP = re.compile(r"([a-z]+-[a-z]+\d+)-[a-z]")
_AZURE = re.compile(r"([a-z]+\d?)-[1-9]")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    zone: ZoneId
    gap_s: float
    counts: Counts
    ones_are: str | None
    notes: tuple[str, ...]
    begins_at: datetime | None


class _Mistake(Exception):
    """What is wrong with one file: a sentence that begins with its name."""


def load_traces(
    folder: Path, *, ones_are: OnesAre = "auto", zones: Mapping[str, ZoneId] | None = None
) -> TraceSet:
    """The zones that were recorded together: every ``*.json`` file of a folder, ordered by file name.

    A zone's id is ``metadata.zone`` where the file has it; else it comes from the file's name up to the first
    ``_``: ``us-east-1f_v100_1.json`` is ``aws/us-east-1/us-east-1f``, ``us-central1-a.json`` is
    ``gcp/us-central1/us-central1-a``, ``eastus-1.json`` is ``azure/eastus/eastus-1``, and any other name ``x`` is
    ``trace/x/x``. ``zones`` stands above both; its keys are those names.

    ``ones_are`` says what a count of 1 means: ``"one"`` VM, or ``"unlimited"``, as many as anybody asks for.
    ``"auto"`` believes ``metadata.ones_are`` where a file has it; else a folder whose highest count is 1 is read
    as unlimited, and ``notes`` says so.

    Raises:
        TraceError: The folder or a file in it cannot be used. All mistakes are collected, each with its file and
            the index of the count.
    """
    paths = _paths(folder)
    files: list[_File] = []
    mistakes: list[str] = []
    for path in paths:
        try:
            files.append(_read(path, zones or {}))
        except _Mistake as mistake:
            mistakes.append(str(mistake))
    mistakes += _disagreements(files)
    if mistakes:
        more = [f"and {len(mistakes) - _SHOWN} more mistakes"] if len(mistakes) > _SHOWN else []
        raise TraceError(f"{folder} holds no usable traces:\n  " + "\n  ".join(mistakes[:_SHOWN] + more))
    notes = tuple(dict.fromkeys(note for file in files for note in file.notes))
    told = {file.ones_are for file in files} - {None}
    guessed = ones_are == "auto" and not told and max(int(file.counts.max()) for file in files) == 1
    if guessed:
        notes += (_ONES_ARE_UNLIMITED,)
    if guessed or ones_are == "unlimited" or (ones_are == "auto" and told == {"unlimited"}):
        files = [_without_end(file) for file in files]
    return TraceSet(
        name=folder.absolute().name,
        zones=tuple(ZoneTrace(file.zone, file.gap_s, file.counts) for file in files),
        notes=notes,
        begins_at=min((file.begins_at for file in files if file.begins_at is not None), default=None),
    )


def save_traces(
    traces: TraceSet, folder: Path, *, metadata: Mapping[ZoneId, Mapping[str, Any]] | None = None
) -> list[Path]:
    """Write one file a zone into a folder, which is made, and return their paths; ``load_traces`` reads it back.

    Where every count is 0 or no end of VMs, 1 is written for the latter, and ``"ones_are": "unlimited"``.
    ``metadata`` adds keys to the metadata of single zones. Each file is whole or not there at all.

    Raises:
        TraceError: The folder already holds traces, or cannot be written. Nothing was written over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in folder.glob("*.json"))
        if there:
            raise TraceError(
                f"{folder} already holds {there[0]}{' and others' * (len(there) > 1)}; give a new or empty folder"
            )
        yes_or_no = all(bool(np.isin(trace.counts, (0, UNLIMITED)).all()) for trace in traces)
        told: dict[str, Any] = {"ones_are": "unlimited" if yes_or_no else "one"}
        if traces.notes:
            told["notes"] = list(traces.notes)
        return [
            _write(folder / name, trace, told | dict((metadata or {}).get(trace.zone, {})))
            for name, trace in zip(_names(traces), traces, strict=True)
        ]
    except OSError as error:
        raise TraceError(f"traces cannot be written to {folder}: {error.strerror}; give another folder") from error


def zone_of(name: str) -> ZoneId:
    """The id of a zone that is known by the name that its cloud gives it; ``trace/name/name`` for any other."""
    for cloud, pattern in (("aws", _AWS), ("gcp", _GCP), ("azure", _AZURE)):
        match = pattern.fullmatch(name)
        if match:
            return ZoneId(f"{cloud}/{match[1]}/{name}")
    return ZoneId(f"trace/{name}/{name}")


def _paths(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
    except FileNotFoundError:
        raise TraceError(
            f"there is no folder {folder}; `hedgeserve traces pull` fetches public traces, "
            "`hedgeserve traces synth` makes some up"
        ) from None
    except NotADirectoryError:
        raise TraceError(f"{folder} is not a folder; give the folder that holds one file a zone") from None
    except OSError as error:
        raise TraceError(f"{folder} cannot be read: {error.strerror}") from error
    if not paths:
        raise TraceError(f"{folder} holds no *.json file; give the folder that holds one file a zone")
    return paths


def _read(path: Path, zones: Mapping[str, ZoneId]) -> _File:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _Mistake(f"{path.name} cannot be read: {error.strerror}; make it readable") from error
    except (ValueError, RecursionError) as error:
        raise _Mistake(f"{path.name} is not JSON ({error}); mend it or take it out of the folder") from error
    metadata = recorded.get("metadata") if isinstance(recorded, dict) else None
    if not isinstance(metadata, dict) or "data" not in recorded or "gap_seconds" not in metadata:
        raise _Mistake(
            f'{path.name} is no capacity trace; write {{"metadata": {{"gap_seconds": 300}}, "data": [3, 2, 0, 4]}}'
        )
    gap = metadata["gap_seconds"]
    if type(gap) not in (int, float) or not 0 < gap < math.inf:
        raise _Mistake(f"{path.name}: metadata.gap_seconds is {gap!r}; write the seconds between two counts")
    ones_are, notes = metadata.get("ones_are"), metadata.get("notes", [])
    if ones_are not in (None, "one", "unlimited"):
        raise _Mistake(f'{path.name}: metadata.ones_are is {ones_are!r}; write "one" or "unlimited"')
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise _Mistake(f"{path.name}: metadata.notes is {notes!r}; write a list of sentences")
    return _File(
        path=path,
        zone=_zone(path, metadata.get("zone"), zones),
        gap_s=float(gap),
        counts=_counts(path, recorded["data"]),
        ones_are=ones_are,
        notes=tuple(notes),
        begins_at=_begin(path, metadata.get("recorded_from")),
    )


def _begin(path: Path, told: object) -> datetime | None:
    if told is None:
        return None
    try:
        at = datetime.fromisoformat(str(told))
    except ValueError:
        raise _Mistake(
            f"{path.name}: metadata.recorded_from is {told!r}; write a time such as 2026-01-31T12:00:00+00:00"
        ) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _zone(path: Path, told: object, zones: Mapping[str, ZoneId]) -> ZoneId:
    name = path.stem.split("_", 1)[0]
    if name in zones:
        return zones[name]
    if told is None:
        return zone_of(name)
    if not isinstance(told, str) or len(told.split("/")) != 3 or not all(told.split("/")):
        raise _Mistake(f"{path.name}: metadata.zone is {told!r}; write cloud/region/zone or leave it out")
    return ZoneId(told)


def _counts(path: Path, data: object) -> Counts:
    if not isinstance(data, list) or not data:
        raise _Mistake(f"{path.name}: data is not a list with at least one count; write the numbers of spot VMs")
    if set(map(type, data)) == {int} and min(data) >= 0 and max(data) <= UNLIMITED:
        return np.array(data, dtype=np.int64)
    index, count = next((at, n) for at, n in enumerate(data) if type(n) is not int or not 0 <= n <= UNLIMITED)
    bad = sum(type(n) is not int or not 0 <= n <= UNLIMITED for n in data)
    more = f" (and {bad - 1} more like it)" if bad > 1 else ""
    if count is None or count != count:
        what = "is a hole; cut the record to a stretch without holes, or fill in what the zone had"
    elif isinstance(count, bool):
        what = "is true or false; write 1 or 0"
    elif isinstance(count, float):
        what = f"is {count!r}; write a whole number of VMs, without a decimal point"
    elif not isinstance(count, int):
        what = f"is {str(count)[:40]!r}; write a whole number of VMs"
    elif count < 0:
        what = f"is {count}; a zone cannot have fewer than 0 VMs"
    else:
        what = f"is {str(count)[:40]}; write {UNLIMITED} for no end of VMs"
    raise _Mistake(f"{path.name}: data[{index}] {what}{more}")


def _disagreements(files: list[_File]) -> list[str]:
    """What forbids that these files are read as one record."""
    mistakes: list[str] = []
    first_of: dict[ZoneId, _File] = {}
    for file in files:
        first = first_of.setdefault(file.zone, file)
        if first is not file:
            mistakes.append(
                f"{file.path.name} and {first.path.name} are both of zone {file.zone}; keep one of them here"
            )
    for what, advice, values in (
        ("gap_seconds", "bring all to one gap", [f"{file.gap_s:g}" for file in files]),
        ("the number of counts", "cut all to the time that all have", [str(len(file.counts)) for file in files]),
    ):
        [(usual, times), *others] = Counter(values).most_common() or [("", 0)]
        if others:
            mistakes += [
                f"{file.path.name}: {what} is {value}, but {usual} in {times} of {len(files)} files; {advice}"
                for file, value in zip(files, values, strict=True)
                if value != usual
            ]
    return mistakes


def _without_end(file: _File) -> _File:
    counts = np.where(file.counts == 1, UNLIMITED, file.counts)
    return _File(file.path, file.zone, file.gap_s, counts, file.ones_are, file.notes, file.begins_at)


def _names(traces: TraceSet) -> list[str]:
    """A file name for each zone: its last part, or its whole id where two zones share that."""
    last = Counter(trace.zone.rsplit("/", 1)[-1].split("_", 1)[0] for trace in traces)
    names = []
    for trace in traces:
        name = trace.zone.rsplit("/", 1)[-1]
        names.append(f"{name if last[name.split('_', 1)[0]] == 1 else trace.zone.replace('/', '+')}.json")
    return names


def _write(path: Path, trace: ZoneTrace, told: Mapping[str, Any]) -> Path:
    gap = int(trace.gap_s) if trace.gap_s == int(trace.gap_s) else trace.gap_s
    counts = np.minimum(trace.counts, 1) if told["ones_are"] == "unlimited" else trace.counts
    recorded = {"metadata": {"gap_seconds": gap, "zone": trace.zone, **told}, "data": counts.tolist()}
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(json.dumps(recorded) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
