"""API keys that are issued: the file that keeps them, what opens the door, and what each may ask for."""

import json
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from hedgeserve.errors import HedgeServeError, StateDirectoryError
from hedgeserve.keyring import IssuedKey, KeyFile, check_name, make_key
from hedgeserve.proxy.headers import Header
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.quotas import Quotas
from hedgeserve.proxy.replies import Code

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def bearer(key: str) -> list[Header]:
    return [(b"authorization", b"Authorization", b"Bearer " + key.encode())]


def test_a_key_is_long_random_and_kept_as_a_hash() -> None:
    """256 bits, found by its id; what is kept is no key."""
    issued, key = make_key("alice", NOW, lasts_s=60)
    head, identity, secret = key.split("-", 2)
    assert (head, identity, len(secret)) == ("hs", issued.id, 43)
    assert issued.sha256 == sha256(key.encode()).hexdigest()
    assert issued.expires_at == NOW + timedelta(seconds=60)
    assert secret not in json.dumps(issued.to_json())
    assert IssuedKey.from_json(json.loads(json.dumps(issued.to_json()))) == issued


@pytest.mark.parametrize("name", ["", " alice", "a\nb", "x" * 65, "\x1b[31m"])
def test_names_can_be_shown(name: str) -> None:
    """In a table, on a terminal."""
    with pytest.raises(ValueError, match="1 to 64 characters"):
        check_name(name)


def test_the_file_is_for_its_owner_and_whole(tmp_path: Path) -> None:
    """Made with its directory; changed by replacement; a name is taken once."""
    file = KeyFile(tmp_path / "state")
    assert file.read() is None
    alice, _ = make_key("alice", NOW)
    file.add(alice)
    file.add(make_key("bob", NOW, concurrency=2)[0])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    with pytest.raises(HedgeServeError, match='a key named "alice"; give another name'):
        file.add(make_key("alice", NOW)[0])
    assert file.revoke(alice.id) == alice
    with pytest.raises(HedgeServeError, match='no key named "alice"'):
        file.revoke("alice")
    file.revoke("bob")
    assert file.read() == ()
    file.write_used({"x": NOW})
    assert file.used() == {"x": NOW}


def test_what_root_writes_is_the_services(tmp_path: Path) -> None:
    """As under systemd, where the state belongs to a user who exists while the service runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(tmp_path, 12345, 12345)
    KeyFile(tmp_path).add(make_key("alice", NOW)[0])
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {12345}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": [{"id": "x"}]}', '{"keys": 3}', "\udcff"])
def test_a_damaged_file_is_no_open_door(tmp_path: Path, content: str) -> None:
    """It is said, with what to do; it does not count as a file without keys."""
    file = KeyFile(tmp_path)
    file.path.write_text(content, errors="surrogateescape")
    with pytest.raises(StateDirectoryError, match="are damaged; put a copy back"):
        file.read()


def test_two_who_add_at_once_lose_nothing(tmp_path: Path) -> None:
    """The command line and the service may both write."""
    file = KeyFile(tmp_path)
    keys = [make_key(f"k{number}", NOW)[0] for number in range(24)]
    threads = [threading.Thread(target=lambda some=keys[at::4]: [file.add(k) for k in some]) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in file.read() or ()} == {key.name for key in keys}


def test_the_door_opens_for_issued_and_for_given_keys() -> None:
    """Both kinds side by side; each time anew; a wrong secret with a right id is wrong."""
    keys = Keys(["old"])
    issued, key = make_key("alice", NOW)
    keys.issue([issued])
    for _ in range(2):
        assert keys.who(bearer(key)) == issued.id
        assert keys.who([(b"x-api-key", b"X-Api-Key", key.encode())]) == issued.id
        assert keys.who(bearer("old")) == sha256(b"old").digest()[:6].hex()
        for wrong in (f"hs-{issued.id}-{'x' * 43}", key[:-1], key + "x", "", "hs-", "hs--", issued.sha256):
            assert keys.who(bearer(wrong)) is None
    assert key not in repr(keys)


def test_a_revoked_key_is_forgotten_however_often_it_was_used() -> None:
    """What is remembered of right keys goes with them; and where nobody is left, nobody is let in."""
    keys = Keys([])
    assert keys.who([]) == ""
    issued, key = make_key("alice", NOW)
    keys.issue([issued])
    assert keys.who(bearer(key)) == issued.id
    keys.issue([])
    assert keys.who(bearer(key)) is None
    assert keys.who([]) is None
    assert bool(keys)


def test_an_expired_key_is_told_so_and_only_who_has_it() -> None:
    """The end is looked at with each request, also of a key that was good a moment ago."""
    keys = Keys([])
    past, late = make_key("late", datetime.now(UTC) - timedelta(days=2), lasts_s=86400.0)
    keys.issue([past])
    assert keys.who(bearer(late)) is None
    assert keys.refusal(bearer(late)).code is Code.EXPIRED_API_KEY
    assert f"expired at {past.expires_at:%Y-%m-%d}" in keys.refusal(bearer(late)).message
    assert keys.refusal(bearer(f"hs-{past.id}-guess")).code is Code.INVALID_API_KEY


def test_use_is_noted_to_the_minute() -> None:
    """Only that of issued keys; a new reading of the file does not forget it."""
    keys = Keys(["old"])
    issued, key = make_key("alice", NOW)
    keys.issue([issued])
    keys.who(bearer("old"))
    assert keys.used() == {}
    keys.who(bearer(key))
    at = keys.used()[issued.id]
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=5)
    keys.issue([issued])
    assert keys.used() == {issued.id: at}


def test_what_is_remembered_is_bounded() -> None:
    """Blanks around a right key make new bytes, and no end of them."""
    keys = Keys(["old"])
    for blanks in range(5000):
        assert keys.who([(b"authorization", b"Authorization", b"Bearer " + b" " * (blanks % 400) + b"old")])
    assert len(keys._seen) <= 4096


def test_a_key_may_have_limits_of_its_own() -> None:
    """In the place of the common ones, those that it does not name stay; a second's worth at once."""
    quotas = Quotas(requests_per_minute=600, tokens_per_minute=None, concurrent=1)
    own = quotas.common_with(requests_per_second=2.0, tokens_per_minute=None, concurrent=None)
    quotas.allow(
        {"a": own, "slow": quotas.common_with(requests_per_second=0.1, tokens_per_minute=5, concurrent=3)}
    )
    for _ in range(2):
        assert quotas.admit("a", 1, 0.0).ok
        quotas.leave("a")
    verdict = quotas.admit("a", 1, 0.0)
    assert (verdict.limit, round(verdict.retry_after_s, 3)) == ("requests", 0.5)
    assert quotas.admit("a", 1, 0.5).ok
    assert quotas.admit("a", 1, 5.0).limit == "concurrent", "the common limit"
    assert quotas.admit("slow", 1, 0.0).ok
    assert quotas.admit("slow", 1, 0.0).retry_after_s == pytest.approx(10.0)
    assert quotas.admit("slow", 9, 10.0).limit == "tokens"


def test_limits_change_while_requests_are_under_way() -> None:
    """Lowered, raised, taken away and given back: what was counted is uncounted, and nothing else."""
    quotas = Quotas(requests_per_minute=None, tokens_per_minute=None, concurrent=None)

    def only(concurrent: int) -> None:
        quotas.allow(
            {"a": quotas.common_with(requests_per_second=None, tokens_per_minute=None, concurrent=concurrent)}
        )

    only(2)
    assert quotas.admit("a", 1, 0.0).ok
    quotas.allow({})
    assert quotas.admit("a", 1, 0.0).ok, "without limits nothing is counted"
    quotas.leave("a")
    only(1)
    assert quotas.admit("a", 1, 0.0).ok
    assert quotas.admit("a", 1, 0.0).limit == "concurrent"
    quotas.leave("a")
    assert quotas.admit("a", 1, 0.0).ok
