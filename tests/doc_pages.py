"""The README, the guides and the results, as a reader sees them: blocks of code, code in the text, links, headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "eval" / "results" / "README.md", ROOT / "CHANGELOG.md"]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """The page as it is called in a test's name and message."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == language]


def text(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def inline_code(page: Path) -> list[str]:
    """The code in the text, each piece on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text(page))]


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of every line of a shell block, continued lines as one, and of every piece of code in the text."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)
    for code in inline_code(page):
        if code.count('"') % 2 == 0 and "'" not in code:
            yield shlex.split(code)


def links(page: Path) -> list[str]:
    """The targets of links and images that lie in the repository: a path, an anchor, or both."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "`code`", text(page)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def tables(page: Path) -> list[list[str]]:
    """Neighbouring lines that begin with a bar."""
    return [found.splitlines() for found in re.findall(r"(?:^\|.*\n)+", text(page), re.MULTILINE)]
