"""Streams of our own for a drill: so many at a time, each looked at for what a client would suffer.

Only to an endpoint on this machine's loopback: a drill is no tool to load other people's servers with.
"""

import asyncio
import ipaddress
import json
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from hedgeserve.errors import HedgeServeError

_PROMPTS = (
    "Tell me at length how a lighthouse keeper spends a year.",
    "Explain at length how bread is made, step by step.",
    "Describe at length a walk through a forest in autumn.",
    "Write at length about the history of bridges.",
)
_TOKENS = 512
_ANSWER_S = 600.0
_WARM_S = 300.0
_MOST_FAILURES = 100


@dataclass(slots=True)
class Loaded:
    """What became of the streams.

    ``whole`` counts those that ended after the drill's beginning, also after its end, and pauses and waits count
    from there too. A stream that fails before is a failure all the same.
    """

    whole: int = 0
    failed: int = 0
    longest_pause_s: float = 0.0
    longest_wait_s: float = 0.0
    same: int = 0
    other: int = 0
    deterministic: bool = False
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all streams came to their end, and to the same words where the engine says them the same."""
        return not self.failed and not (self.deterministic and self.other)

    def document(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return asdict(self) | {"ok": self.ok}

    def compared(self) -> str:
        """What the comparison of the texts says."""
        if not self.deterministic:
            return "not compared: this engine words the same answer differently, undisturbed too"
        return f"{self.same} answers word for word as undisturbed, {self.other} different"


class Load:
    """``count`` streams at a time until :meth:`finish`; they run in a thread with an event loop of its own.

    Entering asks each prompt twice, undisturbed, and returns when all streams have begun.

    Raises:
        HedgeServeError: The endpoint is not on loopback, or does not take our requests.
    """

    def __init__(self, url: str, model: str, count: int, *, api_key: str | None) -> None:
        self._base = _loopback(url)
        self._model = model
        self._count = count
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="drill load", daemon=True)
        self._stop = False
        self._marked_s: float | None = None
        self._begun = 0
        self._all_begun = asyncio.Event()
        self._found = Loaded()
        self._undisturbed: dict[str, set[str]] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._do(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def mark(self) -> None:
        """The drill begins now."""
        self._loop.call_soon_threadsafe(self._mark)

    def finish(self) -> Loaded:
        """Begin no more streams, wait for those that run, and say what became of them."""
        self._stop = True
        self._do(self._join())
        return self._found

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the loop

    def _mark(self) -> None:
        self._marked_s = self._loop.time()
        texts = self._undisturbed.values()
        self._found.deterministic = bool(texts) and all(len(said) == 1 for said in texts)

    async def _start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        connector = aiohttp.TCPConnector(limit=0, ssl=False)  # to ourselves, whatever name is in the certificate
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        prompts = _PROMPTS[: self._count]
        twice = await asyncio.gather(*(self._ask(prompt) for prompt in prompts * 2), return_exceptions=True)
        for prompt, said in zip(prompts * 2, twice, strict=True):
            if isinstance(said, BaseException):
                raise HedgeServeError(f"the endpoint does not answer our requests: {said}") from said
            self._undisturbed.setdefault(prompt, set()).add(said)
        self._workers = [
            asyncio.create_task(self._work(_PROMPTS[number % len(_PROMPTS)])) for number in range(self._count)
        ]
        async with asyncio.timeout(_WARM_S):
            await self._all_begun.wait()

    async def _join(self) -> None:
        await asyncio.gather(*self._workers)

    async def _close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if hasattr(self, "_session"):
            await self._session.close()

    async def _work(self, prompt: str) -> None:
        first = True
        while first or not self._stop:
            try:
                said = await self._ask(prompt, counts=True, first=first)
            except (_CutError, aiohttp.ClientError, TimeoutError) as error:
                self._found.failed += 1
                if len(self._found.failures) < _MOST_FAILURES:
                    self._found.failures.append(str(error) or type(error).__name__)
                await asyncio.sleep(0.5)
            else:
                self._found.whole += self._marked_s is not None
                if self._marked_s is None:
                    self._undisturbed.setdefault(prompt, set()).add(said)
                elif said in self._undisturbed.get(prompt, ()):
                    self._found.same += 1
                else:
                    self._found.other += 1
            first = False

    async def _ask(self, prompt: str, *, counts: bool = False, first: bool = False) -> str:
        """The text of one streamed answer.

        Raises:
            _CutError: It was refused, cut, or ended without a reason.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": _TOKENS,
            "temperature": 0,
            "stream": True,
        }
        text, finish, last_s = "", "", self._loop.time()
        async with self._session.post(f"{self._base}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                told = " ".join((await response.text()).split())[:200]
                hint = "; set HEDGESERVE_API_KEY" if response.status == 401 else ""
                raise _CutError(f"{response.status} {told}{hint}")
            begun = False
            async for line in response.content:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    break
                event = json.loads(data)
                if "error" in event:
                    raise _CutError(str(event["error"].get("message", event["error"])))
                self._passed(last_s, begun=begun, counts=counts)
                last_s = self._loop.time()
                if not begun:
                    begun = True
                    self._begin(first)
                for choice in event.get("choices", ()):
                    text += choice.get("delta", {}).get("content") or ""
                    finish = choice.get("finish_reason") or finish
        if not finish:
            raise _CutError("the answer ended without saying why")
        return text

    def _begin(self, first: bool) -> None:
        self._begun += first
        if self._begun >= self._count:
            self._all_begun.set()

    def _passed(self, since_s: float, *, begun: bool, counts: bool) -> None:
        if not counts or self._marked_s is None:
            return
        now_s = self._loop.time()
        if begun:
            self._found.longest_pause_s = max(self._found.longest_pause_s, now_s - since_s)
        else:
            self._found.longest_wait_s = max(self._found.longest_wait_s, now_s - since_s)


class _CutError(Exception):
    """An answer that is not whole; says why."""


def _loopback(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost":
        return url.rstrip("/")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None and address.is_unspecified:  # all addresses: loopback too
        return f"{parts.scheme}://{'127.0.0.1' if address.version == 4 else '[::1]'}:{parts.port}"
    if address is None or not address.is_loopback:
        raise HedgeServeError(
            f"--load sends requests to a loopback endpoint only, and this one is {url}; "
            "leave it out, and let real requests show what the drill does"
        )
    return url.rstrip("/")
