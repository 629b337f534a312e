"""What `apply`, `rollback` and `versions` print, by answers of a service."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.update import applied_in_words, apply_model, print_versions, roll_back
from hedgeserve.drivers.offers import Quote
from hedgeserve.errors import NotRunningError, UpdateRefusedError
from hedgeserve.hedge import Rollout, Strategy
from hedgeserve.simulate.serviceplan import ServicePlan, plan_service, read_running
from hedgeserve.spec import Spec
from tests.test_plan import LOCAL, MODEL, THERE, running_as, spec_of

VERSION = {
    "digest": "abc",
    "made_at": "2026-01-01T00:00:00",
    "model": "demo",
    "replicas": 1,
    "who": "ann",
    "why": "so",
}


class Answers:
    """An admin client that answers what it was made with."""

    def __init__(self, *, way_back: int | None, done: dict[str, Any] | None = None) -> None:
        self._listing: dict[str, Any] = {
            "wanted": 2,
            "way_back": way_back,
            "versions": [
                {"version": 1, "proven_at": "2026-01-01T00:00:00", "taken_back": "it was slow", **VERSION},
                {"version": 2, "proven_at": None, "taken_back": None, **VERSION},
            ],
            "rollouts": [],
        }
        self._done = done

    def spec(self) -> dict[str, Any]:
        raise NotRunningError("it is gone")

    def versions(self) -> dict[str, Any]:
        return self._listing

    def roll_back(self, to: int | None, *, who: str, why: str) -> dict[str, Any]:
        assert self._done is not None
        return self._done


def asked(client: Answers, to: int | None = None) -> list[str]:
    """What a person was asked."""
    questions: list[str] = []

    def agreed(question: str) -> bool:
        questions.append(question)
        return True

    roll_back(cast(AdminClient, client), to, why="so", dry_run=False, as_json=False, agreed=agreed)
    return questions


def test_a_roll_back_names_both_versions_and_says_what_the_file_asks(capsys: pytest.CaptureFixture[str]) -> None:
    """The question says where it leads; afterwards comes what model.toml makes of the next start."""
    done = {"from": 2, "to": 1, "strategy": "rollback", "note": "model.toml still asks for version 2"}
    assert asked(Answers(way_back=1, done=done)) == ["Go back from version 2 to version 1?"]
    assert capsys.readouterr().err == (
        "what it comes to cannot be told here: it is gone\n"
        "Version 2 is taken back; version 1 returns.\nmodel.toml still asks for version 2.\n"
    )


def test_what_apply_says_of_the_way_back_is_where_rollback_leads() -> None:
    """A way back is named where there is one, and no other."""
    begun = {"version": {"now": 1, "then": 2}, "rollout": {"strategy": "rolling"}}
    assert "`hedgeserve rollback` goes back to version 1)" in applied_in_words({**begun, "way_back": 1})
    assert "rollback" not in applied_in_words({**begun, "way_back": None})
    assert applied_in_words({"rollout": None, "way_back": 1}) == "Applied."


@pytest.mark.parametrize(("to", "strategy"), [(3, Strategy.ROLLBACK), (1, Strategy.ROLLING)])
def test_what_a_roll_back_launches_and_costs_is_shown_before_it_is_asked_about(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, to: int, strategy: Strategy
) -> None:
    """By the roll-out that begins: at once what has served and was not taken back, else as the file has it."""
    shown: list[str] = []

    class Told(Answers):
        directory = Path("nowhere")

        def spec(self) -> dict[str, Any]:
            return running_as(spec_of(MODEL), *THERE)[0]

        def status(self) -> dict[str, Any]:
            return running_as(spec_of(MODEL), *THERE)[1]

        def roll_back(self, to: int | None, *, who: str, why: str) -> dict[str, Any]:
            shown.append(capsys.readouterr().out)
            return {"from": 2, "to": to, "strategy": str(strategy), "note": ""}

    def planned(spec: Spec, directory: Path, *, rollout: Rollout) -> tuple[ServicePlan, list[Quote], list[str]]:
        assert (rollout.old, rollout.new, rollout.strategy) == (2, to, strategy)
        running = read_running(*running_as(spec, *(replace(one, version=2) for one in THERE)))
        return plan_service(spec, LOCAL, running, rollout=rollout), [], []

    monkeypatch.setattr("hedgeserve.console.plan.make_plan", planned)
    client = Told(way_back=3)
    served = {"version": 3, "proven_at": "2026-01-01", "taken_back": None, **VERSION}
    client.versions()["versions"].append(served)
    asked(client, to)
    [told] = shown
    assert "what would be done" in told
    assert "cost: " in told
    assert "on-demand  " not in told.partition("then: ")[0]


def looked(client: Answers, to: int | None = None) -> None:
    """A dry run for programs: nobody is asked, and nothing is done (`Answers` has no answer to that)."""

    def agreed(question: str) -> bool:
        raise AssertionError(question)

    roll_back(cast(AdminClient, client), to, why="", dry_run=True, as_json=True, agreed=agreed)


def test_a_dry_roll_back_gives_programs_the_plan_that_people_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `apply --dry-run --json` does: what would be done, with `plan`; and nothing is done."""

    class Told(Answers):
        directory = Path("nowhere")

        def spec(self) -> dict[str, Any]:
            return running_as(spec_of(MODEL), *THERE)[0]

        def status(self) -> dict[str, Any]:
            return running_as(spec_of(MODEL), *THERE)[1]

    def planned(spec: Spec, directory: Path, *, rollout: Rollout) -> tuple[ServicePlan, list[Quote], list[str]]:
        running = read_running(*running_as(spec, *(replace(one, version=2) for one in THERE)))
        return plan_service(spec, LOCAL, running, rollout=rollout), [], []

    monkeypatch.setattr("hedgeserve.console.plan.make_plan", planned)
    looked(Told(way_back=1))
    shown = json.loads(capsys.readouterr().out)
    assert (shown["from"], shown["to"], shown["strategy"]) == (2, 1, "rolling")
    assert shown["plan"]["rollout"]["to"] == 1
    assert shown["plan"]["steps"]


def test_a_dry_roll_back_without_a_plan_still_says_where_it_leads(capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be told is left out of the JSON, and said beside it."""
    looked(Answers(way_back=1))
    told = capsys.readouterr()
    assert json.loads(told.out) == {"from": 2, "to": 1}
    assert told.err == "what it comes to cannot be told here: it is gone\n"


@pytest.mark.parametrize(
    ("to", "why"), [(None, "no version to go back to"), (7, "there is no version 7"), (2, "wanted already")]
)
def test_a_dry_roll_back_refuses_what_the_service_would(to: int | None, why: str) -> None:
    """With the same exit code as the real one."""
    with pytest.raises(UpdateRefusedError, match=why):
        looked(Answers(way_back=None), to)


@pytest.mark.parametrize(
    ("anyway", "told"),
    [
        (0, ""),
        (1, "Beside them 1 on-demand replica goes by itself, since spot serves again"),
        (2, "Beside them 2 on-demand replicas go by themselves, since spot serves again"),
    ],
)
def test_apply_says_which_replicas_go_without_being_replaced(
    capsys: pytest.CaptureFixture[str], anyway: int, told: str
) -> None:
    """Those that bridged are no steps of the roll-out, in the count of `apply` as in that of the status."""

    class Told:
        directory = Path("nowhere")

        def apply(self, path: str | None, *, dry: bool) -> dict[str, Any]:
            rollout = {
                "strategy": "rolling", "replaces": 3, "goes_anyway": anyway, "extra": 1, "taken_back": None
            }  # fmt: skip
            return {
                "changes": [], "version": {"now": 1, "then": 2}, "rollout": rollout, "supersedes": None,
                "refused": [], "usd_per_hour": 2.9, "usd_per_hour_then": 0.9,
            }  # fmt: skip

    client = cast(AdminClient, Told())
    apply_model(client, "no.toml", why="", dry_run=True, as_json=False, agreed=lambda _: False)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "Replicas: version 1 → version 2, rolling: 3 replaced in turn, with at most 1 more at a time"
    assert told in second
    assert second.startswith("Beside") == bool(anyway)


def test_a_version_that_was_taken_back_is_not_said_to_return(capsys: pytest.CaptureFixture[str]) -> None:
    """`--to` leads there by a roll-out, which is judged."""
    done = {"from": 2, "to": 1, "strategy": "rolling", "note": ""}
    assert asked(Answers(way_back=None, done=done), 1) == ["Go back from version 2 to version 1?"]
    assert "\nVersion 1 takes the place of version 2, rolling: it has not served" in capsys.readouterr().err


def test_the_versions_say_which_one_was_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside whether it has served."""
    print_versions(cast(AdminClient, Answers(way_back=None)), as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert "has served, was taken back" in first
    assert second.startswith("*   2")
    assert "  1 replica, has not served yet" in second
    assert "taken back" not in second
