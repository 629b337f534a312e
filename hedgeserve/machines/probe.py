"""The readiness probe: the engine's health path, then one real token."""

import ssl
from dataclasses import dataclass

import aiohttp

from hedgeserve.engines.base import Engine
from hedgeserve.spec import ProbeSpec

_FIRST_TOKEN_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who must answer: the VM of this ``name``, by a certificate that ``trust`` verifies."""

    name: str
    trust: ssl.SSLContext


class Prober:
    """Asks engines whether they can serve. A failure is an answer (a sentence), never an exception.

    Without an ``identity``, https is verified as the system does.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        probe: ProbeSpec,
        engine: Engine,
        identity: Identity | None = None,
    ) -> None:
        self._session = session
        self._probe = probe
        self._engine = engine
        self._identity = identity

    def of(self, identity: Identity) -> "Prober":
        """The same, for one VM that must prove its identity."""
        return Prober(self._session, self._probe, self._engine, identity)

    async def health(self, url: str, api_key: str | None) -> str:
        """Empty when the probe of ``model.toml`` is answered with 200, else what came instead."""
        path = self._probe.path or self._engine.health_path
        body = self._probe.post_body
        return await self._ask(url + path, api_key, body, timeout_s=self._probe.timeout)

    async def first_token(self, url: str, api_key: str | None) -> str:
        """Empty when the engine completes one token (or the spec asks for no such proof), else what came."""
        if not self._probe.completion:
            return ""
        path, body = self._engine.first_token_request()
        # The first token may compile kernels: it gets longer than an ordinary probe.
        timeout_s = max(self._probe.timeout, _FIRST_TOKEN_TIMEOUT_S)
        return await self._ask(url + path, api_key, body, timeout_s=timeout_s)

    async def _ask(self, url: str, api_key: str | None, body: object, *, timeout_s: float) -> str:
        identity = self._identity
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                url,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                ssl=True if identity is None else identity.trust,
                server_hostname=None if identity is None else identity.name,
            ) as response:
                if response.status == 200:
                    await response.read()
                    return ""
                text = (await response.content.read(300)).decode("utf-8", "replace").strip()
                return f"{url} answered {response.status}" + (f": {text}" if text else "")
        except TimeoutError:
            return f"{url} did not answer within {timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a host that is no name
            return f"{url} could not be asked: {error or type(error).__name__}"
