"""Everything that the next step of a run depends on and its configuration does not say, in safetensors and JSON."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from wvq.tokenizer.distributed import rows_of_all_processes, whole_tensor
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

from ..sharding import is_sharded
from ..step_record import StepRecord
from .shards import ShardWriter, Tensors, has_shards, named_tensors, read_shards, saved_shapes


class TrainingState:
    """Weights, optimizers, moving average, partial sums of the metrics, and random numbers of every process.

    Nothing is pickled, unlike in Accelerate's `save_state`. It is saved whole, by the first process, or in shards, each
    process its own, while training goes on; any number of processes loads either.

    Args:
        accelerator: whose processes these are.
        model: prepared.
        optimizers: prepared.
        record: of the steps since the last line of metrics.
        average: moving average of the weights, if there is one.

    Attributes:
        shards: what copies and writes the shards of this process, or None if the weights are not sharded.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizers: Sequence[Any],
        record: StepRecord,
        average: nn.Module | None = None,
    ):
        self.accelerator, self.record = accelerator, record
        self.modules = {"model": accelerator.unwrap_model(model)} | ({"average": average} if average else {})
        self.optimizers = [prepared.optimizer for prepared in optimizers]
        self.shards = ShardWriter(accelerator.device) if is_sharded(model) else None

    def gather(self) -> tuple[dict[str, Tensors], dict[str, int]]:
        """(tensors by file, counts for JSON), complete on the first process; a collective call."""
        tensors = {name: self._copies(module.state_dict()) for name, module in self.modules.items()}
        tensors["optimizers"] = self._copies(self._moments())
        tensors["processes"] = self._copies(self._rows())
        return tensors, self.record.counts()

    def copy_shards(self, shards: ShardWriter) -> tuple[Tensors, dict[str, Tensors], dict[str, int]]:
        """(this process's shards, the rest as `gather` has it), in main memory; a collective call."""
        named = {name: named_tensors(module) for name, module in self.modules.items()} | {"optimizers": self._moments()}
        own = {f"{name}.{key}": value for name, tensors in named.items() for key, value in tensors.items()}
        return shards.copy(own), {"processes": self._copies(self._rows())}, self.record.counts()

    def _moments(self) -> Tensors:
        """The states of the optimizers by number of optimizer and parameter, and name."""
        return {
            f"{o}.{index}.{name}": value
            for o, optimizer in enumerate(self.optimizers)
            for index, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }

    def _rows(self) -> Tensors:
        """What each process has its own of, a row a process."""
        own = {f"sum.{name}": total for name, total in self.record.sums.items()} | {"random": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            own["device_random"] = torch.cuda.get_rng_state(self.accelerator.device)
        return {name: rows_of_all_processes(row[None].to(self.accelerator.device)) for name, row in own.items()}

    def _copies(self, tensors: Tensors) -> Tensors:
        copies = {}
        for name, tensor in tensors.items():
            whole = whole_tensor(tensor)
            if self.accelerator.is_main_process:
                copies[name] = whole.detach().to("cpu", copy=True).contiguous()
        return copies

    def load(self, folder: Path) -> None:
        """Load what was saved, whole or in shards; every process reads the folder.

        Raises:
            InputError: for a file that is missing, is no safetensors, or does not fit the model.
        """
        file = folder
        try:
            if has_shards(folder):
                self._load_shards(folder)
            else:
                for name, module in self.modules.items():
                    file = folder / f"{name}.safetensors"
                    loaded, current = load_file(file), module.state_dict()
                    module.load_state_dict({key: _placed(value, current.get(key)) for key, value in loaded.items()})
                file = folder / "optimizers.safetensors"
                self._load_optimizers(load_file(file))
            file = folder / "processes.safetensors"
            self._load_own(load_file(file), read_json(folder / "state.json"))
        except (SafetensorError, FileNotFoundError, RuntimeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).strip().splitlines()[-1].strip()
            raise InputError(f"{file} does not hold what this run would resume from: {reason}") from error

    def _load_optimizers(self, loaded: Tensors) -> None:
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.optimizers]
        for key, value in loaded.items():
            o, index, name = _place(key)
            states[o].setdefault(index, {})[name] = _placed(value, self._parameters(o)[index])
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _parameters(self, o: int) -> list[Tensor]:
        """Those of an optimizer in the order in which its state counts them."""
        return [parameter for group in self.optimizers[o].param_groups for parameter in group["params"]]

    def _load_shards(self, folder: Path) -> None:
        saved = saved_shapes(folder)
        modules = {name: named_tensors(module) for name, module in self.modules.items()}
        tensors = {f"{name}.{key}": value for name, own in modules.items() for key, value in own.items()}
        names = {name for name in saved if name.startswith(("model.", "average."))}
        for name in sorted(names ^ tensors.keys()):
            raise InputError(f"{folder}: {name} is {'no part of this run' if name in names else 'missing'}")
        moments: Tensors = {}
        for name, (shape, dtype) in saved.items():
            if name.startswith("optimizers."):
                key = name.removeprefix("optimizers.")
                o, index, _ = _place(key)
                like = self._parameters(o)[index]
                number = torch.empty((), dtype=dtype, device="cpu")  # of steps
                moments[key] = torch.empty_like(like, dtype=dtype, requires_grad=False) if shape else number
        read_shards(folder, tensors | {f"optimizers.{key}": value for key, value in moments.items()})
        self._load_optimizers(moments)

    def _load_own(self, rows: Tensors, counts: dict[str, int]) -> None:
        saved, now, device = len(rows["random"]), self.accelerator.num_processes, self.accelerator.device
        # Clones, since set_rng_state reads beyond a state that is not aligned in memory, as rows of a file may be.
        own = {name: row[self.accelerator.process_index % saved].clone() for name, row in rows.items()}
        if saved != now:
            own |= {name: row.mean(dim=0) for name, row in rows.items() if name.startswith("sum.")}
            if self.accelerator.is_main_process:
                print(f"saved by {saved} processes, resumed by {now}: equal to rounding, not exactly", file=sys.stderr)
        sums = {name.removeprefix("sum."): value.to(device) for name, value in own.items() if name.startswith("sum.")}
        self.record.load(sums, counts)
        torch.set_rng_state(own["random"])
        if "device_random" in own and device.type == "cuda":
            torch.cuda.set_rng_state(own["device_random"], device)


def write_state(folder: Path, tensors: dict[str, Tensors], counts: dict[str, int]) -> None:
    """Write what `TrainingState.gather` gave into folder."""
    for name, content in tensors.items():
        save_file(content, folder / f"{name}.safetensors")
    write_json(folder / "state.json", counts)


def _place(key: str) -> tuple[int, int, str]:
    """Number of the optimizer and of the parameter, and name, of an optimizer's tensor."""
    o, index, name = key.split(".", 2)
    return int(o), int(index), name


def _placed(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor, sharded in the way of the one whose place it takes."""
    whole = not isinstance(tensor, DTensor)
    if isinstance(like, DTensor) and whole and tensor.ndim == like.ndim:  # not the number of steps of a parameter
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor
