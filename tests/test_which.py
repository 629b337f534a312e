"""Which service and which file a verb means where nobody says."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hedgeserve.console import which
from hedgeserve.console.which import find_model, find_state_dir
from hedgeserve.errors import HedgeServeError, NotRunningError


@pytest.fixture
def root(short_dir: Path) -> Path:
    (short_dir / "hedgeserve").mkdir()
    return short_dir / "hedgeserve"


@pytest.fixture
def environ(short_dir: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(short_dir), "HOME": str(short_dir)}


@pytest.fixture
def services(root: Path) -> Iterator["Services"]:
    with ExitStack() as stack:
        yield Services(root, stack)


class Services:
    """State directories, some with somebody behind their socket."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root, self.stack = root, stack

    def have(self, name: str, *, runs: bool = True) -> Path:
        path = self.root / name
        path.mkdir()
        (path / "journal.db").touch()
        if runs:
            listener = self.stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path / "admin.sock"))
            listener.listen()
        return path


def test_the_only_one_that_runs_is_meant(services: Services, environ: dict[str, str]) -> None:
    """Whatever else has run there before."""
    services.have("old", runs=False)
    one = services.have("one")
    assert find_state_dir(None, None, None, environ) == one


def test_of_two_it_is_said_which_there_are_and_how_to_choose(services: Services, environ: dict[str, str]) -> None:
    """With a line that can be typed."""
    services.have("one")
    two = services.have("two")
    with pytest.raises(
        NotRunningError, match=r"2 services run under .*: one, two; choose one with --service one, "
    ):
        find_state_dir(None, None, None, environ)
    assert find_state_dir(None, None, "two", environ) == two


def test_what_can_be_read_of_a_stopped_one_needs_no_name_either(
    services: Services, environ: dict[str, str]
) -> None:
    """Right after a crash; a verb that needs an answer says which does not run."""
    old = services.have("old", runs=False)
    assert find_state_dir(None, None, None, environ, stopped=True) == old
    with pytest.raises(NotRunningError, match=r"no service runs under .* \(not running: old\)"):
        find_state_dir(None, None, None, environ)
    services.have("older", runs=False)
    with pytest.raises(NotRunningError, match=r"2 have run there: old, older; choose one with --service old, "):
        find_state_dir(None, None, None, environ, stopped=True)


def test_a_file_is_that_of_this_folder_or_of_the_only_service_that_runs(
    services: Services, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plan` and `orphans` go by a file, and need not be told which where one service runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(which, "served_file", lambda directory: f"file of {directory.name}")
    assert find_model(None, environ) == ("model.toml", None), "whoever reads it says that there is none"
    one = services.have("one")
    assert find_model(None, environ) == ("file of one", one)
    assert find_model("other.toml", environ) == ("other.toml", None)
    services.have("two")
    with pytest.raises(NotRunningError, match=r"no model.toml in this folder, and 2 services run: one, two; name"):
        find_model(None, environ)
    (tmp_path / "model.toml").touch()
    assert find_model(None, environ) == ("model.toml", None)


def test_a_directory_goes_before_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    """`apply model.toml --state-dir DIR`: the file is what is applied, and need not name the service."""
    assert find_state_dir("model.toml", str(tmp_path), None, environ) == tmp_path


def test_a_directory_of_somebody_else_is_a_sentence(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every verb, also for those that read its files."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(HedgeServeError, match=r"may not look into the state directory .*; run as the user"):
        find_state_dir(None, str(tmp_path), None, environ)
