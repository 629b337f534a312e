"""No secret in the log: planted in every way that one has been seen to leak, and looked for in what is written."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from hedgeserve.console.log import configure_logging, is_the_journal
from hedgeserve.errors import CloudError
from hedgeserve.redaction import HIDDEN, Redactor, learn_environment, redact

PLANTED = {
    "a bearer token": ("Authorization: Bearer {}", "s3cr3t-Value.1234567890"),
    "a bearer token in a dict": ("{{'Authorization': 'Bearer {}'}}", "s3cr3t-Value.1234567890"),
    "a bare authorization": ("authorization={}", "s3cr3tValue1234567890"),
    "basic authorization": ("header Basic {} refused", "dXNlcjpwYXNzd29yZA=="),
    "an OpenAI key": ("the key {} is wrong", "sk-proj-abcdefghij0123456789"),
    "a HedgeServe key by name": ("api_key={}", "zzzz-not-like-any-format"),
    "x-api-key": ("x-api-key: {}", "abcdef123456"),
    "a Hugging Face token": ("HF_TOKEN={}", "hf_AbCdEfGhIjKlMnOpQrStUvWx"),
    "a Hugging Face token alone": ("401 for {} at the hub", "hf_AbCdEfGhIjKlMnOpQrStUvWx"),
    "an AWS key id": ("AWS was not able to validate {}", "AKIAIOSFODNN7EXAMPLE"),
    "an AWS secret": ("aws_secret_access_key = {}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    "an AWS session token": ('{{"SessionToken": "{}"}}', "IQoJb3JpZ2luX2VjEJr//////////wEaCXVz"),
    "an AWS signature": ("GET /?X-Amz-Signature={}&X=1", "fe5f80f77d5fa3beca038a248ff027d0445342"),
    "a Google API key": ("https://x.googleapis.com/v1?key={}&alt=json", "AIzaSyA-1234567890abcdefghijklmnopqrstu"),
    "a Google access token": ("token {} expired", "ya29.a0AfH6SMBx-1234567890abcdef"),
    "an Azure secret": ('"client_secret": "{}"', "Qx~8Q~abcDEF123456ghiJKL"),
    "an Azure account key": ("AccountName=x;AccountKey={};EndpointSuffix", "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA=="),
    "an Azure SAS": ("https://x.blob.core.windows.net/c?sv=1&sig={}", "abc%2Fdef123456%3D"),
    "a JWT": ("invalid {}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    "a password in a URL": ("cannot reach https://{}@proxy.example:3128/", "user:hunter2hunter2"),
    "a token in a URL": ("cloning https://{}@example.com/x.git", "0123456789abcdef"),
    "a password": ("password: {}", "hunter2hunter2"),
    "escaped JSON": ('{{"body": "{{\\"api_key\\": \\"{}\\"}}"}}', "abcdefgh12345678"),
    "a GitHub token": ("remote said {}", "ghp_0123456789abcdefghijABCDEFGHIJ"),
    "a cookie": ("Set-Cookie: {}; Path=/", "session=abcdef0123456789"),
    "a private key": ("{}", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----"),
    "half of a private key": ("read {}", "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA"),
}  # fmt: skip

HARMLESS = [
    "answer_tokens=12 prompt_tokens=400 token_ids=auto",
    "quickstart-3 became ready: it answered its first token 5.6 s after the launch",
    "the API key is missing or wrong; send one as `Authorization: Bearer <key>`.",
    "HedgeServe serves demo at http://127.0.0.1:8000",
    "the engine key could not be read: see https://example.com/docs?page=keys",
    "api_key_file=None, secret: null",
    "key=value event=request zone=aws/us-east-1/us-east-1a",
    "i-0123456789abcdef0 was terminated: no replica owns it",
    "hedgeserve@10.0.0.5 answers",
    "primary key of the table is replica",
]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level, sys.excepthook = handlers, level, hook
    structlog.reset_defaults()


def written(as_json: bool) -> io.StringIO:
    out = io.StringIO()
    configure_logging(out, as_json=as_json, level="debug")
    return out


@pytest.mark.parametrize("case", PLANTED)
def test_what_looks_like_a_secret_is_hidden(case: str) -> None:
    """The rest of the sentence stays."""
    around, secret = PLANTED[case]
    text = around.format(secret)
    hidden = redact(text)
    assert secret not in hidden
    for part in secret.split("\n"):
        assert part not in hidden or len(part) < 6
    assert HIDDEN in hidden
    assert hidden.startswith(text[: around.index("{}")][:4]) or case.startswith(("a private", "escaped"))
    assert redact(hidden) == hidden


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    """A log that hides what it is about is of no use."""
    assert redact(text) == text


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("case", PLANTED)
def test_no_path_to_the_log_lets_a_secret_through(case: str, as_json: bool) -> None:
    """The event, a field, a nested field, an exception and its cause; of ours and of a library's logger."""
    around, secret = PLANTED[case]
    text = around.format(secret)
    out = written(as_json)
    log = structlog.get_logger("x")
    log.warning(text)
    log.warning("a field", answer=text)
    log.warning("nested", answer={"headers": [("x", text)]})
    for tell in (log.exception, logging.getLogger("botocore.auth").exception):
        try:
            try:
                raise ConnectionError(text)
            except ConnectionError as error:
                raise CloudError(f"the cloud said: {text}") from error
        except CloudError:
            tell("it failed")
    logging.getLogger("asyncssh").warning("from a library: %s", text)
    logging.getLogger("libcloud").error("headers: %r", {"Authorization": text})
    told = out.getvalue()
    assert HIDDEN in told
    for part in secret.split("\n"):
        if len(part) >= 6:
            assert part not in told
    if as_json:
        assert [json.loads(line)["event"] for line in told.splitlines()][1:4] == ["a field", "nested", "it failed"]


def test_what_the_process_holds_is_known_by_heart() -> None:
    """A key that looks like nothing, and the value of a variable whose name says what it is."""
    one = Redactor()
    one.learn(["correct horse battery", "short"])
    assert one("it was <correct horse battery>, short") == f"it was <{HIDDEN}>, short"
    learn_environment(
        {"MY_SERVICE_TOKEN": "plain-as-a-word", "HOME": "/home/somebody", "ODD": "a-b-c-d-e"}, ["ODD"]
    )
    assert redact("plain-as-a-word a-b-c-d-e /home/somebody") == f"{HIDDEN} {HIDDEN} /home/somebody"


def test_of_too_many_secrets_the_newest_are_known() -> None:
    """A process in which one service after the other runs hides the key of the one that runs now."""
    one = Redactor()
    one.learn([f"a secret, number {number:03}" for number in range(300)])
    assert one("a secret, number 299; a secret, number 000") == f"{HIDDEN}; a secret, number 000"


def test_an_exception_that_nobody_catches_is_told_without_secrets() -> None:
    """Python's own last words go to stderr, past all loggers."""
    program = (
        "import sys\n"
        "from hedgeserve.console.log import configure_logging\n"
        "configure_logging(sys.stderr, as_json=True, level='info')\n"
        "raise RuntimeError('password=hunter2hunter2')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError: password=[hidden]" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_journal_is_told_how_urgent_each_line_is(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is the journal, each line begins with its priority, those of a traceback too."""
    path = tmp_path / "journal"
    with path.open("w") as out:
        status = path.stat()
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_the_journal(out, environ)
        assert not is_the_journal(out, {"JOURNAL_STREAM": "1:1"})
        assert not is_the_journal(io.StringIO(), environ)
        configure_logging(out, as_json=False, level="debug", environ=environ)
        structlog.get_logger("x").debug("a")
        structlog.get_logger("x").info("b")
        structlog.get_logger("x").warning("c")
        try:
            raise ValueError("no")
        except ValueError:
            structlog.get_logger("x").exception("d")
        logging.getLogger("asyncssh").error("e")
    lines = path.read_text().splitlines()
    assert [line[:3] for line in lines if line[3:4] != "T" and "Z [" in line] == [
        "<7>",
        "<6>",
        "<4>",
        "<3>",
        "<3>",
    ]
    assert all(line.startswith("<") for line in lines)
    assert any("ValueError: no" in line and line.startswith("<3>") for line in lines)


def test_a_line_costs_little() -> None:
    """Most lines hold none of the words that secrets come with, and are passed after a look for those."""
    line = '{"event": "request", "route": "/v1/chat/completions", "status": 200, "outcome": "ok"}'
    assert redact(line) is line
