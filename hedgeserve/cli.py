"""The command line: the verbs with their options and messages. What they do is done elsewhere.

Nothing heavy is imported before a verb needs it: ``hedgeserve --help`` must not wait for an HTTP stack.
stdout is data, stderr is talk. Exit codes: 0 done, 1 failed, 2 misused (a mistake in model.toml included),
3 refused (by a limit, or an answer that was needed was not given), 4 taken down (where a service manager holds
our sockets).
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hedgeserve._version import __version__
from hedgeserve.console.backtestflags import asked_for, back_test_options, duration
from hedgeserve.errors import HedgeServeError, LimitError, SpecError

if TYPE_CHECKING:
    from hedgeserve.console.admin import AdminClient

EXIT_FAILED, EXIT_MISUSED, EXIT_REFUSED, EXIT_TAKEN_DOWN = 1, 2, 3, 4

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Exemplary(click.Command):
    """A command whose help begins with examples (:mod:`hedgeserve.console.examples`), as most readers seek one."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from hedgeserve.console.examples import EXAMPLES

        words: list[str] = []
        above: click.Context | None = ctx
        while above is not None and above.parent is not None:
            words.insert(0, above.info_name or "")
            above = above.parent
        if examples := EXAMPLES.get(" ".join(words)):
            formatter.write("Examples:\n")
            formatter.write("".join(f"  {example}\n" for example in examples))
            formatter.write_paragraph()
        super().format_help(ctx, formatter)


class _Verbs(_Exemplary, click.Group):
    """Verbs in the order of use; whatever HedgeServe raises on purpose ends as a message, not a traceback."""

    command_class = _Exemplary

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except* SpecError as group:
            _tell(group)
            code = EXIT_MISUSED
        except* LimitError as group:
            _tell(group)
            code = EXIT_REFUSED
        except* HedgeServeError as group:
            _tell(group)
            code = EXIT_FAILED
        sys.exit(code)


def _tell(group: BaseExceptionGroup[Any]) -> None:
    from hedgeserve.redaction import redact  # a cloud's own words may quote a header or a URL with credentials

    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _tell(error)
        else:
            told = str(error) if isinstance(error, SpecError) else f"hedgeserve: {redact(str(error))}"
            click.echo(told, err=True)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hedgeserve", message="%(prog)s %(version)s")
def main() -> None:
    """Serve large language models on spot GPUs without losing a request."""


# Verbs that need no running service


@main.command()
@click.argument("model", default="model.toml")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(model: str, force: bool) -> None:
    """Write a commented starter file.

    MODEL is its name (model.toml); - writes it to stdout.
    """
    from hedgeserve.modelfile.starter import starter_toml

    if model == "-":
        click.echo(starter_toml(), nl=False)
        return
    try:
        with open(model, "w" if force else "x", encoding="utf-8") as file:
            file.write(starter_toml())
    except FileExistsError:
        raise HedgeServeError(f"{model} is already there; give another name, or --force to replace it") from None
    except OSError as error:
        raise HedgeServeError(f"{model} cannot be written: {error.strerror}") from None
    click.echo(f"Wrote {model}. Next: `hedgeserve check {model}`, then `hedgeserve serve {model}`.", err=True)


@main.command()
@click.argument("model", default="model.toml")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(model: str, as_json: bool) -> None:
    """Find every mistake in a model file.

    Each mistake in MODEL (model.toml) comes with its line and what was probably meant.
    """
    from hedgeserve.console.check import check_model

    if not check_model(model, as_json=as_json):
        sys.exit(EXIT_MISUSED)


@main.command()
@click.argument("model", default="model.toml")
@click.option("--offline", is_flag=True, help="Only what can be seen on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def doctor(model: str, offline: bool, as_json: bool) -> None:
    """Find out what will not work, before it costs money.

    Looks at MODEL (model.toml), this machine, and each cloud of the pools: credentials, permissions, quotas,
    images, what is offered where. Launches nothing, changes nothing. Exits with 1 where something failed.
    """
    from hedgeserve.console.doctor import run_doctor

    if not run_doctor(model, offline=offline, as_json=as_json):
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("model", default="model.toml")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def offers(model: str, as_json: bool) -> None:
    """Show what may be launched, where, and for how much.

    Each machine, zone and market that the pools of MODEL (model.toml) name, the cheapest for its work first.
    Prices are those that the clouds tell now; where one does not, those of the built-in catalogue.
    """
    from hedgeserve.console.offers import show_offers

    show_offers(model, as_json=as_json)


@main.command()
@click.argument("model", default="model.toml")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def plan(model: str, as_json: bool) -> None:
    """Show what serving would launch, cost and risk.

    What the policy of MODEL (model.toml) would launch where, at what price, and how many replicas are left when a
    zone, a region or a cloud goes. Where the service runs: which keys changed, and what would come of it. Launches
    nothing.
    """
    from hedgeserve.console.plan import show_plan

    if not show_plan(model, as_json=as_json):
        sys.exit(EXIT_MISUSED)


@main.command()
@click.argument("model", default="model.toml")
@click.option("--cloud", type=click.Choice(["aws", "gcp", "azure"]), help="Where the image is to be used.")
def bake(model: str, cloud: str | None) -> None:
    """Print the recipe for an image that starts fast.

    A script that installs what MODEL (model.toml) serves with, and its weights, on a VM of yours, and the
    commands that make an image of it. It changes nothing by itself.
    """
    from hedgeserve.console.bake import print_recipe

    print_recipe(model, cloud)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def version(as_json: bool) -> None:
    """Print the version, and whether the data path is compiled."""
    found = find_spec("hedgeserve.tally")
    compiled = found is not None and not (found.origin or "").endswith(".py")
    if as_json:
        python = ".".join(map(str, sys.version_info[:3]))
        click.echo(json.dumps({"hedgeserve": __version__, "compiled": compiled, "python": python}))
    else:
        click.echo(f"hedgeserve {__version__}{' (compiled)' if compiled else ''}")


# Back-testing


@main.command()
@back_test_options
@click.option("--out", metavar="DIR", help="Write a report with pictures there (HTML).")
@click.option(
    "--show-decisions", type=click.IntRange(0), default=0, metavar="N", help="Print N decisions of a bad window."
)
def backtest(out: str | None, show_decisions: int, **given: Any) -> None:
    """Try policies on recorded spot capacity.

    MODEL (model.toml) says which zones, prices and replicas; --paper takes the world of the SpotHedge paper
    instead. Each window of the record is simulated under each policy; nothing is launched or paid for.
    """
    from hedgeserve.console.backtest import run_backtest

    asked, output = asked_for(given)
    run_backtest(asked, out=out, output=output, show_decisions=show_decisions)


@main.command()
@back_test_options
@click.option(
    "--vary",
    metavar="NAME=VALUES",
    multiple=True,
    required=True,
    help="A setting and its values, such as cold-start=60s,120s or overprovision=0..3; may be repeated.",
)
@click.option(
    "--on", "scheduler", metavar="ADDRESS", help="A Dask scheduler to work for, such as tcp://host:8786."
)
def sweep(vary: tuple[str, ...], scheduler: str | None, **given: Any) -> None:
    """Back-test every combination of some settings.

    Settings: cold-start, notice, overprovision, target, zones, price-ratio.
    """
    from hedgeserve.console.backtest import run_sweep
    from hedgeserve.simulate.sweeps import parse_vary

    asked, output = asked_for(given)
    varied: dict[str, tuple[float, ...]] = {}
    for text in vary:
        try:
            key, values = parse_vary(text)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--vary") from None
        if key in varied:
            raise click.BadParameter(f"{key} is there twice; write all of its values once", param_hint="--vary")
        varied[key] = values
    run_sweep(asked, vary=varied, scheduler=scheduler, output=output)


@main.command()
@click.argument("file")
@click.option(
    "--policy", type=click.Choice(["spothedge", "forecast"]), help="Ask this policy instead of the recorded one."
)
@click.option(
    "--overprovision", type=click.IntRange(0, 100), metavar="N", help="N_extra, in place of the recorded."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def replay(file: str, policy: str | None, overprovision: int | None, as_json: bool) -> None:
    """Make a service's recorded decisions anew.

    FILE is what `hedgeserve serve --transcript FILE` wrote. A fresh policy is told and asked the same; with
    another policy you see what that one would have done at those moments. Exits with 1 where the recorded
    settings do not give the recorded decisions.
    """
    from hedgeserve.console.replay import run_replay

    if not run_replay(Path(file), policy=policy, overprovision=overprovision, as_json=as_json):
        sys.exit(EXIT_FAILED)


# The service


@main.command()
@click.argument("model", default="model.toml")
@click.option("--listen", metavar="HOST:PORT", help="Address of the endpoint; stands above service.listen.")
@click.option("--state-dir", metavar="DIR", help="State directory; stands above service.state_dir.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "pretty", "json"]),
    default="auto",
    show_default=True,
    help="auto: a live status on a terminal, else JSON lines; pretty and json: log lines always.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least level of what is logged (info; beside a live status: error).",
)
@click.option("--transcript", metavar="FILE", help="Add all that the policy is told and decides to FILE.")
def serve(
    model: str,
    listen: str | None,
    state_dir: str | None,
    log_format: str,
    log_level: str | None,
    transcript: str | None,
) -> None:
    """Serve a model until Ctrl-C.

    MODEL (model.toml) says what and where. The first Ctrl-C lets running requests finish, a second one stops
    at once.
    """
    from hedgeserve.specfile import load_api_keys, load_spec
    from hedgeserve.systemd.credentials import with_credentials

    environ = with_credentials(os.environ)
    if listen is not None:
        from hedgeserve.spec import split_listen

        try:
            split_listen(listen)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--listen") from None
        environ["HEDGESERVE_SERVICE_LISTEN"] = listen
    if state_dir is not None:
        environ["HEDGESERVE_SERVICE_STATE_DIR"] = str(Path(state_dir).expanduser().absolute())
    spec = load_spec(model, environ)
    api_keys = load_api_keys(spec, environ)
    from hedgeserve.console.lean import import_structlog

    import_structlog()  # before those who import it as everybody does
    from hedgeserve.console.serve import serve_spec

    record = None if transcript is None else Path(transcript)
    if serve_spec(spec, api_keys, environ, transcript=record, log_format=log_format, log_level=log_level):
        sys.exit(EXIT_TAKEN_DOWN)


# Verbs that ask a running service


def _target(command: _Command) -> _Command:
    """The argument and options that say which service is meant."""
    for decorate in (
        click.option("--service", metavar="NAME", help="The service of this name."),
        click.option("--state-dir", metavar="DIR", help="The service with this state directory."),
        click.argument("model", required=False),
    ):
        command = decorate(command)
    return command


def _client(model: str | None, state_dir: str | None, service: str | None) -> "AdminClient":
    from hedgeserve.console.admin import AdminClient, find_state_dir

    if sum(given is not None for given in (model, state_dir, service)) > 1:
        raise click.UsageError("MODEL, --state-dir and --service are three ways to name one service; give one.")
    return AdminClient(find_state_dir(model, state_dir, service, os.environ))


@main.command()
@_target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON (one object a line with --watch).")
@click.option("--watch", is_flag=True, help="Go on, once a second, until Ctrl-C.")
def status(model: str | None, state_dir: str | None, service: str | None, as_json: bool, watch: bool) -> None:
    """Show replicas, load and cost of a running service.

    With no argument: of the only one that runs for this user.
    """
    from hedgeserve.console.view import print_status, watch_status

    client = _client(model, state_dir, service)
    if watch:
        watch_status(client.status, as_json=as_json)
    elif as_json:
        click.echo(json.dumps(client.status()))
    else:
        print_status(client.status())


@main.command()
@_target
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
    has stopped: name it then.
    """
    from hedgeserve.console.cost import show_cost

    client = _client(model, state_dir, service)
    try:
        show_cost(client, since=since, by=by, as_csv=as_csv, as_json=as_json)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@main.command()
@_target
@click.option("--follow", "-f", is_flag=True, help="Go on with new events until Ctrl-C or the service's end.")
@click.option("--replica", metavar="ID", help="Only events of this replica.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
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
    """Print what happened and why, oldest first."""
    client = _client(model, state_dir, service)
    for event in client.events(limit=limit, replica=replica, follow=follow):
        click.echo(json.dumps(event) if as_json else _event_line(event))


def _event_line(event: dict[str, Any]) -> str:
    who = event["replica"] or event["zone"] or "-"
    return f"{event['at'][:19]}Z  {event['kind']:<10}  {who}  {_plain(event['message'])}"


def _plain(text: str) -> str:
    """The text without characters that would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


@main.command()
@click.argument("subject", default="now")
@_target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(subject: str, model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """Say why things are as they are, and what would change them.

    SUBJECT is a replica (gone ones too), a zone, or `now` for all of it, which may be left out.
    """
    if model is None and subject.endswith(".toml"):
        subject, model = "now", subject
    from hedgeserve.console.explain import print_explanation

    found = _client(model, state_dir, service).explain(subject)
    if as_json:
        click.echo(json.dumps(found))
    else:
        print_explanation(found)


@main.command()
@click.argument("replica")
@_target
@click.option(
    "--lines", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, from the end."
)
def logs(replica: str, model: str | None, state_dir: str | None, service: str | None, lines: int) -> None:
    """Print the end of a REPLICA's engine log."""
    text = _client(model, state_dir, service).logs(replica, lines)
    click.echo(text, nl=bool(text) and not text.endswith("\n"))


class _Duration(click.ParamType[float]):
    """Seconds, written with a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from hedgeserve.units import parse_duration_s

        try:
            return value if isinstance(value, float) else parse_duration_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@main.command()
@click.argument("kind", type=click.Choice(["preempt", "vanish", "blackout", "refuse", "slow-boot", "api-down"]))
@_target
@click.option("--replica", metavar="ID", default="", help="Take this one (preempt, vanish).")
@click.option("--zone", metavar="ZONE", default="", help="All that is there, or where launches are refused.")
@click.option("--cloud", metavar="CLOUD", default="", help="Which one is silent (api-down).")
@click.option("--preempt", "take", is_flag=True, help="Preempt a replica too, so that one has to be replaced.")
@click.option("--for", "for_s", type=_Duration(), metavar="DURATION", help="How long a condition holds.")
@click.option("--by", "by_s", type=_Duration(), metavar="DURATION", help="How much longer boots take (60s).")
@click.option("--notice", "notice_s", type=_Duration(), metavar="DURATION", help="From the notice to the end.")
@click.option("--within", "within_s", type=_Duration(), metavar="DURATION", help="How soon all must be well.")
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

    Takes VMs of a running service away as a cloud would, or sets a condition for a while, and reports what came
    of it. Exits with 1 where a request was lost or capacity was not back in time.
    """
    from hedgeserve.console.drill import run_drill

    client = _client(model, state_dir, service)
    agreed = _agreement(yes, otherwise="Nothing was done.")
    if not run_drill(client, asked, load=load, as_json=as_json, agreed=agreed, environ=os.environ):
        sys.exit(EXIT_FAILED)


@main.command()
@_target
@click.option("--open", "open_browser", is_flag=True, help="Start a browser there.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def ui(model: str | None, state_dir: str | None, service: str | None, open_browser: bool, as_json: bool) -> None:
    """Show the dashboard of a running service.

    Prints an address that signs one browser in, once. Where model.toml sets no admin.listen, the dashboard is
    shown by this command, on a free port of this machine, until Ctrl-C.
    """
    from hedgeserve.console.ui import show_dashboard

    show_dashboard(_client(model, state_dir, service), open_browser=open_browser, as_json=as_json)


@main.command()
@_target
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

    client = _client(model, state_dir, service)
    agreed = _agreement(yes, "Nothing was changed.")
    apply_model(client, model, why=why, dry_run=dry_run, as_json=as_json, agreed=agreed)


@main.command()
@_target
@click.option("--to", type=click.IntRange(1), metavar="N", help="Go to this version (the one before).")
@click.option("--why", metavar="TEXT", default="", help="A reason, for the record.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def rollback(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    to: int | None,
    why: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Go back to an earlier version of what replicas run."""
    from hedgeserve.console.update import roll_back

    client = _client(model, state_dir, service)
    roll_back(client, to, why=why, as_json=as_json, agreed=_agreement(yes, "Nothing was changed."))


@main.command()
@_target
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def versions(model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """List the versions of what replicas run, and the roll-outs."""
    from hedgeserve.console.update import print_versions

    print_versions(_client(model, state_dir, service), as_json=as_json)


@main.command()
@_target
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

    client = _client(model, state_dir, service)
    agreed = _agreement(yes, "Nothing was paused.")
    pause_service(client, for_s=for_s, drain_s=drain_s, agreed=agreed, as_json=as_json)


@main.command()
@_target
@click.option("--wait", is_flag=True, help="Return once a replica is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print the standing as JSON.")
def resume(model: str | None, state_dir: str | None, service: str | None, wait: bool, as_json: bool) -> None:
    """End a pause, or wake a service that sleeps.

    Replicas are launched at once. In hours of sleep (model.toml's [schedule]) the service stays awake for
    schedule.awake_for after the last request.
    """
    from hedgeserve.console.rest import resume_service

    resume_service(_client(model, state_dir, service), wait=wait, as_json=as_json)


@main.group(cls=_Verbs)
def keys() -> None:
    """Issue, list and revoke API keys.

    They are kept as hashes in the service's state directory, and count at once where it runs.
    """


@keys.command("add")
@click.argument("name")
@_target
@click.option(
    "--expires", "lasts_s", type=_Duration(), metavar="DURATION", help="Good for this long (90d); else for ever."
)
@click.option(
    "--requests-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Most requests a second, on average.",
)
@click.option(
    "--tokens-per-minute", type=click.IntRange(min=1), help="Most tokens of prompts and answers a minute."
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Most requests under way or waiting at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def keys_add(
    name: str,
    model: str | None,
    state_dir: str | None,
    service: str | None,
    lasts_s: float | None,
    requests_per_second: float | None,
    tokens_per_minute: int | None,
    concurrency: int | None,
    as_json: bool,
) -> None:
    """Issue an API key for NAME and print it, once.

    Limits that are not given are those of [limits] in model.toml.
    """
    from hedgeserve.console.keys import add_key

    client = _client(model, state_dir, service)
    try:
        add_key(
            client,
            name,
            lasts_s=lasts_s,
            requests_per_second=requests_per_second,
            tokens_per_minute=tokens_per_minute,
            concurrency=concurrency,
            as_json=as_json,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@keys.command("list")
@_target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def keys_list(model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """Show the issued keys: whose, until when, how limited, when last used."""
    from hedgeserve.console.keys import list_keys

    list_keys(_client(model, state_dir, service), as_json=as_json)


@keys.command("revoke")
@click.argument("name")
@_target
def keys_revoke(name: str, model: str | None, state_dir: str | None, service: str | None) -> None:
    """Let in nobody with the key of NAME any more.

    NAME is the name or the id of the key. Requests that are being answered are answered to their end.
    """
    from hedgeserve.console.keys import revoke_key

    revoke_key(_client(model, state_dir, service), name)


@main.command()
@_target
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be taken away.")
def down(model: str | None, state_dir: str | None, service: str | None, yes: bool, dry_run: bool) -> None:
    """Stop a service and terminate all of its VMs.

    Shows which VMs end and how many dollars an hour are saved, and asks. Where no service runs, VMs that an
    earlier run left are terminated; this needs MODEL, which names their clouds.
    """
    from hedgeserve.console.down import show_what_goes, take_down

    client = _client(model, state_dir, service)
    if dry_run:
        show_what_goes(client, model)
    else:
        take_down(client, model, agreed=_agreement(yes))


@main.command()
@_target
@click.option("--out", metavar="FILE", help="Where to (hedgeserve-report-SERVICE-TIME.tar.gz, here).")
@click.option("--log", metavar="FILE", help="The service's own log; else systemd's journal is asked.")
def report(
    model: str | None, state_dir: str | None, service: str | None, out: str | None, log: str | None
) -> None:
    """Pack what a bug report needs, without secrets.

    Versions, model file, journal, status, metrics and logs of a service that runs or has stopped; no prompts.
    Name MODEL to have the model file in it. Look before you send it.
    """
    from hedgeserve.console.report import write_report

    write_report(_client(model, state_dir, service), model, out=out, log=log, environ=os.environ)


@main.command()
@click.argument("model", default="model.toml")
@click.option("--service", metavar="NAME", help="Only of this service, which may have no journal here.")
@click.option("--remove", is_flag=True, help="Take away what may go, after asking.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def orphans(model: str, service: str | None, remove: bool, yes: bool, as_json: bool) -> None:
    """Find VMs and leftovers that belong to no service.

    Looks in the clouds and regions of MODEL (model.toml) for all that bears HedgeServe's tags and that no journal
    on this machine owns. What a controller on another machine may need is removed only with its --service NAME.
    """
    from hedgeserve.console.orphans import show_orphans

    show_orphans(model, service=service, remove=remove, as_json=as_json, agreed=_agreement(yes))


# Recorded spot capacity


@main.group(cls=_Verbs)
def traces() -> None:
    """Fetch, describe, make up or derive capacity traces."""


@traces.command()
@click.argument("name", type=click.Choice(["aws-1", "aws-3"]))
@click.option("--out", metavar="DIR", required=True, help="Folder for the files; made if it is not there.")
@click.option("--mirror", metavar="URL", help="Fetch from here instead of raw.githubusercontent.com.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def pull(name: str, out: str, mirror: str | None, yes: bool) -> None:
    """Fetch a public trace and check it.

    Says first under which licence, and asks. What is there already is kept, so that an interrupted call can be
    taken up again.
    """
    from hedgeserve.console.traces import pull_traces
    from hedgeserve.simulate.pull import BASE_URL

    pull_traces(
        name,
        Path(out),
        base_url=(mirror or BASE_URL).rstrip("/"),
        agreed=_agreement(yes, otherwise="Nothing was fetched."),
    )


_ones_are = click.option(
    "--ones-are",
    type=click.Choice(["auto", "one", "unlimited"]),
    default="auto",
    show_default=True,
    help="What a 1 means; auto: no end of VMs where no count is above 1.",
)


@traces.command()
@click.argument("folder")
@_ones_are
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(folder: str, ones_are: Any, as_json: bool) -> None:
    """Show what the traces in FOLDER are like."""
    from hedgeserve.console.traces import print_info

    print_info(Path(folder), ones_are=ones_are, as_json=as_json)


@traces.command()
@click.option("--like", metavar="DIR", help="Traces to be like.")
@click.option("--preset", type=click.Choice(["calm", "volatile"]), help="Be like this instead; needs no data.")
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, help="How long."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same traces.")
@click.option("--zones", type=click.IntRange(1, 1000), help="How many zones (as many as there are).")
@click.option("--out", metavar="DIR", required=True, help="New or empty folder for the files.")
def synth(like: str | None, preset: str | None, days: float, seed: int, zones: int | None, out: str) -> None:
    """Make up traces that are like recorded ones."""
    if (like is None) == (preset is None):
        raise click.UsageError("Say what the traces should be like: --like DIR or --preset NAME, one of them.")
    from hedgeserve.console.traces import write_synthetic

    write_synthetic(
        Path(out), like=None if like is None else Path(like), preset_name=preset, days=days, seed=seed, zones=zones
    )


@traces.command()
@_target
@click.option("--out", metavar="DIR", required=True, help="New or empty folder for the files.")
@click.option("--gap", metavar="DURATION", default="60s", show_default=True, help="From one count to the next.")
@click.option("--since", metavar="WHEN", help="Only what was after this time (UTC), or in the last 7d.")
@click.option("--instance-type", metavar="TYPE", help="Only this one; needed where a zone was asked for several.")
def record(
    model: str | None,
    state_dir: str | None,
    service: str | None,
    out: str,
    gap: str,
    since: str | None,
    instance_type: str | None,
) -> None:
    """Derive traces from a service's own journal.

    The service may be running or not.
    """
    journal = _client(model, state_dir, service).directory / "journal.db"
    from hedgeserve.console.traces import record_traces

    try:
        record_traces(journal, Path(out), gap=gap, since=since, instance_type=instance_type)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _agreement(yes: bool, otherwise: str = "Nothing was terminated.") -> Callable[[str], bool]:
    def agreed(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            click.echo(f"{question} Nobody is there to answer: say --yes.", err=True)
            sys.exit(EXIT_REFUSED)
        if not click.confirm(question, err=True):
            click.echo(otherwise, err=True)
            sys.exit(EXIT_REFUSED)
        return True

    return agreed
