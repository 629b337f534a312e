"""What the command line says, read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from .faults import Fault
from .job import Abilities


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    names: tuple[str, ...]
    load_time_s: float
    tokens_per_second: float
    stream_interval: int
    max_model_len: int
    max_num_seqs: int
    seed: int
    api_key: str
    health_status: int
    hang: bool
    fault: Fault | None
    obeys_faults: bool
    abilities: Abilities
