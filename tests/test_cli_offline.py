"""The verbs that need no running service, and what all verbs say when there is none."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgeserve._version import __version__
from hedgeserve.cli import main
from hedgeserve.modelfile.reference import starter_toml
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.store import Store
from hedgeserve.tables.files import StoredFile
from tests.shell import in_a_clean_shell, run

GOOD = '[model]\nengine = "demo"\n[[pools]]\ncloud = "local"\nzones = ["east/a", "east/b"]\n'


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_a_clean_shell(monkeypatch, tmp_path)


def write(tmp_path: Path, text: str = GOOD) -> str:
    path = tmp_path / "model.toml"
    path.write_text(text)
    return str(path)


def test_help_starts_without_the_heavy_parts() -> None:
    """`hedgeserve --help` answers at once: no HTTP stack, no SSH, no validation, no tables."""
    code = (
        "import sys\nfrom hedgeserve.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'aiohttp', 'asyncssh', 'pydantic', 'rich', 'structlog', 'asyncio', 'aiosqlite'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage:" in done.stdout


def test_the_installed_command_answers() -> None:
    """The entry point of the package leads to the verbs."""
    command = Path(sys.executable).with_name("hedgeserve")
    done = subprocess.run([command, "version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.removesuffix("\n").removesuffix(" (compiled)") == f"hedgeserve {__version__}"


def test_verbs_are_listed_in_the_order_of_use_each_with_its_line() -> None:
    """No first sentence is cut short in the overview."""
    shown = run("--help").stdout
    listed = [line for line in shown[shown.index("Before you serve:") :].splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in listed] == list(main.commands)
    assert not any(line.endswith("...") for line in listed)


def test_version_as_json() -> None:
    """For scripts."""
    assert json.loads(run("version", "--json").stdout)["hedgeserve"] == __version__


# init


def test_init_writes_a_file_that_check_likes() -> None:
    """The two first steps of a newcomer."""
    made = run("init")
    assert (made.exit_code, made.stdout) == (0, "")
    assert "hedgeserve serve model.toml" in made.stderr
    checked = run("check")
    assert checked.exit_code == 0
    assert "model.toml is good: hedgeserve serves demo (demo) on 127.0.0.1:8000" in checked.stdout


def test_init_does_not_replace_a_file_unless_told(tmp_path: Path) -> None:
    """Somebody's work may be in it."""
    path = write(tmp_path)
    refused = run("init", path)
    assert refused.exit_code == 1
    assert "is already there" in refused.stderr
    assert Path(path).read_text() == GOOD
    assert run("init", path, "--force").exit_code == 0
    assert Path(path).read_text() == starter_toml()


def test_init_to_a_place_that_cannot_be_written_says_why() -> None:
    """Exit code 1 and a sentence."""
    failed = run("init", "no/such/place/model.toml")
    assert failed.exit_code == 1
    assert failed.stderr == "hedgeserve: no/such/place/model.toml cannot be written: No such file or directory\n"


def test_init_to_stdout_writes_the_file_and_nothing_else() -> None:
    """stdout is data."""
    assert run("init", "-").stdout == starter_toml()


# check


def test_check_tells_every_mistake_on_its_line_and_exits_with_2(tmp_path: Path) -> None:
    """The form `file:line: key: message` lets editors jump there."""
    path = write(tmp_path, GOOD + "[replicas]\nmni = 1\nmax = '3'\n")
    result = run("check", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{path}:7: replicas.mni: unknown key `mni`; did you mean `min`?",
        f'{path}:8: replicas.max: must be a whole number, but is "3"; leave out the quotes: 3',
    ]


def test_check_as_json_has_the_problems_as_data(tmp_path: Path) -> None:
    """For editors and continuous integration."""
    path = write(tmp_path, GOOD + "[replicas]\nmni = 1\n")
    result = run("check", path, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "ok": False,
        "file": path,
        "problems": [
            {"line": 7, "key": "replicas.mni", "message": "unknown key `mni`", "hint": "did you mean `min`?"}
        ],
    }
    assert json.loads(run("check", write(tmp_path), "--json").stdout) == {"ok": True, "file": path, "problems": []}


def test_check_finds_a_public_address_without_keys(tmp_path: Path) -> None:
    """What `serve` would refuse, `check` refuses."""
    result = run("check", write(tmp_path, GOOD + '[service]\nlisten = "0.0.0.0:8000"\n'))
    assert result.exit_code == 2
    assert "no API key would be asked for" in result.stderr


def test_check_of_a_missing_file_names_the_next_step() -> None:
    """`hedgeserve init` makes one."""
    result = run("check", "nowhere.toml")
    assert result.exit_code == 2
    assert result.stderr == "nowhere.toml: there is no such file; write one with `hedgeserve init nowhere.toml`\n"


# serve, before anything is started


def test_serve_refuses_a_wrong_file_before_anything_starts(tmp_path: Path) -> None:
    """The same sentences as `check`, the same exit code."""
    result = run("serve", write(tmp_path, GOOD + "[hedge]\npolicy = 'x'\n"))
    assert result.exit_code == 2
    assert "hedge.policy: must be" in result.stderr


def test_serve_refuses_a_listen_flag_that_is_no_address(tmp_path: Path) -> None:
    """The message names the flag."""
    result = run("serve", write(tmp_path), "--listen", "8000")
    assert result.exit_code == 2
    assert "Invalid value for --listen" in result.stderr


def test_the_listen_flag_stands_above_the_file(tmp_path: Path) -> None:
    """A public address on the flag needs keys as one in the file does."""
    result = run("serve", write(tmp_path), "--listen", "0.0.0.0:0")
    assert result.exit_code == 2
    assert '"0.0.0.0:0" can be reached by others' in result.stderr


def test_an_address_from_the_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    """The file says 127.0.0.1; the message names no line of it, but the flag and its variable."""
    path = write(tmp_path, GOOD + '[service]\nlisten = "127.0.0.1:8000"\n')
    told = run("serve", path, "--listen", "0.0.0.0:0").stderr
    assert told.startswith(f'{path}: service.listen: "0.0.0.0:0" can be reached by others')
    assert told.endswith(" (--listen or the environment variable HEDGESERVE_SERVICE_LISTEN says so)\n")


# The verbs that ask a service, when none runs


@pytest.mark.parametrize("verb", [["status"], ["events"], ["logs", "m-1"], ["down"]], ids=lambda verb: verb[0])
def test_with_no_service_every_verb_says_so(verb: list[str]) -> None:
    """One sentence, exit code 1, nothing on stdout."""
    result = run(*verb)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no service runs under" in result.stderr


def test_services_that_have_ended_are_named(tmp_path: Path) -> None:
    """The reader may have had another one in mind."""
    ended = tmp_path / "state" / "hedgeserve" / "chatty"
    ended.mkdir(parents=True)
    (ended / "journal.db").touch()
    assert "(not running: chatty)" in run("status").stderr


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["down"],
        ["status", "--service", "chatty"],
        ["cost"],
        ["events"],
        ["explain", "--service", "chatty"],
    ],
    ids=" ".join,
)
def test_what_a_dead_controller_left_running_is_said_whatever_was_asked(words: list[str], tmp_path: Path) -> None:
    """Right after a crash the VMs cost money, and whoever looks must not read that nothing runs."""
    left_behind(tmp_path / "state" / "hedgeserve" / "chatty")
    said = run(*words).stderr
    assert (
        "chatty's journal holds 2 VMs that may still run, 2.50 USD/h: `hedgeserve serve /etc/chatty.toml` adopts "
        "them, `hedgeserve down /etc/chatty.toml` ends them"
    ) in said
    assert "start it with" not in said
    assert "start one with" not in said


def test_what_was_left_running_elsewhere_is_named_with_its_directory(tmp_path: Path) -> None:
    """The commands can be typed as they stand."""
    left_behind(tmp_path / "my state")
    said = run("status", "--state-dir", "my state").stderr
    assert f"`hedgeserve down /etc/chatty.toml --state-dir '{tmp_path}/my state'` ends them" in said


def test_cost_says_what_may_have_been_added_since_as_an_estimate(tmp_path: Path) -> None:
    """Half an hour at 2.00 USD/h by the last line about the one, an hour at 0.50 since the launch of the other."""
    left_behind(tmp_path / "state" / "hedgeserve" / "chatty")
    told = run("cost").stdout.splitlines()
    assert told[1].startswith("up to ")
    assert "more; estimate: since the journal's last entries, if the 2 VMs run on at 2.50 USD/h" in told[1]
    told_json = json.loads(run("cost", "--json").stdout)
    assert told_json["left_running"]["vms"] == 2
    assert told_json["left_running"]["estimated_usd"] == pytest.approx(1.5, abs=0.1)
    assert told_json["spent_usd"] == pytest.approx(1.0)
    assert json.loads(run("cost", "--since", "30m", "--json").stdout)["left_running"]["estimated_usd"] < 1.3


def left_behind(directory: Path) -> None:
    """The journal of a service whose controller died: of its four replicas two have a VM."""
    directory.mkdir(parents=True)

    async def write() -> None:
        store = await Store.open(directory / "journal.db")
        now = datetime.now(UTC)
        await store.save_file("chatty", "started", StoredFile("/etc/chatty.toml", "d", now))
        launched = now - timedelta(hours=1)
        for state, vm_id, usd in [
            (State.READY, "i-1", 1.0),
            (State.PROVISIONING, None, 0.5),
            (State.PLANNED, None, 0.5),
            (State.GONE, "i-4", 0.5),
        ]:
            offer = Offer(ZoneId("local/east/a"), "local", Market.SPOT, usd, launched)
            id = await store.new_replica("chatty", offer, token=str(state), reason="r", now=launched)
            gone = GoneReason.PREEMPTED if state is State.GONE else None
            await store.save(Replica(id, offer, state, 0.0, launched, vm_id=vm_id, gone=gone), at=launched)
        await store.charge(ReplicaId("chatty-1"), 1800, 2.0, "serving", now - timedelta(minutes=30))
        await store.close()

    asyncio.run(write())


@pytest.mark.parametrize("flags", [["--service", "chatty"], ["--state-dir", "state/hedgeserve/chatty"]])
def test_a_named_service_that_does_not_run_is_said_with_its_directory(flags: list[str], tmp_path: Path) -> None:
    """Both ways lead to the same directory."""
    result = run("status", *flags)
    assert result.exit_code == 1
    assert f"no service runs with the state directory {tmp_path}/state/hedgeserve/chatty" in result.stderr


def test_a_model_file_names_its_service_though_its_secrets_are_not_set(tmp_path: Path) -> None:
    """Asking for the status needs none of what serving needs."""
    text = GOOD.replace("[model]", '[model]\nsecret_env = ["NOT_SET_HERE"]') + '[service]\nname = "chatty"\n'
    result = run("status", write(tmp_path, text))
    assert result.exit_code == 1
    assert f"{tmp_path}/state/hedgeserve/chatty" in result.stderr


def test_two_names_for_one_service_are_a_misuse(tmp_path: Path) -> None:
    """Nothing is guessed about which one counts."""
    result = run("status", write(tmp_path), "--service", "chatty")
    assert result.exit_code == 2
    assert "give one" in result.stderr
    result = run("down", "--state-dir", "elsewhere", "--service", "chatty")
    assert result.exit_code == 2
    assert "--state-dir and --service are two ways" in result.stderr


def test_down_with_nothing_ever_started_there_says_so(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cloud is asked."""
    monkeypatch.setenv("XDG_STATE_HOME", str(short_dir))
    result = run("down", write(short_dir), "--yes")
    assert result.exit_code == 1
    assert "nor has one ever run there" in result.stderr


# The documentation


@pytest.mark.parametrize("verb", list(main.commands))
def test_every_verb_and_option_is_documented(verb: str) -> None:
    """A heading for the verb, a word on each of its options."""
    page = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    assert f"\n## `{verb}`\n" in page
    for parameter in main.commands[verb].params:
        if parameter.param_type_name == "option":
            assert max(parameter.opts, key=len) in page
