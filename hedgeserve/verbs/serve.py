"""The verb that serves."""

import os
import sys
from pathlib import Path

import click

from hedgeserve.verbs.group import EXIT_TAKEN_DOWN, verb


@verb()
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
