"""What others may see of a service that runs: its state at a glance, why it is so, and what a plan begins with.

Only looks: each part tells what it knows, and nothing here is kept between two questions.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hedgeserve.adviser import Adviser
from hedgeserve.balancer import Balancer
from hedgeserve.drills.director import Director
from hedgeserve.entrance import Entrance
from hedgeserve.explaining import explain
from hedgeserve.fleet import Fleet, Journal
from hedgeserve.hedge import Observation, Plan, ScaleDecision, Scene, counted
from hedgeserve.modelfile.problems import dotted
from hedgeserve.money import Money
from hedgeserve.replica import State
from hedgeserve.rollouts import Rollouts
from hedgeserve.spec import Spec
from hedgeserve.statedisk import StateDisk
from hedgeserve.status import Glance
from hedgeserve.store import Store
from hedgeserve.updates import Updates
from hedgeserve.winddown import Resting


@dataclass(frozen=True, slots=True)
class Present:
    """What the control loop goes by at this moment, and what it has decided last."""

    spec: Spec
    state: str
    plan: Plan
    scale: ScaleDecision
    tick_trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Looks at the parts of one service; ``present`` is what its control loop would say."""

    present: Callable[[], Present]
    started_at: datetime
    balancer: Balancer
    fleet: Fleet
    adviser: Adviser
    rollouts: Rollouts
    updates: Updates
    resting: Resting
    money: Money
    director: Director
    journal: Journal
    store: Store
    disk: StateDisk
    entrance: Entrance

    def status(self) -> dict[str, Any]:
        """Everything at a glance, JSON-able; the shape is described in ``docs/cli.md``."""
        now = self.present()
        glance = Glance(
            service=now.spec.service.name,
            model=now.spec.model.id,
            url=self.balancer.url,
            state=now.state,
            started_at=self.started_at,
            now_s=_now_s(),
            load=self.balancer.load(),
            plan=replace(
                now.plan,
                notes=(
                    *self.resting.notes(now.plan.target, self.fleet.boot_s()),
                    *now.plan.notes,
                    *self.money.reasons,
                    *self.balancer.notes,
                    *self.director.notes,
                ),
            ),
            standing=self.resting.document(),
            cost=self.money.glance(self.fleet.unbilled_usd()),
            replicas=self.fleet.replicas(),
            offers=self.fleet.offers(),
            zones=self.adviser.policy.zone_states(),
            asked_total=self.balancer.asked_total,
            outstanding=self.balancer.outstanding,
            in_doubt=self.fleet.in_doubt,
            trouble=self._troubles(now),
            tasks=len(asyncio.all_tasks()),
            recent=self.journal.recent,
            model_version=self.rollouts.wanted,
            rollout=self.rollouts.document(stopping=now.state == "stopping"),
        )
        return glance.document()

    def headline(self) -> str:
        """How it is, in a few words."""
        now = self.present()
        count = sum(replica.state is State.READY for replica in self.fleet.replicas())
        ready = f"{count}/{now.plan.target} replicas ready, {self.fleet.usd_per_hour():.2f} USD/h"
        return ready if now.state == "serving" else f"{now.state}: {ready}"

    async def explain(self, subject: str) -> dict[str, Any]:
        """Why a replica, a zone or all is as it is.

        Raises:
            UnknownSubjectError: There is no such thing; says what was probably meant.
        """
        answer = await explain(subject, self.scene(), self.store, self.present().spec.service.name)
        return answer.document()

    def scene(self) -> Scene:
        """All that decides, as it is now; with the policy itself, to be copied by whoever asks it."""
        now, now_s, offers = self.present(), _now_s(), self.fleet.offers()
        outside = self.fleet.withheld()
        for zone, sentences in self.adviser.resting(now_s).items():
            outside.setdefault(zone, []).extend(sentences)
        return Scene(
            at=datetime.now(UTC),
            observation=counted(
                Observation(
                    now_s,
                    now.plan.target,
                    self.fleet.replicas(),
                    self.adviser.left(offers, now_s),
                    (self.rollouts.wanted,),
                ),
                self.fleet.in_doubt,
            ),
            doubted=self.fleet.in_doubt,
            hedge=self.adviser.hedge,
            replicas=now.spec.replicas,
            policy=self.adviser.policy,
            plan=now.plan,
            scale=now.scale,
            outside=outside,
            resting=self.resting.why_nothing_runs,
            halts=self.disk.halts if self.fleet.holds_launches else "",
            troubles=self._troubles(now),
            boot_s=self.fleet.boot_s(),
            rolling=self.rollouts.rolling,
            means=self.money.means(now_s, self.fleet.unbilled_usd()),
        )

    def running_spec(self) -> dict[str, Any]:
        """The model file as it is served, and what the policy has learnt, JSON-able: what a plan begins with."""
        spec, policy = self.present().spec, self.adviser.policy
        return {
            # A spec that a version brought back says all of its tables, also those that it has no use for.
            "spec": spec.model_dump(mode="json", exclude_unset=True, exclude_defaults=True),
            "file": str(self.updates.file),
            "overridden": [dotted(path) for path in spec.origin.variables],
            "policy": policy.name,
            "memory": policy.export_memory(_now_s()),
            "boot_s": self.fleet.boot_s(),
            "versions": {one.digest: number for number, one in self.rollouts.versions.items()},
            "taken_back": {str(number): why for number, why in self.rollouts.taken_back.items()},
        }

    def _troubles(self, now: Present) -> list[str]:
        own = (self.disk.trouble, now.tick_trouble, self.adviser.trouble, self.money.trouble)
        return [text for text in own if text] + [*self.entrance.troubles, *self.fleet.troubles()]


def _now_s() -> float:
    return asyncio.get_running_loop().time()
