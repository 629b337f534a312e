"""Verbs that show what a running service is doing, and why."""

import json
import os

import click

from hedgeserve.verbs.group import client_of, target, verb


@verb()
@target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON (one object a line with --watch).")
@click.option("--watch", is_flag=True, help="Go on, once a second, until Ctrl-C.")
def status(model: str | None, state_dir: str | None, service: str | None, as_json: bool, watch: bool) -> None:
    """Show replicas, load and cost of a running service.

    With no argument: of the only one that runs for this user.
    """
    from hedgeserve.console.view import print_status, watch_status

    client = client_of(model, state_dir, service)
    if watch:
        watch_status(client.status, as_json=as_json)
    elif as_json:
        click.echo(json.dumps(client.status()))
    else:
        print_status(client.status())


@verb()
@target
@click.option("--since", metavar="WHEN", help="From this date or time (UTC), or the last 7d; else this month.")
@click.option(
    "--by",
    type=click.Choice(["zone", "day", "market", "purpose", "replica"]),
    help="Split it by this.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV (by day, unless --by says otherwise).")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def cost(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    since: str | None,
    by: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what was spent, and saved against on-demand alone.

    With the month's forecast and the caps of [budget]. Of a service that runs, or from the journal of one that
    has stopped.
    """
    from hedgeserve.console.cost import show_cost

    client = client_of(model, state_dir, service, stopped=True)
    try:
        show_cost(client, since=since, by=by, as_csv=as_csv, as_json=as_json)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@verb()
@target
@click.option("--follow", "-f", is_flag=True, help="Go on with new events until Ctrl-C or the service's end.")
@click.option("--replica", metavar="ID", help="Only events of this replica.")
@click.option(
    "--limit",
    "-n",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="How many at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    follow: bool,
    replica: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print what happened and why, oldest first.

    The newest ones, of a service that runs, or from the journal of one that has stopped.
    """
    from hedgeserve.console.events import show_events

    client = client_of(model, state_dir, service, stopped=True)
    show_events(client, limit=limit, replica=replica, follow=follow, as_json=as_json)


@verb()
@click.argument("subject", default="now")
@target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(subject: str, model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """Say why things are as they are, and what would change them.

    SUBJECT is a replica (gone ones too), a zone, or `now` for all of it, which may be left out.
    """
    if model is None and subject.endswith(".toml"):
        subject, model = "now", subject
    from hedgeserve.console.explain import print_explanation

    found = client_of(model, state_dir, service).explain(subject)
    if as_json:
        click.echo(json.dumps(found))
    else:
        print_explanation(found)


@verb()
@click.argument("replica")
@target
@click.option(
    "--lines",
    "-n",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many, from the end.",
)
def logs(replica: str, model: str | None, state_dir: str | None, service: str | None, lines: int) -> None:
    """Print the end of a REPLICA's engine log.

    Of a service that runs; of one that has stopped, the last events of the replica in its journal.
    """
    from hedgeserve.console.logs import print_log

    print_log(client_of(model, state_dir, service, stopped=True), replica, lines)


@verb()
@target
@click.option("--open", "open_browser", is_flag=True, help="Start a browser there.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def ui(model: str | None, state_dir: str | None, service: str | None, open_browser: bool, as_json: bool) -> None:
    """Show the dashboard of a running service.

    Prints an address that signs one browser in, once. Where model.toml sets no admin.listen, the dashboard is
    shown by this command, on a free port of this machine, until Ctrl-C.
    """
    from hedgeserve.console.ui import show_dashboard

    show_dashboard(client_of(model, state_dir, service), open_browser=open_browser, as_json=as_json)


@verb()
@target
@click.option("--out", metavar="FILE", help="Where to (hedgeserve-report-SERVICE-TIME.tar.gz, here).")
@click.option("--log", metavar="FILE", help="The service's own log; else systemd's journal is asked.")
@click.option("--json", "as_json", is_flag=True, help="Print what is in it as JSON.")
def report(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    out: str | None,
    log: str | None,
    as_json: bool,
) -> None:
    """Pack what a bug report needs, without secrets.

    Versions, model file, journal, status, metrics and logs of a service that runs or has stopped; no prompts.
    Name MODEL to have the model file of a stopped one in it. Look before you send it.
    """
    from hedgeserve.console.report import write_report

    write_report(
        client_of(model, state_dir, service, stopped=True, of_file=True),
        model,
        out=out,
        log=log,
        as_json=as_json,
        environ=os.environ,
    )
