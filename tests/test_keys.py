"""The SSH keys of a service: kept, found again, and not taken for missing when they only cannot be read."""

import stat
from pathlib import Path

import asyncssh
import pytest
from structlog.testing import capture_logs

from hedgeserve.machines.keys import SshKeys


async def test_the_public_half_of_a_host_key_is_found_by_the_next_start(tmp_path: Path) -> None:
    """What the VM presents is what was written down for its name."""
    private = await SshKeys(tmp_path).make_host_key("s-1")
    known = await SshKeys(tmp_path).host_key("s-1")
    assert known is not None
    assert known.public_data == asyncssh.import_private_key(private).public_data


def test_the_controllers_key_stays_the_same_and_is_private(tmp_path: Path) -> None:
    """A restart must still be let into its VMs."""
    assert SshKeys(tmp_path).authorized_key == SshKeys(tmp_path).authorized_key
    assert stat.S_IMODE((tmp_path / "id_ed25519").stat().st_mode) == 0o600


async def test_a_key_that_was_never_made_or_is_damaged_is_none(tmp_path: Path) -> None:
    """Nothing can be trusted then."""
    keys = SshKeys(tmp_path)
    assert await keys.host_key("s-1") is None
    (tmp_path / "hosts" / "s-1.pub").write_text("ssh-ed25519 AAA")
    assert await keys.host_key("s-1") is None


async def test_a_key_that_cannot_be_read_now_is_not_said_to_be_missing(tmp_path: Path) -> None:
    """A missing key ends a VM; trouble with the disk must not."""
    keys = SshKeys(tmp_path)
    path = tmp_path / "hosts" / "s-1.pub"
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        await keys.host_key("s-1")


async def test_a_key_that_cannot_be_dropped_is_logged(tmp_path: Path) -> None:
    """The VM is gone all the same; dropping one that is not there is nothing to speak of."""
    keys = SshKeys(tmp_path)
    await keys.forget("s-0")
    (tmp_path / "hosts" / "s-1.pub").mkdir()
    with capture_logs() as logs:
        await keys.forget("s-1")
    assert [(entry["log_level"], entry["vm"]) for entry in logs] == [("warning", "s-1")]
