"""The documentation as a site: `make docs-site`. Sphinx and MyST read the very pages that a repository shows.

`index.md` is plain Markdown: its four lists become the site's navigation here, so that there is one list of pages.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

from hedgeserve._version import __version__

project = "HedgeServe"
author = "the HedgeServe authors"
version = release = __version__
html_title = f"HedgeServe {__version__}"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["model.schema.json"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
# Titles are linked to as a repository's host links to them; numbers in tables may repeat.
suppress_warnings = ["myst.header"]
nitpicky = True

html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_static_path: list[str] = []
pygments_style = "friendly"
pygments_dark_style = "monokai"

man_pages = [
    ("cli", "hedgeserve", "serve large language models on spot GPUs", [author], 1),
    ("configuration", "hedgeserve-model.toml", "what a service's model.toml may say", [author], 5),
]
man_show_urls = True

_ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"\]\(([^)#\s]+\.md)\)")
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>(`[^`]+`)')
_PAGE_ABOVE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+\.md)\)")
_README_LINK = re.compile(r"\]\((?!https?:|#)(docs/)?([^)]+)\)")
_README_LIST = re.compile(r"^## Documentation\n.*?(?=^## )", re.MULTILINE | re.DOTALL)


def front_page(readme: str, index: str) -> str:
    """The README as it reads from the folder docs, the index's four parts in the place of its list of pages."""
    parts = index[index.index("## ") :]
    text = _README_LINK.sub(lambda link: f"]({'' if link[1] else '../'}{link[2]})", readme)
    return _README_LIST.sub(lambda _: f"{parts.rstrip()}\n\n", text)


def navigation(index: str) -> str:
    """A hidden tree for each `##` part of the index, of the pages that it links to, in their order."""
    trees = []
    for part in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        pages = [name.removesuffix(".md") for name in dict.fromkeys(_LINK.findall(rest))]
        trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"]))
    return "\n\n" + "\n\n".join(trees) + "\n"


def _as_read(app: Sphinx, page: str, content: list[str]) -> None:
    text = content[0]
    if page == root_doc:
        text = front_page((_ROOT / "README.md").read_text(encoding="utf-8"), text) + navigation(text)
    # Anchors in tables are HTML for a repository's host; here they are targets that links are checked against.
    text = _ANCHOR.sub(r'\2{id="\1"}', text)
    # What lies above this folder is no page of the site; a reader may fetch it.
    content[0] = _PAGE_ABOVE.sub(r"{download}`\1 <\2>`", text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _as_read)
