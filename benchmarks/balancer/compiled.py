"""The two programs in C: compiled here when they are older than their source."""

import shutil
import subprocess
from pathlib import Path

from benchmarks.balancer.places import BENCH

SOURCES = Path(__file__).resolve().parent
_LIBRARIES = {"engine": (), "load": ("-lm", "-ldl")}


class CompileError(Exception):
    """A program cannot be made; says why and what to do."""


def program(name: str) -> Path:
    """The path of ``engine`` or ``load``, ready to run.

    Raises:
        CompileError: There is no gcc, or it refuses the source.
    """
    source, made = SOURCES / f"{name}.c", BENCH / "bin" / name
    if made.exists() and made.stat().st_mtime > source.stat().st_mtime:
        return made
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CompileError(
            f"gcc is missing: {source.name} is compiled when the benchmark runs; "
            "install it (sudo apt-get install gcc libc6-dev), then run this again"
        )
    made.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(made), str(source), *_LIBRARIES[name]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if result.returncode:
        raise CompileError(f"gcc refuses {source}:\n{result.stderr}")
    return made
