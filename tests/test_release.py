"""What a release needs: one version, a list of changes, a citation, and a workflow that publishes by its identity."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE = ("*.py", "*.toml", "*.yaml", "*.yml", "*.cff", "*.md")


def test_the_version_stands_in_one_place() -> None:
    version = re.compile(rf"(?<![\d.]){re.escape(PROJECT['version'])}(?![\d.])")
    named = {
        file.relative_to(ROOT).as_posix()
        for folder in (ROOT, *(ROOT / name for name in ("docs", "tokenizer", "prior", "pipelines", "eval")))
        for pattern in CODE
        for file in (folder.glob(pattern) if folder == ROOT else folder.rglob(pattern))
        if any(version.search(line) and "==" not in line for line in file.read_text().splitlines())
    }
    assert named == {"pyproject.toml", "CHANGELOG.md"}


def test_the_changes_of_the_version_are_written_down() -> None:
    versions = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == PROJECT["version"]


def test_the_citation_has_what_the_format_asks_for() -> None:
    """Citation File Format 1.2.0: these four keys; a reference has a type, a title and authors."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["authors"] == [{"name": "The wvq authors"}]
    assert citation["title"].startswith(PROJECT["name"])
    assert citation["license"] == PROJECT["license"]
    assert "version" not in citation  # it stands in one place
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_the_workflow_publishes_by_its_identity_alone() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    assert workflow["permissions"] == {}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert build["permissions"] == {"contents": "read"}
    assert publish["permissions"]["id-token"] == "write"
    assert not re.search(r"secrets\.|password|token:(?! write)", text)
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert publish["steps"][-1]["with"] == {"attestations": True}


def test_every_supported_python_is_named() -> None:
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert named == {"3.11", "3.12", "3.13", "3.14"}
    assert PROJECT["requires-python"] == ">=3.11"
