"""What the verbs say of themselves: examples that parse, help for everything, and a place in the documentation."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hedgeserve.cli import main
from hedgeserve.console.examples import EXAMPLES

ROOT = Path(__file__).parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text()


def verbs(group: click.Group = main, *before: str) -> Iterator[tuple[str, click.Command]]:
    """Every verb with its words, those of groups included."""
    for name, command in group.commands.items():
        yield " ".join((*before, name)), command
        if isinstance(command, click.Group):
            yield from verbs(command, *before, name)


VERBS = dict(verbs())


def parse(line: str) -> None:
    """Have the verb that a line names take its words, as a shell would hand them over; nothing is done."""
    for part in re.split(r"\s\|\s", line):
        words = shlex.split(re.sub(r"\s[>&].*$", "", part), comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        if not words or Path(words[0]).name != "hedgeserve":
            continue
        command: click.Command = main
        context = click.Context(main, info_name="hedgeserve")
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"`{line}`: there is no verb {rest[0]}"
            command = command.commands[rest[0]]
            if not isinstance(command, click.Group):
                try:
                    command.make_context(rest[0], rest[1:], parent=context)
                except click.exceptions.Exit:
                    pass  # --help
                except click.UsageError as error:
                    raise AssertionError(f"`{line}`: {error.format_message()}") from None
            rest = rest[1:]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_begins_its_help_with_examples_of_itself(verb: str) -> None:
    """Add them to hedgeserve/console/examples.py."""
    examples = EXAMPLES.get(verb, ())
    assert 1 <= len(examples) <= 3, f"`hedgeserve {verb}` has no examples in hedgeserve/console/examples.py"
    printed = CliRunner().invoke(main, [*verb.split(), "--help"], prog_name="hedgeserve").output
    assert printed.startswith("Examples:\n" + "".join(f"  {example}\n" for example in examples) + "\nUsage: ")
    for example in examples:
        assert example.startswith(f"hedgeserve {verb}")
        parse(example)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_and_each_option_stands_in_the_documentation(verb: str) -> None:
    """A heading for the verb in docs/cli.md, and all of its options below it."""
    heading = re.search(rf"^(##+) `{verb}`$(.*?)(?=^##? |\Z)", CLI, re.MULTILINE | re.DOTALL)
    assert heading, f"docs/cli.md has no heading `{verb}`"
    if isinstance(VERBS[verb], click.Group):
        return
    section = heading[2] if verb.count(" ") == 0 else heading[2].split("\n### ")[0]
    if "takes the options of `backtest`" in section:
        section += CLI.split("## `backtest`")[1].split("\n## ")[0]
    for option in (one for one in VERBS[verb].params if isinstance(one, click.Option)):
        if option.name in ("state_dir", "service") and verb != "orphans":  # said once, for all who have them
            section += CLI.split("## Which service?")[1].split("\n## ")[0]
        long = max(option.opts, key=len)
        assert re.search(rf"`[^`\n]*{long}\b", section), f"docs/cli.md says nothing of `{verb}`'s {long}"
        assert option.help, f"{verb} {long} has no help"


def shown(page: Path) -> Iterator[str]:
    """The lines of a page that are typed into a shell: in sh blocks, and after a $ elsewhere."""
    for kind, block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL):
        lines = re.sub(r"\\\n\s*", " ", block).splitlines()
        if kind in ("sh", "bash", "shell"):
            yield from (line.removeprefix("$ ") for line in lines)
        elif kind in ("", "console"):
            yield from (line[2:] for line in lines if line.startswith("$ "))


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_pages_show_can_be_typed(page: Path) -> None:
    """Their verbs are there and take these words."""
    for line in shown(page):
        if "hedgeserve " in line and "<" not in line:
            try:
                shlex.split(line, comments=True)
            except ValueError:
                continue  # goes on in the next line
            for command in re.split(r"\s&&\s|;\s", line):
                parse(command)


def test_there_are_no_examples_of_verbs_that_are_none() -> None:
    """A verb that is renamed or gone takes its examples with it."""
    assert EXAMPLES.keys() <= VERBS.keys()
