"""Whose a VM is: the tags, and what a controller does with VMs of another one."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hedgeserve.core import Service
from hedgeserve.drivers.base import Machine
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.drivers.tags import CONTROLLER, OWNER, REPLICA, SERVICE, is_foreign, tags_for
from hedgeserve.errors import CloudError
from tests.conftest import eventually, replicas, small_spec


def test_tags_have_the_form_that_every_cloud_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Büro-Mac.example.COM" + "x" * 80)
    tags = tags_for("s", 900.0, "s-1", controller="0123456789abcdef")
    assert (tags[SERVICE], tags[REPLICA], tags[CONTROLLER]) == ("s", "s-1", "0123456789abcdef")
    for name, text in tags.items():
        assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name)
        assert re.fullmatch(r"[a-z0-9_-]{0,63}", text), text


def test_what_is_no_vm_bears_neither_a_replica_nor_a_controller() -> None:
    assert not {REPLICA, CONTROLLER} & set(tags_for("s", 900.0))


def test_a_vm_without_the_tag_is_no_stranger() -> None:
    assert is_foreign({CONTROLLER: "theirs"}, "ours")
    assert not is_foreign({CONTROLLER: "ours"}, "ours")
    assert not is_foreign({}, "ours")


async def test_a_service_does_not_start_over_the_vms_of_another_controller(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started again while a VM of the same service name bears another controller's tag: refused, nothing ended."""
    whole = LocalDriver.list

    async def estranged(self: LocalDriver) -> Sequence[Machine]:
        theirs = {CONTROLLER: "theirs", OWNER: "their-host"}
        return [replace(machine, tags={**machine.tags, **theirs}) for machine in await whole(self)]

    async def one_ready() -> bool:
        return len(replicas(service, "ready")) == 1

    spec = small_spec(short_dir, service='on_exit = "keep"')
    async with Service(spec) as service:
        await eventually(one_ready)
    with monkeypatch.context() as patch:
        patch.setattr(LocalDriver, "list", estranged)
        with pytest.raises(CloudError, match=r'service named "small": .*small-1.* \(from their-host\)'):
            await Service(spec).__aenter__()
    async with Service(small_spec(short_dir)) as service:
        await eventually(one_ready)
        assert [replica["id"] for replica in replicas(service)] == ["small-1"]
