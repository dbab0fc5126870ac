"""README, guides and results hold together: links lead somewhere, the tree is the tree, tables and code render."""

import re

import pytest
import torch
from doc_pages import PAGES, README, ROOT, anchors, blocks, links, name_of, tables

from wvq.prior import PriorConfig, build_prior
from wvq.prior.model import SIZES

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@each_page
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in (target, *target.parents), f"{link} leaves the repository"
        assert not anchor or anchor in anchors(target), f"{link} leads to no heading; valid are {anchors(target)}"


def test_every_guide_is_linked_from_the_readme():
    assert {name_of(page) for page in PAGES if page != README} <= {link.partition("#")[0] for link in links(README)}


@each_page
def test_code_is_closed_and_tables_are_aligned(page):
    fences = re.findall(r"^```.*$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert all(fence[3:].isalpha() for fence in fences[::2])
    assert all(fence == "```" for fence in fences[1::2])
    assert page.read_text().replace("```", "").count("`") % 2 == 0
    for rows in tables(page):
        assert len({row.count("|") for row in rows}) == 1, rows[0]
        assert re.fullmatch(r"\|(-+\|)+", rows[1]), rows[0]


def test_the_readme_is_read_to_its_end():
    assert len(README.read_bytes()) <= 15_000


def test_the_tree_names_every_room():
    (tree,) = blocks(README, "text")
    named, parent = set(), ""
    for indent, folder in re.findall(r"^( *)([\w/]+/) ", tree, re.MULTILINE):
        parent = parent if indent else folder
        named.add(f"{parent}{folder}" if indent else folder)
    assert len(named) == len(tree.splitlines())
    rooms = {
        f"{file.parent.relative_to(ROOT)}/"
        for package in ("tokenizer", "prior", "pipelines", "eval")
        for file in (ROOT / package).rglob("*.py")
    }
    assert rooms <= named
    assert all((ROOT / folder).is_dir() for folder in named)


@pytest.mark.parametrize("size", SIZES)
def test_the_table_of_sizes_is_what_is_built(size):
    with torch.device("meta"):
        prior = build_prior(PriorConfig(size=size, num_codes=16_384, num_tokens=256, num_classes=1000))
    count = sum(parameter.numel() for parameter in prior.parameters())
    width, layers, heads = SIZES[size]
    cells = [
        size, width, layers, heads, f"{count / 1e6:.0f} M", f"{2 * count / 2**30:.2f} GiB",
        f"{16 * count / 2**30:.2f} GiB", f"{2 * 2 * 2 * layers * width * 256 / 2**20:.0f} MiB",
    ]  # fmt: skip
    assert "| " + " | ".join(map(str, cells)) + " |" in (ROOT / "docs" / "training.md").read_text().splitlines()
