"""The arguments and variables that HedgeServe gives to an engine itself, and that a model.toml must not."""

from collections.abc import Mapping, Sequence

ENCRYPTED = "requests reach the engine encrypted as it is: service.transport says how"
"""What is said of options for certificates of the user's own."""


def refuse_arguments(args: Sequence[str], ours: Mapping[str, str]) -> None:
    """Raise ``ValueError`` where ``model.args`` holds an option of ``ours``, which says what to do instead.

    Knows an option in each way that argparse reads it: ``--api-key x``, ``--api-key=x`` and vLLM's ``--api_key``.
    """
    for argument in args:
        option = argument.partition("=")[0].replace("_", "-")
        if option in ours:
            raise ValueError(f"model.args holds {option}, which HedgeServe sets itself; {ours[option]}")


def refuse_variables(names: Sequence[str], ours: Mapping[str, str]) -> None:
    """Raise ``ValueError`` where ``model.env`` or ``model.secret_env`` sets a variable of ``ours``."""
    for name in names:
        if name in ours:
            raise ValueError(
                f"model.env or model.secret_env sets {name}, which HedgeServe sets itself; {ours[name]}"
            )
