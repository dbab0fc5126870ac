"""One process, DDP, FSDP2 and HSDP (shards within a machine, replicas between) train the same prior, to rounding."""

import os
from pathlib import Path
from typing import Any

import pytest
from launch_files import environment
from processes import run
from toy_runs import assert_close_runs, changed, rows, toy_stage

from wvq.pipelines import train_prior as stage_two
from wvq.pipelines.training import sharding
from wvq.pipelines.training.accelerator import build_accelerator, check_mesh
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError

MESH = {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 2}
ROUNDING = {"adamw": 1e-5, "muon": 2e-3}  # Muon computes in bfloat16


def train(config: Any, launch: dict[str, str], mesh: tuple[int, ...]) -> None:
    """Train as `accelerate launch` would, on processes that form this mesh; the first alone may have whole weights."""
    os.environ.update(launch)

    def whole_model(model: TokenLoss) -> TokenLoss:
        whole = sharding.whole_model(model)
        first = int(os.environ.get("RANK", "0")) == 0
        assert all(weight.is_meta == bool(launch and not first) for weight in whole.parameters())
        return whole

    stage_two.whole_model = whole_model
    stage_two.train_prior(config)
    if launch:
        accelerator = build_accelerator(config, may_shard=True)
        assert accelerator.is_fsdp2
        known = accelerator.torch_device_mesh
        assert (known.shape if known else (accelerator.num_processes,)) == mesh


def engines(images: Path, folder: Path, names: list[str], **changes: Any) -> dict[str, Any]:
    """The configurations of runs of these engines on four processes, and of "one" on a single one, all finished."""
    _, config = toy_stage("prior", images, folder)
    launches = {"one": {}, "ddp": {}, "fsdp": environment("fsdp"), "hsdp": environment("hsdp", **MESH)}
    configs = {name: changed(config, name, ema_decay=0.8, **changes) for name in names}
    for name, each in configs.items():
        run(1 if name == "one" else 4, train, each, launches[name], (2, 2) if name == "hsdp" else (4,))
    return configs


def test_a_mesh_of_two_by_two_trains_what_one_process_does(fashion_folder: Path, tmp_path: Path):
    configs = engines(fashion_folder, tmp_path, ["one", "hsdp"], optimizer="muon", code_geometry=8)
    assert_close_runs(configs["one"], configs["hsdp"], metrics=1e-4, rtol=0, atol=ROUNDING["muon"])
    pictures = (Path(each.output_dir) / "images" / "step-00000008.png" for each in configs.values())
    assert all(picture.exists() for picture in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", list(ROUNDING))
def test_all_engines_have_equal_losses_over_30_steps(optimizer: Any, fashion_folder: Path, tmp_path: Path):
    schedule = {"steps": 30, "evaluate_every": 10, "checkpoint_every": 30, "sample_every": 0}
    configs = engines(fashion_folder, tmp_path, ["one", "ddp", "fsdp", "hsdp"], optimizer=optimizer, **schedule)
    for split in ("train", "evaluation"):
        losses = {name: [row["loss"] for row in rows(config, split)] for name, config in configs.items()}
        for its in losses.values():
            assert its == pytest.approx(losses["one"], rel=ROUNDING[optimizer] / 10)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"DP_REPLICATE_SIZE": "2", "DP_SHARD_SIZE": "8"}, "dp_replicate_size 2 x dp_shard_size 8 on 4 processes"),
        ({"DP_REPLICATE_SIZE": "4"}, "dp_replicate_size 4 x dp_shard_size 1 on 4 processes"),
        ({"DP_SHARD_SIZE": "2", "TP_SIZE": "2"}, "asks for tp parallelism; its sizes must be 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    for name, size in sizes.items():
        monkeypatch.setenv(f"PARALLELISM_CONFIG_{name}", size)
    with pytest.raises(InputError, match=message):
        check_mesh(4)
