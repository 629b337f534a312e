"""This machine: directories, limits, ports, keys, the clock; blocking, and quick.

Nothing is changed, but that a state directory which is not there yet is made to see whether it can be.
"""

import ctypes
import os
import resource
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from hedgeserve.drivers.examine import Examination
from hedgeserve.engines import make_engine
from hedgeserve.errors import HedgeServeError, ListenError, SpecError, StateDirectoryError, StateLockedError
from hedgeserve.keyring import KeyFile
from hedgeserve.listening import server_tls, why_not
from hedgeserve.modelfile.apikeys import keys_are_issued, load_api_keys
from hedgeserve.spec import Cloud, EngineName, Spec, split_listen
from hedgeserve.spectable import is_loopback
from hedgeserve.statedir import StateDirectory, admin_socket_in, resolve_state_dir
from hedgeserve.units import format_bytes

_FREE_WARN_BYTES = 2**30
_FREE_FAIL_BYTES = 100 * 2**20
_FILES_WARN = 16_384
_FILES_FAIL = 1_024
_KEY_CHARACTERS = 20
_KEY_VARIETY = 8
_TIME_ERROR = 5
"""What adjtimex(2) returns while the clock is not synchronised."""
_GATED = ("meta-llama/", "google/gemma", "mistralai/", "CohereForAI/", "black-forest-labs/")
"""Whose weights at Hugging Face are mostly given out after a login alone."""


def examine_home(spec: Spec, environ: Mapping[str, str]) -> Examination:
    """All of it, in the order in which a service that starts would meet it."""
    found = Examination()
    _engine(spec, environ, found)
    _state(spec, environ, found)
    _listening(spec, environ, found)
    _keys(spec, environ, found)
    _limits(found)
    _clock(found)
    if Cloud.LOCAL in spec.clouds():
        _local(spec, environ, found)
    return found


def _engine(spec: Spec, environ: Mapping[str, str], found: Examination) -> None:
    try:
        engine = make_engine(spec.model, environ)
    except ValueError as error:
        found.fail("engine", str(error))
        return
    found.ok("engine", f"{engine.name} serves {spec.model.id}")
    if spec.model.engine is not EngineName.VLLM or spec.model.weights or spec.model.id.startswith(("/", ".")):
        return
    if "HF_TOKEN" in spec.model.secret_env:
        found.ok("weights", "HF_TOKEN is set, and handed to the engine")
    elif spec.model.id.startswith(_GATED):
        found.warn(
            "weights",
            f"{spec.model.id} is by somebody whose weights mostly need a login, and no HF_TOKEN is handed over; "
            'export it, and write secret_env = ["HF_TOKEN"] in [model]',
        )
    else:
        found.ok("weights", "no login is handed to the engine; weights that need one name it in model.secret_env")


def _state(spec: Spec, environ: Mapping[str, str], found: Examination) -> None:
    path = resolve_state_dir(spec.service.name, spec.service.state_dir, environ)
    try:
        admin_socket_in(path)
        with StateDirectory.open(path, service=spec.service.name):
            found.ok("state directory", f"{path} can be written, and no other process holds it")
    except StateLockedError as error:
        found.ok("state directory", f"in use by a service that runs: {str(error).partition(';')[0]}")
    except StateDirectoryError as error:
        found.fail("state directory", str(error))
        return
    free = shutil.disk_usage(path).free
    told = f"{format_bytes(free // 2**20 * 2**20)} are free on the disk of {path}"
    if free < _FREE_FAIL_BYTES:
        found.fail("disk", f"{told}; the journal needs some: free space, or set service.state_dir")
    elif free < _FREE_WARN_BYTES:
        found.warn("disk", f"{told}; free some space before it runs out")
    else:
        found.ok("disk", told)


def _listening(spec: Spec, environ: Mapping[str, str], found: Examination) -> None:
    listen = spec.service.listen
    ports = {"port": ("service.listen", listen)}
    if spec.admin.listen:
        ports["admin port"] = ("admin.listen", spec.admin.listen)
    served = _is_served(spec, environ)
    for subject, (key, address) in ports.items():
        host, port = split_listen(address)
        if served:
            found.ok(subject, f"{address}: this service runs already")
            continue
        try:
            with socket.create_server((host, port), family=_family(host)):
                found.ok(subject, f"{address} is free")
        except OSError as error:
            found.fail(subject, why_not(address, error, key=key))
    try:
        tls = server_tls("service", spec.service.tls_certificate, spec.service.tls_key)
    except ListenError as error:
        found.fail("TLS", str(error))
        return
    if tls is not None:
        found.ok("TLS", "certificate and key belong together")
    elif not is_loopback(listen):
        found.warn(
            "TLS",
            f"{listen} can be reached by others, and requests and keys go there unencrypted; set "
            "service.tls_certificate, or have a proxy before it that speaks TLS",
        )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_served(spec: Spec, environ: Mapping[str, str]) -> bool:
    path = resolve_state_dir(spec.service.name, spec.service.state_dir, environ)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path / "admin.sock"))
        except OSError:
            return False
    return True


def _keys(spec: Spec, environ: Mapping[str, str], found: Examination) -> None:
    try:
        keys = load_api_keys(spec, environ)
    except SpecError as error:
        for problem in error.problems:
            found.fail("API keys", f"{problem.message}; {problem.hint}")
        return
    if keys_are_issued(spec, environ):
        _issued(spec, environ, found)
        if not keys:
            return
    if not keys:
        if is_loopback(spec.service.listen):
            found.ok("API keys", "none are asked for; only this machine can ask")
        else:
            found.warn("API keys", "none are asked for, of anybody who reaches the address")
        return
    texts = [key for key in keys if isinstance(key, str)]
    weak = sum(len(key) < _KEY_CHARACTERS or len(set(key)) < _KEY_VARIETY for key in texts)
    if weak:
        found.warn(
            "API keys",
            f"{weak} of {len(keys)} can be guessed (shorter than {_KEY_CHARACTERS} characters, or few different "
            "ones); make others, such as by `openssl rand -base64 32`",
        )
    else:
        found.ok("API keys", f"{len(keys)}, none of them easily guessed")


def _issued(spec: Spec, environ: Mapping[str, str], found: Examination) -> None:
    directory = resolve_state_dir(spec.service.name, spec.service.state_dir, environ)
    try:
        issued = KeyFile(directory).read() or ()
    except HedgeServeError as error:
        found.fail("issued keys", str(error))
        return
    if issued:
        found.ok("issued keys", f"{len(issued)} by `hedgeserve keys`")
    else:
        found.warn("issued keys", "all that there were are revoked; `hedgeserve keys add` issues one")


def _limits(found: Examination) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    told = "no limit" if hard == resource.RLIM_INFINITY else f"{hard} files may be open"
    if hard != resource.RLIM_INFINITY and hard < _FILES_FAIL:
        found.fail("open files", f"{told}, and each request needs two; raise the hard limit (ulimit -Hn)")
    elif hard != resource.RLIM_INFINITY and hard < _FILES_WARN:
        found.warn("open files", f"{told}, so that some {hard // 2} requests go at a time; raise ulimit -Hn")
    else:
        found.ok("open files", told)


def _clock(found: Examination) -> None:
    if sys.platform != "linux":
        found.unknown("clock", "whether it is synchronised is not known on this system")
        return
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        found.unknown("clock", "the kernel does not tell whether it is synchronised")
    elif state == _TIME_ERROR:
        found.warn(
            "clock",
            "the kernel says that nothing keeps it right; run chrony or systemd-timesyncd: clouds refuse requests "
            "whose time is five minutes off",
        )
    else:
        found.ok("clock", "it is kept synchronised")


def _local(spec: Spec, environ: Mapping[str, str], found: Examination) -> None:
    from hedgeserve.drivers.localcloud.sshd import find_sshd, sshd_refusal

    root = resolve_state_dir(spec.service.name, spec.service.state_dir, environ) / "local"
    refusal = sshd_refusal(find_sshd(), Path(os.path.abspath(root)))
    if refusal is None or spec.local.ssh_server == "asyncssh":
        found.ok("local SSH server", "OpenSSH's sshd" if refusal is None else "the one in asyncssh")
    elif spec.local.ssh_server == "sshd":
        found.fail("local SSH server", f'{refusal}; or set local.ssh_server to "auto"')
    else:
        found.ok("local SSH server", f"the one in asyncssh does the work, since {refusal}")
