"""What the threat model says is proven; the scan for secrets; the examples of front proxies."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.test_endpoint_tls import self_signed

ROOT = Path(__file__).parent.parent
SCAN = ROOT / "scripts" / "secretscan.py"


def test_every_proof_that_the_threat_model_names_is_there() -> None:
    """`tests/x.py::test_y` in docs/threat-model.md: no threat is said to be met by a test that there is not."""
    text = (ROOT / "docs" / "threat-model.md").read_text()
    named = re.findall(r"`(tests/test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 20
    for file, function in named:
        source = (ROOT / file).read_text()
        assert not function or f"def {function}(" in source, f"{file} has no {function}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git's list of files is needed")
def test_no_file_here_holds_a_secret() -> None:
    """As `make audit` looks, of the files that there are now."""
    done = subprocess.run([sys.executable, str(SCAN)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_secrets_are_found_and_never_shown(tmp_path: Path) -> None:
    """One of each kind, put together here so that this file holds none."""
    random = "Zq7LmXw2RtB9cVyK4nHs8JdGfPu6EaTo3iMbNvQxWzYkDr5C"
    planted = {
        "AWS access key": "AKIA" + "Q7ZLMXW2RTB9CVYK",
        "GitHub token": "ghp_" + random[:36],
        "Hugging Face token": "hf_" + random[:34],
        "OpenAI or Anthropic key": "sk-" + random,
        "HedgeServe API key": "hs-9f8e7d6c-" + random[:43],
        "password in a URL": "postgres://" + f"admin:{random[:12]}@db.internal.com/x",
        "private key": "-----BEGIN " + f"PRIVATE KEY-----\n{random}\n{random[::-1]}\n",
    }
    (tmp_path / "notes.txt").write_text("\n".join(f"{kind} = {value}" for kind, value in planted.items()))
    (tmp_path / "fine.txt").write_text("AKIAIOSFODNN7EXAMPLE hf_" + "a" * 34)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    done = subprocess.run([sys.executable, str(SCAN)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert {line.rpartition(": ")[2] for line in done.stdout.splitlines()} == set(planted)
    assert not any(value.split()[-1] in done.stdout for value in planted.values())


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed (Debian: haproxy)")
def test_haproxy_accepts_its_example(tmp_path: Path) -> None:
    """With a certificate in the place of the user's."""
    pem = self_signed(tmp_path, ends_at=datetime.now(UTC) + timedelta(days=9))
    text = (ROOT / "contrib" / "haproxy" / "haproxy.cfg").read_text()
    (tmp_path / "haproxy.cfg").write_text(text.replace("/etc/haproxy/certs/", pem))
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[WARNING]" not in done.stderr + done.stdout


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed (Debian: caddy)")
def test_caddy_accepts_its_example(tmp_path: Path) -> None:
    """Its own form, too."""
    for command in (["adapt", "--validate"], ["fmt"]):
        done = subprocess.run(
            ["caddy", *command, *(["--config"] if "adapt" in command else []),
             str(ROOT / "contrib" / "caddy" / "Caddyfile")],
            capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_the_examples_say_what_streams_need() -> None:
    """Silence for as long as timeouts.total allows, nothing that collects events, no metrics for the world."""
    haproxy = (ROOT / "contrib" / "haproxy" / "haproxy.cfg").read_text()
    caddy = (ROOT / "contrib" / "caddy" / "Caddyfile").read_text()
    assert haproxy.count("3700s") == 2
    assert not re.search(r"^\s*(compression|option http-buffer-request)", haproxy, re.MULTILINE)
    assert "del-header X-Forwarded-For" in haproxy
    assert "flush_interval -1" in caddy
    assert "encode" not in caddy
    assert all("/metrics" in text for text in (haproxy, caddy))
