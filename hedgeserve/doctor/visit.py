"""A visit: everything that can be looked at, the clouds and servers at the same time, each with its deadline."""

import asyncio
import socket
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from hedgeserve.doctor.home import examine_home
from hedgeserve.drivers.base import Driver
from hedgeserve.drivers.examine import Examination, Finding
from hedgeserve.drivers.remote import RemoteDriver
from hedgeserve.drivers.static import StaticServer
from hedgeserve.errors import CloudError
from hedgeserve.spec import Spec

_CLOUD_S = 180.0
_REACH_S = 10.0
_SKEW_WARN_S = 5.0
_SKEW_FAIL_S = 240.0
_SSH_PROBE = ("github.com", 22)
"""A public SSH server: a connection is opened and closed, and nothing is sent."""


async def visit(
    spec: Spec,
    drivers: Mapping[str, Driver | CloudError],
    servers: tuple[StaticServer, ...] | CloudError,
    environ: Mapping[str, str],
    *,
    offline: bool = False,
) -> list[Finding]:
    """All findings, this machine's first. ``offline`` leaves out what would need a network."""
    found = (await asyncio.to_thread(examine_home, spec, environ)).findings
    if offline:
        return found
    remote = {cloud: driver for cloud, driver in drivers.items() if isinstance(driver, RemoteDriver)}
    tasks = [_cloud(driver) for driver in remote.values()]
    if remote:
        tasks.append(_ssh_out())
    if isinstance(servers, CloudError):
        failed = Examination()
        failed.fail("static servers", str(servers))
        found += failed.findings
    elif servers:
        tasks.append(_servers(spec, servers))
    for cloud, driver in drivers.items():
        if isinstance(driver, CloudError):
            failed = Examination()
            failed.fail(cloud, str(driver))
            found += failed.findings
    for part in await asyncio.gather(*tasks):
        found += part
    return found


async def _cloud(driver: RemoteDriver[Any]) -> list[Finding]:
    reached = Examination()
    try:
        url = driver.endpoint(driver.regions[0])
    except CloudError as error:
        reached.fail(f"{driver.cloud} address", str(error))
        return reached.findings
    if url and not await asyncio.to_thread(_reach, driver.cloud, url, reached):
        return reached.findings
    try:
        async with asyncio.timeout(_CLOUD_S):
            return reached.findings + list(await driver.examine())
    except TimeoutError:
        reached.fail(driver.cloud, f"it was not through after {_CLOUD_S:.0f} s; try again, or fewer regions")
    return reached.findings


def _reach(cloud: str, url: str, found: Examination) -> bool:
    """Whether the API answers anything at all; and how far our clock is from its. Blocking."""
    host = urlsplit(url).hostname or ""
    try:
        if not requests.utils.get_environ_proxies(url):  # a proxy looks names up itself
            socket.getaddrinfo(host, None)
    except OSError as error:
        found.fail(f"{cloud} address", f"{host} has no address here: {error}; look at DNS (/etc/resolv.conf)")
        return False
    begun_s = time.time()
    try:
        answer = requests.head(url, timeout=_REACH_S, allow_redirects=False)
    except requests.RequestException as error:
        told = str(error).replace("\n", " ")[:200]
        found.fail(f"{cloud} address", f"{url} cannot be reached: {told}; is a firewall or a proxy between?")
        return False
    found.ok(f"{cloud} address", f"{host} answers")
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (TypeError, ValueError):
        return True
    off_s = (begun_s + time.time()) / 2 - theirs
    told = f"ours is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the cloud's"
    if abs(off_s) > _SKEW_FAIL_S:
        found.fail(f"{cloud} clock", f"{told}, and requests are refused for it; set the clock (chrony)")
    elif abs(off_s) > _SKEW_WARN_S:
        found.warn(f"{cloud} clock", f"{told}; have it kept right (chrony, systemd-timesyncd)")
    else:
        found.ok(f"{cloud} clock", f"within {_SKEW_WARN_S:.0f} s of the cloud's")
    return True


async def _ssh_out() -> list[Finding]:
    found = Examination()
    host, port = _SSH_PROBE
    try:
        async with asyncio.timeout(_REACH_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        found.ok("SSH", f"port {port} of other hosts can be reached")
    except (OSError, TimeoutError) as error:
        found.warn(
            "SSH",
            f"port {port} of {host} cannot be reached from here ({error or 'no answer'}); VMs are set up by SSH: "
            "let this port out",
        )
    return found.findings


async def _servers(spec: Spec, servers: tuple[StaticServer, ...]) -> list[Finding]:
    from hedgeserve.doctor.servers import examine_servers

    return (await examine_servers(spec, servers)).findings


def state_dir_of(spec: Spec, environ: Mapping[str, str]) -> Path:
    """Where the service keeps its state."""
    from hedgeserve.statedir import resolve_state_dir

    return resolve_state_dir(spec.service.name, spec.service.state_dir, environ)
