"""The site is built strictly and works without a network; a page that is left out, a warning, a dead link fail."""

import json
import zlib
from pathlib import Path

import build_site
import pytest
from build_site import OWN_SHIM, WORKER_SHIM, Page, SiteError
from plots import PLOTS
from public_names import PACKAGES, public_objects


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site.build(tmp_path_factory.mktemp("site") / "docs")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository, of whose pages a site can be built."""
    (tmp_path / "docs" / "templates").mkdir(parents=True)
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: small\ndocs_dir: pages\nsite_dir: site\nuse_directory_urls: false\nplugins: [search, offline]\n"
        "theme: {font: false}\nnav: [README.md, {Guides: [{A guide: docs/guide.md}]}]\n"
    )
    (tmp_path / "README.md").write_text("# Small\n\n[guide](docs/guide.md#a-part), [code](code.py)\n")
    (tmp_path / "docs" / "guide.md").write_text("# Guide\n\n## A part\n\n[back](../README.md)\n")
    (tmp_path / "code.py").write_text("pass\n")
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    monkeypatch.setattr(build_site, "PACKAGES", ())
    return tmp_path


def test_every_page_is_there(site: Path) -> None:
    for name in build_site.pages():
        page = site / name.replace("README.md", "index.md")
        assert page.with_suffix(".html").is_file(), name


def test_every_public_name_has_an_entry_in_the_reference(site: Path) -> None:
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]).decode()
    kinds = dict(line.split()[:2] for line in inventory.splitlines())
    entries = {name for name, kind in kinds.items() if kind in ("py:class", "py:function", "py:data")}
    for package in PACKAGES:
        names = {f"{package}.{name}" for name in public_objects(package)}
        page = Page(site / "docs" / "reference" / f"{package.removeprefix('wvq.')}.html")
        assert names <= entries
        assert names <= page.anchors


def test_the_search_works_from_a_disk(site: Path) -> None:
    """Its worker is a part of the site, and no page names the address from which Zensical would have it."""
    worker = next(site.glob("assets/javascripts/workers/search.*.js")).read_text()
    assert json.dumps(worker) in (site / OWN_SHIM).read_text()
    for page in site.rglob("*.html"):
        assert WORKER_SHIM not in page.read_text()
    assert "WassersteinQuantizer" in (site / "search.js").read_text()


def test_a_small_repository_has_a_site(repository: Path) -> None:
    site = build_site.build(repository / "build")
    assert (site / "code.py").read_text() == "pass\n"
    assert (site / "docs" / "guide.html").is_file()


def test_a_page_that_is_left_out_fails(repository: Path) -> None:
    (repository / "docs" / "new.md").write_text("# New\n")
    with pytest.raises(SiteError, match=r"not in the `nav` of mkdocs.yml: docs/new.md"):
        build_site.build(repository / "build")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nowhere](nowhere.md)", "page does not exist"),
        ("[no part](guide.md#no-part)", "anchor does not exist"),
        ("[no file](nowhere.py)", "has a link to nowhere.py, which leads nowhere"),
        ("![picture](https://example.org/picture.png)", "fetches https://example.org/picture.png"),
    ],
)
def test_what_is_wrong_with_a_page_fails(repository: Path, text: str, message: str) -> None:
    with (repository / "docs" / "guide.md").open("a") as page:
        page.write(f"\n{text}\n")
    with pytest.raises(SiteError, match=message):
        build_site.build(repository / "build")


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_drawn_from_the_results(name: str, tmp_path: Path) -> None:
    figure = PLOTS[name]()
    points = [len(line.get_xdata()) for axes in figure.axes for line in axes.get_lines()]  # pyright: ignore[reportArgumentType]
    assert sum(points) == {"codes": 24, "entropy": 44, "starts": 8, "alignments": 16, "quantizers": 63}[name]
    figure.savefig(tmp_path / "plot.png")
