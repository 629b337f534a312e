"""A shell in miniature: verbs in a process of their own or in this one, and a small model file."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hedgeserve.cli import main

HEDGESERVE = str(Path(sys.executable).with_name("hedgeserve"))
_OURS = ("HEDGESERVE_", "LISTEN_", "WATCHDOG_", "NOTIFY_", "STATE_", "CREDENTIALS_")


def clean_environ(directory: Path) -> dict[str, str]:
    """The environment without what belongs to the service that we might be running in ourselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"XDG_STATE_HOME": str(directory / "state")}


def in_a_clean_shell(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """The same for this process, which works in ``directory`` from now on."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(directory / "state"))
    monkeypatch.chdir(directory)


def run(*arguments: str) -> Result:
    """A verb, in this process."""
    return CliRunner().invoke(main, arguments)


def ask(environ: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A verb, in a process of its own, with nobody there to answer."""
    return subprocess.run(
        [HEDGESERVE, *arguments],
        capture_output=True,
        text=True,
        env={**environ},
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def model_toml(name: str, service: str = "") -> str:
    """A model.toml with one quick replica; ``service`` are more lines of its ``[service]``."""
    return _MODEL.format(name=name, service=service)


_MODEL = """\
[service]
name = "{name}"
{service}[model]
id = "demo"
engine = "demo"
args = ["--load-time", "100ms", "--tokens-per-second", "0"]
[replicas]
count = 1
[hedge]
policy = "spothedge"
overprovision = 0
fallback = false
[[pools]]
cloud = "local"
zones = ["east/a"]
[local]
boot_time = "0s"
"""
