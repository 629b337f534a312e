"""Where a fake cloud puts its VMs: nowhere at all, or into network namespaces with a real SSH server."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GrantedVm:
    """A VM that a fake cloud has just granted, with what its first boot is told."""

    cloud: str
    name: str
    zone: str
    spot: bool
    user_data: str
    authorized_key: str
    ssh_user: str
    tags: dict[str, str]


class VmHost(Protocol):
    """Called by the fakes from any thread; must not block for long."""

    def start(self, vm: GrantedVm) -> None:
        """The VM was granted: boot it."""

    def address(self, name: str) -> str | None:
        """Its address; None while it has none."""

    def stop(self, name: str) -> None:
        """It was terminated, or taken back."""


class NoHost:
    """VMs that exist on paper only, with an address of the documentation's range."""

    def start(self, vm: GrantedVm) -> None:
        """Nothing boots."""

    def address(self, name: str) -> str | None:
        """Always the same."""
        return "192.0.2.7"

    def stop(self, name: str) -> None:
        """Nothing ends."""
