"""How a verb is made: its help begins with examples, its mistakes end as sentences, its service is found.

Exit codes: 0 done, 1 failed, 2 misused (a mistake in model.toml included), 3 refused (by a limit, or an answer
that was needed was not given), 4 taken down (where a service manager holds our sockets).
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hedgeserve.errors import HedgeServeError, LimitError, SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from hedgeserve.console.admin import AdminClient

EXIT_FAILED, EXIT_MISUSED, EXIT_REFUSED, EXIT_TAKEN_DOWN = 1, 2, 3, 4

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Exemplary(click.Command):
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


verb = partial(click.command, cls=Exemplary)
"""Makes a verb of a function."""


class Verbs(Exemplary, click.Group):
    """Verbs in the order of use; whatever HedgeServe raises on purpose ends as a message, not a traceback."""

    command_class = Exemplary

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


def target(command: _Command) -> _Command:
    """The argument and options that say which service is meant."""
    for decorate in (
        click.option("--service", metavar="NAME", help="The service of this name."),
        click.option("--state-dir", metavar="DIR", help="The service with this state directory."),
        click.argument("model", required=False),
    ):
        command = decorate(command)
    return command


def client_of(
    model: str | None, state_dir: str | None, service: str | None, *, stopped: bool = False, of_file: bool = False
) -> "AdminClient":
    """What asks the service that is meant: the one that was named, else the only one that runs.

    ``stopped``: the verb can do with the journal of one that has stopped. ``of_file``: MODEL is a file that the
    verb works on, whichever service is named beside it.
    """
    from hedgeserve.console.admin import AdminClient
    from hedgeserve.console.which import find_state_dir

    names = (state_dir, service) if of_file else (model, state_dir, service)
    if sum(given is not None for given in names) > 1:
        ways = "--state-dir and --service are two" if of_file else "MODEL, --state-dir and --service are three"
        raise click.UsageError(f"{ways} ways to name one service; give one.")
    return AdminClient(find_state_dir(model, state_dir, service, os.environ, stopped=stopped))


def model_of(model: str | None, directory: "Path | None" = None) -> str:
    """The model file that is meant: the one that was named, that of the service with this state directory,
    ``model.toml`` of this folder, or that of the only service that runs. Says so where it was not to be expected.
    """
    from hedgeserve.console.which import find_model, served_file

    if model is None and directory is not None:
        asked: Path | None
        found, asked = served_file(directory), directory
    else:
        found, asked = find_model(model, os.environ)
    if asked is not None:
        click.echo(f"Going by {found}, as the service at {asked} does.", err=True)
    return found


class Duration(click.ParamType[float]):
    """Seconds, written with a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from hedgeserve.units import parse_duration_s

        try:
            return value if isinstance(value, float) else parse_duration_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def agreement(yes: bool, otherwise: str = "Nothing was terminated.") -> Callable[[str], bool]:
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
