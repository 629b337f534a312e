"""The verbs against a service that runs: a real process, its real VMs, its admin socket."""

import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedgeserve.modelfile.environ import OTHERS
from tests.shell import HEDGESERVE, ask, clean_environ, model_toml


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Keys for clients, and every variable of ours that is no setting: no verb may stumble over them."""
    others = dict.fromkeys(OTHERS, "hush-hush")
    return clean_environ(tmp_path) | others | {"HEDGESERVE_API_KEYS": "hush-hush", "TERM": "xterm"}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.toml"
    path.write_text(model_toml("chatty"))
    return str(path)


def start(model: str, environ: dict[str, str], *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [HEDGESERVE, "serve", model, "--listen", "127.0.0.1:0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )


def until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that in time"
        time.sleep(0.05)


def welcome(process: "subprocess.Popen[str]") -> str:
    """What `serve` prints once it serves."""
    assert process.stdout is not None
    lines = []
    while not lines or not lines[-1].startswith("(KEY is"):
        line = process.stdout.readline()
        assert line, f"it ended: {process.communicate()[1]}"
        lines.append(line)
    return "".join(lines)


@pytest.fixture
def running(model: str, environ: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    process = start(model, environ)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_one_service_from_its_start_to_its_end(
    running: "subprocess.Popen[str]", model: str, environ: dict[str, str]
) -> None:
    """The endpoint is printed with a line to paste; status, events, logs and down find the only service."""
    printed = welcome(running)
    url = re.search(r"curl -N (\S+)/v1/chat/completions", printed)
    assert url is not None
    assert 'Authorization: Bearer $KEY"' in printed
    assert "hush-hush" not in printed

    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["ready"] == 1)
    request = urllib.request.Request(f"{url[1]}/v1/models", headers={"Authorization": "Bearer hush-hush"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["data"][0]["id"] == "demo"

    status = ask(environ, "status")
    assert status.stdout.startswith(f"chatty serving, demo at {url[1]}, up ")
    assert "\x1b" not in status.stdout, "colours only on a terminal"
    assert re.search(r"chatty-1 +local/east/a +spot +ready ", status.stdout)

    events = [json.loads(line) for line in ask(environ, "events", "--json").stdout.splitlines()]
    assert [event["kind"] for event in events if event["replica"] is None][:1] == ["started"]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    last = ask(environ, "events", "--limit", "1", "--replica", "chatty-1").stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  state +chatty-1  loading → ready: .*\n", last)

    now = json.loads(ask(environ, "explain", "--json").stdout)
    assert (now["subject"], now["headline"]) == ("now", "1 ready of 1 replica needed; 0.30 USD/h")
    assert now["because"][0] == "the target is 1 replica: the number of replicas is fixed"
    mine = ask(environ, "explain", "chatty-1").stdout
    assert mine.startswith("chatty-1 (spot, local/east/a, 0.30 USD/h) has been ready for ")
    assert re.search(
        r"\n  - launched at [\d:]+ UTC: spot in local/east/a: 0 of 1 spot replicas run or start", mine
    )
    assert ask(environ, "explain", "local/east/a").stdout.startswith(
        "local/east/a is where the next spot replica goes."
    )
    lost = ask(environ, "explain", "chatty-11")
    assert (lost.returncode, lost.stdout) == (1, "")
    assert (
        'there is no replica or zone "chatty-11" and no such replica before; did you mean chatty-1?' in lost.stderr
    )

    nowhere = ask(environ, "explain", "nowhere")
    assert (nowhere.returncode, "the zones are local/east/a" in nowhere.stderr) == (1, True)
    assert ask(environ, "explain", "east/a").stdout == ask(environ, "explain", "local/east/a").stdout

    plan = json.loads(ask(environ, "plan", model, "--json").stdout)
    assert (plan["running"]["ready"], plan["changes"], plan["steps"]) == (1, [], [])
    text = Path(model).read_text()
    Path(model).write_text(text.replace("count = 1", "count = 2").replace('"100ms"', '"200ms"'))
    plan = json.loads(ask(environ, "plan", model, "--json").stdout)
    changed = {change["key"]: change["effect"] for change in plan["changes"]}
    assert changed == {"replicas.count": "live", "model.args": "version"}
    assert (plan["replaced"], plan["rollout"]["to"], plan["steps"][0]["what"]) == (["chatty-1"], 2, "launch")
    assert "chatty-1" in [step["replica"] for step in plan["steps"] if step["what"] == "drain"]
    Path(model).write_text(text)

    assert "demo" in ask(environ, "logs", "chatty-1", "--lines", "5").stdout
    unknown = ask(environ, "logs", "chatty-9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no replica chatty-9" in unknown.stderr
    assert "`hedgeserve events --replica chatty-9` has the last words" in unknown.stderr

    dry = json.loads(ask(environ, "down", "--dry-run", "--json").stdout)
    assert (dry["service"], [vm["id"] for vm in dry["vms"]], dry["done"]) == ("chatty", ["chatty-1"], False)
    unasked = ask(environ, "down")
    assert unasked.returncode == 3, "nobody was there to say yes"
    assert "Stop chatty and terminate 1 VM, 0.30 USD/h in all?" in unasked.stderr
    assert running.poll() is None

    down = ask(environ, "down", "--yes")
    shown = "chatty-1  local/east/a  spot  ready  0.30 USD/h\nlocal east: 0 VMs, 0 other things\n"
    assert (down.returncode, down.stdout) == (0, shown)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 0
    assert "hush-hush" not in stderr
    assert ask(environ, "status").returncode == 1


def test_pause_and_resume(running: "subprocess.Popen[str]", environ: dict[str, str]) -> None:
    """It asks first; once no VM is left it returns; resumed, a replica is waited for."""
    welcome(running)
    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["ready"] == 1)
    unasked = ask(environ, "pause", "--for", "2h")
    assert unasked.returncode == 3
    assert "Pause chatty for 2h: terminate 1 VM, 0.30 USD/h in all" in unasked.stderr
    assert ask(environ, "pause", "--for", "2").returncode == 2, "a number without a unit"
    dry = ask(environ, "down", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "chatty-1  local/east/a  spot  ready  0.30 USD/h\n")
    assert "chatty runs. `down` would stop it, terminate 1 VM, 0.30 USD/h in all" in dry.stderr
    paused = ask(environ, "pause", "--for", "2h", "--drain", "1s", "--yes", "--json")
    assert paused.returncode == 0, paused.stderr
    assert json.loads(paused.stdout)["rest"] == "paused"
    status = ask(environ, "status")
    assert status.stdout.startswith("chatty paused, ")
    assert "paused until" in status.stdout
    assert "chatty runs, paused." in ask(environ, "down", "--dry-run").stderr
    resumed = ask(environ, "resume", "--wait", "--json")
    assert json.loads(resumed.stdout)["was"] == "paused"
    assert "Ready after" in resumed.stderr
    assert "neither paused nor asleep" in ask(environ, "resume").stderr


def test_ctrl_c_drains_and_leaves_no_process(running: "subprocess.Popen[str]", environ: dict[str, str]) -> None:
    """It says that a second one would stop at once, and ends with exit code 0."""
    welcome(running)
    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["ready"] == 1)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "Press Ctrl-C again to stop at once." in stderr
    assert re.search(r"HedgeServe has stopped: 0\.0\d+ USD spent in \d+s; no VM is left\.", stderr)
    assert "Traceback" not in stderr


def test_a_second_ctrl_c_stops_at_once(model: str, environ: dict[str, str]) -> None:
    """An answer that would take minutes is not waited for."""
    text = Path(model).read_text()
    Path(model).write_text(text.replace('"--tokens-per-second", "0"', '"--tokens-per-second", "1"'))
    process = start(model, environ)
    url = re.search(r"http://\S+(?=/v1/chat)", welcome(process))
    assert url is not None
    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["ready"] == 1)
    body = {"model": "demo", "prompt": "x", "max_tokens": 600, "ignore_eos": True, "stream": True}
    headers = {"Authorization": "Bearer hush-hush", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url[0]}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.readline().startswith(b"data: ")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "Press Ctrl-C again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Stopping at once." in stderr


def test_down_ends_what_a_killed_controller_left(model: str, environ: dict[str, str]) -> None:
    """The model file names the clouds; the VMs that they list are terminated, whoever launched them."""
    process = start(model, environ)
    welcome(process)
    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["ready"] == 1)
    process.kill()
    process.communicate(timeout=30)
    dry = ask(environ, "down", model, "--dry-run")
    assert dry.stdout.startswith("chatty-1  local/east/a  spot  ")
    assert "chatty does not run. Its journal holds 1 VM, 0.30 USD/h in all" in dry.stderr
    lost = ask(environ, "down", "--yes")
    assert lost.returncode == 1, "without the model file nobody knows the clouds"
    down = ask(environ, "down", model, "--yes")
    assert down.returncode == 0, down.stderr
    listed, terminated, proof = down.stdout.splitlines()
    assert listed.startswith("chatty-1  local/east/a  spot  ")
    assert terminated.startswith("terminated ")
    assert proof == "local east: 0 VMs, 0 other things"
    again = ask(environ, "down", model, "--yes")
    assert (again.returncode, again.stdout) == (0, f"{proof}\n")


def test_log_lines_can_be_json(model: str, environ: dict[str, str]) -> None:
    """One object a line on stderr, and nothing else there."""
    process = start(model, environ, "--log-format", "json")
    welcome(process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    logged = [json.loads(line) for line in stderr.splitlines()]
    assert logged[0]["level"] == "info"
    assert [line["event"] for line in logged if "Ctrl-C" in line["event"]] != []
    assert logged[-1]["event"].startswith("HedgeServe has stopped: ")


def test_a_port_in_use_is_a_sentence(
    running: "subprocess.Popen[str]", model: str, environ: dict[str, str]
) -> None:
    """Exit code 1, no traceback, and nothing launched."""
    address = re.search(r"http://(\S+)/v1/chat", welcome(running))
    assert address is not None
    second = ask(environ, "serve", model, "--listen", address[1], "--state-dir", environ["XDG_STATE_HOME"] + "/b")
    assert second.returncode == 1
    assert address[1].rsplit(":", 1)[1] in second.stderr
    assert not Path(environ["XDG_STATE_HOME"], "b").exists(), "what came to nothing leaves nothing"
    assert "Traceback" not in second.stderr


def test_serve_may_open_as_many_files_as_the_system_allows(model: str, environ: dict[str, str]) -> None:
    """Started with a small soft limit, as by most shells, it takes what the hard one gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        process = start(model, environ)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        welcome(process)
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_terminal_shows_a_live_status(model: str, environ: dict[str, str]) -> None:
    """Replicas, load and cost are drawn anew while it serves; Ctrl-C ends it as elsewhere."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [HEDGESERVE, "serve", model, "--listen", "127.0.0.1:0"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ | {"COLUMNS": "150", "LINES": "40"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""
    try:
        deadline_s = time.monotonic() + 60
        interrupted = False
        while time.monotonic() < deadline_s:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                seen += os.read(ours, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
            if not interrupted and "1 ready of 1" in seen:
                interrupted = True
                process.send_signal(signal.SIGINT)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        os.close(ours)
    assert process.returncode == 0
    assert "USD/h" in seen
    assert "HedgeServe has stopped: " in seen
    assert "Traceback" not in seen


def test_keys_are_issued_listed_and_revoked(model: str, environ: dict[str, str]) -> None:
    """Before the service runs and while it does; shown once, effective at once, never anywhere in the clear."""
    before = ask(environ, "keys", "add", "early", model)
    early = before.stdout.strip()
    assert "it is good as soon as the service runs" in before.stderr
    process = start(model, environ)
    try:
        url = re.search(r"curl -N (\S+)/v1/chat/completions", welcome(process))
        assert url is not None

        def status_with(key: str) -> int:
            request = urllib.request.Request(f"{url[1]}/v1/models", headers={"Authorization": f"Bearer {key}"})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        added = ask(environ, "keys", "add", "alice", "--expires", "90d", "--requests-per-second", "5", "--json")
        alice = json.loads(added.stdout)
        assert "sha256" not in alice
        assert [status_with(key) for key in (early, alice["key"], "hush-hush", "hs-1-x")] == [200, 200, 200, 401]
        assert ask(environ, "keys", "add", "alice").returncode == 1
        assert ask(environ, "keys", "add", " ").returncode == 2
        listed = ask(environ, "keys", "list").stdout.splitlines()
        assert [line.split()[0] for line in listed] == ["name", "early", "alice"]
        assert "5 requests/s" in listed[2]
        assert "less than 1m ago" in listed[2]
        left = json.loads(ask(environ, "keys", "revoke", "alice", "--json").stdout)
        assert [key["name"] for key in left] == ["early"]
        assert (status_with(alice["key"]), status_with(early)) == (401, 200)
        assert "From now on" not in added.stderr, "a key was asked for before"
        assert "no key named" in ask(environ, "keys", "revoke", "alice").stderr
    finally:
        process.send_signal(signal.SIGINT)
        said = "".join(process.communicate(timeout=60))
    assert [key["name"] for key in json.loads(ask(environ, "keys", "list", model, "--json").stdout)] == ["early"]
    assert "From now on every request needs a key" in before.stderr
    assert ask(environ, "keys", "revoke", "early", model).returncode == 0
    none = ask(environ, "keys", "list", model)
    assert (none.returncode, none.stdout) == (0, "")
    assert "All keys that were issued are revoked, and every request still needs one" in none.stderr
    assert "api_keys.json, and start it" in none.stderr
    versions = ask(environ, "versions", model, "--json")
    assert "this is what its journal says" in versions.stderr
    listing = json.loads(versions.stdout)
    assert (listing["wanted"], [one["version"] for one in listing["versions"]]) == (1, [1])
    everything = said.encode() + b"".join(
        path.read_bytes() for path in Path(environ["XDG_STATE_HOME"]).rglob("*") if path.is_file()
    )
    for key in (early, alice["key"]):
        assert key.split("-", 2)[2].encode() not in everything


def test_an_edited_file_is_applied_refused_or_found_wrong(
    running: "subprocess.Popen[str]", model: str, environ: dict[str, str]
) -> None:
    """`apply` shows what would change and does it when agreed to; exit codes tell why nothing did."""
    welcome(running)
    file, text = Path(model), Path(model).read_text()
    file.write_text(text + "[limits]\nmax_queue = 5\n")
    unasked = ask(environ, "apply")
    assert (unasked.returncode, "Nobody is there to answer" in unasked.stderr) == (3, True)
    assert unasked.stdout.startswith("limits.max_queue: 512 → 5  (holds at once)\n\n")
    assert "\nif it goes " in unasked.stdout
    dry = json.loads(ask(environ, "apply", "--dry-run", "--json").stdout)
    assert [one["key"] for one in dry["changes"]] == ["limits.max_queue"]
    assert (dry["plan"]["rollout"], dry["plan"]["target"]) == (None, 1)
    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["ready"] == 1)
    file.write_text(text.replace("[model]", '[model]\naliases = ["other"]'))
    shown = ask(environ, "apply", "--dry-run").stdout
    assert "Replicas: version 1 → version 2, rolling: 1 replaced in turn" in shown
    assert "\nthe roll-out takes about " in shown
    assert re.search(r"now +launch +spot .* version 2\n", shown)
    assert "let go chatty-1 " in shown
    assert re.search(r"\ncost: .* \(now [0-9.]+ USD/h\)", shown)
    file.write_text(text + "[limits]\nmax_queue = 5\n")
    assert ask(environ, "apply", model, "--yes").returncode == 0
    again = ask(environ, "apply", "--yes")
    assert (again.returncode, again.stderr) == (0, "Nothing is different: the service runs as the file says.\n")
    file.write_text(text.replace('engine = "demo"', 'engin = "demo"'))
    wrong = ask(environ, "apply", "--yes")
    assert wrong.returncode == 2
    assert f"{model}:5: model.engin: " in wrong.stderr
    file.write_text(text.replace('name = "chatty"', 'name = "other"'))
    refused = ask(environ, "apply", "--yes")
    assert refused.returncode == 3
    assert "service.name (line 2) is settled when the service starts" in refused.stderr
    assert ask(environ, "rollback", "--yes").returncode == 3
    listed = ask(environ, "versions")
    assert listed.stdout.startswith("*   1  ")
    assert json.loads(ask(environ, "versions", "--json").stdout)["wanted"] == 1


def test_sighup_has_the_file_read_again(
    running: "subprocess.Popen[str]", model: str, environ: dict[str, str]
) -> None:
    """As a service manager's reload; a bad file is told of, and the service goes on."""
    welcome(running)
    text = Path(model).read_text()
    Path(model).write_text(text.replace("[model]", "[model]\nbroken = 1"))
    running.send_signal(signal.SIGHUP)
    until(lambda: "nothing has changed" in ask(environ, "events").stdout)
    Path(model).write_text(text.replace("count = 1", "count = 2"))
    running.send_signal(signal.SIGHUP)
    until(lambda: "replicas.count: 1 → 2" in ask(environ, "events").stdout)
    until(lambda: json.loads(ask(environ, "status", "--json").stdout)["target"] == 2)
