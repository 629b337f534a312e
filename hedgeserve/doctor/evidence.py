"""What a bug report is made of, gathered without disturbing anything; blocking, bounded, and without prompts.

Each piece that cannot be had is a sentence in ``missing.txt`` rather than the end of the report.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import sqlite3
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from hedgeserve._version import __version__
from hedgeserve.doctor.discretion import Discretion, secrets_of
from hedgeserve.errors import HedgeServeError
from hedgeserve.modelfile.apikeys import load_api_keys
from hedgeserve.spec import Spec

MOST_FILE_BYTES = 2 * 2**20
MOST_BYTES = 16 * 2**20
_EVENTS = 2000
_LOG_LINES = 1000
_REPLICAS = 20
_ANSWER_S = 10.0
_SECRET_FILES = ("engine_key", "admin_token")
_LARGEST_SECRET_BYTES = 64 * 2**10


class Asked(Protocol):
    """The service as far as it can be asked; every method raises HedgeServeError where it does not answer."""

    directory: Path

    def status(self) -> dict[str, Any]:
        """Everything at a glance."""

    def spec(self) -> dict[str, Any]:
        """The model file as it is served, and what the policy has learnt."""

    def logs(self, replica: str, lines: int) -> str:
        """The end of a replica's engine log."""


class Evidence:
    """Pieces of a report by their file names, each redacted as it is put in."""

    def __init__(self, discretion: Discretion) -> None:
        self.pieces: dict[str, str] = {}
        self.missing: list[str] = []
        self._discretion = discretion
        self._size = 0

    def put(self, name: str, text: str, *, log: bool = False) -> None:
        """Keep this text: its end, where it is too long."""
        text = text[-MOST_FILE_BYTES:]
        clean = self._discretion.log(text) if log else self._discretion.text(text)
        size = len(clean.encode("utf-8", "replace"))
        if self._size + size > MOST_BYTES:
            self.missing.append(f"{name}: the report is full")
            return
        self._size += size
        self.pieces[name] = clean

    def try_(self, name: str, work: Callable[[], str], *, log: bool = False) -> None:
        """Keep what ``work`` returns, or why there is nothing."""
        try:
            self.put(name, work(), log=log)
        except (
            HedgeServeError,
            OSError,
            ValueError,
            LookupError,
            sqlite3.Error,
            subprocess.SubprocessError,
        ) as error:
            self.missing.append(self._discretion.text(f"{name}: {error or type(error).__name__}"))


def gather(
    client: Asked,
    *,
    spec: Spec | None,
    spec_trouble: str,
    environ: Mapping[str, str],
    findings: Callable[[], Sequence[Mapping[str, str]]],
    log_file: Path | None,
) -> Evidence:
    """All of it. ``spec`` is None where no model file was named, or it has mistakes (``spec_trouble``)."""
    found = Evidence(Discretion(_known_secrets(client.directory, spec, environ)))
    found.put("versions.json", json.dumps(_versions(), indent=1))
    if spec is not None:
        found.put("model.json", json.dumps(spec.model_dump(mode="json"), indent=1))
        found.try_("doctor.json", lambda: json.dumps(findings(), indent=1))
    else:
        found.missing.append(f"model.json, doctor.json: {spec_trouble or 'no model file was named'}")
    journal = client.directory / "journal.db"
    found.try_("events.jsonl", lambda: _rows(journal, "events", "id", _EVENTS))
    found.try_("replicas.jsonl", lambda: _rows(journal, "replicas", "number", _EVENTS, without=("token",)))
    if log_file is not None:
        found.try_("service.log", lambda: _tail(log_file), log=True)
    else:
        found.try_("service.log", lambda: _system_journal(client.directory), log=True)
    _from_service(client, found)
    for log in sorted((client.directory / "local").glob("*/vm.log"))[:_REPLICAS]:
        found.try_(f"local/{log.parent.name}.log", lambda log=log: _tail(log), log=True)  # type: ignore[misc]
    if found.missing:
        found.put("missing.txt", "\n".join(found.missing) + "\n")
    return found


def _from_service(client: Asked, found: Evidence) -> None:
    """What only a service that runs can tell."""
    try:
        status = client.status()
    except HedgeServeError as error:
        found.missing.append(f"status.json, metrics.txt, engines/: {error}")
        return
    found.put("status.json", json.dumps(status, indent=1))
    found.try_("served.json", lambda: json.dumps(client.spec(), indent=1))
    found.try_("metrics.txt", lambda: _metrics(str(status["url"])))
    for replica in status["replicas"][:_REPLICAS]:
        name = str(replica["id"])
        found.try_(f"engines/{name}.log", lambda name=name: client.logs(name, _LOG_LINES), log=True)  # type: ignore[misc]


def _known_secrets(directory: Path, spec: Spec | None, environ: Mapping[str, str]) -> set[str]:
    """Every secret that this machine's files and variables tell us of."""
    known = secrets_of(environ)
    if spec is not None:
        names = [*spec.model.secret_env, *(pool.api_key_env for pool in spec.pools), spec.service.api_keys_env]
        values = [environ.get(name, "") for name in names if name]
        known.update(part.strip() for value in values for part in (value, *value.split(",")))
        try:
            known.update(key for key in load_api_keys(spec, environ) if isinstance(key, str))
        except HedgeServeError:
            known.update(_lines_of(Path(spec.service.api_keys_file)) if spec.service.api_keys_file else ())
    for name in _SECRET_FILES:
        known.update(_lines_of(directory / name))
    return known


def _lines_of(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file.read(_LARGEST_SECRET_BYTES).split()
    except OSError:
        return


def _versions() -> dict[str, Any]:
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        release = ""
    packages = {
        str(one.metadata["Name"]): one.version
        for one in importlib.metadata.distributions()
        if one.metadata["Name"] is not None
    }
    return {
        "hedgeserve": __version__,
        "python": sys.version,
        "system": release,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _rows(journal: Path, table: str, order: str, limit: int, *, without: tuple[str, ...] = ()) -> str:
    """The newest rows of a table, oldest first, one JSON object a line; nothing is written to the file."""
    if not journal.exists():
        raise LookupError(f"there is no journal {journal}")
    with closing(sqlite3.connect(f"file:{quote(str(journal))}?mode=ro", uri=True, timeout=5.0)) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(f"SELECT * FROM {table} ORDER BY {order} DESC LIMIT ?", (limit,)).fetchall()
    told = [{key: row[key] for key in row.keys() if key not in without} for row in reversed(rows)]  # noqa: SIM118
    return "".join(f"{json.dumps(one)}\n" for one in told)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_FILE_BYTES))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-_LOG_LINES:])


def _system_journal(directory: Path) -> str:
    """What systemd's journal has of the process that holds the state directory, or held it last."""
    reader = shutil.which("journalctl")
    if reader is None:
        raise LookupError("the service logs to its standard error; name the file that this goes to with --log")
    pid = int(json.loads((directory / "lock").read_bytes())["pid"])
    done = subprocess.run(
        [reader, f"_PID={pid}", "--no-pager", "--quiet", "--lines", str(_LOG_LINES)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_ANSWER_S,
        check=False,
    )
    if not done.stdout.strip():
        raise LookupError("systemd's journal has nothing of it; name the service's log file with --log")
    return done.stdout


def _metrics(url: str) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # our own address, on this machine
    with urllib.request.urlopen(f"{url}/metrics", timeout=_ANSWER_S, context=context) as answer:
        return str(answer.read(MOST_FILE_BYTES).decode("utf-8", "replace"))
