"""The report's script in a browser: tables sort, images enlarge beside each other, by mouse and by keyboard."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import render, run_report
from report_rows import row

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--virtual-time-budget=5000")  # fmt: skip
DRIVER = """
addEventListener("load", () => {
  const seen = {}, press = key => document.getElementById("zoom").dispatchEvent(new KeyboardEvent("keydown", { key }));
  const names = id => [...document.querySelectorAll(`#${id} tbody tr`)].map(r => r.cells[0].textContent);
  const head = [...document.querySelectorAll("#rows th button")].find(b => b.textContent.startsWith("PSNR"));
  seen.buttons = document.querySelectorAll("th:not(tbody th):not(.strips th):not(.protocol th)").length
    - document.querySelectorAll("thead th button").length;
  seen.before = names("rows");
  head.click();
  seen.ascending = names("rows").concat(head.closest("th").getAttribute("aria-sort"));
  head.click();
  seen.descending = names("rows").concat(head.closest("th").getAttribute("aria-sort"));
  const strips = document.querySelectorAll("button.enlarge");
  strips[1].focus();
  seen.focused = document.activeElement === strips[1];
  strips[1].click();
  const view = () => [document.getElementById("zoom-title").textContent,
    ...[...document.querySelectorAll("#zoom-views figcaption")].map(c => c.textContent)];
  const pixels = () => [...document.querySelectorAll("#zoom-views canvas")].map(
    c => [c.width, c.height, ...c.getContext("2d").getImageData(0, 0, 1, 1).data]);
  seen.opened = [document.getElementById("zoom").open, ...view()];
  press("ArrowRight");
  seen.next = [view()[0], pixels()];
  const width = () => document.querySelector("#zoom-views canvas").getBoundingClientRect().width;
  const small = width();
  press("+");
  seen.larger = width() / small;
  press("ArrowLeft"); press("ArrowLeft");
  seen.wrapped = view()[0];
  seen.rendering = getComputedStyle(document.querySelector("#zoom-views canvas")).imageRendering;
  press("Escape");
  seen.closed = !document.getElementById("zoom").open;
  const sheet = [...strips].find(s => s.dataset.group === "Läufer"), box = sheet.getBoundingClientRect();
  const at = { detail: 1, clientX: box.left + box.width * 1.5 / sheet.dataset.columns, clientY: box.bottom - 5 };
  sheet.dispatchEvent(new MouseEvent("click", at));
  seen.samples = [view(), pixels(), Number(sheet.dataset.columns)];
  document.body.textContent = "SEEN" + JSON.stringify(seen) + "END";
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")
def test_script_in_a_browser(tmp_path: Path) -> None:
    rows = [
        row("low", 0, psnr=9.5),
        row("high", 0, psnr=24.0),
        row("none", 0, psnr=float("nan")),
        row("mid", 0, psnr=10.0),
    ]
    runs = [run_report(one["quantizer"], 0) for one in rows[:2]]
    for run in runs:  # more of a class than fit one row
        run.samples = np.random.default_rng(run.quantizer == "low").integers(0, 256, (3, 30, 3, 8, 8), dtype=np.uint8)
    text, _ = render(tmp_path, rows, runs + [run_report(one["quantizer"], 0, prior=False) for one in rows[2:]])
    page = tmp_path / "driven.html"
    page.write_text(text.replace("</script>", f"{DRIVER}</script>"), encoding="utf-8")
    seen = drive(page, tmp_path / "profile")
    assert seen["before"] == ["low", "high", "none", "mid"]
    assert seen["ascending"] == ["low", "mid", "high", "none", "ascending"]  # numbers, not text; what is not known last
    assert seen["descending"] == ["high", "mid", "low", "none", "descending"]
    assert seen["buttons"] == 0  # every header can be reached by the keyboard
    assert seen["focused"]
    labels = ["original", *(f"{name}, seed\N{NO-BREAK SPACE}0" for name in ("low", "high", "none", "mid"))]
    assert seen["opened"] == [True, "reconstructions: image 1 of 4", *labels]
    title, pixels = seen["next"]
    assert title == "reconstructions: image 2 of 4"
    originals, scale = runs[0].originals, pixels[0][0] // 8
    first = originals[1, :, 0, 0].tolist()
    assert pixels[0] == [8 * scale, 8 * scale, *first, 255]
    assert pixels[1] == [8 * scale, 8 * scale, *(255 - value for value in first), 255]
    assert seen["larger"] == pytest.approx(1.25, abs=0.02)
    assert seen["wrapped"] == "reconstructions: image 4 of 4"
    assert seen["rendering"] == "pixelated"
    assert seen["closed"]
    (title, *names), pixels, columns = seen["samples"]
    assert columns == 15
    assert title == "Läufer: image 17 of 30"  # the second of the second row
    assert names == [f"{label}: Läufer" for label in labels[1:3]]
    assert runs[0].samples is not None
    assert pixels[0][2:] == [*runs[0].samples[2, 16, :, 0, 0].tolist(), 255]


def drive(page: Path, profile: Path) -> dict[str, Any]:
    """What the driver saw on the page."""
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"SEEN(\{.*\})END", dumped, re.DOTALL)
    assert found, dumped[-2000:]
    return json.loads(html.unescape(found[1]))
