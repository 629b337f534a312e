"""What an engine must tell us so that bootstrap can start it and probes can ask it. Pure: no I/O here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that must be on the VM before the engine starts; ``name`` is relative to the work directory."""

    source: Path
    name: str


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What is known of the VM at the time the engine is started.

    ``listen`` and ``port`` are where the engine must answer; ``python`` is the VM's interpreter; ``workdir``
    the absolute path of the directory that uploads go to; ``scratch`` that of a large and fast one for weights and
    caches (the work directory where the VM has none); ``gpus`` how many the VM has. With ``certfile`` and
    ``keyfile`` it must answer by TLS with these.
    """

    listen: str
    port: int
    python: str
    workdir: str
    scratch: str = ""
    gpus: int = 0
    certfile: str = ""
    keyfile: str = ""


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How to start the engine: ``argv`` as it is, ``env`` added to the VM's own.

    ``secret_env`` is added too, but is written to a file that only the VM's user (under systemd: root) can read
    and appears in no argument list and no log. ``as_root``: it is nothing for the VM's user, such as ``docker``.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    as_root: bool = False


class Engine(Protocol):
    """One kind of inference server."""

    name: str
    health_path: str
    metrics_path: str | None
    tls: bool
    """Whether it can answer by TLS itself."""
    needs_gpu: bool
    """Whether it is to be started only once the driver of the VM's GPUs, where it has any, answers."""

    def uploads(self) -> Sequence[Upload]:
        """Files of ours that it needs on the VM."""

    def install_script(self, context: EngineContext) -> str | None:
        """An idempotent POSIX shell script that makes the VM able to start it; None where nothing is needed."""

    def command(self, context: EngineContext, api_key: str) -> EngineCommand:
        """How to start it, answering only to ``api_key`` where it can check one.

        Raises:
            ValueError: It cannot be started like this; says what to do.
        """

    def first_token_request(self) -> tuple[str, dict[str, object]]:
        """Path and JSON body of the smallest real completion: the second half of the readiness probe."""
