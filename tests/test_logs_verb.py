"""``hedgeserve logs`` where no service runs: the journal's word in place of a log that is out of reach."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.logs import print_log
from hedgeserve.errors import NotRunningError, StateDirectoryError
from hedgeserve.replica import ReplicaId
from hedgeserve.store import Store


@pytest.fixture
async def stopped(tmp_path: Path) -> AdminClient:
    """A state directory that a service has left behind: one replica that served on, one that had failed."""
    store = await Store.open(tmp_path / "journal.db")
    for who, kind, message in (
        ("chat-1", "state", "loading → ready: it answered its first token"),
        ("chat-2", "state", "loading → terminating: its engine exited (1); its last words: out of memory\x1b[2J"),
        ("chat-2", "gone", "terminating → gone: failed after 20s"),
    ):
        await store.record_event(kind, message, at=datetime.now(UTC), replica=ReplicaId(who))
    await store.close()
    return AdminClient(tmp_path)


async def test_of_a_replica_that_may_still_run_it_is_said_how_to_get_at_its_log(
    stopped: AdminClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its events are data, what to do is talk; that there is no log is a failure."""
    with pytest.raises(
        NotRunningError, match=r"start the service again with `hedgeserve serve`.*`hedgeserve logs chat-1`"
    ):
        print_log(stopped, "chat-1", 100)
    printed = capsys.readouterr()
    assert printed.out.endswith("state       chat-1  loading → ready: it answered its first token\n")
    assert printed.err == "No service runs there; this is what its journal says.\n"


async def test_of_a_replica_that_is_gone_its_last_words_are_left(
    stopped: AdminClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """No start brings its log back, so none is asked for."""
    with pytest.raises(NotRunningError, match="went with its VM"):
        print_log(stopped, "chat-2", 100)
    first, second = capsys.readouterr().out.splitlines()
    assert "its last words: out of memory [2J" in first
    assert "terminating → gone: failed after 20s" in second


async def test_a_replica_that_nobody_knows_is_said_to_be_unknown(stopped: AdminClient) -> None:
    """It might be a typing mistake: the way to the names is told."""
    with pytest.raises(NotRunningError, match="no event of a replica chat-9; `hedgeserve events --state-dir "):
        print_log(stopped, "chat-9", 100)


def test_where_nothing_ever_ran_it_is_said(tmp_path: Path) -> None:
    """Not that a replica is unknown."""
    with pytest.raises(StateDirectoryError, match="no service has run with this state directory"):
        print_log(AdminClient(tmp_path), "chat-1", 100)
