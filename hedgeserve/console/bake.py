"""``hedgeserve bake``: the recipe for a prepared image, printed."""

import click

from hedgeserve.engines.bake import recipe
from hedgeserve.errors import HedgeServeError
from hedgeserve.poolspec import REMOTE
from hedgeserve.spec import Cloud
from hedgeserve.specfile import load_spec


def print_recipe(model: str, cloud: str | None) -> None:
    """Print the recipe for one cloud: the one that is named, or the only one that the pools name.

    Raises:
        HedgeServeError: No cloud was named and the pools name none or several; or there is nothing to prepare.
    """
    spec = load_spec(model, surroundings=False)
    named = [one for one in REMOTE if one in spec.clouds()]
    if cloud is None and len(named) != 1:
        have = f"pools in {', '.join(named)}" if named else "no pool in aws, gcp or azure"
        raise HedgeServeError(f"{model} has {have}; say which cloud the image is for with --cloud")
    try:
        click.echo(recipe(spec, named[0] if cloud is None else Cloud(cloud)), nl=False)
    except ValueError as error:
        raise HedgeServeError(f"{model}: {error}") from None
