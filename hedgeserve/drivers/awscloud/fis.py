"""AWS's Fault Injection Service (FIS): the one way to have a spot VM interrupted as EC2 interrupts it. Blocking.

FIS works by experiments, each made from a template. A template is used for one experiment and deleted as soon as
that one runs: FIS goes on without it (https://docs.aws.amazon.com/fis/latest/userguide/delete-template.html). One
that a crash leaves behind bears the service's tag, and is found as a leftover. Experiments themselves cannot be
deleted; FIS forgets them after some months.
"""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import structlog
from botocore import exceptions as trouble  # type: ignore[import-untyped]
from botocore import xform_name

from hedgeserve.drivers.awscloud.ec2 import Ec2Fault
from hedgeserve.drivers.base import Leftover
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import CloudError, UnsupportedError
from hedgeserve.spec import Cloud

INTERRUPT = "aws:ec2:send-spot-instance-interruptions"
"""FIS's action, https://docs.aws.amazon.com/fis/latest/userguide/fis-actions-reference.html."""
TEMPLATE = "experiment-template"
"""The kind of leftover that a template is."""
_VM = "vm"
_STARTING = ("pending", "initiating")
_ENDED = ("completed", "stopped", "failed", "cancelled")
_NOT_FOUND = "ResourceNotFoundException"

_log = structlog.get_logger("hedgeserve.drivers")


class FisAction(StrEnum):
    """Every operation that is asked of FIS; the policy for drills in docs/clouds/aws.md allows these."""

    ACTION = "GetAction"
    CREATE = "CreateExperimentTemplate"
    DELETE = "DeleteExperimentTemplate"
    EXPERIMENT = "GetExperiment"
    START = "StartExperiment"
    STOP = "StopExperiment"
    TEMPLATES = "ListExperimentTemplates"


class FisFault(Ec2Fault):
    """FIS answered with an error."""

    service = "FIS"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an experiment has come; ``reason`` is FIS's own words, and those of its action where they differ."""

    status: str
    reason: str

    @property
    def starting(self) -> bool:
        """Whether nothing has happened to the VM yet."""
        return self.status in _STARTING

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True)
class Begun:
    """An experiment that was started, and the template that it was made from, by their ids."""

    experiment: str
    template: str


@dataclass(slots=True)
class Attempt:
    """What the thread that begins an experiment and whoever waits for it tell each other, each before it looks.

    So one of them stops what was begun, however the two meet; both may.
    """

    given_up: threading.Event = field(default_factory=threading.Event)
    begun: Begun | None = None


class Fis:
    """FIS in one region, by botocore's client of it."""

    def __init__(self, client: Any, region: str) -> None:
        self._client = client
        self._region = region

    def ask(self, action: FisAction, **parameters: Any) -> dict[str, Any]:
        """The answer.

        Raises:
            FisFault: FIS says no.
            UnsupportedError: There is no FIS in this region.
            botocore.exceptions.BotoCoreError: FIS says nothing.
        """
        try:
            answer: dict[str, Any] = getattr(self._client, xform_name(action.value))(**parameters)
        except trouble.ClientError as error:
            told = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise FisFault(status, told.get("Code", f"Http{status}"), told.get("Message", "")) from None
        except trouble.EndpointConnectionError as error:
            if type(error.kwargs.get("error")).__name__ == "NameResolutionError":
                raise UnsupportedError(f"AWS has no Fault Injection Service in {self._region}") from None
            raise
        return answer

    def begin(self, template: Mapping[str, Any], attempt: Attempt) -> Begun:
        """Start an experiment by this template, of which nothing is left where that fails or is given up."""
        made = self.ask(FisAction.CREATE, clientToken=secrets.token_hex(16), **template)
        used = str(made["experimentTemplate"]["id"])
        try:
            if attempt.given_up.is_set():
                raise CloudError("given up before it began")
            token, tags = secrets.token_hex(16), dict(template["tags"])
            answer = self.ask(FisAction.START, clientToken=token, experimentTemplateId=used, tags=tags)
        except BaseException:
            self.tidy(used)
            raise
        attempt.begun = Begun(str(answer["experiment"]["id"]), used)
        if attempt.given_up.is_set():
            self.give_up(attempt.begun)
        return attempt.begun

    def give_up(self, begun: Begun) -> None:
        """Have an experiment do no more, and take its template away."""
        try:
            self.stop(begun.experiment)
        finally:
            self.tidy(begun.template)

    def tidy(self, template: str) -> None:
        """Take a template away, now or later: where it cannot be done now, it is found as a leftover."""
        try:
            self.delete(template)
        except (FisFault, trouble.BotoCoreError, UnsupportedError) as error:
            _log.warning(
                "an experiment template could not be deleted; it is removed later",
                cloud=Cloud.AWS,
                region=self._region,
                template=template,
                error=str(error),
            )

    def standing(self, experiment: str) -> Standing:
        """How far it has come."""
        return standing_of(self.ask(FisAction.EXPERIMENT, id=experiment)["experiment"])

    def stop(self, experiment: str) -> None:
        """Have it do no more; one that has ended is a success."""
        try:
            self.ask(FisAction.STOP, id=experiment)
        except FisFault as fault:
            if fault.code not in (_NOT_FOUND, "ValidationException"):  # how FIS calls one that no longer runs
                raise

    def delete(self, template: str) -> None:
        """Take a template away; one that is gone already is a success."""
        try:
            self.ask(FisAction.DELETE, id=template)
        except FisFault as fault:
            if fault.code != _NOT_FOUND:
                raise

    def templates(self) -> list[Leftover]:
        """Those with our tag, of every service."""
        found: list[Leftover] = []
        more: dict[str, str] = {}
        while True:
            answer = self.ask(FisAction.TEMPLATES, maxResults=100, **more)
            found += [
                _leftover(one, self._region) for one in answer["experimentTemplates"] if SERVICE in _tags(one)
            ]
            if not (token := answer.get("nextToken")):
                return found
            more = {"nextToken": token}


def template_for(
    instance: str, region: str, role: str, *, notice_s: float, tags: Mapping[str, str]
) -> dict[str, Any]:
    """What an experiment needs that interrupts this one VM, so many seconds from its beginning. Pure.

    EC2 tells the VM two minutes before its end, whatever ``notice_s`` is; a longer one only begins with a
    recommendation to move elsewhere. The account is the role's: FIS takes on none of another.
    """
    _, partition, _, _, account, _ = role.split(":", 5)
    return {
        "description": f"hedgeserve drill preempt: one notice for {instance}",
        "roleArn": role,
        "stopConditions": [{"source": "none"}],
        "targets": {
            _VM: {
                "resourceType": "aws:ec2:spot-instance",
                "resourceArns": [f"arn:{partition}:ec2:{region}:{account}:instance/{instance}"],
                "selectionMode": "ALL",
            }
        },
        "actions": {
            "interrupt": {
                "actionId": INTERRUPT,
                "parameters": {"durationBeforeInterruption": f"PT{notice_s:.0f}S"},
                "targets": {"SpotInstances": _VM},
            }
        },
        # A VM that is gone by then is a failure with a reason, not a success that did nothing.
        "experimentOptions": {"accountTargeting": "single-account", "emptyTargetResolutionMode": "fail"},
        "tags": dict(tags),
    }


def standing_of(experiment: Mapping[str, Any]) -> Standing:
    """How far an experiment of an answer has come. Pure."""
    state = experiment.get("state", {})
    error = state.get("error", {})
    actions = [one.get("state", {}) for one in experiment.get("actions", {}).values()]
    words = [
        state.get("reason", ""),
        " ".join(filter(None, (error.get("code", ""), error.get("location", "")))),
        *(one.get("reason", "") for one in actions if one.get("status") in ("failed", "cancelled", "stopped")),
    ]
    told = dict.fromkeys(word.strip().rstrip(".") for word in words if word)
    return Standing(state.get("status", ""), "; ".join(told))


def _tags(template: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = template.get("tags") or {}
    return found


def _leftover(template: Mapping[str, Any], region: str) -> Leftover:
    return Leftover(
        cloud=Cloud.AWS,
        region=region,
        kind=TEMPLATE,
        id=str(template["id"]),
        service=_tags(template).get(SERVICE, ""),
        created_at=template.get("creationTime"),
    )
