"""What a person asks of a running service: another model.toml, a version back; proposed, explained, done.

A file is read and judged whole before anything is heeded. What is wrong in it, or can only change with a restart,
changes nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from hedgeserve.errors import HedgeServeError, SpecError, UpdateRefusedError
from hedgeserve.feasible import engine_for, refuse_bad_traces
from hedgeserve.fleet import EventKind, Journal
from hedgeserve.hedge import LEAVING, Strategy, unneeded
from hedgeserve.modelfile.effects import Change, Effect, changes
from hedgeserve.rollouts import Rollouts
from hedgeserve.spec import Spec
from hedgeserve.specfile import load_spec
from hedgeserve.versions import content_of, digest_of

_log = structlog.get_logger("hedgeserve.updates")

_SHOWN_CHANGES = 6


@dataclass(frozen=True, slots=True)
class Proposal:
    """A file that has been read, judged and compared, and not yet heeded."""

    path: Path
    spec: Spec
    changes: tuple[Change, ...]
    version: int | None
    """Its version where that is known by now; None: a new one."""
    digest: str
    strategy: Strategy
    file_digest: str
    """Of all that the file says, where ``digest`` is of what replicas run."""

    @property
    def refused(self) -> list[Change]:
        """What only a restart can change."""
        return [change for change in self.changes if change.effect is Effect.RESTART]


class Updates:
    """Reads, judges and applies model files for one running service."""

    def __init__(self, rollouts: Rollouts, journal: Journal, environ: Mapping[str, str]) -> None:
        self._rollouts = rollouts
        self._journal = journal
        self._environ = environ
        # Whoever starts in another directory later must not read another file.
        self._path = Path(rollouts.file.origin.source).absolute()

    @property
    def file(self) -> Path:
        """The model file that the service goes by; it may have been edited since it was read."""
        return self._path

    async def reload(self) -> bool:
        """Read the file again and heed it, as a service manager may ask for; what is wrong is told, not raised."""
        try:
            await self.apply(await self.propose(), who="SIGHUP", why="the service was told to reload")
        except HedgeServeError as error:
            lines = [str(error)]
            if isinstance(error, SpecError):
                lines = [problem.render(error.source) for problem in error.problems]
            for line in lines:
                _log.error("the model file was not applied; the service goes on as before", problem=line)
            told = "; ".join(lines)
            await self._journal.event(
                EventKind.TROUBLE, f"{self.file.name} was not applied, and nothing has changed: {told}"
            )
            return False
        return True

    # What a person may want

    async def propose(self, path: str | None = None) -> Proposal:
        """Read and judge the file (None: the one that is served); changes nothing.

        Raises:
            SpecError: What is wrong with it, each with its line.
        """
        source = self._path if path is None else Path(path)

        def read() -> Spec:
            spec = load_spec(source, self._environ)
            engine_for(spec, self._environ)
            refuse_bad_traces(spec)
            return spec

        spec = await asyncio.to_thread(read)
        digest = digest_of(content_of(spec))
        known = next((one.number for one in self._rollouts.versions.values() if one.digest == digest), None)
        return Proposal(
            source,
            spec,
            changes(self._rollouts.spec, spec),
            known,
            digest,
            self._rollouts.strategy(known, spec),
            sha256(spec.model_dump_json().encode()).hexdigest(),
        )

    def explain(self, proposal: Proposal) -> dict[str, Any]:
        """What it would do, JSON-able."""
        wanted = self._rollouts.versions[self._rollouts.wanted]
        same = proposal.digest == wanted.digest
        around = self._rollouts.around
        stays = {0, proposal.version}
        old = [one for one in around.replicas() if one.version not in stays and one.state not in LEAVING]
        anyway = 0 if proposal.strategy is Strategy.ROLLBACK else unneeded(old, around.plan())
        replaces = len(old) - anyway
        extra = replaces if proposal.strategy is not Strategy.ROLLING else proposal.spec.update.max_surge
        return {
            "changes": [
                {
                    "key": change.key,
                    "before": change.before,
                    "after": change.after,
                    "effect": str(change.effect),
                    "line": change.line,
                }
                for change in proposal.changes
            ],
            "digest": proposal.file_digest,
            "refused": [_refusal(change) for change in proposal.refused],
            "version": {
                "now": self._rollouts.wanted,
                "then": self._rollouts.wanted if same else proposal.version or self._rollouts.register.next_number,
                "digest": proposal.digest,
            },
            "rollout": None
            if same
            else {
                "strategy": str(proposal.strategy),
                "replaces": replaces,
                "goes_anyway": anyway,
                "extra": min(extra, replaces),
                "taken_back": None
                if proposal.version is None
                else self._rollouts.taken_back.get(proposal.version),
            },
            "usd_per_hour": _rounded(around.usd_per_hour(None)),
            "usd_per_hour_then": None if proposal.refused else _rounded(around.usd_per_hour(proposal.spec)),
            "supersedes": self._rollouts.document(),
            "next_start": self._rollouts.last_read.next_start(proposal.path, proposal.digest),
        }

    async def applied(
        self, path: str | None, *, who: str, why: str, dry: bool, digest: str | None
    ) -> dict[str, Any]:
        """Read a file and heed it, or with ``dry`` only say what that would do.

        ``digest`` is that of the file which somebody was shown and has agreed to.

        Raises:
            SpecError: What is wrong with the file.
            UpdateRefusedError: It cannot be applied, or is another one by now.
            StateDirectoryError: It could not be written down.
        """
        proposal = await self.propose(path)
        if digest is not None and digest != proposal.file_digest:
            raise UpdateRefusedError("the file has changed since it was shown; look at it again")
        return self.explain(proposal) if dry else await self.apply(proposal, who=who, why=why)

    async def listing(self) -> dict[str, Any]:
        """All versions and the last roll-outs, JSON-able."""
        return await self._rollouts.listing()

    async def apply(self, proposal: Proposal, *, who: str, why: str) -> dict[str, Any]:
        """Heed it: what is live at once, what replicas run by a roll-out; what it did, JSON-able.

        Raises:
            UpdateRefusedError: It changes what only a restart can; then nothing has changed.
            StateDirectoryError: It could not be written down; then nothing has changed.
        """
        async with self._rollouts.lock:
            done = self.explain(proposal)
            if proposal.refused:
                raise UpdateRefusedError("; ".join(_refusal(change) for change in proposal.refused))
            if proposal.digest != self._rollouts.versions[self._rollouts.wanted].digest:
                number = await self._rollouts.register.new_version(proposal.spec, who=who, why=why)
                await self._rollouts.begin_rollout(number, who=who, why=why, spec=proposal.spec)
                done["version"]["then"] = number
            live = [change for change in proposal.changes if change.effect is Effect.LIVE]
            self._path = proposal.path
            self._rollouts.compose(proposal.spec)
            await self._rollouts.around.adopt()
            await self._rollouts.last_read.applied(proposal.path, proposal.digest)
            done["way_back"] = self._rollouts.way_back()
            if live:
                more = f" and {len(live) - _SHOWN_CHANGES} more" if len(live) > _SHOWN_CHANGES else ""
                told = ", ".join(str(change) for change in live[:_SHOWN_CHANGES])
                await self._journal.event(
                    EventKind.APPLIED,
                    f"{told}{more}: in force without a new replica",
                    data={"who": who, "why": why, "keys": [change.key for change in live]},
                )
            return done

    async def roll_back(self, to: int | None, *, who: str, why: str) -> dict[str, Any]:
        """Go back to a version: the one before, or the one of this number; what it did, JSON-able.

        ``note`` is a sentence on model.toml where that asks for another version; else empty.

        Raises:
            UpdateRefusedError: There is no such version, or none to go back to.
        """
        rollouts = self._rollouts
        async with rollouts.lock:
            number = rollouts.way_back() if to is None else to
            if number is None:
                raise UpdateRefusedError(self._no_way_back())
            if number not in rollouts.versions:
                known = ", ".join(map(str, rollouts.versions))
                raise UpdateRefusedError(f"there is no version {number}; there are {known}")
            if number == rollouts.wanted:
                raise UpdateRefusedError(f"version {number} is the one that is wanted already")
            left = rollouts.wanted
            strategy = await rollouts.take_back(number, who=who, why=why)
            await rollouts.around.adopt()
        return {"from": left, "to": number, "strategy": str(strategy), "note": await self._what_the_file_asks()}

    def _no_way_back(self) -> str:
        rollouts = self._rollouts
        taken_back = [number for number in rollouts.versions if number in rollouts.taken_back]
        told = ""
        if taken_back:
            newest = taken_back[-1]
            told = (
                f" (taken back: {', '.join(map(str, taken_back))}; `hedgeserve rollback --to {newest}` or "
                "`hedgeserve apply` tries one again)"
            )
        return (
            f"there is no version to go back to from version {rollouts.wanted} that has served{told}; "
            "`hedgeserve versions` lists all"
        )

    async def _what_the_file_asks(self) -> str:
        """What the next start with the file, or a reload, makes of it; empty where it asks for what is wanted."""
        try:
            proposal = await self.propose()
        except SpecError:
            return f"{self._path} is wrong as it stands: the next start refuses it, a reload changes nothing"
        wanted, asked = self._rollouts.wanted, proposal.version
        if asked == wanted:
            return ""
        if asked is not None and asked in self._rollouts.taken_back:
            return (
                f"{self._path} still asks for version {asked}. A restart with it leaves the service at version "
                f"{wanted}; `hedgeserve apply` and a reload bring version {asked} in again, so put the old words "
                "back into the file"
            )
        what = "a version that has never run" if asked is None else f"version {asked}"
        if self._rollouts.last_read.is_as_before(proposal.digest):
            return (
                f"{self._path} asks for {what}. A restart with it as it is leaves the service at version "
                f"{wanted}; `hedgeserve apply` and a reload bring that in"
            )
        return (
            f"{self._path} asks for {what}: the next start with it, `hedgeserve apply` and a reload bring that in"
        )


def _refusal(change: Change) -> str:
    where = f" (line {change.line})" if change.line else ""
    return (
        f"{change.key}{where} is settled when the service starts: it is {change.before or 'not set'} and cannot "
        f"become {change.after or 'nothing'} while it runs; restart `hedgeserve serve` for that"
    )


def _rounded(usd_per_hour: float | None) -> float | None:
    return None if usd_per_hour is None else round(usd_per_hour, 4)
