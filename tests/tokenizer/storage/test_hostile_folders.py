"""A folder that somebody else made cannot run code, reach files elsewhere or take memory."""

import ast
import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_folders
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from wvq.eval.benchmarks.memory import peak_memory
from wvq.pipelines import ClassConditionalPipeline
from wvq.tokenizer import InputError
from wvq.tokenizer.storage.untrusted import MAX_JSON_BYTES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    hostile_folders.write_folders(folder)
    return folder


@pytest.fixture
def pipeline(valid: Path, tmp_path: Path) -> Path:
    """A pipeline to be damaged."""
    return Path(shutil.copytree(valid / "llama", tmp_path / "pipeline"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(folder: Path) -> str:
    """What the loader says, which must be soon, with little memory, and without writing anything."""
    written: list[str] = []
    started = time.perf_counter()
    with (
        peak_memory(torch.device("cpu")) as peak,
        hostile_folders.guarded(written),
        pytest.raises(InputError) as refused,
    ):
        hostile_folders.load(folder)
    assert time.perf_counter() - started < hostile_folders.SECONDS_A_CASE
    assert peak.bytes < 2**28
    assert not written
    return str(refused.value)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_folders_load_or_are_refused(valid: Path, tmp_path: Path, seed: int):
    assert hostile_folders.run_case(valid, tmp_path / "case", seed)[1] in ("loaded", "refused")


@pytest.mark.slow
def test_damaged_folders_for_a_minute(valid: Path, tmp_path: Path):
    started, outcomes = time.perf_counter(), []
    while time.perf_counter() - started < 60:
        outcomes.append(hostile_folders.run_case(valid, tmp_path / "case", len(outcomes))[1])
    assert {"loaded", "refused"} == set(outcomes)


def test_the_guard_notices_files_that_are_written_and_what_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written: list[str] = []
    with hostile_folders.guarded(written):
        (tmp_path / "x").write_text("x")
        (tmp_path / "x").unlink()
    assert [line.split()[0] for line in written] == ["open", "os.remove"]
    monkeypatch.setattr(hostile_folders, "SECONDS_A_CASE", 1)
    with pytest.raises(TimeoutError), hostile_folders.guarded(written):
        time.sleep(5)
    with pytest.raises(MemoryError), hostile_folders.guarded(written):
        bytearray(4 * hostile_folders.MEMORY_A_CASE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codebook_size", 10**12),
        ("codebook_dim", 10**9),
        ("base_channels", 10**6),
        ("num_blocks", 10**9),
        ("latent_channels", 10**30),
        ("channel_multipliers", [1] * 1000),
        ("quantizer_options", {"statistics_window": 10**12}),
        ("codebook_size", "16"),
        ("image_size", 8.0),
        ("attention", 1),
    ],
)
def test_a_tokenizers_configuration_takes_no_memory_that_its_weights_do_not(pipeline: Path, key: str, value: Any):
    edit(pipeline / "tokenizer" / "config.json", **{key: value})
    assert str(pipeline / "tokenizer") in refusal(pipeline)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 10**9),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 10**12),
        ("vocab_size", 10**12),
        ("num_attention_heads", 0),
        ("rope_parameters", {"rope_type": "yarn", "factor": "x"}),
        ("hidden_act", "os.system"),
        ("num_tokens", "16"),
        ("class_names", "cat"),
    ],
)
def test_a_priors_configuration_takes_no_memory_that_its_weights_do_not(pipeline: Path, key: str, value: Any):
    edit(pipeline / "prior" / "config.json", **{key: value})
    refusal(pipeline)


@pytest.mark.parametrize(
    "key",
    [
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "quantization_config",
        "trust_remote_code",
        "use_kernels",
    ],
)
def test_a_priors_configuration_cannot_name_code(pipeline: Path, key: str):
    (pipeline / "prior" / "hostile.py").write_text("raise SystemExit('ran')")
    edit(pipeline / "prior" / "config.json", **{key: {"AutoModelForCausalLM": "hostile.Model"}})
    assert f"has the unknown key '{key}'" in refusal(pipeline)


def test_other_files_beside_a_prior_are_not_looked_at(pipeline: Path):
    for name in ("adapter_config.json", "generation_config.json", "hostile.py", "pytorch_model.bin"):
        (pipeline / "prior" / name).write_text("no such thing")
    hostile_folders.load(pipeline)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "..", "config.json", "a/b.safetensors", 7])
def test_an_index_of_weights_names_files_beside_it(pipeline: Path, shard: Any):
    (pipeline / "prior" / "model.safetensors").rename(pipeline / "x.safetensors")
    index = {"weight_map": {"lm_head.weight": shard}}
    (pipeline / "prior" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names the file" in refusal(pipeline)


def test_weights_in_several_files_load(pipeline: Path):
    file = pipeline / "prior" / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    names = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for shard in set(names.values()):
        save_file({name: weights[name] for name in weights if names[name] == shard}, file.with_name(shard))
    file.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    loaded = ClassConditionalPipeline.from_pretrained(pipeline).prior.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    file.with_name("model-1.safetensors").unlink()
    assert "model-1.safetensors does not exist" in refusal(pipeline)


@pytest.mark.parametrize(
    "name", ["model_index.json", "tokenizer", "tokenizer/config.json", "prior/model.safetensors", "prior/config.json"]
)
def test_links_that_leave_the_folder_are_refused(pipeline: Path, tmp_path: Path, name: str):
    (pipeline / name).rename(tmp_path / "elsewhere")
    (pipeline / name).symlink_to(tmp_path / "elsewhere")
    assert "leads out of its folder" in refusal(pipeline)


def test_links_into_the_hubs_cache_are_followed(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blob = tmp_path / "hub" / "blobs" / "1234"
    blob.parent.mkdir(parents=True)
    (pipeline / "prior" / "model.safetensors").rename(blob)
    (pipeline / "prior" / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hostile_folders.load(pipeline)


def test_a_component_that_is_missing_is_not_looked_for_on_the_hub(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(pipeline / "tokenizer")
    monkeypatch.chdir(tmp_path)  # "pipeline/tokenizer" could be a repository
    assert "pipeline/tokenizer does not exist" in refusal(Path("pipeline"))


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (lambda file: os.mkfifo(file), "is no regular file"),
        (lambda file: file.mkdir(), "is no regular file"),
        (lambda file: file.symlink_to(file), "does not exist"),
        (lambda file: file.symlink_to("/dev/zero"), "leads out of its folder"),
        (lambda file: file.write_text("[" * 100_000), "is not valid JSON"),
        (lambda file: file.write_text("1" * 10_000), "is not valid JSON"),
        (lambda file: (file.touch(), os.truncate(file, MAX_JSON_BYTES + 1)), "bytes; at most"),
    ],
)
@pytest.mark.parametrize("name", ["model_index.json", "tokenizer/config.json", "prior/config.json"])
def test_what_is_no_file_of_json(pipeline: Path, name: str, replace: Callable[[Path], Any], message: str):
    (pipeline / name).unlink()
    replace(pipeline / name)
    assert message in refusal(pipeline)


@pytest.mark.parametrize("length", [2**63, 2**40, 0])
def test_a_header_of_weights_that_lies_about_its_length(pipeline: Path, length: int):
    file = pipeline / "tokenizer" / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    assert "does not hold the weights its config.json describes" in refusal(pipeline)


@pytest.mark.parametrize("names", ["cat", 3, ["cat", 3], {"cat": 0}, {"1": "cat"}, {"0": 3}])
def test_class_names_that_are_no_list_of_strings(pipeline: Path, names: Any):
    for key in ("id2label", "class_names"):
        edit(pipeline / "model_index.json", **{key: names})
        assert "they must be a list of strings" in refusal(pipeline)


def test_nothing_is_unpickled_on_the_way_from_a_folder_to_a_picture():
    """No call of torch.load, pickle or np.load(allow_pickle=True) in the packages; eval's check a sha256 beforehand."""
    may_call = {
        (ROOT / "pipelines" / "options" / "declarations.py", "exec"),  # modules of the packages, no other file
        (ROOT / "tokenizer" / "backbones" / "pickles.py", "torch.load"),  # published weights, by their sha256
    }
    for package in ("tokenizer", "prior", "pipelines"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    assert not {"pickle", "marshal", "shelve", "dill"} & set(names), file
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("torch.load", "eval", "exec") or (file, called) in may_call, file
                    if called == "torch.load":
                        assert "weights_only=True" in ast.unparse(node), file
                    trusted = [k for k in node.keywords if k.arg in ("allow_pickle", "trust_remote_code")]
                    assert all(ast.unparse(keyword.value) == "False" for keyword in trusted), file
