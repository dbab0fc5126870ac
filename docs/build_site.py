"""The site of README, guides, results and reference: `python docs/build_site.py [FOLDER]`, which is `make docs`.

The pages that mkdocs.yml names are copied to where Zensical reads them, each at its place in the repository, so that
their links hold here, there and on a page of the repository alike. Any warning is an error; so is a link that leads
nowhere, and whatever a reader's browser would fetch from elsewhere.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokenizer", "prior", "pipelines", "eval")
# Zensical has its search worker come from here where a page is opened from a disk.
WORKER_SHIM = "https://unpkg.com/iframe-worker/shim"
OWN_SHIM = "assets/javascripts/search_from_disk.js"


class SiteError(Exception):
    """What is wrong with the site, a line for each."""


def pages() -> list[str]:
    """Paths of the pages in the order of the navigation, relative to the repository."""
    return list(_leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def _leaves(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for part in node.values() if isinstance(node, dict) else node:  # pyright: ignore[reportGeneralTypeIssues]
            yield from _leaves(part)


def copy_pages(folder: Path) -> None:
    """Write mkdocs.yml, its pages and the packages (for their docstrings) into an empty folder.

    Raises:
        SiteError: for a page of docs/ that the navigation leaves out.
    """
    named = pages()
    sources = [file.relative_to(ROOT) for kind in ("*.md", "*.ipynb") for file in (ROOT / "docs").rglob(kind)]
    left_out = [str(source) for source in sources if str(source.with_suffix(".md")) not in named]
    if left_out:
        raise SiteError(f"not in the `nav` of mkdocs.yml: {', '.join(sorted(left_out))}")
    for name in named:
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        notebook = (ROOT / name).with_suffix(".ipynb")
        # pages link to notebooks, and on the site to the page of one
        text = as_page(notebook) if notebook.is_file() else (ROOT / name).read_text().replace(".ipynb)", ".md)")
        target.write_text(text)
    shutil.copyfile(ROOT / "mkdocs.yml", folder / "mkdocs.yml")
    shutil.copytree(ROOT / "docs" / "templates", folder / "templates")
    (folder / "wvq").mkdir()
    for package in PACKAGES:
        (folder / "wvq" / package).symlink_to(ROOT / package)


def as_page(notebook: Path) -> str:
    """The cells of a notebook as Markdown."""
    cells = nbformat.read(notebook, as_version=4).cells
    parts = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    return "\n\n".join([*parts, f"[This notebook]({notebook.name}).\n"])


def render(folder: Path) -> Path:
    """The site that Zensical makes of the copied pages.

    Raises:
        SiteError: for any warning.
    """
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(folder / "mkdocs.yml")]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode or "warning" in result.stdout.lower():
        raise SiteError(re.sub("\x1b\\[[0-9;]*m", "", result.stdout))  # without its colours
    return folder / "site"


def search_from_disk(site: Path) -> None:
    """Let the search work where pages are opened from a disk, which may not start workers from files, offline.

    Raises:
        SiteError: if Zensical asks for something else than it did.
    """
    (worker,) = site.glob("assets/javascripts/workers/search.*.js")
    source = f"""const source = {json.dumps(worker.read_text())};
if (location.protocol === "file:")
  window.Worker = class extends Worker {{
    constructor() {{
      super(URL.createObjectURL(new Blob([source], {{type: "text/javascript"}})));
    }}
  }};
"""
    (site / OWN_SHIM).write_text(source)
    for page in site.rglob("*.html"):
        text = page.read_text()
        if text.count(WORKER_SHIM) != 1:
            raise SiteError(f"{page.name} does not load {WORKER_SHIM}: see what Zensical's offline plugin does now")
        up = "../" * (len(page.relative_to(site).parts) - 1)
        page.write_text(text.replace(WORKER_SHIM, up + OWN_SHIM))


class Page(HTMLParser):
    """What a page refers to, and the places in it that others may refer to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a":
            self.links += [values.get("href") or ""]
        else:
            self.fetched += [value for name in ("href", "src") if (value := values.get(name))]


def check(site: Path) -> None:
    """Follow every link; files of the repository that a page links to become part of the site.

    Raises:
        SiteError: for links that lead nowhere, and for what would be fetched from elsewhere.
    """
    site = site.resolve()
    parsed = {page: Page(page) for page in site.rglob("*.html")}
    wrong = []
    for page, content in parsed.items():
        wrong += [f"{page.name} fetches {link}" for link in content.fetched if ":" in link or link.startswith("//")]
        for link in content.links + content.fetched:
            path, _, anchor = unquote(link).partition("#")
            if ":" in path or not link or page.name == "404.html":  # which is shown at any address
                continue
            target = (page.parent / path).resolve() if path else page
            original = ROOT / target.relative_to(site) if target.is_relative_to(site) else ROOT / "nowhere"
            if not target.exists() and original.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original, target)
            if not target.is_file() or (anchor and target in parsed and anchor not in parsed[target].anchors):
                wrong.append(f"{page.relative_to(site)} has a link to {link}, which leads nowhere")
    if wrong:
        raise SiteError("\n".join(wrong))


def build(folder: Path) -> Path:
    """Build the site anew in folder and return where it is.

    Raises:
        SiteError: that says all that is wrong.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_pages(folder)
    site = render(folder)
    search_from_disk(site)
    check(site)
    return site


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve()) / "index.html")
    except SiteError as error:
        sys.exit(str(error))
