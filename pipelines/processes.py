"""Which process this is of how many, and on which device."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def this_process() -> PartialState:
    """Which of how many processes this one is, and its device.

    Accelerate finds processes on CPUs only if it is told to look there.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def this_device() -> torch.device:
    """The device of this process: its accelerator, or the CPU."""
    return torch.device(this_process().device or "cpu")
