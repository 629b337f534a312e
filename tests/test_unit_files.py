"""The unit files as systemd reads them, and the installer that puts them there."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "contrib" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (Debian: systemd)")


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | variables, cwd=ROOT, timeout=60, check=False
    )


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify`, with a program that is there in the place of ours."""
    for unit in ("hedgeserve.service", "hedgeserve.socket"):
        text = (UNITS / unit).read_text()
        (tmp_path / unit).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = run("systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir())))
    about_us = [line for line in done.stderr.splitlines() if "hedgeserve" in line]
    assert (about_us, done.returncode) == ([], 0)


@needs_systemd
def test_the_service_is_as_little_exposed_as_the_documentation_says() -> None:
    """The score of `systemd-analyze security` may fall, and not rise unnoticed."""
    done = run(
        "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15",
        str(UNITS / "hedgeserve.service"),
    )  # fmt: skip
    found = re.search(r"Overall exposure level for hedgeserve.service: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot judge a file: {done.stderr.strip()}")
    assert done.returncode == 0, f"{found[1]} is more than 1.5"
    assert "**1.2 OK**" in (ROOT / "docs" / "systemd.md").read_text()


def test_the_units_say_what_the_service_relies_on() -> None:
    """What the code takes for granted: signs of life, the exit code of `down`, patience for a drain."""
    service = (UNITS / "hedgeserve.service").read_text()
    for line in (
        "Type=notify", "WatchdogSec=60s", "NotifyAccess=main", "SuccessExitStatus=4", "RestartPreventExitStatus=2",
        "Restart=on-failure", "StateDirectoryMode=0700", "LimitCORE=0", "KillMode=mixed", "DynamicUser=yes",
    ):  # fmt: skip
        assert f"\n{line}\n" in service
    assert "\nAccept=no\n" in (UNITS / "hedgeserve.socket").read_text()


def test_the_installer_lays_out_files_and_takes_them_away(tmp_path: Path) -> None:
    """Below another root, twice, and away again; what is the user's stays."""
    stage = tmp_path / "stage"
    first = run("scripts/service", "install", DESTDIR=str(stage))
    assert first.returncode == 0, first.stderr
    laid_out = {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()}
    assert laid_out == {
        "etc/hedgeserve/model.toml",
        "etc/systemd/system/hedgeserve.service",
        "etc/systemd/system/hedgeserve.socket",
        "opt/hedgeserve/share/doc/systemd.md",
    }
    assert (stage / "etc/hedgeserve/credentials").stat().st_mode & 0o777 == 0o700
    (stage / "etc/hedgeserve/model.toml").write_text("# mine\n")
    (stage / "etc/systemd/system/hedgeserve.socket").write_text("stale\n")
    again = run("scripts/service", "install", DESTDIR=str(stage))
    assert re.findall(r"^  (\w+(?: it was)?) .*/(\S+?)(?: \(.*)?$", again.stderr, re.MULTILINE) == [
        ("as it was", "hedgeserve.service"),
        ("written", "hedgeserve.socket"),
        ("as it was", "systemd.md"),
        ("yours", "model.toml"),
    ]
    assert (stage / "etc/hedgeserve/model.toml").read_text() == "# mine\n"
    assert run("scripts/service", "uninstall", DESTDIR=str(stage)).returncode == 0
    assert [path.name for path in stage.rglob("*") if path.is_file()] == ["model.toml"]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux) to be somebody else")
@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_the_installer_refuses_whoever_is_not_root(verb: str) -> None:
    """In one sentence that says what to run instead; nothing was touched."""
    drop = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.getuid() == 0 else ()
    done = run(*drop, "sh", str(ROOT / "scripts" / "service"), verb)
    if "Permission denied" in done.stderr:
        pytest.skip("nobody may not read this checkout")
    assert done.returncode == 1
    assert re.fullmatch(rf"hedgeserve: .* needs root: run `sudo make {verb}-service`.*\n", done.stderr)


def test_the_starter_of_the_service_is_good() -> None:
    """What a fresh installation serves."""
    from hedgeserve.specfile import load_spec

    assert load_spec(UNITS / "model.toml", {}).service.name == "hedgeserve"


def test_make_lists_its_targets() -> None:
    """The Makefile can be read, and tells of the service's targets."""
    done = run("make", "--no-print-directory", "help")
    assert done.returncode == 0, done.stderr
    assert {"install-service", "uninstall-service", "audit"} <= {
        line.split()[0] for line in done.stdout.splitlines()
    }
