"""The first process of a local VM: boots it, keeps its metadata service, ends it.

It needs no controller: a preemption, an expired lease and the death of the SSH server end the VM whether or
not anybody watches. Ending it means that every process of the VM is killed, this one last.
"""

import asyncio
import hmac
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from hedgeserve.drivers.localcloud.children import Children
from hedgeserve.drivers.localcloud.metadata import MetadataState, metadata_app
from hedgeserve.drivers.localcloud.processes import (
    MARKER_VARIABLE,
    Identity,
    become_subreaper,
    identify,
    kill_family,
    stop_family,
)
from hedgeserve.drivers.localcloud.record import VmFiles, VmRecord, write_identity, write_private
from hedgeserve.drivers.localcloud.sshd import sshd_config

_BOOT_LIMIT_S = 30.0
_POLL_S = 0.02
_LEASE_CHECKS = 10
"""How often within its time the lease is looked at: it may be outlived by a tenth."""


class Supervisor:
    """One VM, from its boot to its end."""

    def __init__(self, files: VmFiles, record: VmRecord) -> None:
        self._files = files
        self._record = record
        self._metadata = MetadataState(record=record)
        self._children = Children()
        self._sshd: Identity | None = None
        self._end_at_s: float | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    async def run(self) -> NoReturn:
        """Live until something ends the VM; a failure of any part ends it too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, f"it got {number.name}")
        try:
            await self._serve(metadata_app(self._metadata), self._record.metadata_port)
            await self._serve(self._control_app(), self._record.control_port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._boot(), name="boot")
                tasks.create_task(self._watch_lease(), name="lease")
                tasks.create_task(self._watch_approval(), name="approval")
        except Exception as error:
            self._end(f"it failed: {error!r}")
            raise
        self._end("nothing is left to do")

    @property
    def _roots(self) -> tuple[Identity, ...]:
        return () if self._sshd is None else (self._sshd,)

    def _vanish(self, seen_after_s: float) -> None:
        """Fall silent as a VM does whose cable is gone, and end when the cloud has seen it.

        Every other process is stopped and this one's loop is blocked: connections stay open, new ones are even
        made, and nobody answers. Ended from here and not by the driver, so that it needs no controller.
        """
        self._stop_others()
        _say(f"the VM has vanished; the cloud sees it after {seen_after_s:g} s")
        time.sleep(seen_after_s)
        self._end(f"it fell silent {seen_after_s:g} s ago")

    def _stop_others(self) -> None:
        try:
            stop_family(self._files.marker, self._roots, spare={os.getpid()})
        except OSError as error:
            self._end(f"it could not fall silent: {error}")

    def _end(self, why: str) -> NoReturn:
        """Kill everything in the VM, then this process. Blocks the loop on purpose: nothing may happen after."""
        _say(f"the VM ends: {why}")
        try:
            kill_family(self._files.marker, self._roots, spare={os.getpid()})
        except OSError as error:
            _say(f"what is left of it is swept by the driver: {error}")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a process outlived SIGKILL")

    async def _serve(self, app: web.Application, port: int) -> None:
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, self._record.address, port).start()

    async def _boot(self) -> None:
        age_s = (datetime.now(UTC) - self._record.launched_at).total_seconds()
        await asyncio.sleep(max(self._record.boot_time_s - age_s, 0.0))
        if self._record.sshd is None:
            await self._listen_with_asyncssh()
            write_private(self._files.running, "")
            return
        sshd = self._start_sshd(self._record.sshd)
        waiting = asyncio.create_task(self._listens(), name="sshd-listens")
        exiting = asyncio.create_task(self._children.exit_status(sshd), name="sshd-exits")
        async with asyncio.timeout(_BOOT_LIMIT_S):
            await asyncio.wait({waiting, exiting}, return_when=asyncio.FIRST_COMPLETED)
        if not exiting.done():
            write_private(self._files.running, "")
            _say(f"sshd listens on {self._record.address}:{self._record.ssh_port}")
        status = await exiting
        waiting.cancel()
        raise RuntimeError(f"sshd ended with status {status}")

    async def _listen_with_asyncssh(self) -> None:
        # A fifth of a second to import: only for VMs that need it.
        from hedgeserve.drivers.localcloud import sshd_in_process

        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env["HOME"] = str(self._files.home)
        await sshd_in_process.listen(self._record, self._files, children=self._children, env=env)
        _say(f"asyncssh's server listens on {self._record.address}:{self._record.ssh_port}")

    def _start_sshd(self, sshd: str) -> "subprocess.Popen[bytes]":
        config = str(self._files.sshd_config)
        write_private(self._files.sshd_config, sshd_config(self._record, self._files))
        # From 9.8 on, sshd shuts out addresses whose logins fail; here all come from one address. Earlier
        # versions do not know the setting and would not start with it.
        patience = ["-o", "PerSourcePenalties=no"]
        knows = subprocess.run(
            [sshd, "-t", "-f", config, *patience], stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
        child = self._children.start(
            [sshd, "-D", "-e", "-f", config, *(patience if knows.returncode == 0 else [])],
            env=os.environ,
            cwd=self._files.root,
            piped=False,
        )
        # sshd writes its title over its environment, and with it over the marker.
        self._sshd = identify(child.pid)
        if self._sshd is not None:
            write_identity(self._files.sshd, self._sshd)
        return child

    async def _listens(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(self._record.address, self._record.ssh_port)
            except OSError:
                await asyncio.sleep(_POLL_S)
            else:
                writer.close()
                return

    async def _watch_lease(self) -> NoReturn:
        """End the VM when nobody has touched the lease for its time.

        The time is taken on our own clock from when a new touch is seen: a clock that jumps, or a machine that
        slept, ends no VM.
        """
        seen: float | None = None
        since_s = time.monotonic()
        while True:
            try:
                touched: float | None = self._files.lease.stat().st_mtime
            except OSError:
                touched = None
            if touched != seen:
                seen, since_s = touched, time.monotonic()
            if time.monotonic() - since_s > self._record.lease_s:
                self._end(f"its lease was not renewed for {self._record.lease_s:g} s")
            await asyncio.sleep(self._record.lease_s / _LEASE_CHECKS)

    async def _watch_approval(self) -> None:
        await self._metadata.approved.wait()
        self._end("its preemption was approved")

    def _control_app(self) -> web.Application:
        """How the cloud, that is the driver, reaches into the VM."""

        def authorized(request: web.Request) -> bool:
            expected = f"Bearer {self._record.control_token}"
            return hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode())

        async def preempt(request: web.Request) -> web.StreamResponse:
            if not authorized(request):
                return web.Response(status=401)
            notice_s = float((await request.json())["notice_s"])
            response = web.Response()
            await response.prepare(request)
            await response.write_eof()
            self._preempt(notice_s)
            return response

        async def vanish(request: web.Request) -> web.StreamResponse:
            if not authorized(request):
                return web.Response(status=401)
            seen_after_s = float((await request.json())["seen_after_s"])
            # Before the answer, so that who has it finds nobody speaking; again after it, for what began since.
            self._stop_others()
            response = web.Response()
            await response.prepare(request)
            await response.write_eof()
            self._vanish(seen_after_s)
            return response

        async def rebalance(request: web.Request) -> web.StreamResponse:
            if not authorized(request):
                return web.Response(status=401)
            self._metadata.recommend_rebalance(now=datetime.now(UTC))
            return web.Response()

        app = web.Application()
        app.add_routes(
            [web.post("/preempt", preempt), web.post("/vanish", vanish), web.post("/rebalance", rebalance)]
        )
        return app

    def _preempt(self, notice_s: float) -> None:
        """Announce the end and come to it; of two announcements the earlier end holds."""
        loop = asyncio.get_running_loop()
        end_at_s = loop.time() + notice_s
        if self._end_at_s is not None and self._end_at_s <= end_at_s:
            return
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_at_s = end_at_s
        self._end_timer = loop.call_at(end_at_s, self._end, f"preempted after a notice of {notice_s:g} s")
        self._metadata.announce(now=datetime.now(UTC), notice_s=notice_s)
        _say(f"preempted: {notice_s:g} s left")


def _say(what: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {what}\n")
    sys.stderr.flush()


async def _supervise(files: VmFiles, record: VmRecord) -> None:
    await Supervisor(files, record).run()


def main() -> None:
    """Be the VM whose directory is the only argument."""
    files = VmFiles(Path(sys.argv[1]))
    if os.environ.get(MARKER_VARIABLE) != files.marker:
        sys.exit(f"{MARKER_VARIABLE} must be {files.marker} in the environment: a VM is started by its driver")
    os.chdir(files.home)
    become_subreaper()
    asyncio.run(_supervise(files, VmRecord.from_json(files.record.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
