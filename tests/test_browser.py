"""The dashboard in a real browser: live, by keyboard, at phone width, with hostile text, and never an error.

Needs Chromium (``make test-browser``); the HTTP side is held by test_site.py and test_stream.py without one.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.core import Service
from hedgeserve.errors import UnknownSubjectError
from hedgeserve.spec import AdminSpec
from hedgeserve.specfile import parse_spec
from hedgeserve.web.admin import Admin
from hedgeserve.web.history import History, Reading
from tests.conftest import eventually, small_toml
from tests.test_admin import Operated
from tests.test_site import TOKEN, ui

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
BEGIN_S = 1_800_000_000


class Pretended(Operated):
    """A fleet with a replica in every state, a journal, and words that would be markup where they could."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = 2
        self.new: set[int] = set()
        self.rollout: dict[str, Any] | None = None
        self.journal: list[dict[str, Any]] = []
        self.record("started", "HedgeServe serves demo")
        self.record("state", f"booting → loading: {HOSTILE}", replica="small-1", zone="aws/us-east-1/us-east-1a")
        phases = [("grant", 0, 1.5), ("boot", 1.5, 40), ("ssh", 40, 42), ("install", 42, 95), ("load", 95, 160)]
        told = [{"phase": phase, "from_s": from_s, "to_s": to_s} for phase, from_s, to_s in phases]
        self.record("state", "loading → ready: it answered", replica="small-1", data={"phases": told})
        self.past = History((0.1, 1.0))
        for second in range(0, 600, 5):
            seen = Reading(BEGIN_S + second, 2, 2, 0, 0, 3, 0.9, 2.0, requests=second, first_tokens=(second, 0, 0))
            self.past.read(seen)

    def record(self, kind: str, message: str, **more: Any) -> None:
        known = {"replica": None, "zone": None, "data": None, **more}
        at = f"2027-01-15T08:{len(self.journal) % 60:02}:00.000+00:00"
        self.journal.append({"id": len(self.journal) + 1, "at": at, "kind": kind, "message": message, **known})

    def status(self) -> Mapping[str, Any]:
        states = ["ready", "noticed", "draining", "loading", "booting", "provisioning", "planned", "terminating"]
        zones = ["aws/us-east-1/us-east-1a", "aws/us-west-2/us-west-2b", "gcp/europe-west4/europe-west4-a"]
        replicas = [
            {
                "id": f"small-{number}",
                "zone": zones[number % 3],
                "market": "on_demand" if number == 3 else "spot",
                "instance_type": "g6.xlarge",
                "usd_per_hour": 0.45,
                "state": state,
                "since_s": 12.0,
                "why": HOSTILE,
                "url": "https://10.0.0.1:8000",
                "outstanding": 1,
                "notice_in_s": 90.0 if state == "noticed" else None,
                "version": 2 if number in self.new else 1,
            }
            for number, state in enumerate(states, start=1)
        ]
        return {
            "service": "small", "model": HOSTILE, "url": "http://127.0.0.1:8000", "state": "serving",
            "uptime_s": 60.0, "target": 2, "ready": self.ready, "queued": 0, "in_flight": 3,
            "usd_per_hour": 0.9, "on_demand_usd_per_hour": 2.0, "trouble": [HOSTILE],
            "plan": {"spot_wanted": 3, "on_demand_wanted": 0, "notes": [HOSTILE]}, "replicas": replicas,
            "cost": {"spent_usd": 3.5}, "model_version": 2 if self.rollout else 1, "rollout": self.rollout,
            "zones": [{"zone": zone, "state": f"preempted: {HOSTILE}"} for zone in zones],
        }  # fmt: skip

    async def events(self, *, after: int, limit: int, replica: str | None) -> Sequence[Mapping[str, Any]]:
        found = [one for one in self.journal if one["id"] > after and replica in (None, one["replica"])]
        return found[:limit] if after else found[-limit:]

    async def logs(self, replica: str, lines: int) -> str:
        return f"the log of {replica}\n{HOSTILE}\n"

    async def cost(self, since: datetime | None = None) -> Mapping[str, Any]:
        cap = {"name": "max_usd_per_day", "limit_usd": 10.0, "used_usd": 9.0, "state": "no_on_demand"}
        saved = {"spent_usd": 3.5, "baseline_on_demand_usd": 7.0, "saved_usd": 3.5}
        return {**saved, "forecast_month_usd": 1234.5, "caps": [cap]}

    async def explain(self, subject: str) -> Mapping[str, Any]:
        if subject not in ("now", "small-1", "aws/us-east-1/us-east-1a"):
            raise UnknownSubjectError(f"nobody knows {subject}")
        because, would_change = ["one reason (`replicas.min`)", HOSTILE], ["a spot VM that is granted"]
        told = {"because": because, "would_change": would_change}
        return {"subject": subject, "headline": f"Why {subject} is so", **told}

    def history(self, *, since_s: float, points: int) -> Mapping[str, Any]:
        return self.past.view(BEGIN_S, BEGIN_S + 600, points=points)


@pytest.fixture
async def chromium() -> AsyncIterator[Any]:
    """A browser that asks nobody but this machine."""
    api = pytest.importorskip("playwright.async_api")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here; make test-browser installs one")
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@asynccontextmanager
async def looking(browser: Any, url: str, *, forgive: str = "", **options: Any) -> AsyncIterator[Any]:
    """A page; at its end no error may have come up, but for those that hold ``forgive``."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = await context.new_page()
    errors: list[str] = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(20_000)
    await page.goto(url)
    yield page
    await context.close()
    assert [error for error in errors if not (forgive and forgive in error)] == []


@asynccontextmanager
async def dashboard(directory: Path) -> AsyncIterator[tuple[Pretended, Admin]]:
    service = Pretended()
    admin = Admin(service, directory / "admin.sock")
    await admin.start()
    await admin.open_site(AdminSpec(listen="127.0.0.1:0"), TOKEN, service="small")
    try:
        yield service, admin
    finally:
        await admin.aclose()


async def test_a_link_opens_the_dashboard(chromium: Any, short_dir: Path) -> None:
    """The ticket is gone from the address, scripts cannot read the cookie, and the headline says it all."""
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link()) as page:
        await page.wait_for_selector(".replica")
        assert page.url == admin.url
        assert await page.evaluate("document.cookie") == ""
        assert await page.inner_text("h1") == "2 of 2 ready · 0.90 USD/h · 55 % below on-demand"
        assert await page.title() == "2/2 ready · small"
        assert await page.locator(".replica").count() == 8
        assert await page.locator(".cloud").count() == 2
        assert "goes in 90 s" in await page.inner_text(".replica.state-noticed")
        assert await page.locator(".chart svg path.line").count() >= 5
        await page.get_by_text("Why now is so").wait_for()


async def test_money_is_told_from_the_books(chromium: Any, short_dir: Path) -> None:
    """What was spent and saved, the month as it goes on, and how far each cap is used up."""
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link()) as page:
        await page.get_by_text("spent this month").wait_for()
        told = await page.locator(".money .figure").all_inner_texts()
        assert [" ".join(text.split()) for text in told] == [
            "spent this month 3.50 USD",
            "saved against on-demand 3.50 USD 50 %",
            "forecast for the month 1 235 USD",
        ]
        assert "9.00 USD of 10.00 USD · no on demand" in await page.inner_text(".caps")


async def test_what_the_service_tells_is_text(chromium: Any, short_dir: Path) -> None:
    """Markup in a reason, a zone's standing, an event, a log or a model's name is shown as it is written."""
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link(), forgive="404") as page:
        for hash_ in ("#/", "#/replica/small-1", "#/zone/aws%2Fus-east-1%2Fus-east-1a", f"#/replica/{HOSTILE}"):
            await page.evaluate("where => { location.hash = where }", hash_)
            await page.wait_for_function("document.body.innerText.includes('onerror')")
            assert await page.locator("img[src=x], main script").count() == 0
            assert await page.title() != "1"


async def test_news_comes_by_itself(chromium: Any, short_dir: Path) -> None:
    """An event at once, a status within a second or two, and nothing is drawn anew that did not change."""
    async with dashboard(short_dir) as (service, admin), looking(chromium, admin.link()) as page:
        await page.wait_for_selector(".replica")
        await page.evaluate("document.querySelector('.replica').mark = 'the same'")
        service.ready = 1
        service.record("notice", "the VM goes in 30 s", replica="small-2")
        admin.bell.ring()
        await page.get_by_text("the VM goes in 30 s").wait_for()
        await page.wait_for_function("document.querySelector('h1').innerText.startsWith('1 of 2 ready')")
        assert await page.evaluate("document.querySelector('.replica').mark") == "the same"


def rolling() -> dict[str, Any]:
    """A roll-out under way, with words from elsewhere."""
    waits = ["Version 2 (rolling): 1 of 2 ready replicas run it", "small-1 has been ready for 5s of 30s", HOSTILE]
    return {
        "from": 1, "to": 2, "strategy": "rolling", "state": "rolling", "began_at": "2027-01-15T08:00:00+00:00",
        "who": "ada", "why": HOSTILE, "ready": 1, "left": 6, "failures": 1, "waits_for": waits,
        "can_roll_back": True,
    }  # fmt: skip


async def test_a_roll_out_is_seen_from_its_begin_to_its_end(chromium: Any, short_dir: Path) -> None:
    """Which version, how far, what is waited for and the way back; each replica says what it runs; then all is
    quiet again."""
    async with dashboard(short_dir) as (service, admin), looking(chromium, admin.link()) as page:
        await page.wait_for_selector(".replica")
        assert await page.locator(".rollout:visible, .version").count() == 0
        service.rollout, service.new = rolling(), {1, 5}
        admin.bell.ring()
        await page.wait_for_selector(".rollout:visible")
        told = " ".join((await page.inner_text(".rollout")).split())
        assert told.startswith("Version 1 → 2 rolling 1 of 6 replicas ready on version 2 1 failed")
        assert "small-1 has been ready for 5s of 30s" in told
        assert "Version 2 (rolling)" not in told
        assert "hedgeserve rollback takes it back to version 1" in told
        assert HOSTILE in told
        assert await page.locator(".version").count() == 8
        assert await page.locator(".version-new").all_inner_texts() == ["v2", "v2"]
        assert await page.locator("[data-key=small-1] .version-new, [data-key=small-2] .version-old").count() == 2
        service.rollout = {**rolling(), "from": 2, "to": 1, "strategy": "rollback", "can_roll_back": False}
        admin.bell.ring()
        await page.get_by_text("Back from version 2 to 1").wait_for()
        assert "hedgeserve rollback" not in await page.inner_text(".rollout")
        service.rollout, service.new = None, set()
        admin.bell.ring()
        await page.wait_for_selector(".rollout", state="hidden")
        await page.wait_for_selector(".version", state="detached")
        await page.evaluate("location.hash = '#/replica/small-1'")
        await page.wait_for_selector(".facts h1")
        assert "version 1" in " ".join((await page.inner_text(".facts")).split())


async def test_events_can_be_filtered(chromium: Any, short_dir: Path) -> None:
    """By replica or zone, by words, and by kind."""
    async with dashboard(short_dir) as (service, admin):
        service.record("refused", "no capacity", zone="aws/us-west-2/us-west-2b")
        async with looking(chromium, admin.link()) as page:
            await page.wait_for_selector(".event")
            everything = await page.locator(".event").count()
            assert everything == len(service.journal)
            await page.get_by_label("Only events with this text").fill("us-west-2b")
            assert await page.locator(".event").count() == 1
            await page.get_by_label("Only events with this text").fill("")
            await page.get_by_label("Only events of this kind").select_option("clouds")
            assert await page.locator(".event .kind").all_inner_texts() == ["refused"]
            await page.get_by_label("Only events of this kind").select_option("trouble")
            assert "Nothing that fits" in await page.inner_text(".timeline")


async def test_a_replicas_page_by_keyboard(chromium: Any, short_dir: Path) -> None:
    """Its start phase by phase, its life, and its engine's log; and back."""
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link()) as page:
        await page.wait_for_selector(".replica")
        await page.locator("[data-key=small-1] > a").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".waterfall rect")
        assert await page.locator(".waterfall rect").count() == 5
        label = await page.get_attribute(".waterfall", "aria-label")
        assert "install 53 s" in label
        await page.get_by_text("the log of small-1").wait_for()
        await page.get_by_text("Why small-1 is so").wait_for()
        assert await page.locator(".explain .would li").all_inner_texts() == ["a spot VM that is granted"]
        assert await page.locator(".explain li code").all_inner_texts() == ["replicas.min"]
        assert await page.locator(".event").count() == 2
        await page.go_back()
        await page.wait_for_selector(".map")


async def test_charts_can_be_read_by_keyboard(chromium: Any, short_dir: Path) -> None:
    """Arrow keys move along the time, and what is there is spoken."""
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link()) as page:
        await page.wait_for_selector(".chart path.line", state="attached")
        await page.locator(".chart svg").first.focus()
        await page.keyboard.press("ArrowLeft")
        spoken = await page.locator(".chart [aria-live]").first.inner_text()
        assert "ready 2" in spoken
        assert await page.locator(".tip:visible").count() == 1


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("where", ["", "#/replica/small-1", "#/zone/aws%2Fus-east-1%2Fus-east-1a"])
async def test_it_fits_a_phone(chromium: Any, short_dir: Path, scheme: str, where: str) -> None:
    """At 360 pixels nothing runs out of the page."""
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    async with dashboard(short_dir) as (service, admin), looking(chromium, admin.link(), **phone) as page:
        service.rollout, service.new = rolling(), {1, 5}
        await page.wait_for_selector(".replica")
        if where:
            await page.evaluate("where => { location.hash = where }", where)
            await page.wait_for_selector(".facts h1")
        beyond = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 360)"
        assert await page.evaluate(f"{beyond}.map(e => e.outerHTML.slice(0, 200))") == []
        assert await page.evaluate("document.documentElement.scrollWidth") == 360


async def test_everything_that_can_be_used_has_a_name(chromium: Any, short_dir: Path) -> None:
    """For those who hear the page."""
    nameless = """[...document.querySelectorAll('a, button, input, select, svg[role=img], img')].filter(
        e => !(e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.length || e.alt !== undefined)
    ).map(e => e.outerHTML)"""
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link()) as page:
        await page.wait_for_selector(".chart path.line", state="attached")
        assert await page.evaluate(nameless) == []
        assert await page.locator("h1").count() == 1


async def test_the_choice_of_dark_and_light_stays(chromium: Any, short_dir: Path) -> None:
    """The system's is taken until somebody chooses; a reload keeps the choice."""
    background = "getComputedStyle(document.body).backgroundColor"
    async with dashboard(short_dir) as (_, admin), looking(chromium, admin.link(), color_scheme="dark") as page:
        await page.wait_for_selector(".replica")
        dark = await page.evaluate(background)
        await page.get_by_label("Switch between dark and light").click()
        light = await page.evaluate(background)
        await page.reload()
        await page.wait_for_selector(".replica")
        assert dark != light == await page.evaluate(background)


async def test_signing_in_and_out(chromium: Any, short_dir: Path) -> None:
    """A used link says what to do; the token itself works; signing out ends it."""
    async with dashboard(short_dir) as (_, admin):
        used = admin.link()
        async with looking(chromium, used) as page:
            await page.wait_for_selector(".replica")
        async with looking(chromium, used, forgive="401") as page:
            await page.get_by_text("has been used already").wait_for()
            await page.get_by_label("or give the token").fill("wrong")
            await page.get_by_role("button", name="Sign in").click()
            await page.get_by_text("this is not the admin token").wait_for()
            await page.get_by_label("or give the token").fill(TOKEN)
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_selector(".replica")
            await page.get_by_role("button", name="Sign out").click()
            await page.get_by_text("You are signed out").wait_for()
            await page.reload()
            await page.get_by_text("for the service's operator").wait_for()


async def test_a_restart_is_lived_through(chromium: Any, short_dir: Path) -> None:
    """The page says that it waits, comes back by itself, and misses nothing that happened meanwhile."""
    async with dashboard(short_dir) as (service, admin):
        url = admin.url
        async with looking(chromium, admin.link(), forgive="ERR_") as page:
            await page.get_by_text("live", exact=True).wait_for()
            await admin.aclose()
            await page.get_by_text("coming back").wait_for()
            service.record("note", "what nobody saw")
            again = Admin(service, short_dir / "again.sock")
            await again.start()
            try:
                listen = url.removeprefix("http://").removesuffix("/ui")
                await again.open_site(AdminSpec(listen=listen), TOKEN, service="small")
                await page.get_by_text("what nobody saw").wait_for()
                await page.get_by_text("live", exact=True).wait_for()
                assert await page.get_by_text("what nobody saw").count() == 1
            finally:
                await again.aclose()


async def test_ui_shows_it_for_a_service_without_an_address(chromium: Any, short_dir: Path) -> None:
    """`hedgeserve ui` as a proxy to the Unix socket, the stream included."""
    service = Pretended()
    admin = Admin(service, short_dir / "admin.sock")
    await admin.start()
    process = await ui(short_dir)
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        async with looking(chromium, url) as page:
            await page.wait_for_selector(".replica")
            service.record("note", "through the socket")
            await page.get_by_text("through the socket").wait_for()
    finally:
        process.terminate()
        await process.communicate()
        await admin.aclose()


async def test_a_real_service_with_real_preemptions(chromium: Any, short_dir: Path) -> None:
    """Replicas come, are taken away, and are seen to be; a start has its phases and an engine its log."""
    local = 'preempt_every = "8s"\nnotice = "2s"\n[admin]\nlisten = "127.0.0.1:0"'
    toml = small_toml(short_dir, replicas="count = 2", overprovision=1, local=local)
    async with (
        Service(parse_spec(toml, "small.toml", short_dir, {})) as service,
        looking(chromium, service.dashboard_link()) as page,
    ):
        await page.locator(".replica.state-ready").first.wait_for(timeout=60_000)
        ready = await page.locator("li[data-key]:has(.state-ready)").first.get_attribute("data-key")
        await page.evaluate("id => { location.hash = `#/replica/${id}` }", ready)
        await page.wait_for_selector(".waterfall[aria-label*=first_token] rect")
        await page.evaluate("location.hash = '#/'")
        await page.get_by_text("preempt").first.wait_for(timeout=90_000)
        await eventually(lambda: service.history(since_s=0)["at"])
        await page.wait_for_selector(".chart path.line", state="attached", timeout=60_000)
