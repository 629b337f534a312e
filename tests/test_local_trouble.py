"""This machine in trouble: what cannot be looked at now is neither dead nor the fleet's end."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hedgeserve.drivers.base import Machine
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.drivers.localcloud.processes import family, identify, lives
from hedgeserve.drivers.localcloud.record import VmFiles
from hedgeserve.drivers.localcloud.trouble import explain
from hedgeserve.errors import CloudError
from tests.test_local_driver import Cloud, request


@pytest.fixture
async def vm(tmp_path: Path) -> AsyncIterator[tuple[Cloud, LocalDriver, Machine]]:
    """A VM that boots for a long time, so that it is no more than its supervisor."""
    cloud = Cloud(tmp_path / "vms", {"boot_time": "60s", "ssh_server": "asyncssh"})
    driver = cloud.driver()
    machine = await driver.launch(request())
    yield cloud, driver, machine
    await driver.terminate(machine.id)
    assert cloud.processes() == frozenset()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no further file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Let a file be there and not be readable, whoever asks: it becomes a link to itself."""
    kept = path.rename(path.with_name("kept"))
    path.symlink_to(path)
    try:
        yield
    finally:
        kept.rename(path)


@pytest.mark.parametrize(
    "which", [lambda files: files.record, lambda files: files.supervisor], ids=["record", "supervisor"]
)
async def test_a_vm_whose_files_cannot_be_read_now_is_left_alone(
    vm: tuple[Cloud, LocalDriver, Machine], which: Callable[[VmFiles], Path]
) -> None:
    """The list fails with the file's name; afterwards the VM is there as before."""
    cloud, driver, machine = vm
    with unreadable(which(cloud.files())), pytest.raises(CloudError, match=which(cloud.files()).name):
        await driver.list()
    assert await driver.list() == [machine]


async def test_without_a_free_file_descriptor_every_call_is_a_cloud_error_and_the_vm_lives(
    vm: tuple[Cloud, LocalDriver, Machine],
) -> None:
    """Too many open files: nothing else than what the fleet can survive comes out, and nothing is killed."""
    cloud, driver, machine = vm
    with no_more_files():
        for call in (driver.list(), driver.terminate("s-1"), driver.preempt("s-1"), driver.launch(request("s-2"))):
            with pytest.raises(CloudError, match="Too many open files"):
                await call
    assert await driver.list() == [machine]
    assert [path.name for path in cloud.directory.iterdir()] == ["s-1"]


async def test_the_weather_goes_on_after_trouble(tmp_path: Path) -> None:
    """The driver's own task outlives a time without file descriptors."""
    cloud = Cloud(tmp_path / "vms", {"preempt_every": "1h"})
    task = asyncio.create_task(cloud.driver().run())
    with no_more_files():
        done, _ = await asyncio.wait({task}, timeout=0.4)
    assert not done
    task.cancel()


def test_a_process_that_cannot_be_looked_at_is_not_said_to_be_dead() -> None:
    """An error says so; false would have the VM killed."""
    me = identify(os.getpid())
    assert me is not None
    assert lives(me)
    with no_more_files():
        with pytest.raises(OSError, match="Too many open files"):
            lives(me)
        with pytest.raises(OSError, match="Too many open files"):
            family("nobody@nowhere")


def test_advice_comes_with_the_reason_where_there_is_any() -> None:
    """The limit to raise is named."""
    assert explain(OSError(24, "Too many open files", "/x")) == (
        "/x: Too many open files; raise the limit (ulimit -n) or use fewer replicas"
    )
    assert explain(OSError("odd")) == "odd"
