"""Servers of static pools: reachable, the model served, and able to have an answer go on elsewhere."""

import asyncio
import ssl
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from hedgeserve.drivers.examine import Examination
from hedgeserve.drivers.static import StaticServer
from hedgeserve.spec import EngineName, Spec

_ANSWER_S = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OLDEST_VLLM = (0, 8)


async def examine_servers(spec: Spec, servers: tuple[StaticServer, ...]) -> Examination:
    """All servers at the same time, one line for each thing."""
    found = [Examination() for _ in servers]
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(
            *(_examine(spec, server, session, one) for server, one in zip(servers, found, strict=True))
        )
    whole = Examination()
    whole.findings = [finding for one in found for finding in one.findings]
    return whole


async def _examine(spec: Spec, server: StaticServer, session: aiohttp.ClientSession, found: Examination) -> None:
    place = urlsplit(server.url).netloc
    told, status, trouble = await _ask(session, server, "GET", "/v1/models")
    if trouble:
        found.fail(place, trouble)
        return
    if status in (401, 403):
        found.fail(place, f"it answers {status}: its key is wrong or missing; set api_key_env in its pool")
        return
    ids = _ids(told)
    if status != 200 or ids is None:
        found.fail(place, f"{server.url}/v1/models answers {status}, and no list of models; is this an engine?")
        return
    if spec.model.id in ids:
        found.ok(place, f"it serves {spec.model.id}")
    else:
        found.fail(place, f"it serves {', '.join(ids) or 'nothing'}, and not {spec.model.id}; look at model.id")
    if server.url.startswith("http:") and not _is_near(server.url):
        found.warn(f"{place} TLS", "requests go there unencrypted; use https, or a network of your own")
    if spec.model.engine is EngineName.VLLM:
        await _vllm(spec, server, session, place, found)


async def _vllm(
    spec: Spec, server: StaticServer, session: aiohttp.ClientSession, place: str, found: Examination
) -> None:
    told, status, trouble = await _ask(session, server, "GET", "/version")
    version = told.get("version") if isinstance(told, dict) and status == 200 else None
    if trouble or not isinstance(version, str):
        found.warn(f"{place} version", "it does not tell its version: is it vLLM?")
    elif _numbers(version) < _OLDEST_VLLM:
        found.warn(f"{place} version", f"vLLM {version} is older than what HedgeServe is tried with; update it")
    else:
        found.ok(f"{place} version", f"vLLM {version}")
    body = {"model": spec.model.id, "tokens": [1]}
    _, status, trouble = await _ask(session, server, "POST", "/detokenize", body)
    if trouble or status != 200:
        found.warn(
            f"{place} failover",
            f"/detokenize: {trouble or f'it answers {status}'}; cut answers can only be replayed from their "
            "start: let this path through to vLLM",
        )
    else:
        found.ok(f"{place} failover", "/detokenize answers: cut answers can go on from their token")


async def _ask(
    session: aiohttp.ClientSession, server: StaticServer, method: str, path: str, body: Any = None
) -> tuple[Any, int, str]:
    """The answer's JSON, its status, and what stood in the way."""
    headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    try:
        # As probes do it: a redirect is an answer, and nobody sends a key where a server points.
        async with session.request(
            method, server.url + path, json=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status in _REDIRECTS:
                return None, response.status, _redirected(server.url + path, response.headers.get("location", ""))
            try:
                return await response.json(content_type=None), response.status, ""
            except ValueError:
                return None, response.status, ""
    except aiohttp.ClientConnectorCertificateError as error:
        return None, 0, f"its certificate is not trusted: {error.certificate_error}; install its authority"
    except aiohttp.ClientConnectorDNSError:
        return None, 0, f"there is no host {urlsplit(server.url).hostname}; look at the pool's urls"
    except ssl.SSLError as error:
        return None, 0, f"TLS failed: {error.reason}"
    except TimeoutError:
        return None, 0, f"no answer within {_ANSWER_S:.0f} s; is it up, and a firewall between?"
    except (aiohttp.ClientError, OSError) as error:
        return None, 0, f"it cannot be reached: {error}; is it up?"


def _redirected(asked: str, location: str) -> str:
    """What a redirect means here; of where it leads only what holds no secret."""
    try:
        to = urlsplit(urljoin(asked, location))
        base = f"{to.scheme}://{to.hostname or ''}{f':{to.port}' if to.port else ''}"
    except ValueError:
        base = ""
    where = f" to {base}" if base and location else ""
    own = "name the engine's own address in the pool's urls"
    return f"it redirects{where}, and HedgeServe follows no redirect: {own}"


def _ids(told: Any) -> list[str] | None:
    try:
        return [str(one["id"]) for one in told["data"]]
    except (TypeError, KeyError):
        return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)


def _is_near(url: str) -> bool:
    import ipaddress

    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_private
