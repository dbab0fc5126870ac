"""Which of Accelerate's engines trains, and how."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedType,
    FullyShardedDataParallelPlugin,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import first_line

from ..processes import this_process
from .config import TrainingConfig


def build_accelerator(config: TrainingConfig, may_shard: bool = False) -> Accelerator:
    """The engine that `accelerate launch` or `torchrun` asks for: one process, DDP or FSDP2.

    Accelerate leaves FSDP to GPUs and would train with DDP on CPUs without a word; here CPUs shard as well.

    Args:
        config: of the training.
        may_shard: whether this training can have its weights sharded.

    Raises:
        InputError: for an engine that cannot do this training (the message says which can), a tracker that is unknown
            or not installed, or a batch that the processes cannot share out evenly.
    """
    check_trackers(config.log_with)
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise InputError(
            "accelerate launch asks for DeepSpeed, which takes a single optimizer and makes its step before gradients "
            "can be checked; valid are FSDP2 (launch/fsdp.yaml), which shards weights, gradients and optimizers as "
            "ZeRO-3 does, and DDP (launch/ddp.yaml)"
        )
    if sharded and not may_shard:
        raise InputError("accelerate launch asks for FSDP; a tokenizer is small, and trains with DDP (launch/ddp.yaml)")
    if sharded and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise InputError(f"accelerate launch asks for fsdp_version {version}; it must be 2, as in launch/fsdp.yaml")
    this_process()  # finds the processes on CPUs as well
    if AcceleratorState._shared_state.get("_mixed_precision", config.mixed_precision) != config.mixed_precision:
        AcceleratorState._shared_state.clear()  # an earlier run of this process had another; the processes stay known
    plugin = _sharding(config.mixed_precision) if sharded else None
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps or 1,  # 0: to be found
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
        fsdp_plugin=plugin,
        log_with=list(config.log_with) or None,
        project_dir=config.output_dir,
    )
    if plugin and accelerator.distributed_type == DistributedType.MULTI_CPU:
        AcceleratorState._shared_state["fsdp_plugin"] = plugin
        for state in (AcceleratorState, PartialState):  # which all Accelerators share; there is no other way in
            state._shared_state["distributed_type"] = DistributedType.FSDP
    config.check_processes(accelerator.num_processes)
    return accelerator


def note_precision(folder: Path, accelerator: Accelerator, layers: str, say: Callable[[str], None]) -> None:
    """On another device than a CPU: say what is computed in which precision, and write it into precision.json.

    Args:
        folder: of the run.
        layers: what float32 products of layers are computed in.
        say: shows a line.
    """
    device = accelerator.device
    if device.type == "cpu":
        return
    precision = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "layers": "bfloat16" if accelerator.mixed_precision == "bf16" else layers,
        "weights": "float32",
        "quantizer": "float32",
    }
    say("; ".join(f"{what}: {kind}" for what, kind in precision.items()))
    on_first_process(lambda: write_json(folder / "precision.json", precision))


def check_trackers(names: Sequence[str]) -> None:
    """Check that all these trackers can be used: Accelerate passes over those that are not installed.

    Raises:
        InputError: for one that is unknown or not installed; the message says how to install it.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    known = ["all", *LOGGER_TYPE_TO_CLASS]
    for name in names:
        if name not in known:
            raise InputError(f"log_with has {name!r}, which is no tracker; valid are {', '.join(known)}")
        if name not in available and not (name == "all" and available):
            package = "tensorboard" if name == "all" else name.replace("_", "-")
            raise InputError(f"log_with has {name!r}, but it is not installed; pip install {package}")


def start_trackers(accelerator: Accelerator, project: str) -> None:
    """Start the trackers of an accelerator.

    Raises:
        InputError: if one does not start, as where nobody has logged in; the reason is the tracker's own.
    """
    try:
        accelerator.init_trackers(project)
    except Exception as error:  # each tracker has exceptions of its own
        raise InputError(f"a tracker of log_with does not start: {first_line(error)}") from error


def _sharding(mixed_precision: str) -> FullyShardedDataParallelPlugin:
    """As the environment says; with bfloat16, gradients are still summed, and the loss returned, in float32."""
    if mixed_precision == "no":
        return FullyShardedDataParallelPlugin()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)
