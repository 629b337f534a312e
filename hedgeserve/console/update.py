"""``hedgeserve apply``, ``rollback`` and ``versions``: another model.toml for a service that runs."""

import getpass
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.errors import HedgeServeError, NotRunningError, UpdateRefusedError
from hedgeserve.units import format_count, format_usd_per_hour

if TYPE_CHECKING:  # they need much that a quick verb does not
    from hedgeserve.drivers.offers import Quote
    from hedgeserve.hedge import Rollout
    from hedgeserve.simulate.serviceplan import ServicePlan

_EFFECTS = {
    "live": "holds at once",
    "version": "needs new replicas",
    "restart": "needs a restart",
}


def apply_model(
    client: AdminClient,
    model: str | None,
    *,
    why: str,
    dry_run: bool,
    as_json: bool,
    agreed: Callable[[str], bool],
) -> None:
    """Show what a file would change in a running service, ask, and have it done.

    Raises:
        SpecError: The file is wrong; nothing has changed.
        UpdateRefusedError: It changes what only a restart can; nothing has changed.
    """
    path = None if model is None else str(Path(model).absolute())
    plan = client.apply(path, dry=True)
    changes = bool(plan["changes"] or plan["rollout"])
    if not as_json:
        for line in _told(plan):
            click.echo(line)
    if changes and not plan["refused"] and (dry_run or not as_json):
        _show_outcome(client, path, plan, as_json=as_json)
    if plan["refused"]:
        if as_json:
            click.echo(json.dumps(plan))
        raise UpdateRefusedError("; ".join(plan["refused"]))
    if dry_run or not changes:
        if as_json:
            click.echo(json.dumps(plan))
        elif not plan["changes"]:
            click.echo("Nothing is different: the service runs as the file says.", err=True)
        return
    agreed("Apply this?" if plan["rollout"] is None else "Apply this, and begin the roll-out?")
    done = client.apply(path, dry=False, digest=plan["digest"], who=_who(), why=why)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(applied_in_words(done), err=True)


def applied_in_words(done: Mapping[str, Any]) -> str:
    """What has been done, and which version `rollback` leads to, if any."""
    if done["rollout"] is None:
        return "Applied."
    back = done["way_back"]
    and_back = "" if back is None else f", `hedgeserve rollback` goes back to version {back}"
    return (
        f"Applied; the roll-out of version {done['version']['then']} has begun (`hedgeserve status --watch` "
        f"shows it{and_back})."
    )


def roll_back(
    client: AdminClient,
    to: int | None,
    *,
    why: str,
    dry_run: bool,
    as_json: bool,
    agreed: Callable[[str], bool],
) -> None:
    """Show which version would come back and what that comes to, ask, and have it done.

    Raises:
        UpdateRefusedError: There is no such version, or none to go back to.
    """
    listing = client.versions()
    goal = listing["way_back"] if to is None else to
    if dry_run:
        _show_dry(client, listing, goal, as_json=as_json)
        return
    if goal is not None:  # the service says why there is none
        if not as_json:
            _show_way_back(client, listing, goal)
        agreed(f"Go back from version {listing['wanted']} to version {goal}?")
    done = client.roll_back(to, who=_who(), why=why)
    if as_json:
        click.echo(json.dumps(done))
        return
    if done["strategy"] == "rollback":
        click.echo(f"Version {done['from']} is taken back; version {done['to']} returns.", err=True)
    else:
        click.echo(
            f"Version {done['to']} takes the place of version {done['from']}, {done['strategy']}: it has "
            "not served yet, or was taken back, and has to prove itself.",
            err=True,
        )
    if done["note"]:
        click.echo(_plain(f"{done['note']}."), err=True)


def print_versions(client: AdminClient, *, as_json: bool) -> None:
    """The versions that there ever were, and the last roll-outs; of one that has stopped, as its journal says.

    Raises:
        StateDirectoryError: No service runs there, and there is no journal that can be read.
    """
    try:
        listing = client.versions()
    except NotRunningError:
        from hedgeserve.console.stopped import say_stopped
        from hedgeserve.register import listing_in  # only here: it needs SQLite

        listing = listing_in(client.directory / "journal.db")
        say_stopped(client.directory)
    if as_json:
        click.echo(json.dumps(listing))
        return
    for one in listing["versions"]:
        mark = "*" if one["version"] == listing["wanted"] else " "
        proven = "has served" if one["proven_at"] else "has not served yet"
        if one["taken_back"] is not None:
            proven += ", was taken back"
        click.echo(
            f"{mark} {one['version']:>3}  {one['digest']}  {one['made_at'][:19]}Z  {_plain(one['model'])}  "
            f"{format_count(one['replicas'], 'replica')}, {proven}  ({_plain(one['who'])}: {_plain(one['why'])})"
        )
    rollouts = [one for one in listing["rollouts"] if one["from"]]
    if rollouts and sys.stdout.isatty():
        click.echo()
    for one in rollouts:
        outcome = f": {_plain(one['outcome'])}" if one["outcome"] else ""
        click.echo(
            f"  {one['began_at'][:19]}Z  {one['from']} → {one['to']}  {one['strategy']}  {one['state']}{outcome}  "
            f"({_plain(one['who'])}: {_plain(one['why'])})"
        )


def _show_outcome(client: AdminClient, path: str | None, plan: dict[str, Any], *, as_json: bool) -> None:
    """What `hedgeserve plan` says of the file, beneath what changes; into ``plan`` where it is for programs.

    Where that cannot be told here (another user's secrets, say) the service's own price is.
    """
    from hedgeserve.console.plan import document, make_plan, outcome_in_words
    from hedgeserve.hedge import Rollout, Strategy
    from hedgeserve.specfile import load_spec

    version, begins = plan["version"], plan["rollout"]
    rollout = None
    try:
        spec = load_spec(path or client.spec()["file"])
        if begins is not None and version["then"] is not None:
            rollout = Rollout(version["now"], version["then"], Strategy(begins["strategy"]))
        made, quotes, remarks = make_plan(spec, client.directory, rollout=rollout)
    except HedgeServeError as error:
        click.echo(f"what it comes to cannot be told here: {error}", err=True)
        if not as_json:
            then_usd = plan["usd_per_hour_then"]
            settled = "not known" if then_usd is None else format_usd_per_hour(then_usd)
            click.echo(f"Price: {format_usd_per_hour(plan['usd_per_hour'])} now, {settled} once it has settled")
        return
    for remark in remarks:
        click.echo(remark, err=True)
    if as_json:
        plan["plan"] = document(made, quotes)
        return
    click.echo()
    for line in outcome_in_words(made, quotes):
        click.echo(line)


def _show_dry(client: AdminClient, listing: Mapping[str, Any], goal: int | None, *, as_json: bool) -> None:
    """What a roll-back would do, which nobody is asked about; a service of any age is only read for that.

    Raises:
        UpdateRefusedError: There is no such version, or none to go back to.
    """
    wanted, known = listing["wanted"], [one["version"] for one in listing["versions"]]
    if goal is None:
        raise UpdateRefusedError(
            f"there is no version to go back to from version {wanted} that has served; `hedgeserve versions` "
            "lists all, and `--to N` goes to any"
        )
    if goal not in known:
        raise UpdateRefusedError(f"there is no version {goal}; there are {', '.join(map(str, known))}")
    if goal == wanted:
        raise UpdateRefusedError(f"version {goal} is the one that is wanted already")
    if not as_json:
        click.echo(f"Version {goal} would take the place of version {wanted}.")
        _show_way_back(client, listing, goal)
        return
    shown: dict[str, Any] = {"from": wanted, "to": goal}
    if (found := _plan_way_back(client, listing, goal)) is not None:
        from hedgeserve.console.plan import document

        shown["strategy"] = str(found[0].strategy)
        shown["plan"] = document(found[1], found[2])
    click.echo(json.dumps(shown))


def _show_way_back(client: AdminClient, listing: Mapping[str, Any], goal: int) -> None:
    """What going back would launch, let go and cost, as far as that can be told here."""
    from hedgeserve.console.plan import outcome_in_words

    if (found := _plan_way_back(client, listing, goal)) is not None:
        for line in outcome_in_words(found[1], found[2]):
            click.echo(line)


def _plan_way_back(
    client: AdminClient, listing: Mapping[str, Any], goal: int
) -> "tuple[Rollout, ServicePlan, list[Quote]] | None":
    """The roll-out that would begin and what it comes to; None, and why is said, where that is not known here."""
    from hedgeserve.console.plan import make_plan
    from hedgeserve.hedge import Rollout, Strategy
    from hedgeserve.simulate.serviceplan import read_running

    known = next((one for one in listing["versions"] if one["version"] == goal), None)
    if known is None or goal == listing["wanted"]:  # the service says what is wrong with that
        return None
    try:
        # What pools offer and cost does not hang on the version.
        running = read_running(client.spec(), client.status())
        returns = known["proven_at"] is not None and known["taken_back"] is None
        strategy = Strategy.ROLLBACK if returns else Strategy(running.spec.update.strategy)
        rollout = Rollout(listing["wanted"], goal, strategy, new_proven=returns)
        made, quotes, remarks = make_plan(running.spec, client.directory, rollout=rollout)
    except (HedgeServeError, ValueError) as error:
        click.echo(f"what it comes to cannot be told here: {error}", err=True)
        return None
    for remark in remarks:
        click.echo(remark, err=True)
    return rollout, made, quotes


def _told(plan: Mapping[str, Any]) -> list[str]:
    """What would happen, in lines."""
    lines = []
    for change in plan["changes"]:
        before, after = change["before"] or "(nothing)", change["after"] or "(nothing)"
        lines.append(f"{change['key']}: {before} → {after}  ({_EFFECTS[change['effect']]})")
    version, rollout = plan["version"], plan["rollout"]
    if rollout is not None:
        then = f"version {version['then']}" if version["then"] else "a new version"
        how = {
            "blue-green": f"beside them ({rollout['extra']} more for a while), and then all requests change over",
            "rollback": "at once: what runs of it takes the requests, the others serve until enough do",
        }.get(rollout["strategy"], f"in turn, with at most {rollout['extra']} more at a time")
        strategy = "back" if rollout["strategy"] == "rollback" else rollout["strategy"]
        lines.append(
            f"Replicas: version {version['now']} → {then}, {strategy}: {rollout['replaces']} replaced {how}"
        )
        if anyway := rollout.get("goes_anyway"):  # a service of an earlier release does not say it
            goes = "goes by itself" if anyway == 1 else "go by themselves"
            lines.append(
                f"Beside them {format_count(anyway, 'on-demand replica')} {goes}, since spot serves again"
            )
        if rollout["taken_back"] is not None:
            lines.append(f"Version {version['then']} was taken back before: {_plain(rollout['taken_back'])}")
    if plan["supersedes"] and rollout is not None:
        lines.append(f"The roll-out of version {plan['supersedes']['to']} that is under way is left for it")
    if plan.get("next_start"):
        lines.append(_plain(f"{plan['next_start']}."))
    return lines


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return "somebody"


def _plain(text: str) -> str:
    """The text without characters that would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
