"""``hedgeserve events`` where no service runs: the journal says what it would have said."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.events import show_events
from hedgeserve.errors import NotRunningError, StateDirectoryError
from hedgeserve.replica import ReplicaId
from hedgeserve.store import Store


@pytest.fixture
async def stopped(tmp_path: Path) -> AdminClient:
    """A state directory that a service has left behind."""
    store = await Store.open(tmp_path / "journal.db")
    for number in range(5):
        replica = ReplicaId(f"chat-{number % 2}")
        await store.record_event("note", f"message {number}\x1b[2J", at=datetime.now(UTC), replica=replica)
    await store.close()
    return AdminClient(tmp_path)


async def test_after_a_crash_the_journal_is_read(stopped: AdminClient, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest, oldest first, and stderr says where they are from."""
    show_events(stopped, limit=2, replica=None, follow=False, as_json=True)
    printed = capsys.readouterr()
    assert [json.loads(line)["message"][:9] for line in printed.out.splitlines()] == ["message 3", "message 4"]
    assert printed.err == "No service runs there; this is what its journal says.\n"
    show_events(stopped, limit=9, replica="chat-1", follow=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:5] for line in lines] == [["chat-1", "message", "1"], ["chat-1", "message", "3"]]
    assert "\x1b" not in "".join(lines)


async def test_nothing_can_be_followed_that_does_not_run(
    stopped: AdminClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """What there is is printed; that nothing will come is a failure, not a wait for ever."""
    with pytest.raises(NotRunningError, match="there is nothing to follow: no service runs"):
        show_events(stopped, limit=1, replica=None, follow=True, as_json=True)
    assert "message 4" in capsys.readouterr().out


async def test_a_replica_without_events_is_said_to_have_none(
    stopped: AdminClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty answer might be a typing mistake."""
    show_events(stopped, limit=1, replica="chat-99", follow=False, as_json=True)
    printed = capsys.readouterr()
    assert (printed.out, "No event is about chat-99" in printed.err) == ("", True)


def test_where_nothing_ever_ran_it_is_said(tmp_path: Path) -> None:
    """No empty list, which would mean that nothing has happened."""
    with pytest.raises(StateDirectoryError, match="no service has run with this state directory"):
        show_events(AdminClient(tmp_path), limit=1, replica=None, follow=False, as_json=False)
