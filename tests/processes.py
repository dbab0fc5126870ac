"""Functions in several processes that form one world, started from a server that has everything imported."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["wvq.pipelines.command_line", "wvq.pipelines.train_prior", "wvq.pipelines.train_tokenizer"]
)


def start(world: int, function: Callable[..., Any], *arguments: Any) -> list[BaseProcess]:
    """Start function(*arguments) in `world` processes, on the CPU and with one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [(rank, world, port, function, arguments) for rank in range(world)]
    processes: list[BaseProcess] = [CONTEXT.Process(target=_run, args=rank) for rank in ranks]
    for process in processes:
        process.start()
    return processes


def run(world: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call function(*arguments) in `world` processes and wait for them; their tracebacks go to stderr."""
    processes = start(world, function, *arguments)
    for process in processes:
        process.join(timeout=900)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world, f"exit codes {codes}"


def _run(rank: int, world: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}  # FSDP would shard over GPUs that it sees
    if world > 1:
        # Without it Accelerate gives each of several processes more threads, which round otherwise.
        os.environ["OMP_NUM_THREADS"] = "1"
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    function(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
