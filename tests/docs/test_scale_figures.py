"""The plan on paper quotes what its script prints, and the script reads what was measured."""

import json
import subprocess
import sys

from doc_pages import ROOT, tables

PAGE = ROOT / "docs" / "scale.md"
SCRIPT = ROOT / "docs" / "scale_figures.py"


def test_the_page_quotes_what_the_script_prints():
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    printed = run.stdout.splitlines()
    section = PAGE.read_text().partition("## 1,000 GPUs and a billion images, on paper\n")[2]
    text = " ".join(section.split())
    assert [line for line in printed if line not in text] == []
    # And the other way round: rows with bytes are printed ones.
    rows = [row for table in tables(PAGE) for row in table[2:] if row.endswith("B |")]
    assert len(rows) == 13
    assert [row for row in rows if row not in printed] == []


def test_what_was_measured_says_how():
    figures = json.loads((ROOT / "eval" / "results" / "scale.json").read_text())
    read = SCRIPT.read_text()
    for name, about in figures.items():
        assert about.keys() == {"value", "what", "how"}
        assert f'measured("{name}")' in read or f"measured('{name}')" in read, f"nothing reads {name}"
