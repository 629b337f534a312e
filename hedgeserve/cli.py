"""The command line: all verbs, in the order of use. How each is asked for stands in :mod:`hedgeserve.verbs`.

Nothing heavy is imported before a verb needs it: ``hedgeserve --help`` must not wait for an HTTP stack.
stdout is data, stderr is talk.
"""

import click

from hedgeserve._version import __version__
from hedgeserve.verbs.act import apply, down, drill, orphans, pause, resume, rollback, versions
from hedgeserve.verbs.backtests import backtest, replay, sweep
from hedgeserve.verbs.group import Verbs
from hedgeserve.verbs.keys import keys
from hedgeserve.verbs.look import cost, events, explain, logs, report, status, ui
from hedgeserve.verbs.offline import bake, check, doctor, init, offers, plan, version
from hedgeserve.verbs.serve import serve
from hedgeserve.verbs.traces import traces

_SECTIONS = {
    "Before you serve": (init, check, doctor, offers, plan, bake, version),
    "Try policies on recorded capacity": (backtest, sweep, replay),
    "Serve, and look": (serve, status, cost, events, explain, logs, drill, ui),
    "Change what runs": (apply, rollback, versions, pause, resume, keys, down),
    "Afterwards": (report, orphans, traces),
}


class _Main(Verbs):
    """All verbs, listed by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.commands))
        room = formatter.width - 6 - widest
        for heading, commands in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [((one.name or "").ljust(widest), one.get_short_help_str(room)) for one in commands]
                )


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hedgeserve", message="%(prog)s %(version)s")
def main() -> None:
    """Serve large language models on spot GPUs without losing a request.

    Begin with `hedgeserve init model.toml`, then `hedgeserve serve model.toml`.
    """


for command in (command for commands in _SECTIONS.values() for command in commands):
    main.add_command(command)
