"""Which of Accelerate's engines trains, and how."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.parallelism_config import ParallelismConfig
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

from ..processes import this_process
from .config import TrainingConfig


def build_accelerator(config: TrainingConfig, may_shard: bool = False) -> Accelerator:
    """The engine that `accelerate launch` or `torchrun` asks for: one process, DDP, FSDP2 or HSDP.

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
    process = this_process()  # finds the processes on CPUs as well
    if sharded:
        check_mesh(process.num_processes)
    if AcceleratorState._shared_state.get("_mixed_precision", config.mixed_precision) != config.mixed_precision:
        AcceleratorState._shared_state.clear()  # an earlier run of this process had another; the processes stay known
    plugin = _sharding(config.mixed_precision) if sharded else None
    if plugin and process.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate takes plugin and mesh of GPUs alone, whatever the device is; there is no other way in.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        AcceleratorState._shared_state.clear()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps or 1,  # 0: to be found
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
        fsdp_plugin=plugin,
        log_with=list(config.log_with) or None,
        project_dir=config.output_dir,
    )
    config.check_processes(accelerator.num_processes)
    return accelerator


def check_mesh(num_processes: int) -> None:
    """Check the mesh of processes that `accelerate launch` asks for, if it does (launch/hsdp.yaml).

    Raises:
        InputError: if it has not as many places as there are processes, or divides more than the data.
    """
    if not parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        return
    mesh = ParallelismConfig()
    if mesh.non_dp_dim_names:
        raise InputError(
            f"accelerate launch asks for {', '.join(mesh.non_dp_dim_names)} parallelism; its sizes must be 1, since "
            "weights and data are divided here, layers and sequences are not"
        )
    if mesh.dp_shard_size == 1 or mesh.total_size != num_processes:
        raise InputError(
            f"accelerate launch asks for dp_replicate_size {mesh.dp_replicate_size} x dp_shard_size "
            f"{mesh.dp_shard_size} on {num_processes} processes; their product must be the number of processes, and "
            "dp_shard_size, the processes of a machine, at least 2"
        )


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


def _sharding(mixed_precision: str) -> FullyShardedDataParallelPlugin:
    """As the environment says; with bfloat16, gradients are still summed, and the loss returned, in float32."""
    if mixed_precision == "no":
        return FullyShardedDataParallelPlugin()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)
