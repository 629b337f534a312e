"""Real notices on AWS: what is asked of FIS, what becomes of an experiment, and that nothing of it is left."""

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from structlog.testing import capture_logs

from hedgeserve.drivers.aws import AwsDriver
from hedgeserve.drivers.awscloud import credentials, interruption
from hedgeserve.drivers.awscloud.fis import Fis, FisAction, standing_of, template_for
from hedgeserve.drivers.clearance import is_old
from hedgeserve.drivers.codes import NoAnswerError
from hedgeserve.drivers.examine import Examination, Verdict
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import AuthError, CloudError, SpecError
from tests.clouds.contract_ec2 import Received
from tests.clouds.contract_fis import check
from tests.clouds.ec2_bench import Make, aws, aws_environ, ec2, ec2_server, quick
from tests.clouds.fake_ec2 import ACCESS_KEY, SECRET_KEY
from tests.clouds.fake_fis import ROLE, FakeFis
from tests.conftest import eventually

__all__ = ["aws", "ec2", "ec2_server", "quick"]

DOC = Path(__file__).parent.parent / "docs" / "clouds" / "aws.md"
VM = "us-east-1/i-0123456789abcdef0"

Drilled = Callable[..., AwsDriver]


@pytest.fixture(scope="module")
def fis_server() -> Iterator[FakeFis]:
    """One server for the whole file."""
    fake = FakeFis({ACCESS_KEY: SECRET_KEY})
    yield fake
    fake.close()


@pytest.fixture
def fis(fis_server: FakeFis, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFis]:
    """An empty FIS, looked at without a pause. Fails the test that sent what FIS's description does not allow."""
    monkeypatch.setattr(interruption, "_LOOK_FIRST_S", 0.001)
    monkeypatch.setattr(interruption, "_LOOK_EVERY_S", 0.001)
    fis_server.reset()
    yield fis_server
    assert fis_server.violations == []


@pytest.fixture
def drilled(aws: Make, fis: FakeFis, tmp_path: Path) -> Drilled:
    """Makes drivers with a role for FIS: ``drilled(role=...)`` with another one."""

    def make(*, role: str = ROLE, **changes: Any) -> AwsDriver:
        environ = {**aws_environ(tmp_path), "AWS_ENDPOINT_URL_FIS": fis.url, "AWS_ENDPOINT_URL_STS": fis.url}
        return aws(environ=environ, aws=f'fis_role = "{role}"', **changes)

    return make


# What is asked


async def test_one_vm_is_interrupted_by_an_experiment_that_is_followed_and_leaves_nothing(
    drilled: Drilled, fis: FakeFis
) -> None:
    """Template, experiment, looks until it is over; the template is gone as soon as the experiment runs."""
    fis.course = [{"status": "initiating"}, {"status": "running"}, {"status": "running"}, {"status": "completed"}]
    await drilled().preempt(VM, notice_s=180.0)
    assert fis.names == [
        "CreateExperimentTemplate",
        "StartExperiment",
        "GetExperiment",
        "GetExperiment",
        "DeleteExperimentTemplate",
        "GetExperiment",
        "GetExperiment",
    ]
    [asked] = fis.of("CreateExperimentTemplate")
    assert asked["roleArn"] == ROLE
    assert asked["stopConditions"] == [{"source": "none"}]
    assert asked["targets"] == {
        "vm": {
            "resourceType": "aws:ec2:spot-instance",
            "resourceArns": ["arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"],
            "selectionMode": "ALL",
        }
    }
    assert asked["actions"] == {
        "interrupt": {
            "actionId": "aws:ec2:send-spot-instance-interruptions",
            "parameters": {"durationBeforeInterruption": "PT180S"},
            "targets": {"SpotInstances": "vm"},
        }
    }
    assert asked["tags"][SERVICE] == "chat"
    [begun] = fis.of("StartExperiment")
    assert begun["tags"] == asked["tags"]
    assert fis.templates() == {}


async def test_without_a_word_of_when_it_is_as_soon_as_ec2_allows(drilled: Drilled, fis: FakeFis) -> None:
    """Two minutes: the notice at once."""
    await drilled().preempt(VM)
    [asked] = fis.of("CreateExperimentTemplate")
    assert asked["actions"]["interrupt"]["parameters"] == {"durationBeforeInterruption": "PT120S"}


async def test_without_a_role_nothing_is_asked(drilled: Drilled, fis: FakeFis) -> None:
    """The drill plays the notice then; who asks all the same is told the key."""
    with pytest.raises(CloudError, match=r"names no \[aws\] fis_role"):
        await drilled(role="").preempt(VM)
    assert await drilled(role="").things("us-east-1") == []
    assert fis.names == []


def test_another_partition_has_its_own_names() -> None:
    """GovCloud's role, GovCloud's VM."""
    role = "arn:aws-us-gov:iam::210987654321:role/path/fis"
    made = template_for("i-1", "us-gov-west-1", role, notice_s=120.0, tags={})
    assert made["targets"]["vm"]["resourceArns"] == ["arn:aws-us-gov:ec2:us-gov-west-1:210987654321:instance/i-1"]


@pytest.mark.parametrize(
    "role", ["hedgeserve-fis", "arn:aws:iam::1234:role/x", "arn:aws:iam::123456789012:user/x"]
)
def test_what_is_no_role_is_refused_with_its_line(aws: Make, role: str) -> None:
    """And with an example."""
    with pytest.raises(SpecError, match=r"is not the ARN of an IAM role; write one such as"):
        aws(aws=f'fis_role = "{role}"')


async def test_no_key_is_in_a_request_or_a_log(drilled: Drilled, fis: FakeFis) -> None:
    """Not where it goes well, nor where it fails."""
    fis.refusals["StartExperiment"] = [("ValidationException", "no")]
    with capture_logs() as logged, pytest.raises(CloudError) as failed:
        await drilled().preempt(VM)
    told = json.dumps([list(fis.asked), logged], default=str) + str(failed.value)
    assert SECRET_KEY not in told
    assert ACCESS_KEY not in told


# What may go wrong


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (
            {
                "status": "failed",
                "reason": f"Unable to assume role {ROLE}.",
                "error": {"code": "RoleNotAssumable"},
            },
            f"has failed: Unable to assume role {ROLE}; RoleNotAssumable; docs/clouds/aws.md says what",
        ),
        ({"status": "failed", "reason": "Target resolution returned empty set"}, "has failed: Target resolution"),
        ({"status": "stopped", "reason": "Experiment halted by user action"}, "was stopped: Experiment halted by"),
        ({"status": "cancelled"}, "was cancelled; docs"),
    ],
)
async def test_an_experiment_that_fails_is_told_in_its_own_words(
    drilled: Drilled, fis: FakeFis, end: dict[str, Any], said: str
) -> None:
    """With its id, to be looked for in the console; the template is gone all the same."""
    fis.course = [{"status": "initiating"}, end]
    with pytest.raises(CloudError) as failed:
        await drilled().preempt(VM)
    assert said in str(failed.value)
    assert str(failed.value).startswith(
        "could not have i-0123456789abcdef0 in us-east-1 interrupted: FIS says that "
    )
    assert fis.templates() == {}


def test_the_words_of_an_action_that_failed_are_told_too() -> None:
    """Not twice, where the experiment has the same."""
    found = standing_of(
        {
            "state": {"status": "failed", "reason": "Experiment failed."},
            "actions": {
                "interrupt": {"state": {"status": "failed", "reason": "Instance is not a Spot Instance."}},
                "other": {"state": {"status": "completed", "reason": "Action was completed."}},
            },
        }
    )
    assert (found.ended, found.starting) == (True, False)
    assert found.reason == "Experiment failed; Instance is not a Spot Instance"


async def test_a_quota_is_told_with_what_to_do(drilled: Drilled, fis: FakeFis) -> None:
    """FIS runs a few experiments at a time; the template is not left."""
    fis.refusals["StartExperiment"] = [("ServiceQuotaExceededException", "Too many active experiments.")]
    with pytest.raises(
        CloudError, match=r"ServiceQuotaExceededException: Too many active experiments; wait until"
    ):
        await drilled().preempt(VM)
    assert fis.templates() == {}


async def test_a_permission_that_is_missing_is_named(drilled: Drilled, fis: FakeFis) -> None:
    """Whichever it is."""
    fis.allowed = {"CreateExperimentTemplate"}
    with pytest.raises(AuthError, match=r"the credentials lack fis:TagResource"):
        await drilled().preempt(VM)
    fis.allowed = None
    fis.refusals["CreateExperimentTemplate"] = [
        (
            "AccessDeniedException",
            f"User: arn:aws:iam::1:user/hs is not authorized to perform: iam:PassRole on resource: {ROLE}",
        )
    ]
    with pytest.raises(AuthError, match=r"the credentials lack iam:PassRole"):
        await drilled().preempt(VM)


async def test_a_template_that_cannot_be_deleted_is_left_to_the_reaper(drilled: Drilled, fis: FakeFis) -> None:
    """The drill goes on; the log says so."""
    fis.allowed = {"CreateExperimentTemplate", "TagResource", "StartExperiment", "GetExperiment"}
    with capture_logs() as logged:
        await drilled().preempt(VM)
    assert len(fis.templates()) == 1
    assert any("could not be deleted; it is removed later" in one["event"] for one in logged)


async def test_an_experiment_that_cannot_be_looked_at_is_taken_for_one_that_goes_on(
    drilled: Drilled, fis: FakeFis
) -> None:
    """It is no failure of the drill that a permission to look is missing."""
    fis.allowed = {"CreateExperimentTemplate", "TagResource", "StartExperiment", "DeleteExperimentTemplate"}
    with capture_logs() as logged:
        await drilled().preempt(VM)
    assert any(one["event"] == "an experiment cannot be looked at" for one in logged)
    assert fis.templates() == {}


async def test_a_throttled_question_is_asked_again(drilled: Drilled, fis: FakeFis) -> None:
    """As all questions are."""
    fis.refusals["CreateExperimentTemplate"] = [("ThrottlingException", "Rate exceeded")]
    await drilled().preempt(VM)
    assert fis.names.count("StartExperiment") == 1


async def test_silence_is_told_with_where_it_was_met(
    aws: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall, or an endpoint that is none."""
    monkeypatch.setattr(credentials, "_CLIENT", Config(retries={"total_max_attempts": 1}))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        driver = aws(environ={**aws_environ(tmp_path), "AWS_ENDPOINT_URL_FIS": url}, aws=f'fis_role = "{ROLE}"')
        with pytest.raises(
            NoAnswerError, match=rf"interrupted: Could not connect to .*{url}.*; look at the network"
        ):
            await driver.preempt(VM)


# Who no longer waits


async def test_a_drill_that_is_over_stops_its_experiment(drilled: Drilled, fis: FakeFis) -> None:
    """What has not befallen the VM by then is not to befall it when nobody looks."""
    fis.course = [{"status": "running"}]
    preempting = asyncio.create_task(drilled().preempt(VM))
    await eventually(lambda: fis.names.count("GetExperiment") > 2)
    preempting.cancel()
    await asyncio.wait([preempting])
    assert preempting.cancelled()
    assert fis.names.count("StopExperiment") == 1
    assert fis.templates() == {}


@pytest.mark.parametrize(("during", "stops"), [("CreateExperimentTemplate", 0), ("StartExperiment", 1)])
async def test_a_drill_that_is_over_before_its_experiment_began_leaves_none(
    drilled: Drilled, fis: FakeFis, during: str, stops: int
) -> None:
    """The call goes on in its thread: it starts nothing more, stops what it has started, and tidies up."""
    loop, reached = asyncio.get_running_loop(), asyncio.Event()
    fis.course = [{"status": "initiating"}]
    preempting = asyncio.create_task(drilled().preempt(VM))

    def give_up(name: str) -> None:
        if name == during:
            loop.call_soon_threadsafe(preempting.cancel)
            loop.call_soon_threadsafe(reached.set)
            asyncio.run_coroutine_threadsafe(asyncio.wait([preempting]), loop).result(10)

    fis.before = give_up
    await reached.wait()
    await asyncio.wait([preempting])
    await eventually(lambda: "DeleteExperimentTemplate" in fis.names)
    assert fis.names.count("StopExperiment") == stops
    assert fis.names.count("StartExperiment") == stops
    assert fis.templates() == {}


# What a crash leaves


async def leave(driver: AwsDriver) -> None:
    """What a controller leaves that is killed between two calls."""
    made = template_for("i-0123456789abcdef0", "us-east-1", ROLE, notice_s=120.0, tags={SERVICE: driver.service})
    await driver.ask_fis("us-east-1", lambda fis: fis.ask(FisAction.CREATE, clientToken="t", **made), "leave one")


async def test_a_template_that_a_crash_left_is_found_and_removed_when_it_is_old(
    drilled: Drilled, fis: FakeFis
) -> None:
    """By its tag; one without it is somebody else's and is not seen."""
    driver = drilled()
    await leave(driver)
    other = template_for("i-0123456789abcdef0", "us-east-1", ROLE, notice_s=120.0, tags={"team": "a"})
    await driver.ask_fis(
        "us-east-1", lambda fis: fis.ask(FisAction.CREATE, clientToken="o", **other), "make another"
    )
    [left] = [one for one in await driver.leftovers() if one.kind == "experiment-template"]
    assert (left.service, left.region, left.in_use) == ("chat", "us-east-1", False)
    assert not is_old(left)  # a drill of a moment ago may still need it
    fis.age(timedelta(hours=2))
    [left] = [one for one in await driver.leftovers() if one.kind == "experiment-template"]
    assert is_old(left)
    await driver.clear(left)
    await driver.clear(left)
    assert [template.description for template in fis.templates().values()] == [other["description"]]


async def test_templates_are_listed_to_the_last_page(drilled: Drilled, fis: FakeFis) -> None:
    """A hundred to a page."""
    driver = drilled()

    def many(fis: Fis) -> None:
        for number in range(101):
            made = template_for("i-0", "us-east-1", ROLE, notice_s=120.0, tags={SERVICE: "chat"})
            fis.ask(FisAction.CREATE, clientToken=f"t{number}", **made)

    await driver.ask_fis("us-east-1", many, "make many")
    assert len(await driver.things("us-east-1")) == 101
    assert fis.names.count("ListExperimentTemplates") == 2


async def test_a_region_without_fis_has_nothing_of_it(
    drilled: Drilled, aws: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is not known there; what EC2 has is listed all the same, and a drill is told."""
    asked = socket.getaddrinfo

    def unknown(host: str, *args: Any, **more: Any) -> Any:
        if host.startswith("fis."):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return asked(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    environ = {**aws_environ(tmp_path), "AWS_ENDPOINT_URL_FIS": "http://fis.nowhere.invalid"}
    driver = aws(environ=environ, aws=f'fis_role = "{ROLE}"')
    assert await driver.things("us-east-1") == []
    with pytest.raises(CloudError, match="AWS has no Fault Injection Service in us-east-1"):
        await driver.preempt(VM)


# The doctor


async def doctored(driver: AwsDriver) -> tuple[Verdict, str]:
    """What is said of the drill's notices."""
    found = Examination()
    await driver.inspect("us-east-1", found)
    [one] = [one for one in found.findings if one.subject == "aws us-east-1 drill notices"]
    return one.verdict, one.message


async def test_the_doctor_asks_fis_and_changes_nothing(drilled: Drilled, fis: FakeFis) -> None:
    """And says what only a drill can tell."""
    verdict, message = await doctored(drilled())
    assert (verdict, "only seen in a drill" in message) == (Verdict.OK, True)
    assert fis.names == ["GetAction", "ListExperimentTemplates"]


async def test_the_doctor_names_what_is_missing(drilled: Drilled, fis: FakeFis) -> None:
    """A permission, the action, the account; a warning, for serving needs none of them."""
    fis.allowed = {"GetAction"}
    verdict, message = await doctored(drilled())
    assert (verdict, "lack fis:ListExperimentTemplates" in message) == (Verdict.WARNING, True)
    fis.allowed, fis.refusals["GetAction"] = None, [("ResourceNotFoundException", "Action is not there.")]
    verdict, message = await doctored(drilled())
    assert (verdict, "FIS says ResourceNotFoundException: Action is not there" in message) == (
        Verdict.WARNING,
        True,
    )
    fis.account = "999999999999"
    verdict, message = await doctored(drilled())
    assert verdict is Verdict.WARNING
    assert "of account 999999999999, and FIS takes on roles of that one only" in message


# The contract


def received(**changes: Any) -> Received:
    """A request for a template that is good, but for what was changed at a path such as ``targets.vm.x``."""
    made = {"clientToken": "t", **template_for("i-0", "us-east-1", ROLE, notice_s=120.0, tags={SERVICE: "chat"})}
    for path, value in changes.items():
        *through, last = path.split("__")
        node = made
        for part in through:
            node = node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return Received("POST", "/experimentTemplates", {}, json.dumps(made).encode())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"roleArn": None}, "roleArn: required, missing"),
        ({"roleArn": "fis"}, "3 characters are not within 20"),
        ({"rolArn": ROLE}, "rolArn: unknown parameter"),
        ({"clientToken": "a b"}, "does not fit"),
        ({"stopConditions": "none"}, "is no list"),
        ({"targets__vm__resourceArns": ["x" * 30] * 6}, "6 are more than 5"),
        ({"targets__vm__resourceType": "aws:ec2:instance"}, "the action takes aws:ec2:spot-instance"),
        ({"targets__vm__resourceArns": None}, "either ARNs or tags"),
        ({"actions__interrupt__targets": {"Instances": "vm"}}, "takes one target, SpotInstances"),
        (
            {"actions__interrupt__parameters": {"durationBeforeInterruption": "PT1M"}},
            "not within 2 and 15 minutes",
        ),
        ({"experimentOptions__accountTargeting": "one"}, "is none of single-account"),
    ],
)
def test_the_contract_finds_what_is_wrong(changes: dict[str, Any], problem: str) -> None:
    """One mistake each in a request that is good otherwise."""
    found = "; ".join(check(received(**changes)))
    assert problem in found
    assert bool(found) == bool(problem)


async def test_the_documented_policy_is_what_a_drill_needs_and_no_more(drilled: Drilled, fis: FakeFis) -> None:
    """FIS refuses every operation that the policy leaves out; each that it grants is used."""
    block = next(
        one for one in re.findall(r"```json\n(.*?)```", DOC.read_text(), re.DOTALL) if "iam:PassRole" in one
    )
    granted = {action for statement in json.loads(block)["Statement"] for action in as_list(statement["Action"])}
    assert granted == {f"fis:{action}" for action in FisAction} | {"fis:TagResource", "iam:PassRole"}
    fis.allowed = {action.removeprefix("fis:") for action in granted}
    driver = drilled()
    await doctored(driver)
    fis.course = [{"status": "running"}]
    preempting = asyncio.create_task(driver.preempt(VM))
    await eventually(lambda: fis.names.count("GetExperiment") > 2)
    preempting.cancel()
    await asyncio.wait([preempting])
    assert set(fis.names) == {str(action) for action in FisAction}


def as_list(actions: str | list[str]) -> list[str]:
    """A policy's actions, of which one may stand alone."""
    return [actions] if isinstance(actions, str) else actions
