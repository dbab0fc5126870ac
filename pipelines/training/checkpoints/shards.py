"""Tensors that are sharded over processes, in safetensors: each process writes its shards, any number of them reads.

The files are those of `torch.distributed.checkpoint` in the layout of Hugging Face: what a shard is a part of stands in
the header of its file, as JSON. The default layout of that library keeps it in a pickle.
"""

import errno
import math
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.untrusted import first_line

Tensors = dict[str, Tensor]


class ShardWriter:
    """Copies the shards of this process to main memory, and writes such copies while training goes on.

    Memory for one copy is kept, since it may have to be pinned.

    Args:
        device: of the tensors.

    Attributes:
        group: of the processes, for the collective calls of a save: those of training go on at the same time.
    """

    def __init__(self, device: torch.device):
        self.device = device
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # which every process is in
        self.group = group
        pinned = device.type == "cuda"
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=pinned,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=pinned,
            )
        )

    def copy(self, tensors: Tensors) -> Tensors:
        """The tensors in main memory; a copy that was made before is gone."""
        return self._stager.stage(tensors)  # pyright: ignore[reportReturnType]  # at once, not a future

    def write(self, folder: Path, copies: Tensors) -> list[Path]:
        """Write what `copy` gave; returns this process's files. A collective call.

        A tensor that several processes have, whole or as equal shards, is written by one of them.

        Raises:
            OSError: on all processes alike, if one of them cannot write.
        """
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # each thread begins on the first GPU, and would take memory there
        try:
            save(
                copies,  # pyright: ignore[reportArgumentType]
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
                planner=DefaultSavePlanner(flatten_state_dict=False),
                process_group=self.group,
            )
        except CheckpointException as error:
            raise OSError(errno.EIO, f"could not be written ({_reason(error)})", str(folder)) from error
        return sorted(folder.glob(f"shard-{dist.get_rank(self.group) + 1:05d}-*.safetensors"))


def has_shards(folder: Path) -> bool:
    """Whether a folder holds tensors in shards."""
    return any(folder.glob("shard-*.safetensors"))


def saved_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in the files of a folder, from their headers.

    Raises:
        InputError: if a tensor is not there as a whole.
    """
    shapes = {}
    for name, saved in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata.items():
        assert isinstance(saved, TensorStorageMetadata)  # the one kind that this reader makes
        if sum(math.prod(chunk.sizes) for chunk in saved.chunks) != math.prod(saved.size):
            raise InputError(f"{folder} does not hold all of {name}")
        shapes[name] = saved.size, saved.properties.dtype
    return shapes


def read_shards(folder: Path, tensors: Tensors) -> None:
    """Fill tensors, sharded in any way or not at all, with those of their names in a folder.

    Each process reads its own shards, whatever the others do.

    Raises:
        InputError: for one that is missing or has another shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # reading needs no other process
            load(
                tensors,
                storage_reader=HuggingFaceStorageReader(str(folder)),
                planner=DefaultLoadPlanner(flatten_state_dict=False),
                no_dist=True,
            )
    except CheckpointException as error:
        raise InputError(f"{folder} does not hold what this run would resume from: {_reason(error)}") from error


def named_tensors(module: nn.Module) -> Tensors:
    """The state of a module, in which a tensor that has two names, as tied tables do, has the first alone."""
    once = dict(module.named_parameters()).keys()
    second_names = dict(module.named_parameters(remove_duplicate=False)).keys() - once
    return {name: tensor for name, tensor in module.state_dict().items() if name not in second_names}


def _reason(error: CheckpointException) -> str:
    cause, _ = next(iter(error.failures.values()))
    return first_line(cause)
