"""Who may ask over TCP: judged from headers alone, with every trick that a page of another site has."""

from itertools import count

import pytest

from hedgeserve.web.guard import COOKIE_LASTS_S, Asked, Guard

TOKEN = "t" * 43
NOW_S = 1_800_000_000.0
OURS = {"host": "127.0.0.1:8001"}
FETCH = {**OURS, "origin": "http://127.0.0.1:8001", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
LINK = {**OURS, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def guard(*, token: str = TOKEN, hosts: tuple[str, ...] = (), tls: bool = False) -> Guard:
    numbers = count(1)
    return Guard(token, service="small", hosts=hosts, tls=tls, dice=lambda: f"ticket-{next(numbers)}")


def asked(headers: dict[str, str], method: str = "GET", **more: str) -> Asked:
    return Asked(method, {**headers, **more})


def crumb(cookie: str) -> str:
    """The cookie as a browser sends it back."""
    return cookie.partition(";")[0]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8001", "127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8001", "10.1.2.3:80", "desk.lan."],
)
def test_an_address_or_a_name_that_was_told_is_ours(host: str) -> None:
    """No foreign name can be made to point at an IP address, so each of those is safe, through a tunnel too."""
    assert guard(hosts=("Desk.lan",)).judge_place(asked({"host": host}), page=False) is None


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8001", "127.0.0.1.evil.example", "localhost.evil.example:8001",
             "127.0.0.1:8001, evil.example", "user@127.0.0.1", "[::1", "127.0.0.1:8001/x", "desk.lan"]
)  # fmt: skip
def test_a_foreign_name_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name, made to point here, stands in Host."""
    refusal = guard().judge_place(asked({"host": host}), page=True)
    assert refusal is not None
    assert (refusal.status, "admin.hosts" in refusal.why) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "https://127.0.0.1:8001"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
@pytest.mark.parametrize("page", [True, False])
def test_what_another_site_sends_is_refused(headers: dict[str, str], page: bool) -> None:
    """Another port of this machine is another site, and no page may be framed or loaded as a script."""
    refusal = guard().judge_place(asked(OURS, **headers), page=page)
    assert refusal is not None
    assert refusal.status == 403


def test_a_link_may_be_followed_to_a_page_and_to_nothing_else() -> None:
    """From a chat or a terminal in the browser; a form that posts is no link."""
    assert guard().judge_place(asked(LINK), page=True) is None
    assert guard().judge_place(asked(LINK), page=False) is not None
    assert guard().judge_place(asked(LINK, "POST"), page=True) is not None


def test_our_own_page_and_programs_come_from_the_right_place() -> None:
    """Programs send neither Origin nor Sec-Fetch-Site; an address that was typed says none."""
    for headers in (OURS, FETCH, {**OURS, "sec-fetch-site": "none"}):
        assert guard().judge_place(asked(headers), page=False) is None
    by_tls = {**OURS, "origin": "https://127.0.0.1:8001"}
    assert guard(tls=True).judge_place(asked(by_tls), page=False) is None


def test_the_token_lets_programs_do_everything() -> None:
    """By the one header that no foreign page can send; a wrong one is not mended by a cookie."""
    for method in ("GET", "POST", "DELETE"):
        assert guard().judge_sender(asked(OURS, method, authorization=f"Bearer {TOKEN}"), NOW_S) is None
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer é"):
        cookie = crumb(guard().cookie(NOW_S))
        refusal = guard().judge_sender(asked(OURS, authorization=wrong, cookie=cookie), NOW_S)
        assert refusal is not None
        assert refusal.status == 401
        assert TOKEN not in refusal.why


def test_a_cookie_signs_in_for_a_day_and_over_restarts() -> None:
    """Another guard of the same service and token knows it; after a day, or a new token, none does."""
    cookie = guard().cookie(NOW_S)
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert "; Secure" in guard(tls=True).cookie(NOW_S)
    seen = asked(FETCH, cookie=f"other=1; {crumb(cookie)}")
    assert guard().judge_sender(seen, NOW_S + COOKIE_LASTS_S - 1) is None
    assert guard().judge_sender(seen, NOW_S + COOKIE_LASTS_S) is not None
    assert guard().judge_sender(seen, NOW_S - 60) is not None
    assert guard(token="n" * 43).judge_sender(seen, NOW_S) is not None


@pytest.mark.parametrize(
    "value", ["", "1", ".", "1.2", "1800000000.", f"1800000000.{'0' * 64}", "é.é", "1800000000.é"]
)
def test_a_made_up_cookie_is_none(value: str) -> None:
    """Whatever is in it."""
    refusal = guard().judge_sender(asked(OURS, cookie=f"hedgeserve_small={value}"), NOW_S)
    assert refusal is not None
    assert refusal.status == 401


def test_what_changes_something_needs_more_than_a_cookie() -> None:
    """The header and the origin of our own page: a form of another port would have neither."""
    cookie = crumb(guard().cookie(NOW_S))
    allowed = asked(FETCH, "POST", cookie=cookie, **{"x-hedgeserve": "1"})
    assert guard().judge_sender(allowed, NOW_S) is None
    for lacking in (
        asked(FETCH, "POST", cookie=cookie),
        asked(OURS, "POST", cookie=cookie, **{"x-hedgeserve": "1"}),
    ):
        refusal = guard().judge_sender(lacking, NOW_S)
        assert refusal is not None
        assert refusal.status == 403


def test_a_ticket_lets_one_in_once_and_in_time() -> None:
    """Used, late, unknown or crowded out by newer ones, it is nothing."""
    one = guard()
    first, second = one.issue_ticket(NOW_S, 60), one.issue_ticket(NOW_S, 60)
    assert one.redeem(first, NOW_S + 1)
    assert not one.redeem(first, NOW_S + 1)
    assert not one.redeem(second, NOW_S + 60)
    assert not one.redeem("ticket-7\udcff", NOW_S)
    crowded = one.issue_ticket(NOW_S, 60)
    for _ in range(32):
        last = one.issue_ticket(NOW_S, 60)
    assert not one.redeem(crowded, NOW_S)
    assert one.redeem(last, NOW_S)
