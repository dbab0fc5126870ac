"""Tokenizer, prior and pipeline are pushed to a hub and loaded from it, here one on 127.0.0.1."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from hub_server import TOKEN, Hub, local_hub
from tiny_pipelines import tiny_pipeline
from transformers import AutoModelForCausalLM

from wvq.pipelines import ClassConditionalPipeline, ReconstructionPipeline
from wvq.prior import load_prior
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.storage.hub import push_folder

NAME = "ann/shoes"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with local_hub(tmp_path / "cache") as hub:
        yield hub


def drawn(pipeline: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline([0, 1], generator=torch.Generator().manual_seed(0), output_type="uint8").images


def test_a_pushed_pipeline_is_loaded_by_its_name(hub: Hub, tmp_path: Path):
    pipeline = tiny_pipeline()
    assert pipeline.push_to_hub(NAME) == f"{hub.address}/{NAME}"
    loaded = ClassConditionalPipeline.from_pretrained(NAME)
    assert torch.equal(drawn(loaded), drawn(pipeline))
    downloaded = {path.split("/resolve/")[1].split("/", 1)[1] for path in hub.asked if "/resolve/" in path}
    assert not [name for name in downloaded if name.endswith(".py")]
    half: Any = ClassConditionalPipeline.from_pretrained(NAME, torch_dtype=torch.bfloat16, local_files_only=True)
    assert half.dtype == half.prior.dtype == torch.bfloat16
    for load in (VQTokenizer.from_pretrained, ReconstructionPipeline.from_pretrained):
        with pytest.raises(InputError, match=r"config\.json|does not describe"):
            load(NAME)


def test_every_part_is_loaded_from_a_cache_of_ones_own(hub: Hub, tmp_path: Path):
    pipeline = tiny_pipeline()
    pipeline.push_to_hub(NAME)
    place: dict[str, Any] = {"cache_dir": tmp_path / "mine"}
    loaded = VQTokenizer.from_pretrained(NAME, subfolder="tokenizer", **place)
    assert loaded.fingerprint == pipeline.tokenizer.fingerprint
    prior = load_prior(NAME, subfolder="prior", **place)
    assert all(map(torch.equal, prior.state_dict().values(), pipeline.prior.state_dict().values()))
    with pytest.raises(InputError, match=r"could be had from the cache; local_files_only asks nobody else"):
        ClassConditionalPipeline.from_pretrained(NAME, local_files_only=True)
    assert torch.equal(drawn(ClassConditionalPipeline.from_pretrained(NAME, **place)), drawn(pipeline))
    asked = len(hub.asked)
    ClassConditionalPipeline.from_pretrained(NAME, local_files_only=True, **place)
    assert len(hub.asked) == asked


def test_tokenizer_and_prior_are_pushed_alone(hub: Hub):
    pipeline = tiny_pipeline()
    pipeline.tokenizer.push_to_hub("ann/tokenizer", private=True)
    pipeline.prior.push_to_hub("ann/prior", private=True)
    assert all(repository.private for repository in hub.repositories.values())
    tokenizer, prior = VQTokenizer.from_pretrained("ann/tokenizer"), load_prior("ann/prior")
    assert torch.equal(drawn(ClassConditionalPipeline(tokenizer, prior)), drawn(pipeline))
    assert {"config.json", "model.safetensors", "generation_config.json"} < hub.repositories["ann/prior"].files.keys()


def test_a_private_repository_is_for_those_with_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    tiny_pipeline().push_to_hub(NAME, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_stranger")
    with pytest.raises(InputError, match=f"'{NAME}' is no folder, and no repository of that name could be had"):
        ClassConditionalPipeline.from_pretrained(NAME)
    ClassConditionalPipeline.from_pretrained(NAME, token=TOKEN)
    with pytest.raises(InputError, match="'ann/new' could not be pushed to: "):
        tiny_pipeline().push_to_hub("ann/new")
    assert tiny_pipeline().push_to_hub("ann/new", token=TOKEN)


def test_a_revision_is_a_branch_or_a_commit(hub: Hub):
    first, second = tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        second.tokenizer.from_codebook.weight.mul_(2)
    first.tokenizer.push_to_hub(NAME)
    commit = hub.repositories[NAME].branches["main"]
    second.tokenizer.push_to_hub(NAME, revision="better")
    second.tokenizer.push_to_hub(NAME)
    prints = {r: VQTokenizer.from_pretrained(NAME, revision=r).fingerprint for r in (None, "main", "better", commit)}
    assert prints[commit] == first.tokenizer.fingerprint
    assert prints[None] == prints["main"] == prints["better"] == second.tokenizer.fingerprint
    with pytest.raises(InputError, match="no repository of that name with the revision 'none' could be had"):
        VQTokenizer.from_pretrained(NAME, revision="none")


def test_the_authors_readme_stays(hub: Hub):
    pipeline = tiny_pipeline()
    pipeline.push_to_hub(NAME)
    hub.repositories[NAME].files["README.md"] = b"mine"
    pipeline.push_to_hub(NAME)
    assert hub.repositories[NAME].files["README.md"] == b"mine"


@pytest.mark.parametrize("subfolder", ["none", "..", "/", "../../.."])
def test_a_subfolder_lies_in_its_folder(tmp_path: Path, subfolder: str):
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    with pytest.raises(InputError, match=r"which .* does not have|leads out of its folder"):
        VQTokenizer.from_pretrained(tmp_path / "pipeline", subfolder=subfolder)


@pytest.mark.parametrize("name", ["no name", "a/b/c", "ann/absent"])
def test_what_cannot_be_pushed_to_is_named(hub: Hub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_stranger")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"'{name}' could not be pushed to: "):
        push_folder(tmp_path / "folder", name)


def test_a_cloned_repository_is_saved_into(hub: Hub, tmp_path: Path):
    pipeline = tiny_pipeline()
    for part, folder in ((pipeline, tmp_path / "clone"), (pipeline.tokenizer, tmp_path / "tokenizer")):
        (folder / ".git").mkdir(parents=True)
        for name in ("README.md", ".gitattributes", ".git/HEAD"):
            (folder / name).write_text("of the author")
        part.save_pretrained(folder)
        part.save_pretrained(folder)
        assert {(folder / name).read_text() for name in ("README.md", ".git/HEAD")} == {"of the author"}
        (folder / "notes.txt").touch()
        with pytest.raises(InputError, match=r"would be replaced, but holds 'notes\.txt' as well"):
            part.save_pretrained(folder)
        (folder / "notes.txt").unlink()
    push_folder(tmp_path / "clone", NAME)
    assert not [name for name in hub.repositories[NAME].files if name.startswith(".git/")]
    assert torch.equal(drawn(ClassConditionalPipeline.from_pretrained(NAME)), drawn(pipeline))


def test_diffusers_and_transformers_load_by_the_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path))
    pipeline = tiny_pipeline()
    pipeline.push_to_hub(NAME)
    own_cache: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    theirs = DiffusionPipeline.from_pretrained(NAME, trust_remote_code=True, **own_cache)
    assert torch.equal(drawn(theirs), drawn(pipeline))
    prior: Any = AutoModelForCausalLM.from_pretrained(NAME, subfolder="prior", **own_cache)
    assert torch.equal(prior.lm_head.weight, pipeline.prior.lm_head.weight)
    shutil.rmtree(tmp_path / "modules")
