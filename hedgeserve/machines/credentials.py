"""What a service proves itself with to its VMs, and knows them by. A service that has no VMs has none of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hedgeserve.machines.authority import Authority
from hedgeserve.machines.keys import SshKeys


@dataclass(frozen=True, slots=True)
class Credentials:
    """The SSH keys and the certificate authority of a service with VMs."""

    keys: SshKeys
    authority: Authority

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read both, making them at first use. Synchronous: used once, at start-up.

        Raises:
            StateDirectoryError: The authority's file is damaged, or others can read it; says what to do.
        """
        return cls(SshKeys(directory), Authority(directory))
