"""``hedgeserve keys``: who may ask the endpoint."""

import click

from hedgeserve.verbs.group import Duration, Verbs, agreement, client_of, target


@click.group(cls=Verbs)
def keys() -> None:
    """Issue, list and revoke API keys.

    They are kept as hashes in the service's state directory, and count at once where it runs.
    """


@keys.command("add")
@click.argument("name")
@target
@click.option(
    "--expires", "lasts_s", type=Duration(), metavar="DURATION", help="Good for this long (90d); else for ever."
)
@click.option(
    "--requests-per-second",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Most requests a second, on average.",
)
@click.option(
    "--tokens-per-minute",
    metavar="N",
    type=click.IntRange(min=1),
    help="Most tokens of prompts and answers a minute.",
)
@click.option(
    "--concurrency", metavar="N", type=click.IntRange(min=1), help="Most requests under way or waiting at a time."
)
@click.option("--yes", is_flag=True, help="Do not ask before the first key of a service that runs.")
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
    yes: bool,
    as_json: bool,
) -> None:
    """Issue an API key for NAME and print it, once.

    From the first key on, every request needs one. Limits that are not given are those of [limits] in model.toml.
    """
    from hedgeserve.console.keys import add_key

    client = client_of(model, state_dir, service)
    try:
        add_key(
            client,
            name,
            lasts_s=lasts_s,
            requests_per_second=requests_per_second,
            tokens_per_minute=tokens_per_minute,
            concurrency=concurrency,
            agreed=agreement(yes, "Nothing was issued."),
            as_json=as_json,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@keys.command("list")
@target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def keys_list(model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """Show the issued keys.

    Whose they are, until when, how limited, and when they were last used.
    """
    from hedgeserve.console.keys import list_keys

    list_keys(client_of(model, state_dir, service, stopped=True), as_json=as_json)


@keys.command("revoke")
@click.argument("name")
@target
@click.option("--json", "as_json", is_flag=True, help="Print the keys that are left as JSON.")
def keys_revoke(name: str, model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """Let in nobody with the key of NAME any more.

    NAME is the name or the id of the key. Requests that are being answered are answered to their end.
    """
    from hedgeserve.console.keys import revoke_key

    revoke_key(client_of(model, state_dir, service), name, as_json=as_json)
