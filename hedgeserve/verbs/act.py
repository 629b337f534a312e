"""Verbs that change what runs: most of them say what it costs or ends, and ask."""

import os
import sys
from typing import Any

import click

from hedgeserve.console.backtestflags import duration
from hedgeserve.verbs.group import EXIT_FAILED, Duration, agreement, client_of, model_of, target, verb


@verb()
@click.argument(
    "kind", metavar="KIND", type=click.Choice(["preempt", "vanish", "blackout", "refuse", "slow-boot", "api-down"])
)
@target
@click.option("--replica", metavar="ID", default="", help="Take this one (preempt, vanish).")
@click.option("--zone", metavar="ZONE", default="", help="All that is there, or where launches are refused.")
@click.option("--cloud", metavar="CLOUD", default="", help="Which one is silent (api-down).")
@click.option("--preempt", "take", is_flag=True, help="Preempt a replica too, so that one has to be replaced.")
@click.option("--for", "for_s", type=Duration(), metavar="DURATION", help="How long a condition holds.")
@click.option("--by", "by_s", type=Duration(), metavar="DURATION", help="How much longer boots take (60s).")
@click.option("--notice", "notice_s", type=Duration(), metavar="DURATION", help="From the notice to the end.")
@click.option("--within", "within_s", type=Duration(), metavar="DURATION", help="How soon all must be well.")
@click.option("--load", type=click.IntRange(0, 1000), default=0, metavar="N", help="Send N streams meanwhile.")
@click.option("--force", is_flag=True, help="Even if no replica is left ready.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def drill(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    load: int,
    yes: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Make trouble on purpose, and see that nothing is lost.

    KIND: preempt (with a notice), vanish (without a word) and blackout (of a zone) take VMs of a running service
    away as a cloud would; refuse (launches), slow-boot and api-down set a condition for a while. Where a cloud can
    be asked for real notices it is (AWS: with model.toml's [aws] fis_role). Reports what came of it. Exits with 1
    where a request was lost or capacity was not back in time.
    """
    from hedgeserve.console.drill import run_drill

    client = client_of(model, state_dir, service)
    agreed = agreement(yes, otherwise="Nothing was done.")
    if not run_drill(client, asked, load=load, as_json=as_json, agreed=agreed, environ=os.environ):
        sys.exit(EXIT_FAILED)


@verb()
@target
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--why", metavar="TEXT", default="", help="A reason, for the record.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print what changes as JSON.")
def apply(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    dry_run: bool,
    why: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Have a running service go by its edited model file.

    Shows what is different, what it takes (nothing, new replicas or a restart) and what it costs, and asks. With
    no argument the service reads the file that it was started with again. A file that is wrong, or that changes
    what only a restart can, changes nothing.
    """
    from hedgeserve.console.update import apply_model

    client = client_of(model, state_dir, service, of_file=True)
    agreed = agreement(yes, "Nothing was changed.")
    apply_model(client, model, why=why, dry_run=dry_run, as_json=as_json, agreed=agreed)


@verb()
@target
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--to", type=click.IntRange(1), metavar="N", help="Go to this version (the one before).")
@click.option("--why", metavar="TEXT", default="", help="A reason, for the record.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print what is done as JSON.")
def rollback(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    dry_run: bool,
    to: int | None,
    why: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Go back to an earlier version of what replicas run."""
    from hedgeserve.console.update import roll_back

    client = client_of(model, state_dir, service)
    agreed = agreement(yes, "Nothing was changed.")
    roll_back(client, to, why=why, dry_run=dry_run, as_json=as_json, agreed=agreed)


@verb()
@target
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def versions(model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """List the versions of what replicas run, and the roll-outs.

    Of a service that runs, or from the journal of one that has stopped.
    """
    from hedgeserve.console.update import print_versions

    print_versions(client_of(model, state_dir, service, stopped=True), as_json=as_json)


@verb()
@target
@click.option("--for", "for_s", metavar="DURATION", callback=duration, help="Resume by itself after so long.")
@click.option(
    "--drain", "drain_s", metavar="DURATION", callback=duration, help="Time for running requests to finish."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the standing as JSON once no VM is left.")
def pause(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    for_s: float | None,
    drain_s: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Run no VM until resumed; the endpoint answers 503.

    Shows which VMs end and how many dollars an hour are saved, and asks. Running requests finish first. A pause
    outlives the controller.
    """
    from hedgeserve.console.rest import pause_service

    client = client_of(model, state_dir, service)
    agreed = agreement(yes, "Nothing was paused.")
    pause_service(client, for_s=for_s, drain_s=drain_s, agreed=agreed, as_json=as_json)


@verb()
@target
@click.option("--wait", is_flag=True, help="Return once a replica is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print the standing as JSON.")
def resume(model: str | None, state_dir: str | None, service: str | None, wait: bool, as_json: bool) -> None:
    """End a pause, or wake a service that sleeps.

    Replicas are launched at once. In hours of sleep (model.toml's [schedule]) the service stays awake for
    schedule.awake_for after the last request.
    """
    from hedgeserve.console.rest import resume_service

    resume_service(client_of(model, state_dir, service), wait=wait, as_json=as_json)


@verb()
@target
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be taken away.")
@click.option("--json", "as_json", is_flag=True, help="Print one object at the end.")
def down(
    model: str | None, state_dir: str | None, service: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Stop a service and terminate all of its VMs.

    Shows which VMs end and how many dollars an hour are saved, and asks. Where no service runs, VMs that an
    earlier run left are terminated; this needs MODEL, which names their clouds.
    """
    from hedgeserve.console.down import show_what_goes, take_down

    client = client_of(model, state_dir, service, of_file=True)
    if dry_run:
        show_what_goes(client, model, as_json=as_json)
    else:
        take_down(client, model, agreed=agreement(yes), as_json=as_json)


@verb()
@click.argument("model", required=False)
@click.option("--service", metavar="NAME", help="Only of this service, which may have no journal here.")
@click.option("--remove", is_flag=True, help="Take away what may go, after asking.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def orphans(model: str | None, service: str | None, remove: bool, yes: bool, as_json: bool) -> None:
    """Find VMs and leftovers that belong to no service.

    Looks in the clouds and regions of MODEL (model.toml, else that of the only service that runs) for all that
    bears HedgeServe's tags and that no journal on this machine owns. What a controller on another machine may need
    is removed only with its --service NAME.
    """
    from hedgeserve.console.orphans import show_orphans

    show_orphans(model_of(model), service=service, remove=remove, as_json=as_json, agreed=agreement(yes))
