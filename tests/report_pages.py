"""A report page of made-up runs."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from wvq.eval.report.page import RunReport, write_report

CLASSES = ("<b>", "Ankle boot & co", "Läufer")


VOID = {"meta", "img", "br", "line", "path", "circle"}


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []  # visible text
        self.headings: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"unclosed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        if tag == "table":
            self.tables.append({"id": dict(attrs).get("id"), "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append({"text": "", "bold": False, "value": dict(attrs).get("data-value")})

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "script" in self.stack or "style" in self.stack:
            return
        self.words.append(data)
        if self.stack and self.stack[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data
        if "td" in self.stack or "th" in self.stack:
            cell = self.tables[-1]["rows"][-1][-1]
            cell["text"] += data
            cell["bold"] |= "b" in self.stack

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, name: str) -> list[dict[str, dict[str, Any]]]:
        """Rows as {header: cell}."""
        header, *rows = next(table["rows"] for table in self.tables if table["id"] == name)
        names = [re.sub(r"\s+", " ", cell["text"]).strip() for cell in header]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def pictures(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.attributes if tag == "img"]


PROTOCOL = {"data": {"source": "fashion-mnist", "fingerprint": "8f3c" * 16}, "seeds": [0, 1], "recipes": [{"top_k": 0}]}


COMMANDS = ["wvq compare --config a.yaml && echo '<done>'", "wvq evaluate"]


def plain(quantizer: str, seed: int, **options: Any) -> RunReport:
    """A run without curves and samples, which are slow to draw."""
    run = run_report(quantizer, seed, prior=False, **options)
    run.tokenizer_metrics = []
    return run


def run_report(quantizer: str, seed: int, channels: int = 3, codes: int = 16, prior: bool = True) -> RunReport:
    generator = np.random.default_rng(seed)
    histogram = np.zeros(codes, np.int64)
    histogram[: codes // 2] = generator.integers(1, 100, codes // 2)
    tokenizer, sampler = [], []
    for step in (10, 20, 30):
        tokenizer.append({"step": step, "split": "train", "loss": 1 / step, "reconstruction_loss": 1 / step})
        scores = {"reconstruction_loss": 1 / step, "psnr": 20 + step / 10, "utilization": 0.5, "perplexity": 7.0}
        tokenizer.append({"step": step, "split": "evaluation", **scores})
        sampler.append({"step": step, "split": "train", "loss": 3.0 - step / 30})
        bits = {"bits_per_token": 4.0 - step / 30, "bigram_bits_per_token": 3.9}
        sampler.append({"step": step, "split": "evaluation", "loss": 2.5, **bits})
    originals = generator.integers(0, 256, (4, channels, 8, 8), dtype=np.uint8)
    if seed:  # the same images for every run
        originals = run_report(quantizer, 0, channels, codes).originals
    return RunReport(
        quantizer=quantizer,
        setting={},
        seed=seed,
        tokenizer_metrics=tokenizer,
        prior_metrics=sampler if prior else [],
        code_histogram=histogram,
        features=generator.normal(size=(50, 4)).astype(np.float32),
        codes=generator.normal(size=(codes, 4)).astype(np.float32),
        originals=originals,
        reconstructions=255 - originals,
        samples=generator.integers(0, 256, (3, 2, channels, 8, 8), dtype=np.uint8) if prior else None,
        class_names=CLASSES,
    )


def render(folder: Path, rows: list[dict], runs: list[RunReport] | None = None) -> tuple[str, Page]:
    runs = [plain(one["quantizer"], one["seed"]) for one in rows] if runs is None else runs
    comparison = {"protocol": PROTOCOL, "baseline": rows[0]["quantizer"], "rows": rows}
    write_report(folder / "report.html", comparison, runs, COMMANDS)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)
