"""What a change of model.toml takes, and what makes two files the same version."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgeserve.modelfile.effects import Effect, changes
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec
from hedgeserve.store import Store
from hedgeserve.versions import Version, content_of, digest_of

MODEL = """
[service]
name = "svc"
[model]
id = "demo"
engine = "demo"
[[pools]]
cloud = "local"
zones = ["east/a", "east/b"]
"""


def read(text: str) -> Spec:
    return parse_spec(text, "model.toml", Path("/"), {})


def effects(before: str, after: str) -> dict[str, Effect]:
    return {change.key: change.effect for change in changes(read(before), read(after))}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('id = "demo"', 'id = "other"', {"model.id": Effect.VERSION}),
        ('id = "demo"', 'id = "demo"\nargs = ["--seed", "1"]', {"model.args": Effect.VERSION}),
        ('name = "svc"', 'name = "other"', {"service.name": Effect.RESTART}),
        ('"east/b"', '"west/a"', {"pools[0].zones": Effect.LIVE}),
        (
            "[[pools]]",
            "[replicas]\ncount = 3\n[limits]\nmax_queue = 5\n[[pools]]",
            {"replicas.count": Effect.LIVE, "limits.max_queue": Effect.LIVE},
        ),
        (
            "[[pools]]",
            '[[pools]]\ncloud = "local"\nzones = ["west/a"]\n[[pools]]',
            {"pools[0].zones": Effect.LIVE, "pools[1]": Effect.LIVE},
        ),
        (
            "[[pools]]",
            '[[pools]]\ncloud = "static"\nurls = ["http://h"]\n[[pools]]',
            {
                "pools[0].cloud": Effect.RESTART,
                "pools[0].zones": Effect.LIVE,
                "pools[0].urls": Effect.RESTART,
                "pools[1]": Effect.RESTART,
            },
        ),
        ('name = "svc"', 'name = "svc" # a remark', {}),
    ],
)
def test_each_change_has_its_effect(old: str, new: str, expected: dict[str, Effect]) -> None:
    """A pool more or less is a place more or less, as long as its cloud is known."""
    assert effects(MODEL, MODEL.replace(old, new)) == expected


def test_a_change_is_told_with_its_line_and_without_the_values_of_variables() -> None:
    """Careless people put secrets into `model.env`."""
    new = MODEL.replace('engine = "demo"', 'engine = "demo"\nenv = {TOKEN = "hush"}')
    [change] = changes(read(MODEL), read(new))
    assert str(change) == 'model.env: [] → ["TOKEN"] (line 7)'


def test_what_is_not_built_into_replicas_makes_no_new_version() -> None:
    """Nor does a default that is written down."""
    same = MODEL.replace("[[pools]]", '[replicas]\ncount = 9\n[vm]\ndisk = "200 GiB"\n[[pools]]')
    same = same.replace('engine = "demo"', 'engine = "demo"\nargs = []')
    assert digest_of(content_of(read(MODEL))) == digest_of(content_of(read(same)))
    other = MODEL.replace('id = "demo"', 'id = "demo"\naliases = ["chat"]')
    assert digest_of(content_of(read(MODEL))) != digest_of(content_of(read(other)))


def test_the_vllm_that_is_installed_is_part_of_the_version() -> None:
    """Or an upgrade of HedgeServe would mix two in one service."""
    vllm = MODEL.replace('engine = "demo"', 'engine = "vllm"').replace('"demo"', '"some/model"')
    assert content_of(read(vllm))["model"]["version"]


def test_a_version_gives_its_own_words_back_amid_new_ones() -> None:
    """What runs of the old version is the old one's, all else is as the file says now."""
    old = read(MODEL.replace('engine = "demo"', 'engine = "demo"\nargs = ["--seed", "1"]'))
    new = read(MODEL.replace("[[pools]]", "[replicas]\ncount = 3\n[[pools]]"))
    version = Version(1, "x", content_of(old), datetime.now(UTC), "me", "why")
    mixed = version.spec(new)
    assert mixed.model.args == ["--seed", "1"]
    assert mixed.replicas.lowest == 3
    assert content_of(mixed) == content_of(old)


async def test_the_store_numbers_versions_and_knows_them_again(tmp_path: Path) -> None:
    """Per service, from 1; what was begun, and how it ended, stays."""
    store = await Store.open(tmp_path / "journal.db")
    at = datetime.now(UTC)
    numbers = [
        await store.new_version(service, digest, {"model": {"id": digest}}, who="me", why="", at=at)
        for service, digest in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x"))
    ]
    assert numbers == [1, 2, 1, 1]
    await store.prove_version("a", 2, at=at)
    assert [one.proven_at for one in await store.versions("a")] == [None, at]
    rollout = await store.begin_rollout(
        "a", old=1, new=2, strategy="rolling", state="rolling", who="me", why="to try", at=at
    )
    await store.save_rollout(rollout, "switched", switched_at=at)
    await store.save_rollout(rollout, "done", outcome="well", ended_at=at)
    [one] = await store.rollouts("a")
    assert (one.state, one.outcome, one.switched_at, one.ended_at) == ("done", "well", at, at)
    assert await store.rollouts("b") == []
    await store.close()
