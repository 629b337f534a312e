"""The SSH keys of a service: one for the controller, one per VM for its host; all ed25519, all made here.

A VM's private host key travels to it with the launch and is not kept; its public half stays in the state
directory, so that a restarted controller still knows whom it speaks to.
"""

import asyncio
import hashlib
import os
from pathlib import Path

import asyncssh
import structlog

_ALGORITHM = "ssh-ed25519"
_log = structlog.get_logger("hedgeserve.fleet")


class SshKeys:
    """The keys under one directory (mode 0700)."""

    def __init__(self, directory: Path) -> None:
        """Read the controller's key, making it at first use. Synchronous: used once, at start-up."""
        self._hosts = directory / "hosts"
        self._hosts.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "id_ed25519"
        if not path.exists():
            write_private(path, asyncssh.generate_private_key(_ALGORITHM).export_private_key())
        self.client = asyncssh.read_private_key(path)

    @property
    def authorized_key(self) -> str:
        """The controller's public key, as a line of ``authorized_keys``."""
        return self.client.export_public_key("openssh").decode().strip()

    @property
    def fingerprint(self) -> str:
        """A short name for the controller's key, and so for the state directory that holds it."""
        return hashlib.sha256(self.authorized_key.encode()).hexdigest()[:16]

    async def make_host_key(self, name: str) -> str:
        """A new private host key for the VM of this name (OpenSSH text); its public half is kept."""

        def make() -> str:
            key = asyncssh.generate_private_key(_ALGORITHM)
            self._public(name).write_bytes(key.export_public_key("openssh"))
            return key.export_private_key("openssh").decode()

        return await asyncio.to_thread(make)

    async def host_key(self, name: str) -> asyncssh.SSHKey | None:
        """The public host key that the VM of this name must present; None where none was made, or it is damaged.

        Raises:
            OSError: It cannot be read now, which says nothing about it.
        """

        def read() -> asyncssh.SSHKey | None:
            try:
                return asyncssh.read_public_key(self._public(name))
            except (FileNotFoundError, asyncssh.KeyImportError):
                return None

        return await asyncio.to_thread(read)

    async def forget(self, name: str) -> None:
        """Drop the host key of a VM that is gone. One that cannot be dropped is logged: it does no harm."""
        try:
            await asyncio.to_thread(self._public(name).unlink, missing_ok=True)
        except OSError as error:
            _log.warning("the host key of a VM that is gone could not be removed", vm=name, error=str(error))

    def _public(self, name: str) -> Path:
        return self._hosts / f"{name}.pub"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read (0600), whole or not at all even if the process dies meanwhile.

    A half-written key after a crash would lock us out of our own VMs.
    """
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
