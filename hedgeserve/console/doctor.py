"""``hedgeserve doctor``: says, before money is spent, what will not work, and what to do about it."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from hedgeserve.budgets import no_room
from hedgeserve.console.clouds import aligned, drivers_apart
from hedgeserve.console.offers import look_at_offers
from hedgeserve.doctor.visit import state_dir_of, visit
from hedgeserve.drivers.examine import Examination, Finding, Verdict
from hedgeserve.drivers.static import StaticDriver, StaticServer
from hedgeserve.errors import CloudError, SpecError
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import load_spec

_MARKS = {Verdict.OK: "ok", Verdict.UNKNOWN: "?", Verdict.WARNING: "warning", Verdict.FAILURE: "FAILURE"}
_COLOURS = {Verdict.OK: "green", Verdict.UNKNOWN: "cyan", Verdict.WARNING: "yellow", Verdict.FAILURE: "red"}


def run_doctor(model: str, *, offline: bool, as_json: bool) -> bool:
    """Print all findings; whether none of them is a failure."""
    found = findings_on(model, os.environ, offline=offline)
    failures = sum(one.verdict is Verdict.FAILURE for one in found)
    warnings = sum(one.verdict is Verdict.WARNING for one in found)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "ok": not failures,
                    "failures": failures,
                    "warnings": warnings,
                    "findings": documents(found),
                }
            )
        )
    else:
        for line in lines_of(found, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ):
            click.echo(line)
        click.echo(f"{_counted(failures, 'failure')}, {_counted(warnings, 'warning')}.", err=True)
    return not failures


def findings_on(model: str, environ: Mapping[str, str], *, offline: bool) -> list[Finding]:
    """All findings on a model file; of one with mistakes these alone."""
    try:
        spec = load_spec(model, dict(environ))
    except SpecError as error:
        wrong = Examination()
        for problem in error.problems:
            wrong.fail("model file", problem.render(error.source))
        return wrong.findings
    good = Examination()
    good.ok("model file", f"{model} has no mistakes")
    return good.findings + asyncio.run(_visit(spec, environ, offline=offline))


async def _visit(spec: Spec, environ: Mapping[str, str], *, offline: bool) -> list[Finding]:
    if offline:
        return await visit(spec, {}, (), environ, offline=True)
    async with drivers_apart(spec, state_dir_of(spec, environ), environ) as drivers:
        found = await visit(spec, drivers, _servers(spec, environ), environ)
    return found + await _budget(spec)


async def _budget(spec: Spec) -> list[Finding]:
    """Whether the caps leave room for a VM at the prices of now, the catalogue's where a cloud tells none."""
    if not spec.budget.any:
        return []
    found = Examination()
    quotes, _ = await look_at_offers(spec)
    offers = [quote.offer for quote in quotes if quote.offer is not None]
    if told := no_room(spec, offers, datetime.now(UTC)):
        found.warn("budget", f"{told}; raise the cap, or nothing is launched")
    elif offers:
        found.ok("budget", "its caps leave room for a VM at the prices of now")
    return found.findings


def _servers(spec: Spec, environ: Mapping[str, str]) -> tuple[StaticServer, ...] | CloudError:
    try:
        return StaticDriver([pool for pool in spec.pools if pool.cloud is Cloud.STATIC], environ).servers()
    except CloudError as error:
        return error


def documents(found: Sequence[Finding]) -> list[dict[str, str]]:
    """The findings, JSON-able."""
    return [{"subject": one.subject, "verdict": str(one.verdict), "message": one.message} for one in found]


def lines_of(found: Sequence[Finding], *, colour: bool = False) -> list[str]:
    """One line for each finding."""
    rows = aligned([[_MARKS[one.verdict], one.subject, one.message] for one in found])
    if not colour:
        return rows
    return [click.style(row[:7], fg=_COLOURS[one.verdict]) + row[7:] for row, one in zip(rows, found, strict=True)]


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
