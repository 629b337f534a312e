"""Which service a verb means, and which model file: what was named, else what the only one that runs goes by."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from hedgeserve.console.stopped import left_running
from hedgeserve.errors import HedgeServeError, NotRunningError
from hedgeserve.statedir import resolve_state_dir, state_root

_CONNECT_S = 2.0
_USUAL_FILE = "model.toml"


def find_state_dir(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    environ: Mapping[str, str],
    *,
    stopped: bool = False,
) -> Path:
    """The state directory of the service that was named, or of the only one that runs under the default root.

    Raises what :func:`_named_or_only` does, and HedgeServeError where this user may not look into it.
    """
    found = _named_or_only(model, state_dir, service, environ, stopped=stopped)
    try:
        (found / "journal.db").exists()
    except PermissionError:
        raise HedgeServeError(
            f"this user may not look into the state directory {found}; run as the user who started the service"
        ) from None
    return found


def _named_or_only(
    model: str | None, state_dir: str | None, service: str | None, environ: Mapping[str, str], *, stopped: bool
) -> Path:
    """Which one it is.

    A directory or a name goes before ``model``. With ``stopped``, where none runs, the only one that has run will
    do: its journal can be read.

    Raises:
        SpecError: The model file that names it is wrong.
        NotRunningError: None was named, and there is not exactly one; says which there are, and how to choose.
    """
    if state_dir is not None:
        return Path(state_dir).expanduser().absolute()
    if service is not None:
        return resolve_state_dir(service, "", environ)
    if model is not None:
        from hedgeserve.specfile import load_spec

        spec = load_spec(model, environ, surroundings=False)
        return resolve_state_dir(spec.service.name, spec.service.state_dir, environ)
    running, ended = _there(environ)
    if len(running) == 1:
        return running[0]
    root = state_root(environ)
    if running:
        raise NotRunningError(f"{len(running)} services run under {root}: {_choice(running)}")
    if stopped and len(ended) == 1:
        return ended[0]
    left = left_running(ended)
    if stopped and ended:
        told = f"; {left}" if left else ""
        raise NotRunningError(
            f"no service runs under {root}, and {len(ended)} have run there: {_choice(ended)}{told}"
        )
    there = f" (not running: {', '.join(path.name for path in ended)})" if ended else ""
    if left:
        raise NotRunningError(f"no service runs under {root}{there}; {left}")
    raise NotRunningError(
        f"no service runs under {root}{there}; start one with `hedgeserve serve`, or name one that keeps its "
        "state elsewhere with --state-dir DIR or its MODEL.toml"
    )


def find_model(model: str | None, environ: Mapping[str, str]) -> tuple[str, Path | None]:
    """The model file that was named, else ``model.toml`` of this folder, else that of the only running service;
    and the state directory of that service, where one was asked.

    Raises:
        NotRunningError: Several services run; says which, and how to choose.
        HedgeServeError: The one that runs does not say.
    """
    if model is not None:
        return model, None
    if Path(_USUAL_FILE).exists():
        return _USUAL_FILE, None
    running, _ = _there(environ)
    if not running:
        return _USUAL_FILE, None  # whoever reads it says that there is none, and how to get one
    if len(running) > 1:
        raise NotRunningError(
            f"there is no {_USUAL_FILE} in this folder, and {len(running)} services run: "
            f"{', '.join(path.name for path in running)}; name the MODEL.toml of one"
        )
    return served_file(running[0]), running[0]


def served_file(directory: Path) -> str:
    """The model file that the service with this state directory goes by.

    Raises:
        NotRunningError: None runs there.
    """
    from hedgeserve.console.admin import AdminClient

    return str(AdminClient(directory).spec()["file"])


def answers(directory: Path) -> bool:
    """Whether a service that holds this state directory answers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_S)
            probe.connect(str(directory / "admin.sock"))
    except OSError:
        return False
    return True


def _there(environ: Mapping[str, str]) -> tuple[list[Path], list[Path]]:
    """The services under the default root that run, and those that have run."""
    root = state_root(environ)
    try:
        places = [root, *sorted(path for path in root.iterdir() if os.path.isdir(path))]
    except OSError:
        return [], []
    running = [path for path in places if answers(path)]
    return running, [path for path in places if path not in running and os.path.exists(path / "journal.db")]


def _choice(places: list[Path]) -> str:
    names = [path.name for path in places]
    return f"{', '.join(names)}; choose one with --service {names[0]}, --state-dir DIR or its MODEL.toml"
