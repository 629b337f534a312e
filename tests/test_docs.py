"""The documentation is true as far as a test can see: headings for everything, links that lead somewhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hedgeserve.fleet import EventKind
from hedgeserve.specfile import parse_spec

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_every_kind_of_event_has_its_heading() -> None:
    """docs/events.md explains each kind, and none that there is not."""
    headings = re.findall(r"^### `(\w+)`$", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(EventKind)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Relative links name files that are there."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_shows_specs_that_are_good() -> None:
    """Each model.toml of the first page can be loaded."""
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [parse_spec(toml, "README.md", ROOT, {}).model.id for toml in shown] == ["Qwen/Qwen3-8B"] * 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parts_of_model_files_that_pages_show_can_be_read(page: Path) -> None:
    """Every toml block has keys that there are and values that fit; what it leaves out is filled in."""
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        told = tomllib.loads(block)
        filled = "".join(
            f"\n{text}\n"
            for name, text in (
                ("model", '[model]\nid = "m"\nengine = "demo"'),
                ("pools", '[[pools]]\ncloud = "local"\nzones = ["east/a", "east/b", "west/a"]'),
                ("replicas", "[replicas]\nmin = 1\nmax = 4\ntarget_requests_per_second = 1"),
            )
            if name not in told
        )
        parse_spec(block + filled, page.name, ROOT, {}, surroundings=False)


def test_every_page_can_be_found_from_the_readme() -> None:
    """No page is an orphan."""
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"docs/{page.name}" not in text] == []


def test_every_page_has_its_place_in_the_index() -> None:
    """docs/index.md is the site's navigation: a page is in one of its four parts, once."""
    index = (ROOT / "docs" / "index.md").read_text()
    assert re.findall(r"^## (.*)$", index, re.MULTILINE) == [
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
    ]
    linked = re.findall(r"\]\(([^)#.][^)#]*\.md)\)", index)
    pages = [str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")]
    assert sorted(linked) == sorted(set(pages) - {"index.md"}), "add the page to docs/index.md"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every link leads somewhere, every anchor is there, no page is an orphan."""
    pytest.importorskip("myst_parser", reason="what builds the site is not installed: scripts/setup docs")
    arguments = [
        "-q",
        "-W",
        "-n",
        "--keep-going",
        "-b",
        "html",
        "-d",
        str(tmp_path / "trees"),
        "docs",
        str(tmp_path),
    ]
    command = [sys.executable, "-m", "sphinx", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    front = (tmp_path / "index.html").read_text()
    assert "without losing a request" in front
    assert 'href="configuration.html"' in front


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_are_there(page: Path) -> None:
    """`fleet.py`, `drivers/base.py`, `examples/quickstart.toml`: in the package or in the repository."""
    for name in re.findall(r"`([a-z_/]+\.(?:py|toml|cfg)|[a-z_]+/)`", page.read_text()):
        if Path(name).name != "model.toml":
            assert (ROOT / name).exists() or (ROOT / "hedgeserve" / name).exists(), f"{page.name} names {name}"


def test_make_targets_named_in_the_documentation_exist() -> None:
    """Whoever reads `make something` can type it."""
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name} names make {target}"
