"""The live status that ``hedgeserve serve`` shows on a terminal, with its log lines above it."""

import asyncio
from typing import Self

import structlog
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hedgeserve.console.view import status_view
from hedgeserve.core import Service

_REFRESH_S = 0.5


class Screen:
    """The terminal, as a stream whose lines appear above the live status."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def write(self, text: str) -> int:
        """Print one line above the status."""
        if line := text.rstrip("\n"):
            self._console.print(Text.from_ansi(line))
        return len(text)

    def flush(self) -> None:
        """Write out what is still in a buffer."""
        self._console.file.flush()

    def isatty(self) -> bool:
        """Whether it has colours and a size."""
        return self._console.is_terminal

    def picture_of(self, service: Service) -> "Picture":
        """The live status of this service, not yet shown."""
        return Picture(service, self._console)


class Picture:
    """The live status, from :meth:`begin` until the service has stopped."""

    def __init__(self, service: Service, console: Console) -> None:
        self._service = service
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Show it, and keep it true."""
        self._live.start()
        self._task = asyncio.create_task(self._refresh(), name="live status")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._live.stop()

    async def _refresh(self) -> None:
        try:
            while True:
                self._live.update(status_view(self._service.status(), fits_height=True), refresh=True)
                await asyncio.sleep(_REFRESH_S)
        except Exception:  # a picture that cannot be drawn must not end the service
            structlog.get_logger("hedgeserve.cli").exception("the live status failed; the service goes on")
