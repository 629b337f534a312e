"""From a model.toml to a :class:`~hedgeserve.spec.Spec`, or to every mistake in it at once, each with its line."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from hedgeserve.errors import SpecError, SpecProblem
from hedgeserve.modelfile.apikeys import load_api_keys
from hedgeserve.modelfile.environ import overlay
from hedgeserve.modelfile.keys import TableInfo, table, tables
from hedgeserve.modelfile.lines import key_lines
from hedgeserve.modelfile.problems import (
    dotted,
    locate,
    nearest,
    nearest_key,
    sentences,
    unknown_at_top,
    unknown_key,
)
from hedgeserve.spec import Cloud, Spec
from hedgeserve.spectable import Conflict, KeyPath, Origin

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["load_api_keys", "load_spec", "parse_spec"]

_LARGEST_FILE_BYTES = 2**20


def load_spec(path: str | Path, environ: Mapping[str, str] | None = None, *, surroundings: bool = True) -> Spec:
    """The spec in this file, with the environment's settings above it; relative paths in it made absolute.

    ``environ`` is the process's own where it is not given. With ``surroundings=False`` only the words are
    judged, not whether the variables and files that they name exist: enough to find a running service.
    Reads the file at once, so it belongs in start-up, never in the event loop.

    Raises:
        SpecError: All that is wrong, each with file, line, key, value and what was probably meant.
    """
    source, file = str(path), Path(path)
    try:
        with file.open("rb") as opened:
            raw = opened.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(source, "there is no such file", f"write one with `hedgeserve init {source}`") from None
    except IsADirectoryError:
        inside = file / "model.toml"
        hint = f"did you mean {inside}?" if inside.is_file() else f"write a file with `hedgeserve init {inside}`"
        raise _unreadable(source, "is a directory, not a file", hint) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unreadable(source, f"cannot be read: {reason}", "check the name and who may read it") from None
    if len(raw) > _LARGEST_FILE_BYTES:
        raise _unreadable(source, "is larger than 1 MiB", "a starter file comes from `hedgeserve init`")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(
            source,
            f"is not UTF-8 text (byte 0x{raw[error.start]:02x})",
            "save it as UTF-8, or start anew with `hedgeserve init`",
            line,
        ) from None
    return parse_spec(
        text,
        source,
        file.absolute().parent,
        os.environ if environ is None else environ,
        surroundings=surroundings,
    )


def parse_spec(
    text: str, source: str, base_dir: str | Path, environ: Mapping[str, str], *, surroundings: bool = True
) -> Spec:
    """The spec in a text, as :func:`load_spec` would read it from a file ``source`` in ``base_dir``."""
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(source, [_syntax_problem(error, text)]) from None
    lines: dict[KeyPath, int] = key_lines(text)
    variables, findings = overlay(data, environ)
    suggested = _take_out_unknown(data, lines, findings)
    _make_paths_absolute(data, Path(base_dir))
    origin = Origin(source, lines, variables)
    try:
        spec, known = Spec.model_validate(data), frozenset(Spec.model_fields)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        for one in wrong:
            # The conflicts between tables are looked for below, among the sound ones.
            found = sentences(one, data) if one["loc"] else ()
            findings += [finding for finding in found if finding.path not in suggested]
        findings += _conflicts_behind(wrong, data, suggested)
        spec, known = _sound_part(data, {str(one["loc"][0]) for one in wrong if one["loc"]})
    findings += spec.conflicts_among(known - {str(path[0]) for path in suggested})
    if surroundings:
        findings += _missing_surroundings(spec, known, environ)
    if findings:
        problems = [
            origin.problem(finding.path, dotted(finding.path), finding.message, finding.hint)
            for finding in dict.fromkeys(findings)
        ]
        raise SpecError(source, sorted(problems, key=lambda problem: (problem.line or 2**31, problem.key)))
    return spec.with_origin(origin)


def _unreadable(source: str, message: str, hint: str, line: int | None = None) -> SpecError:
    return SpecError(source, [SpecProblem("", message, line, hint)])


def _syntax_problem(error: Exception, text: str) -> SpecProblem:
    if isinstance(error, RecursionError):
        return SpecProblem("", "is nested too deeply to be read")
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
    if place is None:
        return SpecProblem("", f"is not TOML: {error}")
    line = int(place[1]) if place[1] else max(1, len(text.rstrip().splitlines()))
    where = f"at column {place[2]}" if place[2] else "at the end of the file"
    hint = "texts need quotes, lists need commas" if "Invalid" in str(error) else ""
    return SpecProblem("", f"is not TOML {where}: {str(error)[: place.start()]}", line, hint)


def _take_out_unknown(data: dict[str, Any], lines: dict[KeyPath, int], findings: list[Conflict]) -> set[KeyPath]:
    """Remove what model.toml does not know, so that the rest can be judged; the paths that were probably meant.

    A misspelt table is read on under its right name. What is said to be missing at a returned path is only the
    other half of the misspelling, and not to be reported a second time.
    """
    suggested: set[KeyPath] = set()
    names = [info.path for info in tables() if "." not in info.path]
    for name in [name for name in data if name not in names]:
        value = data.pop(name)
        near = nearest(name, names) if isinstance(value, dict | list) else None
        findings.append(unknown_at_top(name, value, near))
        if near is None:
            continue
        if near in data:
            suggested.add((near,))
            continue
        data[near] = value
        lines |= {(near, *path[1:]): line for path, line in lines.items() if path[:1] == (name,)}
    for name in names:
        info = table(name)
        if info is not None and name in data:
            _take_out_of_table(data[name], (name,), info, findings, suggested)
    return suggested


def _take_out_of_table(
    value: Any, path: KeyPath, info: TableInfo, findings: list[Conflict], suggested: set[KeyPath]
) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value if info.array else []):
            if isinstance(item, dict):
                _take_out_of_table(item, (*path, index), info, findings, suggested)
        return
    if not isinstance(value, dict) or (info.array and not isinstance(path[-1], int)):
        return
    for name in list(value):
        if info.key(name) is None:
            near = nearest_key(name, info)
            findings.append(unknown_key((*path, name), info, near))
            if near is not None:
                suggested.add((*path, near))
            del value[name]
        elif (inner := table(f"{info.path}.{name}")) is not None:
            _take_out_of_table(value[name], (*path, name), inner, findings, suggested)


def _make_paths_absolute(data: dict[str, Any], base_dir: Path) -> None:
    """Let relative paths start at the file, so that it means the same from wherever it is read."""
    places = [(data.get("service"), key) for key in ("api_keys_file", "state_dir", "tls_certificate", "tls_key")]
    places += [(data.get("admin"), key) for key in ("tls_certificate", "tls_key")]
    local = data.get("local")
    zones = local.get("zones") if isinstance(local, dict) else None
    places += [(zone, "trace") for zone in (zones if isinstance(zones, list) else [])]
    for holder, key in places:
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and holder[key]:
            holder[key] = os.path.normpath(base_dir / os.path.expanduser(holder[key]))


def _conflicts_behind(
    wrong: "list[ErrorDetails]", data: dict[str, Any], suggested: set[KeyPath]
) -> Iterator[Conflict]:
    """Conflicts among the right values of tables that hold a wrong one, save those that speak of a wrong one.

    A table with a wrong value is not looked at for conflicts; so its wrong keys are left out, and it is read
    once more.
    """
    rest, left_out = deepcopy(data), set()
    for error in wrong:
        info, key = locate(error["loc"])
        if info is None or key is None or error["type"] == "missing":
            continue
        end = error["loc"].index(key.name) + 1
        holder: Any = rest
        for part in error["loc"][: end - 1]:
            holder = holder[part]
        holder.pop(key.name, None)
        left_out.add(key.name)
    if not left_out:
        return
    try:
        Spec.model_validate(rest)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            for found in sentences(one, rest) if one["loc"] and one["type"] == "conflict" else ():
                said = f"{dotted(found.path)} {found.message} {found.hint}"
                if found.path not in suggested and not left_out & set(re.findall(r"\w+", said)):
                    yield found


def _sound_part(data: dict[str, Any], wrong: set[str]) -> tuple[Spec, frozenset[str]]:
    """A spec of the tables that are right in themselves, and which these are."""
    sound: dict[str, Any] = {}
    for name, field in Spec.model_fields.items():
        if name in data and name not in wrong:
            sound[name] = TypeAdapter(field.rebuild_annotation()).validate_python(data[name])
    left_out = {name for name, field in Spec.model_fields.items() if name not in data and not field.is_required()}
    return Spec.model_construct(_fields_set=set(sound), **sound), frozenset(sound) | left_out


def _missing_surroundings(spec: Spec, known: frozenset[str], environ: Mapping[str, str]) -> Iterator[Conflict]:
    """Variables and files that the spec names and that are not there."""
    for index, name in enumerate(spec.model.secret_env if "model" in known else []):
        if not environ.get(name):
            yield Conflict(
                ("model", "secret_env", index),
                f"the environment variable {name} is not set",
                f"set it, or remove {name} from `secret_env`",
            )
    for number, pool in enumerate(spec.pools if "pools" in known else []):
        if pool.cloud is Cloud.STATIC and pool.api_key_env and not environ.get(pool.api_key_env):
            yield Conflict(
                ("pools", number, "api_key_env"),
                f"the environment variable {pool.api_key_env} is not set",
                "set it, or remove `api_key_env`",
            )
    for number, zone in enumerate(spec.local.zones if "local" in known else []):
        if zone.trace and not os.path.isfile(zone.trace):
            yield Conflict(
                ("local", "zones", number, "trace"),
                f"there is no file {zone.trace}",
                "a relative path starts where the model.toml is",
            )
