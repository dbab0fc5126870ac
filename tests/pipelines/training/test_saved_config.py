"""A configuration in a JSON file: read with the defaults of what it lacks, compared with that of a run that resumes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from toy_run_folders import Process, Training

from wvq.eval.comparison.config import Comparison
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.pipelines.training.saved_config import MAY_CHANGE, as_json, first_difference, read_config
from wvq.tokenizer import InputError, TokenizerConfig


@dataclass(frozen=True)
class Inner:
    width: int
    names: tuple[str, ...] = ("a", "b")

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"width is {self.width}; it must be at least 1")


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=lambda: Inner(7))
    several: dict[str, Inner] = field(default_factory=dict)
    perhaps: Inner | None = None
    span: tuple[int, int] | None = None
    kind: Literal["one", "two"] = "one"
    flag: bool = False
    anything: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def read(file: Path, content: Any, config_class: type = Outer, **missing: Any) -> Any:
    file.write_text(json.dumps(content))
    return read_config(file, config_class, **missing)


# Reading


def test_what_was_written_is_read(file: Path):
    config = Outer(
        0.5, Inner(3, ("c",)), {"x": Inner(1), "y": Inner(2)}, Inner(4), (1, 2), "two", True, {"any": [1, None]}
    )
    assert read(file, as_json(config)) == config


def test_what_is_missing_has_its_default_at_every_depth(file: Path):
    assert read(file, {"rate": 1}) == Outer(1)
    assert read(file, {}, rate=0.5) == Outer(0.5)
    content = {"rate": 1, "inner": {"width": 3}, "several": {"x": {"width": 5}}, "perhaps": {"width": 6}}
    assert read(file, content) == Outer(1, Inner(3), {"x": Inner(5)}, Inner(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rate": 1, "later": 2}, "later is a field that this version does not have"),
        ({"rate": 1, "inner": {"width": 3, "depth": 1}}, r"inner\.depth is a field that this version does not have"),
        ({"rate": 1, "several": {"x": {"height": 3}}}, r"several\.x\.height is a field that this version does not"),
        ({"inner": {"width": 3}}, "rate is missing and has no default"),
        ({"rate": 1, "perhaps": {"names": []}}, r"perhaps\.width is missing and has no default"),
        ({"rate": "1"}, "rate is '1'; it must be of type float"),
        ({"rate": None}, "rate is None; it must be of type float"),
        ({"rate": 1, "inner": 3}, "inner is 3; it must be of type Inner"),
        ({"rate": 1, "inner": {"width": "3"}}, r"inner\.width is '3'; it must be of type int"),
        ({"rate": 1, "inner": {"width": True}}, r"inner\.width is True; it must be of type int"),
        ({"rate": 1, "inner": {"width": 3, "names": [1]}}, r"inner\.names is \(1,\); it must be of type tuple\[str"),
        ({"rate": 1, "span": ["1", "2"]}, "span is .*; it must be of type tuple"),
        ({"rate": 1, "kind": "three"}, "kind is 'three'; it must be of type .*'one', 'two'"),
        ({"rate": 1, "flag": 1}, "flag is 1; it must be of type bool"),
        ({"rate": 1, "inner": {"width": 0}}, "width is 0; it must be at least 1"),
        ([1], "does not hold a configuration"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(file: Path, content: Any, message: str):
    with pytest.raises(InputError, match=rf"config\.json:? .*{message}"):
        read(file, content)


def nested_names(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        yield (*prefix, name)
        if isinstance(value, dict) and name not in ("methods", "quantizer_options"):
            yield from nested_names(value, (*prefix, name))


@pytest.mark.parametrize("config_class", [TokenizerTraining, PriorTraining, Comparison])
def test_any_field_of_a_real_configuration_may_be_missing(file: Path, config_class: type):
    config = config_class()
    assert as_json(read(file, as_json(config), config_class)) == as_json(config)
    for *groups, name in nested_names(as_json(config)):
        content = inner = as_json(config)
        for group in groups:
            inner = inner[group]
        del inner[name]
        assert as_json(read(file, content, config_class)) == as_json(config)


# Comparing


def test_first_difference():
    assert first_difference({}, {}) is None
    assert first_difference({"a": {"b": 1}, "c": [1]}, {"c": [1], "a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ("a.c", 2, 3)
    assert first_difference({"a": 1}, {}) == ("a", 1, None)
    assert first_difference({"a": {"x": 1}}, {"a": 5}) == ("a", {"x": 1}, 5)
    assert first_difference({"b": 1, "a": 1}, {"b": 2, "a": 2}) == ("a", 1, 2)
    assert first_difference({"a": {"b": 1}, "b": 3}, {"a": {"b": 2}, "b": 4}, {"a.b"}) == ("b", 3, 4)
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}, {"a"}) is None


@pytest.mark.parametrize("config_class", [TokenizerTraining, PriorTraining])
def test_the_fields_that_may_change_are_fields_of_a_training(config_class: type):
    fields = {".".join(names) for names in nested_names(as_json(config_class()))}
    assert set(MAY_CHANGE) - fields <= {"evaluation_images", "sample_every", "sample_guidance_scale", "compile",
                                        "gradient_checkpointing"}  # fmt: skip


# Of a run


@pytest.fixture
def config(tmp_path: Path) -> Training:
    return Training(output_dir=str(tmp_path / "run"))


def recorded(config: Training) -> dict[str, Any]:
    return json.loads((Path(config.output_dir) / "run.json").read_text())


def test_same_configuration_resumes(config: Training):
    Process(config)
    assert not Process(config).run.finished
    assert "output_dir" not in recorded(config)


def test_folder_may_be_moved(config: Training, tmp_path: Path):
    Process(config)
    (tmp_path / "run").rename(tmp_path / "moved")
    Process(replace(config, output_dir=str(tmp_path / "moved")))


def test_other_configuration_is_refused_by_the_name_of_its_field(config: Training):
    Process(config).save(3)
    before = (Path(config.output_dir) / "run.json").read_text()
    with pytest.raises(InputError, match=r"holds a run with steps = 10, this one has 20; give it another --output-dir"):
        Process(replace(config, steps=20))
    with pytest.raises(InputError, match=r"model\.codebook_size = 16384, this one has 8192"):
        Process(replace(config, model=TokenizerConfig(codebook_size=8192)))
    with pytest.raises(InputError, match=r"model\.quantizer_options\.commitment_weight = None, this one has 1\.0"):
        Process(replace(config, model=TokenizerConfig(quantizer_options={"commitment_weight": 1.0})))
    with pytest.raises(InputError, match=r"rates = \[0\.1, 0\.2\], this one has \[0\.1\]"):
        Process(replace(config, rates=(0.1,)))
    assert (Path(config.output_dir) / "run.json").read_text() == before


def test_a_run_of_an_older_version_resumes_with_the_defaults(config: Training):
    """Its file is complete once there is a checkpoint by this version, whatever the defaults of later ones."""
    Process(config).save(3)
    complete = recorded(config)
    older = json.loads(json.dumps(complete))
    del older["rates"], older["model"]["attention"], older["keep_checkpoints"]
    (Path(config.output_dir) / "run.json").write_text(json.dumps(older))
    with pytest.raises(InputError, match=r"model\.attention = False, this one has True"):
        Process(replace(config, model=replace(config.model, attention=True)))
    process = Process(config)
    assert process.resume() == 3
    assert recorded(config) == older
    process.save(6)
    assert recorded(config) == complete


def test_a_run_of_a_later_version_is_refused(config: Training):
    Process(config)
    later = recorded(config) | {"sharpness": 0.5}
    (Path(config.output_dir) / "run.json").write_text(json.dumps(later))
    with pytest.raises(InputError, match=r"run\.json: sharpness is a field that this version does not have"):
        Process(config)


def test_the_file_says_what_the_newest_checkpoint_was_written_with(config: Training):
    Process(config).save(3)
    often = replace(config, checkpoint_every=1, keep_checkpoints=1)
    process = Process(often)
    assert process.resume() == 3
    assert recorded(config)["checkpoint_every"] == config.checkpoint_every
    process.save(4)
    assert recorded(config) == {name: value for name, value in as_json(often).items() if name != "output_dir"}
    assert [path.name for path in process.folder.iterdir()] == ["step-00000004"]
    assert Process(config).resume() == 4
