"""The bug report: all that helps, no secret wherever it stands, nothing of what anybody asked; bounded."""

import json
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hedgeserve.cli import main
from hedgeserve.core import Service
from hedgeserve.doctor import evidence
from hedgeserve.doctor.discretion import HIDDEN, Discretion, is_secret_name, secrets_of
from hedgeserve.doctor.evidence import Evidence, gather
from hedgeserve.errors import NotRunningError
from hedgeserve.specfile import parse_spec
from tests.conftest import small_spec

SHAPES = [
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
    "sk-proj-abcdefghij1234567890",
    "sk-1234567890abcdef",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "xoxb-123456789012-abcdefghijkl",
    "glpat-abcdefghijklmnopqrst",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r_wW1gFWFOEjXk",
]
PLACES = [
    "{}",
    "the token {} was refused",
    '{{"deep": ["{}"]}}',
    "GET /v1?x=1&note={}",
    "Authorization: Bearer {}",
    "[a, {}, b]",
]


@pytest.mark.parametrize("secret", SHAPES)
@pytest.mark.parametrize("place", PLACES)
def test_what_looks_like_a_secret_is_hidden_wherever_it_stands(secret: str, place: str) -> None:
    """The well-known forms, in sentences, JSON, URLs and headers."""
    assert secret not in Discretion().text(place.format(secret))


@pytest.mark.parametrize(
    "text",
    [
        "postgres://admin:hunter22@db.internal:5432/x",
        "https://hunter22@host/path",
        "authorization: Basic hunter22",
        "{'Authorization': 'Bearer hunter22'}",
        '"authorization": "Bearer hunter22"',
        "x-api-key: hunter22",
        "https://blob/w?sv=1&sig=hunter22&se=2",
        "https://s3/w?X-Amz-Security-Token=hunter22",
        "--api-key hunter22 --port 8000",
        "--hf-token=hunter22",
        '["--api-key", "hunter22"]',
        "OPENAI_API_KEY=hunter22",
        'password = "hunter22"',
        '"db_password": "hunter22"',
        "client_secret: hunter22",
        "Cookie: session=hunter22",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter22\n-----END OPENSSH PRIVATE KEY-----",
        r'{"key_data": "-----BEGIN PRIVATE KEY-----\nhunter22\n-----END PRIVATE KEY-----\n"}',
        "-----BEGIN RSA PRIVATE KEY-----\nhunter22 and cut off",
    ],
)
def test_what_goes_by_the_name_of_a_secret_is_hidden(text: str) -> None:
    """Whatever it looks like."""
    assert "hunter22" not in Discretion().text(text)
    assert HIDDEN in Discretion().text(text)


@pytest.mark.parametrize(
    "text",
    [
        "commit 5ba60e7c1f0d5ba60e7c1f0d5ba60e7c1f0d5ba6",
        '"api_keys_env": "HEDGESERVE_API_KEYS"',
        '"tls_certificate": "/etc/tls/cert.pem"',
        'hedgeserve_answer_tokens_total 1234.0\nhedgeserve_key_limit_hits_total{limit="tokens"} 0.0',
        "quickstart-7 loading → ready: it answered its first token 5.6 s after the launch",
        '"max_tokens": 512',
        '"keys": [1, 2]',
        "http://127.0.0.1:8000/v1/chat/completions",
        "aws/us-east-1/us-east-1a",
    ],
)
def test_what_helps_is_left_as_it_is(text: str) -> None:
    """A report in which everything is hidden helps nobody."""
    assert Discretion().text(text) == text


def test_known_secrets_are_hidden_in_every_form() -> None:
    """Long ones before their beginnings; as JSON writes them too; words of three letters are no secrets."""
    discretion = Discretion(['pa"ss\\word', "abcd", "abcdefgh", "the"])
    assert discretion.text("xabcdefghx abcd the") == f"x{HIDDEN}x {HIDDEN} the"
    assert "word" not in discretion.text(json.dumps({"a": 'pa"ss\\word'}))
    assert secrets_of({"MY_TOKEN": "abcdef", "PATH": "/usr/bin", "SOME_KEY_FILE": "/x", "A_SECRET": "x"}) == {
        "abcdef"
    }
    assert is_secret_name("HF_TOKEN")
    assert not is_secret_name("tokens_per_second")


def test_lines_with_requests_are_left_out_of_logs() -> None:
    """vLLM can be told to log what it is asked; a report does not pass that on."""
    log = (
        "INFO 11-28 Received request chatcmpl-1: prompt: 'my diagnosis is', params: SamplingParams(n=1)\n"
        'INFO {"messages": [{"content": "my diagnosis is"}]}\n'
        "INFO Avg prompt throughput: 1.0 tokens/s\n"
    )
    told = Discretion().log(log)
    assert "diagnosis" not in told
    assert "Avg prompt throughput: 1.0 tokens/s" in told


class Stopped:
    """A service that does not run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def status(self) -> dict[str, Any]:
        raise NotRunningError("no service runs")

    def spec(self) -> dict[str, Any]:
        raise AssertionError("not asked")

    def logs(self, replica: str, lines: int) -> str:
        raise AssertionError("not asked")


class Talkative(Stopped):
    """One that tells more than it should, with a secret in everything."""

    def status(self) -> dict[str, Any]:
        return {
            "url": "http://127.0.0.1:9",
            "trouble": ["https://user:planted-0001@proxy refused planted-0002"],
            "replicas": [{"id": "s-1"}, {"id": "s-2"}],
        }

    def spec(self) -> dict[str, Any]:
        return {"spec": {"model": {"env": {"A_TOKEN": "planted-0020", "URL": "https://x:planted-0021@y/"}}}}

    def logs(self, replica: str, lines: int) -> str:
        return f"{replica}: Authorization: Bearer planted-0003\nHF said planted-0004\n"


def test_secrets_planted_everywhere_are_in_no_piece(short_dir: Path) -> None:
    """Environment, key files, state directory, model file, logs, status: none comes through."""
    state = short_dir / "state"
    (state / "local" / "s-1").mkdir(parents=True)
    (state / "engine_key").write_text("planted-0005\n")
    (state / "admin_token").write_text("planted-0006\n")
    (state / "local" / "s-1" / "vm.log").write_text("the engine's key is planted-0005, the token planted-0006\n")
    keys = short_dir / "keys"
    keys.write_text("planted-0007\nplanted-0008\n")
    keys.chmod(0o600)
    log = short_dir / "log"
    log.write_text("planted-0007 was shown, planted-0009 too\nGET http://a:planted-0010@b/ planted-0011\n")
    environ = {
        "HEDGESERVE_API_KEYS": "planted-0009,planted-0012",
        "HF_TOKEN": "planted-0004",
        "PEER": "planted-0002",
        "WANDB_API_KEY": "planted-0011",
        "STATIC": "planted-0013",
    }
    toml = f"""
[service]
listen = "127.0.0.1:0"
state_dir = "{state}"
api_keys_file = "{keys}"
[model]
id = "org/m"
engine = "vllm"
args = ["--api-key", "planted-0014", "--hf-token=planted-0015"]
env = {{ OTHER_TOKEN = "planted-0016", MIRROR = "https://me:planted-0017@mirror/" }}
secret_env = ["HF_TOKEN", "PEER"]
[[pools]]
cloud = "static"
urls = ["http://127.0.0.1:9"]
api_key_env = "STATIC"
"""
    spec = parse_spec(toml, "model.toml", short_dir, environ)
    found = gather(
        Talkative(state),
        spec=spec,
        spec_trouble="",
        environ=environ,
        findings=lambda: [{"subject": "x", "verdict": "ok", "message": "planted-0012 and planted-0013"}],
        log_file=log,
    )
    assert {"model.json", "served.json", "status.json", "engines/s-2.log", "local/s-1.log", "service.log"} <= set(
        found.pieces
    )
    for name, text in found.pieces.items():
        assert "planted" not in text, name
        if name.endswith(".json"):
            json.loads(text)
    assert "events.jsonl: there is no journal" in found.pieces["missing.txt"]


def test_a_report_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of what is too long; nothing more once it is full, and that is said."""
    monkeypatch.setattr(evidence, "MOST_FILE_BYTES", 100)
    monkeypatch.setattr(evidence, "MOST_BYTES", 150)
    found = Evidence(Discretion())
    found.put("a", "x" * 500 + "end")
    assert len(found.pieces["a"]) == 100
    assert found.pieces["a"].endswith("end")
    found.put("b", "y" * 100)
    assert set(found.pieces) == {"a"}
    assert found.missing == ["b: the report is full"]


def unpacked(archive: Path) -> Mapping[str, str]:
    """The pieces of a report by their names."""
    with tarfile.open(archive) as tar:
        return {
            member.name.partition("/")[2]: file.read().decode()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


async def test_the_verb_packs_a_service_that_runs_and_one_that_has_stopped(short_dir: Path) -> None:
    """Mode 0600, never over another file; every piece is listed, and that one should look."""
    import asyncio

    def typed(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["report", "--state-dir", str(short_dir / "state"), *arguments])

    archive = short_dir / "r.tar.gz"
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        found = await asyncio.to_thread(typed, "--out", str(archive))
        assert found.exit_code == 0, found.output
    pieces = unpacked(archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert {"README.txt", "versions.json", "events.jsonl", "status.json", "served.json", "metrics.txt"} <= set(
        pieces
    )
    assert any(name.startswith("engines/small-1") for name in pieces)
    assert "hedgeserve_build_info" in pieces["metrics.txt"]
    assert json.loads(pieces["versions.json"])["packages"]["click"]
    assert json.loads(pieces["events.jsonl"].splitlines()[0])["kind"] in ("launch", "started")
    secret = (short_dir / "state" / "engine_key").read_text().strip()
    assert not any(secret in text for text in pieces.values())
    assert "Look before you send it" in found.stderr
    again = typed("--out", str(archive))
    assert (again.exit_code, "already there" in again.stderr) == (1, True)
    stopped = typed("--out", str(short_dir / "s.tar.gz"))
    assert stopped.exit_code == 0
    assert "status.json" not in unpacked(short_dir / "s.tar.gz")
    assert "no service runs" in stopped.stderr
    told = json.loads(typed("--out", str(short_dir / "t.tar.gz"), "--json").stdout)
    assert told["bytes"]["versions.json"] > 0
    assert any("no service runs" in sentence for sentence in told["missing"])
