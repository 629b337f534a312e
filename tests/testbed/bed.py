"""Where the fakes of the clouds put their VMs: into namespaces, with a real SSH server and metadata service."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.clouds.host import GrantedVm
from tests.testbed.vm import NamespaceVm

_DIRECTORY = Path("/run/hedgeserve-vms")
_numbers = itertools.count(1)


class NamespaceHost:
    """A :class:`~tests.clouds.host.VmHost`; entered on the event loop that serves the VMs' metadata.

    ``ended`` is told, on that loop, the name of each VM that shuts itself down.
    """

    def __init__(self, *, ended: Callable[[str], None] = lambda _: None) -> None:
        self.vms: dict[str, NamespaceVm] = {}
        self.ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._former: list[NamespaceVm] = []
        self._failures: list[BaseException] = []
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(vm.remove() for vm in [*self._former, *self.vms.values()]))
        if self._failures and kind is None:
            raise self._failures[0]

    def start(self, vm: GrantedVm) -> None:
        """Boot it."""
        booting = NamespaceVm(vm, number=next(_numbers), directory=_DIRECTORY, ended=self._has_ended)
        if (former := self.vms.get(vm.name)) is not None:
            self._former.append(former)
        self.vms[vm.name] = booting
        self._loop.call_soon_threadsafe(self._do, booting.boot)

    def address(self, name: str) -> str | None:
        """Known as soon as it was granted."""
        vm = self.vms.get(name)
        return vm.address if vm is not None else None

    def stop(self, name: str) -> None:
        """End it; one that is not known, or has ended, is left as it is."""
        vm = self.vms.get(name)
        if vm is not None and vm.wanted:
            vm.wanted = False
            self._loop.call_soon_threadsafe(self._do, vm.power_off)

    def running(self) -> list[str]:
        """Names of the VMs that run."""
        return [name for name, vm in self.vms.items() if vm.running]

    def _has_ended(self, name: str) -> None:
        self.ended(name)

    def _do(self, work: Callable[[], asyncio.Future[None]]) -> None:
        task = self._loop.create_task(work())  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)
