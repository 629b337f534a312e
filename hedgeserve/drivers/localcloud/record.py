"""What is written down of a local VM, and where: the directory is all that controller and VM have in common."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from hedgeserve.drivers.base import Dialect, Machine, MachineState
from hedgeserve.drivers.localcloud.processes import Identity
from hedgeserve.drivers.localcloud.trouble import NOT_THERE
from hedgeserve.replica import Market, ZoneId

METADATA_PORT = 8169
CONTROL_PORT = 8170
SSH_PORT = 2222
ENGINE_PORT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRecord:
    """A local VM as it was launched; never changes. ``control_token`` opens its control endpoint."""

    name: str
    service: str
    token: str
    tags: Mapping[str, str]
    zone: ZoneId
    market: Market
    instance_type: str
    launched_at: datetime
    address: str
    ssh_port: int
    metadata_port: int
    control_port: int
    engine_port: int
    dialect: Dialect
    user: str
    python: str
    sshd: str | None
    boot_time_s: float
    notice_s: float
    lease_s: float
    control_token: str = field(repr=False)

    def to_json(self) -> str:
        """The record as :meth:`from_json` reads it."""
        return json.dumps(asdict(self) | {"launched_at": self.launched_at.isoformat()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "VmRecord":
        """The record in this text; ``ValueError``, ``TypeError`` or ``KeyError`` where it holds none."""
        values = json.loads(text)
        return cls(
            **values
            | {
                "zone": ZoneId(values["zone"]),
                "market": Market(values["market"]),
                "dialect": Dialect(values["dialect"]),
                "launched_at": datetime.fromisoformat(values["launched_at"]),
            }
        )

    def machine(self, files: "VmFiles", state: MachineState) -> Machine:
        """The VM in the words that all drivers share."""
        return Machine(
            id=self.name,
            name=self.name,
            zone=self.zone,
            market=self.market,
            instance_type=self.instance_type,
            state=state,
            tags=self.tags,
            launched_at=self.launched_at,
            address=self.address,
            ssh_port=self.ssh_port,
            ssh_user=self.user,
            engine_port=self.engine_port,
            dialect=self.dialect,
            metadata_url=f"http://{self.address}:{self.metadata_port}",
            python=self.python,
            workdir=str(files.home),
        )


@dataclass(frozen=True, slots=True)
class VmFiles:
    """The files of one VM. ``root`` is absolute; its last part is the VM's name."""

    root: Path

    @property
    def marker(self) -> str:
        """What the VM's processes carry in their environment: its name, and a digest of where it lives."""
        place = hashlib.sha256(os.fsencode(self.root.parent)).hexdigest()[:12]
        return f"{self.root.name}@{place}"

    @property
    def record(self) -> Path:
        """The :class:`VmRecord`."""
        return self.root / "vm.json"

    @property
    def supervisor(self) -> Path:
        """Identity of the VM's first process, written by whoever started it."""
        return self.root / "supervisor.json"

    @property
    def sshd(self) -> Path:
        """Identity of the listening ``sshd``, written by the supervisor."""
        return self.root / "sshd.json"

    @property
    def running(self) -> Path:
        """There once the SSH server listens."""
        return self.root / "running"

    @property
    def host_key(self) -> Path:
        """Private host key."""
        return self.root / "host_key"

    @property
    def authorized_keys(self) -> Path:
        """Public keys that may log in."""
        return self.root / "authorized_keys"

    @property
    def sshd_config(self) -> Path:
        """Configuration of ``sshd``."""
        return self.root / "sshd_config"

    @property
    def log(self) -> Path:
        """What the supervisor and its SSH server print."""
        return self.root / "vm.log"

    @property
    def home(self) -> Path:
        """The work directory: uploads go there, and the engine's log."""
        return self.root / "home"

    @property
    def lease(self) -> Path:
        """Touched by the notice watcher as long as a controller listens to it."""
        return self.home / "lease"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def write_identity(path: Path, identity: Identity) -> None:
    """Write down who a process is."""
    write_private(path, json.dumps(asdict(identity)))


def read_identity(path: Path) -> Identity | None:
    """Who was written down; None where nobody was. ``OSError`` where that cannot be told."""
    try:
        return Identity(**json.loads(path.read_text(encoding="utf-8")))
    except (*NOT_THERE, ValueError, TypeError):
        return None
