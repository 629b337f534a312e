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


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hedgeserve", message="%(prog)s %(version)s")
def main() -> None:
    """Serve large language models on spot GPUs without losing a request."""


for command in (
    init,
    check,
    doctor,
    offers,
    plan,
    bake,
    version,
    backtest,
    sweep,
    replay,
    serve,
    status,
    cost,
    events,
    explain,
    logs,
    drill,
    ui,
    apply,
    rollback,
    versions,
    pause,
    resume,
    keys,
    down,
    report,
    orphans,
    traces,
):
    main.add_command(command)
