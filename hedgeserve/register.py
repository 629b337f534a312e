"""The register of a service's versions: those that the store knows, and an engine for each."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hedgeserve.engines import make_engine
from hedgeserve.engines.base import Engine
from hedgeserve.errors import StateDirectoryError, UpdateRefusedError
from hedgeserve.redaction import redact
from hedgeserve.spec import Spec
from hedgeserve.store import Store
from hedgeserve.tables.versions import StoredVersion, versions_in
from hedgeserve.trail import Trail
from hedgeserve.versions import Version, content_of, digest_of


class Register:
    """All versions that there ever were; a number is given once, and the same words are the same version."""

    def __init__(self, service: str, store: Store, environ: Mapping[str, str]) -> None:
        self._service = service
        self._store = store
        self._environ = environ
        self._versions: dict[int, Version] = {}
        self._engines: dict[int, Engine] = {}

    @property
    def versions(self) -> Mapping[int, Version]:
        """By number."""
        return self._versions

    @property
    def next_number(self) -> int:
        """The number that words get which no version has yet."""
        return max(self._versions, default=0) + 1

    async def read(self) -> None:
        """Take up what the store knows.

        Raises:
            StateDirectoryError: It cannot be read.
        """
        self._versions = {one.number: _version(one) for one in await self._store.versions(self._service)}

    async def new_version(self, spec: Spec, *, who: str, why: str) -> int:
        """The number of the version that this spec asks for; a new one is written down.

        Raises:
            StateDirectoryError: It could not be.
        """
        content, who, why = content_of(spec), redact(who), redact(why)
        number = await self._store.new_version(
            self._service, digest_of(content), content, who=who, why=why, at=datetime.now(UTC)
        )
        await self.read()
        return number

    def is_proven(self, number: int) -> bool:
        """Whether this version has served as it should."""
        version = self._versions.get(number)
        return version is not None and version.proven_at is not None

    async def prove(self, number: int) -> None:
        """Write down that it has."""
        at = datetime.now(UTC)
        try:
            await self._store.prove_version(self._service, number, at=at)
        except StateDirectoryError:  # worth knowing after a restart, not worth stopping for
            return
        version = self._versions[number]
        self._versions[number] = replace(version, proven_at=version.proven_at or at)

    def make_engine(self, number: int) -> None:
        """Have the engine of this version made.

        Raises:
            UpdateRefusedError: It cannot be started any more: a secret is not set, say.
        """
        try:
            self._engines[number] = make_engine(self._versions[number].model, self._environ)
        except ValueError as error:
            raise UpdateRefusedError(f"version {number} cannot be started: {error}") from None

    def engine(self, number: int, *, instead: int) -> Engine:
        """The engine of this version; where it cannot be made any more, that of the version ``instead``.

        What runs goes on to run then, and is asked as the other one is; nothing more of it is launched.
        """
        engine = self._engines.get(number)
        if engine is None:
            try:
                engine = make_engine(self._versions[number].model, self._environ)
            except ValueError:
                engine = make_engine(self._versions[instead].model, self._environ)
            self._engines[number] = engine
        return engine


def listing_in(path: Path) -> dict[str, Any]:
    """All versions and the last roll-outs that a journal knows, in the shape that a service that runs tells them.

    ``way_back`` is null: only a service can go back. Blocking.

    Raises:
        StateDirectoryError: There is no journal, or it cannot be read.
    """
    versions, rollouts, running = versions_in(path)
    trail = Trail.of(rollouts)
    wanted = rollouts[-1].to_version if rollouts else max((one.number for one in versions), default=0)
    return {
        "wanted": wanted,
        "way_back": None,
        "versions": [
            _version(one).document()
            | {"taken_back": trail.taken_back.get(one.number), "replicas": running[one.number]}
            for one in versions
        ],
        "rollouts": [one.document() for one in rollouts],
    }


def _version(stored: StoredVersion) -> Version:
    return Version(
        stored.number, stored.digest, stored.content, stored.made_at, stored.who, stored.why, stored.proven_at
    )
