"""The inference servers that run on the VMs: what to install, what to start, what to ask."""

from collections.abc import Mapping

from hedgeserve.engines.base import Engine
from hedgeserve.engines.command import CommandEngine
from hedgeserve.engines.demo import DemoEngine
from hedgeserve.engines.vllm import VllmEngine
from hedgeserve.spec import EngineName, ModelSpec

__all__ = ["make_engine"]

_ENGINES: Mapping[EngineName, type[CommandEngine | DemoEngine | VllmEngine]] = {
    EngineName.COMMAND: CommandEngine,
    EngineName.DEMO: DemoEngine,
    EngineName.VLLM: VllmEngine,
}


def make_engine(model: ModelSpec, environ: Mapping[str, str]) -> Engine:
    """The engine that ``[model]`` asks for, with the secrets that it names taken from ``environ``.

    Raises:
        ValueError: A secret is not set, or an argument cannot be used; says which and what to do.
    """
    missing = [name for name in model.secret_env if name not in environ]
    if missing:
        raise ValueError(
            f"model.secret_env names {', '.join(missing)}, which the environment does not have; "
            "set it where HedgeServe starts, or remove the name"
        )
    return _ENGINES[model.engine](model, {name: environ[name] for name in model.secret_env})
