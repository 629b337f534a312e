"""Who may come in, and by which certificate: issued keys and certificates, kept up to date while the service runs.

Files are looked at in threads, every two seconds: what another process has written counts as soon as what came
through the admin API. What cannot be used never replaces what could.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from hedgeserve.balancer import Balancer
from hedgeserve.errors import ListenError, StateDirectoryError
from hedgeserve.keyring import IssuedKey, KeyFile
from hedgeserve.listening import Certificate
from hedgeserve.metrics import Metrics

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0
_KEEP_USED_EVERY_S = 300.0
_EXPIRES_SOON = timedelta(days=14)

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Entrance:
    """Holds the balancer to the keys and certificates that are on the disk."""

    def __init__(self, directory: Path, balancer: Balancer, metrics: Metrics) -> None:
        self._file = KeyFile(directory)
        self._balancer = balancer
        self._metrics = metrics
        self._certificates: list[Certificate] = []
        self._keys: tuple[IssuedKey, ...] = ()
        self._issued = False
        self._used: dict[str, datetime] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._troubles: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Let in who has an issued key.

        Raises:
            StateDirectoryError: The issued keys cannot be read: nobody knows then whom to let in.
        """
        self._stamps["keys"] = await asyncio.to_thread(_stamp, (self._file.path,))
        found = await asyncio.to_thread(self._file.read)
        self._used = await asyncio.to_thread(self._file.used)
        if found is not None:
            self._accept(found)
        await self.watch_certificate(self._balancer.certificate)

    async def watch_certificate(self, certificate: Certificate | None) -> None:
        """Have this one renewed too."""
        if certificate is not None:
            self._certificates.append(certificate)
            self._stamps[certificate.table] = await asyncio.to_thread(_stamp, certificate.files)
            self._show(certificate)

    async def watch(self) -> None:
        """Look after all of it for ever."""
        clock = asyncio.get_running_loop().time
        keep_at_s = clock() + _KEEP_USED_EVERY_S
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self.renew(changed_only=True)
            if clock() >= keep_at_s:
                keep_at_s = clock() + _KEEP_USED_EVERY_S
                await self.keep_used()

    async def renew(self, *, changed_only: bool = False) -> None:
        """Read everything anew, or what has changed; what cannot be used becomes a trouble, and changes
        nothing."""
        async with self._one_at_a_time:
            await self._renew_keys(changed_only)
            for certificate in self._certificates:
                await self._renew_certificate(certificate, changed_only)

    async def keep_used(self) -> None:
        """Write down when keys were last used, where that is news."""
        used = self._all_used()
        if used != self._used:
            with suppress(StateDirectoryError):  # worth keeping, not worth a word
                await asyncio.to_thread(self._file.write_used, used)
                self._used = used

    def keys(self) -> list[dict[str, Any]]:
        """The issued keys as their operator may see them, oldest first."""
        used = self._all_used()
        return [
            {name: value for name, value in key.to_json().items() if name != "sha256"}
            | {"last_used_at": at.isoformat(timespec="seconds") if (at := used.get(key.id)) else None}
            for key in self._keys
        ]

    async def add_key(self, given: Mapping[str, Any]) -> IssuedKey:
        """Let in who has this key, from now on.

        Raises:
            ValueError, LookupError: That is no key.
            HedgeServeError: It cannot be kept.
        """
        key = IssuedKey.from_json(given)
        async with self._one_at_a_time:
            await asyncio.to_thread(self._file.add, key)
            await self._renew_keys(changed_only=False)
        return key

    async def revoke_key(self, name: str) -> IssuedKey:
        """Let in nobody with this key any more; what is being answered is answered to its end.

        Raises:
            HedgeServeError: There is none, or the file cannot be written.
        """
        async with self._one_at_a_time:
            gone = await asyncio.to_thread(self._file.revoke, name)
            await self._renew_keys(changed_only=False)
        return gone

    @property
    def asks_for_issued(self) -> bool:
        """Whether a key was ever issued here: then every request needs one, also where all are revoked."""
        return self._issued

    @property
    def troubles(self) -> Sequence[str]:
        """What is wrong, in sentences."""
        return [text for text in self._troubles.values() if text]

    async def _renew_keys(self, changed_only: bool) -> None:
        stamp = await asyncio.to_thread(_stamp, (self._file.path,))
        if changed_only and stamp == self._stamps["keys"]:
            return
        self._stamps["keys"] = stamp
        try:
            found = await asyncio.to_thread(self._file.read)
        except StateDirectoryError as error:
            self._tell("keys", f"{error}; the keys that were read before stay in force")
            return
        self._tell("keys", "")
        if found is not None or self._keys:  # a file that has gone lets nobody in who was not let in before
            self._accept(found or ())

    def _accept(self, keys: tuple[IssuedKey, ...]) -> None:
        self._keys, self._issued = keys, True
        self._balancer.issue(keys)

    async def _renew_certificate(self, certificate: Certificate, changed_only: bool) -> None:
        stamp = await asyncio.to_thread(_stamp, certificate.files)
        if not changed_only or stamp != self._stamps[certificate.table]:
            self._stamps[certificate.table] = stamp
            before = certificate.expires_at
            try:
                await asyncio.to_thread(certificate.renew)
            except ListenError as error:
                self._tell(
                    f"{certificate.table} files", f"{error}; the certificate that was read before stays in use"
                )
            else:
                self._tell(f"{certificate.table} files", "")
                if certificate.expires_at != before:
                    _log.info(
                        "a new certificate is in use", table=certificate.table, ends=str(certificate.expires_at)
                    )
        self._show(certificate)

    def _show(self, certificate: Certificate) -> None:
        self._metrics.certificate_ends(certificate.table, certificate.expires_at.timestamp())
        left = certificate.expires_at - datetime.now(UTC)
        when = f"{certificate.expires_at:%Y-%m-%d %H:%M} UTC"
        file = f"{certificate.table}.tls_certificate: {certificate.files[0]}"
        if left <= timedelta(0):
            self._tell(
                f"{certificate.table} end", f"{file} expired at {when}; put a new one there, it is taken at once"
            )
        elif left < _EXPIRES_SOON:
            self._tell(
                f"{certificate.table} end", f"{file} expires at {when}; put a new one there, it is taken at once"
            )
        else:
            self._tell(f"{certificate.table} end", "")

    def _tell(self, about: str, trouble: str) -> None:
        if trouble and trouble != self._troubles.get(about):
            _log.warning(trouble)
        self._troubles[about] = trouble

    def _all_used(self) -> dict[str, datetime]:
        known = {key.id for key in self._keys}
        return {name: at for name, at in (self._used | self._balancer.keys_used()).items() if name in known}


def _stamp(files: Sequence[Path]) -> _Stamp:
    """Changes whenever one of the files does; behind links, that of the file there."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)
