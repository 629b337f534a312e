"""The dashboard's files, read as text: nothing from elsewhere, nothing inline, no markup out of untrusted text."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "hedgeserve" / "web" / "static"
FILES = sorted(STATIC.iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_comes_from_elsewhere(file: Path) -> None:
    """No address but our own, but for the name of a namespace: the page works on a machine without a network."""
    found = re.findall(r"https?://[^\s\"']+", file.read_text())
    assert [address for address in found if address != "http://www.w3.org/2000/svg"] == []


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".js"], ids=lambda file: file.name)
def test_what_the_service_tells_never_becomes_markup(file: Path) -> None:
    """An engine's log or a cloud's error may hold anything."""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment"
    assert re.findall(rf"{markup}|\beval\(|new Function", file.read_text()) == []


def test_the_page_holds_no_script_and_no_style() -> None:
    """The policy that forbids them would break it."""
    text = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_files_name_is_there(file: Path) -> None:
    """Modules import each other by names that exist."""
    named = re.findall(r'from "\./([\w.]+)"|"/ui/([\w]+\.\w+)"', file.read_text())
    for name in filter(None, (one for pair in named for one in pair)):
        assert (STATIC / name).exists(), f"{file.name} names {name}"


def _luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tone", ["ink", "muted", "good", "accent", "warn", "bad", "violet"])
def test_text_can_be_read(scheme: str, tone: str) -> None:
    """A contrast of 4.5 on every ground, as WCAG's AA asks, in the dark and in the light."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", (STATIC / "app.css").read_text())
    colours = {name: (light, dark)[scheme == "dark"] for name, light, dark in pairs}
    for ground in ("page", "panel", "raised"):
        dim, bright = sorted((_luminance(colours[tone]), _luminance(colours[ground])))
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{tone} on {ground}"


def test_every_route_is_documented() -> None:
    """docs/admin-api.md has a line for each question that the admin API answers."""
    source = (ROOT / "hedgeserve" / "web" / "admin.py").read_text()
    text = (ROOT / "docs" / "admin-api.md").read_text()
    for parts in re.findall(r'case \["admin", "v1", ([^]]+)\]', source):
        paths = [""]
        for part in parts.split(","):
            words = re.findall(r'"([^"]+)"', part) or [f"{{{part.strip().lstrip('*')}}}"]
            paths = [f"{path}/{word}" for path in paths for word in words]
        assert [path for path in paths if f"`/admin/v1{path}`" not in text] == []


def test_wheels_carry_the_page() -> None:
    """The files are package data."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "web/static/*" in setup["options.package_data"]["hedgeserve"]
