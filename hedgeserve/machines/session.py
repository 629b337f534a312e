"""Everything that goes over SSH to one VM, held up for as long as the VM lives.

A connection that breaks is made again; what was done before is found done (the bootstrap is idempotent). The
owner hears of what happens through :class:`Ears` and may ask for the engine's log at any time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Protocol

from hedgeserve.drivers.base import Dialect, Machine
from hedgeserve.engines.base import Engine
from hedgeserve.errors import BootstrapError
from hedgeserve.machines.authority import EngineTls
from hedgeserve.machines.bootstrap import Bootstrap
from hedgeserve.machines.keys import SshKeys
from hedgeserve.machines.notices import Approved, Trouble, WatchEvent, parse_line, watcher_command
from hedgeserve.machines.ssh import Remote, Unreachable, connect
from hedgeserve.race import race
from hedgeserve.spec import Transport

_RECONNECT_S = 60.0
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LOST_AT_MOST = 20
_WATCHER_SILENCE_S = 15.0
# Three times as long as from one heartbeat to the next.
_SUSPICIOUS_SILENCE_S = 6.0
_APPROVAL_S = 5.0
# Asked between two probes, often over a connection that is lost and does not know it yet.
_EXITED_S = 5.0


class Ears(Protocol):
    """Who is told what a session learns."""

    async def connected(self) -> None:
        """SSH answers (said after each new connection)."""

    async def lost(self) -> None:
        """The connection ended, which is usually how a VM that is gone shows first."""

    def suspected(self) -> None:
        """The VM has been silent for longer than it should; the connection stands."""

    async def heard(self, event: WatchEvent) -> None:
        """The watcher on the VM said something."""

    def timed(self, phase: str, seconds: float) -> None:
        """A phase of the bootstrap took this long."""


def transport_to(machine: Machine, *, engine: Engine, wanted: Transport) -> Transport:
    """How requests travel to the engine on this VM: the one wanted, or the one that ``auto`` means here.

    Raises:
        BootstrapError: It would send requests over a public address unencrypted, or the engine cannot do it.
    """
    address = ip_address(machine.address or "")
    match wanted:
        case Transport.AUTO if address.is_loopback:
            return Transport.DIRECT
        case Transport.AUTO:
            return Transport.TLS if engine.tls else Transport.SSH
        case Transport.DIRECT if not address.is_private:
            raise BootstrapError(
                "transport",
                f"{address} is a public address, and requests would go there unencrypted; "
                'set service.transport to "tls", "ssh" or "auto"',
            )
        case Transport.TLS if not engine.tls:
            raise BootstrapError(
                "transport",
                f'the engine "{engine.name}" cannot answer by TLS; set service.transport to "ssh" or "auto"',
            )
    return wanted


def _listen_on(machine: Machine, transport: Transport) -> str:
    """The address on which the engine must listen."""
    address = ip_address(machine.address or "")
    # A VM of the local driver shares its loopback interface with the others, hence its own address there.
    if address.is_loopback or transport is Transport.DIRECT:
        return str(address)
    if transport is Transport.SSH:
        return "127.0.0.1"
    # The address that we know may be a translation that no interface of the VM has.
    return "0.0.0.0" if address.version == 4 else "::"


class VmSession:
    """The SSH side of one VM; :attr:`url` is where its engine answers, once :attr:`started` is set."""

    def __init__(
        self,
        machine: Machine,
        *,
        keys: SshKeys,
        engine: Engine,
        engine_key: str,
        transport: Transport,
        tls: EngineTls | None,
        boot_timeout_s: float,
        notice_poll_s: float,
        driver_wait_s: float,
        ears: Ears,
    ) -> None:
        """Nothing is dialled yet. ``transport`` is what :func:`transport_to` gave; ``tls`` is for that alone."""
        self._machine = machine
        self._keys = keys
        self._boot_timeout_s = boot_timeout_s
        self._notice_poll_s = notice_poll_s
        self._ears = ears
        self._transport = transport
        self._tunnel_port = 0
        self._listen = _listen_on(machine, transport)
        self._bootstrap = Bootstrap(
            engine,
            api_key=engine_key,
            listen=self._listen,
            port=machine.engine_port,
            timed=ears.timed,
            tls=tls,
            driver_wait_s=driver_wait_s,
        )
        self._remote: Remote | None = None
        self._tell_watcher: Callable[[str], None] | None = None
        self._approved = asyncio.Event()
        self.started = asyncio.Event()
        self.url = ""

    async def run(self) -> None:
        """Keep the session up; returns only when cancelled.

        Raises:
            BootstrapError: SSH did not answer in time, or the engine could not be started.
        """
        patience_s, lost, told = self._boot_timeout_s, 0, ""
        while True:
            try:
                async with connect(self._machine, self._keys, timeout_s=patience_s) as remote:
                    await self._over(remote)
            except Unreachable as error:
                lost += 1
                if lost >= _LOST_AT_MOST and not self.started.is_set():
                    why = f"{lost} connections were lost before the engine was started; the last: {error!r}"
                    raise BootstrapError("ssh", why) from None
            except BootstrapError as error:
                if not self.started.is_set():
                    raise
                # It serves, as far as we know: the probes and the cloud's list have the last word on it.
                if str(error) != told:
                    told = str(error)
                    await self._ears.heard(Trouble(told))
            finally:
                self._remote = None
            await self._ears.lost()
            patience_s = _RECONNECT_S
            await asyncio.sleep(_PAUSE_S)

    async def exited(self) -> str:
        """A sentence on how the engine ended; empty while it runs, or while there is no connection to ask over."""
        if self._remote is None:
            return ""
        try:
            async with asyncio.timeout(_EXITED_S):
                return await self._bootstrap.exited(self._remote)
        except Unreachable:
            return ""

    async def log_tail(self, lines: int) -> str:
        """The last lines of the engine's log.

        Raises:
            BootstrapError: There is no connection to the VM now.
        """
        if self._remote is None:
            raise BootstrapError("logs", f"{self._machine.name} cannot be reached by SSH now; try again")
        try:
            return await self._bootstrap.log_tail(self._remote, lines)
        except Unreachable as error:
            raise BootstrapError("logs", f"the connection to {self._machine.name} was lost: {error}") from None

    @property
    def may_approve(self) -> bool:
        """Whether the cloud waits for a word before it begins what it announced, and can be given it now."""
        return self._tell_watcher is not None and self._machine.dialect is Dialect.AZURE

    async def approve(self) -> None:
        """Tell a cloud that waits for the word that what it announced may begin; nothing depends on it."""
        tell = self._tell_watcher
        if tell is None or not self.may_approve:
            return
        self._approved.clear()
        with suppress(*Unreachable):
            tell("approve\n")
            async with asyncio.timeout(_APPROVAL_S):
                await self._approved.wait()

    async def _over(self, remote: Remote) -> None:
        """Use one connection until it ends. Notices are listened to from the first moment: an install is long."""
        self._remote = remote
        await self._ears.connected()
        await self._bootstrap.upload_watcher(remote)
        await race(watch=self._watch(remote), work=self._bring_up(remote))

    async def _bring_up(self, remote: Remote) -> None:
        if not self.started.is_set():
            await self._bootstrap.start(remote)
        port = self._machine.engine_port
        if self._transport is Transport.SSH:
            # The same local port again after a reconnect: the URL is in snapshots that are in use.
            self._tunnel_port = await remote.forward(self._listen, port, local_port=self._tunnel_port)
            self.url = f"http://127.0.0.1:{self._tunnel_port}"
        else:
            scheme = "https" if self._transport is Transport.TLS else "http"
            address = self._machine.address or ""
            self.url = f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"
        self.started.set()
        await remote.connection.wait_closed()

    async def _watch(self, remote: Remote) -> None:
        """Follow the notice watcher, started again where it ends, until the connection does."""
        path = await self._bootstrap.watcher_path(remote)
        command = watcher_command(self._machine, path=path, poll_s=self._notice_poll_s)
        pause_s, complained = _PAUSE_S, False
        while not remote.connection.is_closed():
            async with aclosing(remote.lines(command, input_to=self._reach_watcher)) as lines:
                try:
                    heard = await self._listen_to(lines)
                finally:
                    self._tell_watcher = None
            if not heard and not complained and not remote.connection.is_closed():
                complained = True
                await self._ears.heard(Trouble(f"`{command}` ends without a word; is there a Python on the VM?"))
            pause_s = _PAUSE_S if heard else min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    def _reach_watcher(self, tell: Callable[[str], None]) -> None:
        self._tell_watcher = tell

    async def _listen_to(self, lines: AsyncGenerator[str, None]) -> bool:
        """Pass on what the watcher says until it ends; whether it said anything.

        Its silence ends the connection, for then the VM may be unreachable; but not while the engine is still
        being installed: a busy VM is slow, and an installation should not be cut short for it.
        """
        heard, loop = False, asyncio.get_running_loop()
        while True:
            suspicion = loop.call_later(_SUSPICIOUS_SILENCE_S, self._ears.suspected)
            try:
                async with asyncio.timeout(_WATCHER_SILENCE_S):
                    line = await anext(lines)
            except StopAsyncIteration:
                return heard
            except TimeoutError:
                if self.started.is_set():
                    raise
                return heard
            finally:
                suspicion.cancel()
            event = parse_line(line, now_s=loop.time(), utc_now=datetime.now(UTC))
            if event is None:
                continue
            heard = True
            if isinstance(event, Approved):
                self._approved.set()
            await self._ears.heard(event)
