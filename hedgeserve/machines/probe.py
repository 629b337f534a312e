"""The readiness probe: the engine's health path, then one real token."""

import asyncio
import ssl
from dataclasses import dataclass

from hedgeserve.engines.base import Engine
from hedgeserve.machines.question import NoAnswerError, Trust, ask
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
        probe: ProbeSpec,
        engine: Engine,
        identity: Identity | None = None,
    ) -> None:
        self._probe = probe
        self._engine = engine
        self._identity = identity

    def of(self, identity: Identity) -> "Prober":
        """The same, for one VM that must prove its identity."""
        return Prober(self._probe, self._engine, identity)

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
        trust = None if identity is None else Trust(identity.trust, identity.name)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await ask(url, headers=headers, body=body, trust=trust)
        except TimeoutError:
            return f"{url} did not answer within {timeout_s:g} s"
        except (NoAnswerError, OSError, ValueError) as error:  # ValueError: a host that is no name
            return f"{url} could not be asked: {error or type(error).__name__}"
        if answer.status == 200:
            return ""
        text = answer.beginning.decode("utf-8", "replace").strip()
        return f"{url} answered {answer.status}" + (f": {text}" if text else "")
