"""The command line: the verbs with their options and messages. What they do is done elsewhere.

Nothing heavy is imported before a verb needs it: ``hedgeserve --help`` must not wait for an HTTP stack.
stdout is data, stderr is talk. Exit codes: 0 done, 1 failed, 2 misused (a mistake in model.toml included),
3 refused (an answer that was needed was not given).
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hedgeserve._version import __version__
from hedgeserve.errors import HedgeServeError, SpecError

if TYPE_CHECKING:
    from hedgeserve.console.admin import AdminClient
    from hedgeserve.spec import Spec

EXIT_FAILED, EXIT_MISUSED, EXIT_REFUSED = 1, 2, 3

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Verbs(click.Group):
    """Verbs in the order of use; whatever HedgeServe raises on purpose ends as a message, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except* SpecError as group:
            _tell(group)
            code = EXIT_MISUSED
        except* HedgeServeError as group:
            _tell(group)
            code = EXIT_FAILED
        sys.exit(code)


def _tell(group: BaseExceptionGroup[Any]) -> None:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _tell(error)
        else:
            click.echo(f"hedgeserve: {error}" if not isinstance(error, SpecError) else str(error), err=True)


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
    from hedgeserve.core import Service
    from hedgeserve.specfile import load_spec

    try:
        spec = load_spec(model)
        Service(spec)  # starts nothing, and refuses what could not be started
    except SpecError as error:
        if not as_json:
            raise
        problems = [
            {"line": problem.line, "key": problem.key, "message": problem.message, "hint": problem.hint}
            for problem in error.problems
        ]
        click.echo(json.dumps({"ok": False, "file": model, "problems": problems}))
        sys.exit(EXIT_MISUSED)
    if as_json:
        click.echo(json.dumps({"ok": True, "file": model, "problems": []}))
    else:
        click.echo(f"{model} is good: {_in_words(spec)}")


def _in_words(spec: "Spec") -> str:
    low, high = spec.replicas.lowest, spec.replicas.highest
    replicas = f"{low} to {high} replicas" if low != high else f"{low} replica{'s' * (low != 1)}"
    clouds = ", ".join(sorted(spec.clouds()))
    zones = sum(len(pool.zones) for pool in spec.pools)
    servers = sum(len(pool.urls) for pool in spec.pools)
    places = [f"{zones} zone{'s' * (zones != 1)}"] * bool(zones)
    places += [f"{servers} server{'s' * (servers != 1)} of others"] * bool(servers)
    return (
        f"{spec.service.name} serves {spec.model.id} ({spec.model.engine}) on {spec.service.listen}, "
        f"{replicas} on {' and '.join(places)} ({clouds})"
    )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def version(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        python = ".".join(map(str, sys.version_info[:3]))
        click.echo(json.dumps({"hedgeserve": __version__, "python": python}))
    else:
        click.echo(f"hedgeserve {__version__}")


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
    help="auto: a live status on a terminal, else log lines; pretty and json: log lines always.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least level of what is logged (info; beside a live status: error).",
)
def serve(model: str, listen: str | None, state_dir: str | None, log_format: str, log_level: str | None) -> None:
    """Serve a model until Ctrl-C.

    MODEL (model.toml) says what and where. The first Ctrl-C lets running requests finish, a second one stops
    at once.
    """
    from hedgeserve.specfile import load_api_keys, load_spec

    environ = dict(os.environ)
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
    from hedgeserve.console.serve import serve_spec

    serve_spec(spec, api_keys, environ, log_format=log_format, log_level=log_level)


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
@click.argument("replica")
@_target
@click.option(
    "--lines", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, from the end."
)
def logs(replica: str, model: str | None, state_dir: str | None, service: str | None, lines: int) -> None:
    """Print the end of a REPLICA's engine log."""
    text = _client(model, state_dir, service).logs(replica, lines)
    click.echo(text, nl=bool(text) and not text.endswith("\n"))


@main.command()
@_target
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def down(model: str | None, state_dir: str | None, service: str | None, yes: bool) -> None:
    """Stop a service and terminate all of its VMs.

    Shows which VMs end and how many dollars an hour are saved, and asks. Where no service runs, VMs that an
    earlier run left are terminated; this needs MODEL, which names their clouds.
    """
    from hedgeserve.console.down import take_down

    take_down(_client(model, state_dir, service), model, agreed=_agreement(yes))


def _agreement(yes: bool) -> Callable[[str], bool]:
    def agreed(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            click.echo(f"{question} Nobody is there to answer: say --yes.", err=True)
            sys.exit(EXIT_REFUSED)
        if not click.confirm(question, err=True):
            click.echo("Nothing was terminated.", err=True)
            sys.exit(EXIT_REFUSED)
        return True

    return agreed
