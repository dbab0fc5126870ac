"""The report: what stands in the page is what was passed in, and the page needs nothing else."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_pages import CLASSES, COMMANDS, PROTOCOL, Page, plain, render, run_report
from report_rows import VANILLA, row, summarize

from wvq.eval.report import figures
from wvq.eval.report.page import flatten, write_report
from wvq.eval.report.table_files import latex, markdown
from wvq.eval.score_names import INCEPTION_SHA256


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    rows = [row("vanilla", 0, **VANILLA), row("vanilla", 1, **VANILLA), row("wasserstein", 0), row("wasserstein", 1)]
    return render(tmp_path_factory.mktemp("four"), rows, [run_report(one["quantizer"], one["seed"]) for one in rows])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return render(tmp_path_factory.mktemp("two"), [row("vanilla", 0, **VANILLA), row("wasserstein", 0)])


def png(picture: dict[str, str | None]) -> Image.Image:
    source = picture["src"]
    assert source is not None
    return Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))


def test_headings_stand_in_order(four: tuple[str, Page]) -> None:
    _, page = four
    order = ["Comparison of quantizers", "Comparison", "Means over seeds", "Differences from vanilla", "Ranks", "Runs"]
    order += ["Training curves", "Tokenizer", "Prior"]
    order += ["Code usage", "Features and codes", "Originals and reconstructions", "Samples by class"]
    runs = [f"{name}, seed\N{NO-BREAK SPACE}{seed}" for name in ("vanilla", "wasserstein") for seed in (0, 1)]
    assert page.headings == [*order, *runs, "Protocol", "Commands"]


def test_page_refers_to_nothing_outside(four: tuple[str, Page]) -> None:
    text, page = four
    for tag, attributes in page.attributes:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, attributes)
    outside = re.sub(r'src="data:[^"]*"', "", text)
    assert "://" not in outside
    assert "url(" not in outside
    assert "@import" not in outside


def test_table_holds_the_numbers(two: tuple[str, Page]) -> None:
    _, page = two
    texts = [{name: cell["text"].strip() for name, cell in one.items()} for one in page.table("rows")]
    assert texts[1] == {
        "Quantizer": "wasserstein",
        "Seed": "0",
        "Utilization (%) ↑": "95.4",
        "Perplexity ↑": "575.2",
        "Token entropy (bits/image)": "449.2",
        "Quantization error": "0.9865",
        "Relative quantization error ↓": "0.04710",
        "PSNR (dB) ↑": "23.33",
        "SSIM ↑": "0.8123",
        "rFD[efficientnet-lite0] ↓10,000 images": "525.3",
        "FD[efficientnet-lite0] ↓5,000 vs. 10,000 images": "667.4",
        "Bits per tokenheld-out, by the prior": "5.900",
        "Bits per imageheld-out, by the prior": "289.1",
        "Tokenizer training (s)": "150",
        "Prior training (s)": "1,330",
    }
    assert texts[0]["Perplexity ↑"] == "184.5"
    assert float(page.table("rows")[1]["Perplexity ↑"]["value"]) == 575.25


def test_bold_is_best_in_the_direction_of_the_column(two: tuple[str, Page]) -> None:
    _, page = two
    vanilla, wasserstein = page.table("rows")
    bold = [
        {re.split(r"[ []", name)[0] for name, cell in one.items() if cell["bold"]} for one in (vanilla, wasserstein)
    ]
    assert bold == [{"PSNR", "SSIM", "FD"}, {"Utilization", "Perplexity", "Relative", "SSIM", "rFD"}]


def test_means_over_seeds(tmp_path: Path) -> None:
    rows = [row("vanilla", 0, psnr=20.0), row("vanilla", 1, psnr=23.0), row("wasserstein", 0, psnr=21.0)]
    _, page = render(tmp_path, rows)
    vanilla, wasserstein = page.table("means")
    assert vanilla["PSNR (dB) ↑"]["text"] == "21.50 ± 19.06"  # 12.706 * 1.5: Student's t with one degree of freedom
    assert vanilla["PSNR (dB) ↑"]["bold"]
    assert vanilla["Seeds"]["text"] == "2"
    assert wasserstein["PSNR (dB) ↑"]["text"] == "21.00"
    assert [one["PSNR (dB) ↑"]["text"] for one in page.table("differences")] == ["+1.00"]  # one common seed
    assert [one["PSNR ↓"]["text"] for one in page.table("ranks")] == ["2.00", "1.00"]
    assert page.table("rows")[1]["PSNR (dB) ↑"]["bold"]


def test_no_table_of_means_for_one_seed_each(two: tuple[str, Page]) -> None:
    _, page = two
    assert not {"Means over seeds", "Differences from vanilla", "Ranks"} & set(page.headings)
    assert "One seed: no interval, no test, and how much a number varies between seeds is not known." in page.text


@pytest.mark.parametrize("named", [True, False])
def test_the_word_fid_is_for_the_standard_weights_of_inception(tmp_path: Path, named: bool) -> None:
    weights = {"extractor": "inception", "weights_sha256": INCEPTION_SHA256 if named else "0" * 64}
    rows = [row("vanilla", 0, **weights), row("ema", 0, **weights)]
    text, page = render(tmp_path, rows)
    assert ("FID" in re.sub(r'src="data:[^"]*"', "", text)) == named
    header = [name.split(" ↓")[0] for name in page.table("rows")[0]]
    expected = ["rFID", "FID"] if named else ["rFD[inception]", "FD[inception]"]
    assert [name for name in header if name.removeprefix("r").startswith("F")] == expected
    comparison = {"rows": rows, "baseline": "vanilla"}
    for table in (markdown(comparison), latex(comparison), summarize(rows)):
        assert ("FID" in table) == named
        assert ("FD[inception]" in table) != named


def test_summary_stands_in_the_page(two: tuple[str, Page]) -> None:
    assert summarize([row("vanilla", 0, **VANILLA), row("wasserstein", 0)]) in two[1].text


def test_names_are_escaped(four: tuple[str, Page], tmp_path: Path) -> None:
    text, page = four
    labels = [cells[0]["text"] for table in page.tables[-5:-1] for cells in table["rows"]]
    assert labels == list(CLASSES) * 4
    assert '<th scope="row">&lt;b&gt;</th>' in text
    assert "echo '<done>'" in page.text
    hostile = '"><script>alert(1)</script> $x$'
    _, page = render(tmp_path, [row(hostile, 0)])
    assert sum(tag == "script" for tag, _ in page.attributes) == 1
    assert page.table("rows")[0]["Quantizer"]["text"] == hostile


def test_every_picture_has_words_and_its_true_shape(four: tuple[str, Page]) -> None:
    pictures = four[1].pictures()
    # 4 + 1 panels of curves, a histogram and a projection a run, 1 + 4 rows of images, 4 x 3 rows of samples
    assert len(pictures) == 4 + 1 + 4 + 4 + 5 + 12
    assert all(picture["alt"] for picture in pictures)
    for picture in pictures:
        image = png(picture)
        ratio = image.width / int(picture["width"] or 0)
        assert ratio == (1 if "strip" in (picture.get("class") or "") else 2)
        assert image.height == ratio * int(picture["height"] or 0)


def test_a_run_with_several_codebooks_has_no_picture_of_them(two: tuple[str, Page], tmp_path: Path) -> None:
    rows = [row("vanilla", 0), row("residual", 0)]
    runs = [plain("vanilla", 0), replace(plain("residual", 0), codes=None)]
    _, page = render(tmp_path, rows, runs)
    drawn = [p["alt"] for p in page.pictures() if "principal components" in str(p["alt"])]
    assert len(drawn) == 1
    assert str(drawn[0]).startswith("vanilla")
    remark = "Runs with several codebooks have no picture"
    assert remark in page.text
    assert remark not in two[1].text


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_keep_their_pixels(tmp_path: Path, channels: int, mode: str) -> None:
    run = plain("mmd", 0, channels=channels)
    _, page = render(tmp_path, [row("mmd", 0)], [run])
    strip = next(png(p) for p in page.pictures() if p["alt"] == f"Reconstructions by {run.label}.")
    assert strip.mode == mode
    pixels = np.asarray(strip).reshape(strip.height, strip.width, channels)
    scale = (strip.height - 2 * figures.GAP) // 8
    assert scale == 3
    for index, image in enumerate(run.reconstructions):
        left = figures.GAP + index * (8 * scale + figures.GAP)
        cell = pixels[figures.GAP : figures.GAP + 8 * scale, left : left + 8 * scale]
        np.testing.assert_array_equal(cell, image.repeat(scale, 1).repeat(scale, 2).transpose(1, 2, 0))


def test_originals_are_repeated_only_where_they_differ(tmp_path: Path) -> None:
    runs = [plain("mmd", 0), plain("mmd", 1), plain("ema", 0)]
    runs[2].originals = 255 - runs[2].originals
    _, page = render(tmp_path, [row(run.quantizer, run.seed) for run in runs], runs)
    rows = next(table["rows"] for table in page.tables if table["rows"][0][0]["text"] == "original")
    labels = [cells[0]["text"] for cells in rows]
    assert labels == ["original", runs[0].label, runs[1].label, "original", runs[2].label]


def test_without_a_prior_and_without_metrics(tmp_path: Path) -> None:
    run = plain("mmd", 0)
    _, page = render(tmp_path, [row("mmd", 0, generation_frechet_distance=None, num_generated=None)], [run])
    assert page.headings[0] == "Report on a quantizer"
    assert "No metrics of a tokenizer's training were given." in page.text
    assert "No metrics of a prior's training were given." in page.text
    assert "No samples were given: no prior was trained." in page.text
    assert len(page.pictures()) == 2 + 2


def test_large_codebooks_stay_small_pictures(tmp_path: Path) -> None:
    run = plain("mmd", 0, codes=65536)
    text, page = render(tmp_path, [row("mmd", 0)], [run])
    assert "utilization 50.0%" in page.text
    assert "50 features, 32,768 codes in use, 32,768 unused, 1 code in 16 drawn" in page.text
    assert len(text) < 1_000_000


def test_histogram_title_counts_the_codes(tmp_path: Path) -> None:
    run = plain("mmd", 0, codes=4)
    run.code_histogram = np.array([5, 5, 0, 0])
    _, page = render(tmp_path, [row("mmd", 0)], [run])
    assert "utilization 50.0%, perplexity 2.0" in page.text


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_projection_is_onto_the_largest_variances(dimension: int) -> None:
    features = np.random.default_rng(0).normal(size=(400, dimension)) * np.arange(1, dimension + 1) + 7
    points, codes, share = figures.principal_plane(features, features[:3])
    np.testing.assert_allclose(codes, points[:3], atol=1e-12)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    spectrum = np.sort(np.linalg.eigvalsh(np.atleast_2d(np.cov(features.T, bias=True))))[::-1]
    expected = np.append(spectrum, 0)[:2]
    np.testing.assert_allclose(points.var(axis=0), expected, atol=1e-12)
    np.testing.assert_allclose(share, expected / spectrum.sum(), atol=1e-12)


def test_line_styles_tell_quantizers_and_seeds_apart() -> None:
    runs = [(f"quantizer {index}", seed) for index in range(12) for seed in (5, 2)]
    styles = dict(zip(runs, figures.line_styles(runs), strict=True))
    assert len(set(styles.values())) == len(runs)
    assert styles["quantizer 3", 2].color == styles["quantizer 3", 5].color
    assert styles["quantizer 3", 2].dashes == styles["quantizer 4", 2].dashes == ()
    assert figures.BASELINE_DASHES not in figures.SEED_DASHES


def test_protocol_is_flattened(two: tuple[str, Page]) -> None:
    expected = [("data.source", "fashion-mnist"), ("data.fingerprint", "8f3c" * 16)]
    expected += [("seeds", "[0, 1]"), ("recipes.0.top_k", "0")]
    assert list(flatten(PROTOCOL)) == expected
    rows = two[1].tables[-1]["rows"]
    assert [(name["text"], value["text"]) for name, value in rows] == expected
    assert list(flatten({"a": {}, "b": None, "c": "é"})) == [("a", "{}"), ("b", "null"), ("c", "é")]


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    comparison = {"protocol": PROTOCOL, "baseline": "mmd", "rows": [row("mmd", 0)]}
    write_report(target, comparison, [plain("mmd", 0)], COMMANDS)
    before = target.read_bytes()
    broken = run_report("mmd", 0)
    broken.class_names = ("only one",)
    with pytest.raises(ValueError, match="zip"):
        write_report(target, comparison, [broken], COMMANDS)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
