"""The admin API on an address, asked by hand over real sockets: who is let in, and what browsers are told."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from hedgeserve.core import Service
from hedgeserve.errors import ListenError, SpecError
from hedgeserve.spec import AdminSpec
from hedgeserve.specfile import parse_spec
from hedgeserve.web.admin import Admin
from tests.conftest import small_spec, small_toml
from tests.test_admin import Operated, ask
from tests.test_endpoint_tls import issued, write

TOKEN = "t" * 43
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])


class Door:
    """The admin API on an address, and a hand that asks there."""

    def __init__(self, admin: Admin, service: Operated, socket: Path) -> None:
        self.admin, self.service, self.socket = admin, service, socket
        self.host = admin.url.removeprefix("http://").removesuffix("/ui")

    async def ask(self, target: str, method: str = "GET", body: bytes = b"", **headers: str) -> Reply:
        host, port = self.host.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        told = {"Host": self.host, "Connection": "close", "Content-Length": str(len(body)), **headers}
        try:
            head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {told[name]}\r\n" for name in told)
            writer.write(head.encode() + b"\r\n" + body)
            async with asyncio.timeout(10):
                answer = await reader.read()
        finally:
            writer.close()
        head, _, content = answer.decode("latin-1").partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Reply(int(first.split()[1]), found, content.encode("latin-1"))

    async def sign_in(self) -> dict[str, str]:
        """What a browser sends from our page once it has followed a link."""
        reply = await self.ask(self.admin.link().removeprefix(f"http://{self.host}"))
        assert reply.headers["location"] == "/ui"
        return {"Cookie": reply.headers["set-cookie"].partition(";")[0], "Origin": f"http://{self.host}"}


@asynccontextmanager
async def door(directory: Path, **keys: object) -> AsyncIterator[Door]:
    service, socket = Operated(), directory / "admin.sock"
    admin = Admin(service, socket)
    await admin.start()
    try:
        spec = AdminSpec.model_validate({"listen": "127.0.0.1:0", **keys})
        await admin.open_site(spec, TOKEN, service="small")
        yield Door(admin, service, socket)
    finally:
        await admin.aclose()


async def test_it_answers_as_the_socket_does(short_dir: Path) -> None:
    """One routing behind both: questions, logs, refusals and orders."""
    async with door(short_dir) as at:
        for target in (
            "/admin/v1/status",
            "/admin/v1/logs/small%201?lines=5",
            "/admin/v1/other",
            "/admin/v1/down",
        ):
            reply = await at.ask(target, **BEARER)
            assert (reply.status, reply.body) == await ask(at.socket, target)
        await at.ask("/admin/v1/events?after=7&after=9&replica=small%201", **BEARER)
        assert at.service.asked == [(7, 100, "small 1")]
        assert (await at.ask("/admin/v1/down", "POST", **BEARER)).status == 202
        assert at.service.downs == 1


async def test_nobody_is_let_in_without_the_token(short_dir: Path) -> None:
    """And told how to get in; the page itself holds nothing, and may be had."""
    async with door(short_dir) as at:
        reply = await at.ask("/admin/v1/status")
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert "hedgeserve ui" in reply.message
        assert (await at.ask("/admin/v1/down", "POST", Authorization="Bearer wrong")).status == 401
        assert (await at.ask(f"/admin/v1/status?token={TOKEN}")).status == 401
        assert (await at.ask("/ui")).status == 200
        assert (await at.ask("/")).headers["location"] == "/ui"
        assert at.service.downs == 0


async def test_every_answer_tells_browsers_to_be_careful(short_dir: Path) -> None:
    """Pages, scripts, data, redirects and errors alike: nothing is kept, framed, or run from elsewhere."""
    async with door(short_dir) as at:
        for target in ("/ui", "/ui/app.js", "/", "/admin/v1/status", "/nothing", "/ui?token=x"):
            for headers in (BEARER, {"Host": "evil.example"}):
                found = (await at.ask(target, **headers)).headers
                assert found["cache-control"] == "no-store"
                assert found["content-security-policy"].startswith("default-src 'self';")
                assert "unsafe" not in found["content-security-policy"]
                assert found["x-frame-options"] == "DENY"
                assert found["referrer-policy"] == "no-referrer"
                assert found["x-content-type-options"] == "nosniff"
                assert not [name for name in found if name.startswith("access-control-")]


async def test_a_link_signs_one_browser_in_and_leaves_the_address_bar(short_dir: Path) -> None:
    """The ticket is gone from the URL whatever it was worth, works once, and not for a HEAD."""
    async with door(short_dir) as at:
        target = at.admin.link().removeprefix(f"http://{at.host}")
        assert (await at.ask(target, "HEAD")).headers["location"] == "/ui#used"
        first = await at.ask(target)
        assert (first.status, first.headers["location"]) == (303, "/ui")
        assert "HttpOnly; SameSite=Strict" in first.headers["set-cookie"]
        again = await at.ask(target)
        assert (again.status, again.headers["location"]) == (303, "/ui#used")
        assert "set-cookie" not in again.headers
        cookie = first.headers["set-cookie"].partition(";")[0]
        assert (await at.ask("/admin/v1/status", Cookie=cookie)).status == 200


async def test_only_our_own_page_may_act_with_a_cookie(short_dir: Path) -> None:
    """A form of another site, or of another port, is turned away even where the browser sends the cookie along."""
    async with door(short_dir) as at:
        mine = await at.sign_in()
        assert (await at.ask("/admin/v1/down", "POST", **mine)).status == 403
        elsewhere = {**mine, "Origin": "http://127.0.0.1:1", "X-HedgeServe": "1"}
        assert (await at.ask("/admin/v1/down", "POST", **elsewhere)).status == 403
        framed = {**mine, "Sec-Fetch-Site": "cross-site", "X-HedgeServe": "1"}
        assert (await at.ask("/admin/v1/down", "POST", **framed)).status == 403
        assert at.service.downs == 0
        assert (await at.ask("/admin/v1/down", "POST", **mine, **{"X-HedgeServe": "1"})).status == 202
        assert at.service.downs == 1


async def test_a_person_may_type_the_token_and_sign_out(short_dir: Path) -> None:
    """What the sign-in form of the page does."""
    async with door(short_dir) as at:
        assert (await at.ask("/ui/session", "POST", Authorization="Bearer no")).status == 401
        reply = await at.ask("/ui/session", "POST", **BEARER)
        cookie = reply.headers["set-cookie"].partition(";")[0]
        assert reply.status == 204
        mine = {"Cookie": cookie, "Origin": f"http://{at.host}", "X-HedgeServe": "1"}
        out = await at.ask("/ui/session", "DELETE", **mine)
        assert (out.status, "Max-Age=0" in out.headers["set-cookie"]) == (204, True)
        assert (await at.ask("/ui/session")).status == 405


@pytest.mark.parametrize("target", ["/admin/v1/ticket", "/admin/v1/%74icket", "//admin/v1/ticket"])
async def test_a_signed_in_browser_cannot_let_others_in(short_dir: Path, target: str) -> None:
    """Links are given to whoever may use the socket, which only the owner may."""
    async with door(short_dir) as at:
        assert (await at.ask(target, "POST", **BEARER)).status in (403, 404)
        status, body = await ask(at.socket, "/admin/v1/ticket", "POST")
        assert (status, json.loads(body)["url"].startswith(f"http://{at.host}/ui?token=")) == (200, True)


@pytest.mark.parametrize("target", ["/ui/../site.py", "/ui/%2e%2e/site.py", "/ui/nothing.js", "/ui/", "/admin"])
async def test_there_is_nothing_beside_the_pages_files(short_dir: Path, target: str) -> None:
    """Files are found by their names alone, never by a path."""
    async with door(short_dir) as at:
        assert (await at.ask(target, **BEARER)).status in (303, 404)


async def test_a_body_has_its_bound(short_dir: Path) -> None:
    """As on the socket."""
    async with door(short_dir) as at:
        assert (await at.ask("/admin/v1/down", "POST", bytes(70_000), **BEARER)).status == 413
        assert at.service.downs == 0


async def test_an_address_in_use_is_said(short_dir: Path) -> None:
    """With the key that names it."""
    async with door(short_dir) as at:
        other = Admin(Operated(), short_dir / "other.sock")
        with pytest.raises(ListenError, match=r"is in use by another program.*admin\.listen"):
            await other.open_site(AdminSpec(listen=at.host), TOKEN, service="small")


async def test_a_socket_alone_gives_no_link(short_dir: Path) -> None:
    """`hedgeserve ui` then shows the dashboard itself."""
    admin = Admin(Operated(), short_dir / "admin.sock")
    await admin.start()
    try:
        assert await ask(short_dir / "admin.sock", "/admin/v1/ticket", "POST") == (200, b'{"url": null}')
    finally:
        await admin.aclose()


@pytest.mark.parametrize(
    ("keys", "good"),
    [
        ('listen = "127.0.0.1:8001"', True),
        ('listen = "localhost:0"', True),
        ('listen = ""', True),
        ('listen = "0.0.0.0:8001"', False),
        ('listen = "0.0.0.0:8001"\nallow_public_without_tls = true', True),
        ('listen = "10.0.0.1:8001"\ntls_certificate = "cert.pem"', True),
        ('tls_key = "key.pem"', False),
        ('listen = "8001"', False),
    ],
)
def test_an_address_that_others_can_reach_needs_tls_or_a_word(tmp_path: Path, keys: str, good: bool) -> None:
    """The token must not travel in the open by mistake."""
    toml = f'[admin]\n{keys}\n[model]\nengine = "demo"\n[[pools]]\ncloud = "local"\nzones = ["east/a"]\n'
    if good:
        assert parse_spec(toml, "m.toml", tmp_path, {}).admin
    else:
        with pytest.raises(SpecError, match=r"admin\."):
            parse_spec(toml, "m.toml", tmp_path, {})


async def test_the_public_endpoint_knows_nothing_of_it(short_dir: Path) -> None:
    """A running service: its token is a private file, its endpoint serves neither the API nor the page."""
    toml = small_toml(short_dir, replicas="count = 1") + '\n[admin]\nlisten = "127.0.0.1:0"\n'
    spec = parse_spec(toml, "small.toml", short_dir, {})
    async with Service(spec) as service:
        token = (short_dir / "state" / "admin_token").read_text().strip()
        assert (short_dir / "state" / "admin_token").stat().st_mode & 0o777 == 0o600
        inside = Door.__new__(Door)
        inside.host = service.dashboard_url.removeprefix("http://").removesuffix("/ui")
        outside = Door.__new__(Door)
        outside.host = service.url.removeprefix("http://")
        reply = await inside.ask("/admin/v1/status", Authorization=f"Bearer {token}")
        assert json.loads(reply.body)["service"] == "small"
        for target in ("/admin/v1/status", "/ui", "/ui/app.js"):
            assert (await outside.ask(target, Authorization=f"Bearer {token}")).status == 404
    assert service.dashboard_url == inside.host.join(("http://", "/ui"))


async def test_a_service_without_an_address_for_it_shows_none(short_dir: Path) -> None:
    """Nor does it make a token."""
    async with Service(small_spec(short_dir)) as service:
        assert (service.dashboard_url, service.dashboard_link()) == ("", "")
        assert not (short_dir / "state" / "admin_token").exists()


async def ui(directory: Path, *flags: str, **environ: str) -> asyncio.subprocess.Process:
    """`hedgeserve ui` of the service with this state directory."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hedgeserve", "ui", "--state-dir", str(directory), *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **environ},
    )  # fmt: skip


async def test_ui_prints_a_link_that_works(short_dir: Path) -> None:
    """As text and as JSON."""
    async with door(short_dir) as at:
        plain, _ = await (await ui(short_dir)).communicate()
        told, _ = await (await ui(short_dir, "--json")).communicate()
        for url in (plain.decode().strip(), json.loads(told)["url"]):
            assert (await at.ask(url.removeprefix(f"http://{at.host}"))).headers["location"] == "/ui"


async def test_ui_starts_a_browser_without_telling_others_the_way_in(short_dir: Path) -> None:
    """A browser's arguments can be read by everybody on the machine; the file that it is given cannot."""
    browser = short_dir / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {short_dir}/told\n')
    browser.chmod(0o700)
    async with door(short_dir) as at:
        process = await ui(short_dir, "--open", BROWSER=f"{browser} %s")
        printed, _ = await process.communicate()
        assert process.returncode == 0
        page = short_dir / "dashboard.html"
        assert (short_dir / "told").read_text().strip() == page.as_uri()
        assert page.stat().st_mode & 0o777 == 0o600
        assert printed.decode().strip() in page.read_text()
        assert at.admin.url in page.read_text()


async def test_ui_shows_the_dashboard_where_the_service_does_not(short_dir: Path) -> None:
    """On a free port, with a token that nobody knows, asking over the socket; until Ctrl-C."""
    service, admin = Operated(), Admin(Operated(), short_dir / "admin.sock")
    await admin.start()
    process = await ui(short_dir)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().strip()
        at = Door.__new__(Door)
        at.host, _, target = url.removeprefix("http://").partition("/")
        assert (await at.ask("/admin/v1/status")).status == 401
        reply = await at.ask(f"/{target}")
        mine = {"Cookie": reply.headers["set-cookie"].partition(";")[0]}
        assert json.loads((await at.ask("/admin/v1/status", **mine)).body) == service.status()
        assert (await at.ask("/admin/v1/logs/small%201?lines=5", **mine)).body == "5 lines: é".encode()
        assert (await at.ask("/admin/v1/events?limit=1001", **mine)).status == 400
        await admin.aclose()
        assert (await at.ask("/admin/v1/status", **mine)).status == 503
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()
        await admin.aclose()
    assert process.returncode == 0


async def test_tls_on_the_address(short_dir: Path) -> None:
    """The link says https, the cookie is for https alone, and the origin is https."""
    authority, tls = await issued(short_dir)
    async with door(short_dir, **write(short_dir, tls)) as at:
        assert at.admin.url.startswith("https://127.0.0.1:")
        connector = aiohttp.TCPConnector(ssl=authority.trust)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
            options = {"server_hostname": "localhost", "allow_redirects": False}
            async with http.get(at.admin.link(), **options) as reply:
                assert (reply.status, reply.headers["location"]) == (303, "/ui")
                cookie = reply.headers["set-cookie"]
                assert cookie.endswith("; Secure")
            mine = {"Cookie": cookie.partition(";")[0], "X-HedgeServe": "1"}
            target = at.admin.url.replace("/ui", "/admin/v1/down")
            for scheme, status in (("http", 403), ("https", 202)):
                origin = {"Origin": f"{scheme}://{target.split('/')[2]}"}
                async with http.post(target, headers=mine | origin, **options) as reply:
                    assert reply.status == status
