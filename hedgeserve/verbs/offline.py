"""Verbs that need no running service: a model file is written, checked, tried on this machine and the clouds."""

import json
import sys
from importlib.util import find_spec

import click

from hedgeserve._version import __version__
from hedgeserve.errors import HedgeServeError
from hedgeserve.verbs.group import EXIT_FAILED, EXIT_MISUSED, client_of, model_of, target, verb


@verb()
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


@verb()
@click.argument("model", default="model.toml")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(model: str, as_json: bool) -> None:
    """Find every mistake in a model file.

    Each mistake in MODEL (model.toml) comes with its line and what was probably meant.
    """
    from hedgeserve.console.check import check_model

    if not check_model(model, as_json=as_json):
        sys.exit(EXIT_MISUSED)


@verb()
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


@verb()
@click.argument("model", default="model.toml")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def offers(model: str, as_json: bool) -> None:
    """Show what may be launched, where, and for how much.

    Each machine, zone and market that the pools of MODEL (model.toml) name, the cheapest for its work first.
    Prices are those that the clouds tell now; where one does not, those of the built-in catalogue.
    """
    from hedgeserve.console.offers import show_offers

    show_offers(model, as_json=as_json)


@verb()
@target
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def plan(model: str | None, state_dir: str | None, service: str | None, as_json: bool) -> None:
    """Show what serving would launch, cost and risk.

    What the policy of MODEL (model.toml, else that of the only service that runs) would launch where, at what
    price, and how many replicas are left when a zone, a region or a cloud goes. Where the service runs: which keys
    changed, and what would come of it. Launches nothing.
    """
    from hedgeserve.console.plan import show_plan

    named = state_dir is not None or service is not None
    directory = client_of(model, state_dir, service, of_file=True).directory if named else None
    if not show_plan(model_of(model, directory), directory, as_json=as_json):
        sys.exit(EXIT_MISUSED)


@verb()
@click.argument("model", default="model.toml")
@click.option("--cloud", type=click.Choice(["aws", "gcp", "azure"]), help="Where the image is to be used.")
def bake(model: str, cloud: str | None) -> None:
    """Print the recipe for an image that starts fast.

    A script that installs what MODEL (model.toml) serves with, and its weights, on a VM of yours, and the
    commands that make an image of it. It changes nothing by itself.
    """
    from hedgeserve.console.bake import print_recipe

    print_recipe(model, cloud)


@verb()
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
