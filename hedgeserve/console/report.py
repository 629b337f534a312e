"""``hedgeserve report``: one archive for a bug report, without secrets and without what anybody asked."""

import io
import json
import os
import tarfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.clouds import aligned
from hedgeserve.console.doctor import documents, findings_on
from hedgeserve.doctor.evidence import Evidence, gather
from hedgeserve.errors import HedgeServeError, SpecError
from hedgeserve.spec import Spec

_README = """\
A report of `hedgeserve report`, {at}. What is in it:

versions.json    HedgeServe, Python, system, kernel, packages
model.json       the model file as it is understood, every default included
doctor.json      what `hedgeserve doctor --offline` says
events.jsonl     the newest events of the journal; replicas.jsonl the replicas that it knows
served.json      the model file as the service runs it, and what its policy has learnt
status.json      `hedgeserve status`; metrics.txt what Prometheus would read
service.log      the end of the service's own log, where it could be found
engines/, local/ the end of the replicas' engine logs, and of make-believe VMs
missing.txt      what could not be had, and why

Secrets are replaced by [hidden]: those that are known here, and all that look like one. Lines of engine logs that
may hold a request are left out. Addresses, host names, zones and paths are as they are. LOOK BEFORE YOU SEND IT.
"""


def write_report(
    client: AdminClient,
    model: str | None,
    *,
    out: str | None,
    log: str | None,
    as_json: bool,
    environ: Mapping[str, str],
) -> None:
    """Gather, pack and list.

    Raises:
        HedgeServeError: The archive cannot be written.
    """
    model = model or _served(client)
    spec, trouble = _spec_of(model, environ)
    evidence = gather(
        client,
        spec=spec,
        spec_trouble=trouble,
        environ=environ,
        findings=lambda: documents(findings_on(model or "", environ, offline=True)),
        log_file=None if log is None else Path(log).expanduser(),
    )
    at = datetime.now(UTC)
    name = client.directory.name if spec is None else spec.service.name
    path = Path(out or f"hedgeserve-report-{name}-{at:%Y%m%d-%H%M%S}.tar.gz").expanduser()
    _pack(path, {"README.txt": _README.format(at=at.isoformat(timespec="seconds")), **evidence.pieces})
    _list(path, evidence, as_json=as_json)


def _served(client: AdminClient) -> str | None:
    """The file that the service goes by, where it runs and says so."""
    try:
        return str(client.spec()["file"])
    except (HedgeServeError, LookupError):
        return None


def _spec_of(model: str | None, environ: Mapping[str, str]) -> tuple[Spec | None, str]:
    if model is None:
        return None, ""
    from hedgeserve.specfile import load_spec

    try:
        return load_spec(model, dict(environ), surroundings=False), ""
    except SpecError as error:
        return None, str(error)


def _pack(path: Path, pieces: Mapping[str, str]) -> None:
    root = path.name.removesuffix(".tar.gz")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise HedgeServeError(f"{path} is already there; give another name with --out") from None
    except OSError as error:
        raise HedgeServeError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in pieces.items():
                data = text.encode("utf-8", "replace")
                entry = tarfile.TarInfo(f"{root}/{name}")
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HedgeServeError(f"{path} cannot be written: {error.strerror}") from None


def _list(path: Path, evidence: Evidence, *, as_json: bool) -> None:
    sizes = {name: len(text.encode()) for name, text in evidence.pieces.items()}
    if as_json:
        click.echo(json.dumps({"path": str(path), "bytes": sizes, "missing": evidence.missing}))
        return
    for line in aligned([[name, f"{size:,} bytes"] for name, size in sizes.items()], right=frozenset({1})):
        click.echo(line)
    for sentence in evidence.missing:
        click.echo(f"Not in it: {sentence}", err=True)
    size = path.stat().st_size
    click.echo(f"Wrote {path} ({size:,} bytes). Secrets are taken out, names and addresses are not.", err=True)
    click.echo(f"Look before you send it: tar -xOzf {path} | less", err=True)
