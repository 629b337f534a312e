"""The keys that clients must show, from the environment and from a file; never from model.toml itself."""

import os
import socket
import stat
from collections.abc import Mapping, Sequence

from hedgeserve.errors import SpecError, SpecProblem
from hedgeserve.keyring import KeyFile
from hedgeserve.spec import Spec
from hedgeserve.spectable import is_loopback
from hedgeserve.statedir import resolve_state_dir

_LARGEST_FILE_BYTES = 2**20


def load_api_keys(spec: Spec, environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """Every key that clients may use; empty means that no key is asked for.

    ``environ`` is the process's own where it is not given. Reads the file at once: for start-up only. No key
    is ever part of a message.

    Raises:
        SpecError: A source of keys that holds none, a key that no client could send, a file that is missing or
            that others can read, or an address that others can reach while no key would be asked for.
    """
    environ = os.environ if environ is None else environ
    keys: list[str] = []
    problems: list[SpecProblem] = []
    variable = spec.service.api_keys_env
    if variable in environ:
        found = [key.strip() for key in environ[variable].split(",")]
        if message := _what_is_wrong_with(found):
            place = f"the environment variable {variable} {message}"
            problems.append(_problem(spec, "api_keys_env", place, "write keys separated by commas, or unset it"))
        keys += found
    if path := spec.service.api_keys_file:
        try:
            found = _keys_in_file(path)
        except OSError as error:
            problems.append(
                _problem(spec, "api_keys_file", f"{path} cannot be read: {error.strerror}", "check it")
            )
        except ValueError as error:
            problems.append(_problem(spec, "api_keys_file", f"{path} {error}", "write one key a line"))
        else:
            keys += found
            if stat.S_IMODE(os.stat(path).st_mode) & (stat.S_IROTH | stat.S_IWOTH):
                hint = f"run `chmod 600 {path}`"
                problems.append(_problem(spec, "api_keys_file", f"{path} can be read or changed by others", hint))
    asked_for = variable in environ or bool(path) or keys_are_issued(spec, environ)
    if not asked_for and not is_loopback(spec.service.listen) and not spec.service.allow_public_without_keys:
        problems.append(
            _problem(
                spec,
                "listen",
                f'"{spec.service.listen}" can be reached by others, and no API key would be asked for',
                f"issue one with `hedgeserve keys add`, set {variable} or `api_keys_file`, listen on 127.0.0.1, "
                "or write `allow_public_without_keys = true`",
            )
        )
    if problems:
        raise SpecError(spec.origin.source, problems)
    return frozenset(keys)


def keys_are_issued(spec: Spec, environ: Mapping[str, str]) -> bool:
    """Whether `hedgeserve keys` has been used for this service: then a key is asked for, were none left."""
    path = KeyFile(resolve_state_dir(spec.service.name, spec.service.state_dir, environ)).path
    try:
        return path.exists()
    except PermissionError:  # closed to us; whoever opens the state directory says so
        return True


def refuse_open_sockets(spec: Spec, sockets: Sequence[socket.socket], *, asks_for_keys: bool) -> None:
    """Refuse sockets that others can reach while no key would be asked for: ``service.listen`` says nothing of
    them.

    Raises:
        SpecError: There is one.
    """
    if asks_for_keys or spec.service.allow_public_without_keys:
        return
    for each in sockets:
        host, port = each.getsockname()[:2]
        if not is_loopback(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"):
            message = (
                f"the socket {host}:{port} that was handed over can be reached by others, and no API key would be "
                "asked for"
            )
            hint = (
                f"issue one with `hedgeserve keys add`, set {spec.service.api_keys_env} or `api_keys_file`, or "
                "write `allow_public_without_keys = true`"
            )
            raise SpecError(spec.origin.source, [_problem(spec, "listen", message, hint)])


def refuse_other_admin_sockets(spec: Spec, sockets: Sequence[socket.socket]) -> None:
    """Refuse sockets for the admin address that are not at ``admin.listen``: only that was judged to be safe.

    Raises:
        SpecError: There is one.
    """
    for each in sockets:
        host, port = each.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if address != spec.admin.listen:
            known = spec.admin.listen or "none"
            message = f"the socket {address} was handed over for the admin address, which is {known}"
            problem = spec.origin.problem(
                ("admin", "listen"), "admin.listen", message, f'write `listen = "{address}"`'
            )
            raise SpecError(spec.origin.source, [problem])


def _keys_in_file(path: str) -> list[str]:
    with open(path, "rb") as opened:
        raw = opened.read(_LARGEST_FILE_BYTES + 1)
    if len(raw) > _LARGEST_FILE_BYTES:
        raise ValueError("is larger than 1 MiB")
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
    if message := _what_is_wrong_with(keys):
        raise ValueError(message)
    return keys


def _what_is_wrong_with(keys: list[str]) -> str | None:
    if not any(keys):
        return "holds no key"
    for number, key in enumerate(keys, 1):
        if not key:
            return f"holds a blank key (number {number} of {len(keys)})"
        if not all("!" <= character <= "~" for character in key):
            return f"holds a key that cannot be sent (number {number} of {len(keys)} has a blank or is not ASCII)"
    return None


def _problem(spec: Spec, key: str, message: str, hint: str) -> SpecProblem:
    return spec.origin.problem(("service", key), f"service.{key}", message, hint)
