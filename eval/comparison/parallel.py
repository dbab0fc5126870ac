"""Several trainings at once, each in a process of its own with its share of the cores, and a GPU if there are any.

Small networks leave cores idle at every synchronisation of their threads. On 2 shared cores with waiting threads
asleep, two trainings of one thread each made about twice the steps of one with two; on idle cores the gain is small.
"""

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from wvq.tokenizer import InputError
from wvq.tokenizer.progress import draw_on_line


def run_parallel(function: Callable[..., Any], chains: Sequence[Sequence[tuple[Any, ...]]], jobs: int) -> None:
    """Call function(*arguments) for each link of `chains`, at most `jobs` at a time; in this process if jobs is 1.

    A link begins when the one before it in its chain is done, after those that have waited longer. Each of several jobs
    sees one GPU of those that this process may use; of more jobs than GPUs, some share one.

    Raises:
        SystemExit: with the exit code of the first call that failed, after the others that were running have stopped.
    """
    waiting = deque(list(chain) for chain in chains if chain)
    if jobs == 1:
        while waiting:
            arguments, *rest = waiting.popleft()
            function(*arguments)
            waiting += [rest] if rest else []
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    places, gpus = list(range(jobs)), gpu_names()
    running: dict[multiprocessing.process.BaseProcess, tuple[int, list[tuple[Any, ...]]]] = {}  # place, what follows
    try:
        while waiting or running:
            while waiting and places:
                place = places.pop(0)
                arguments, *rest = waiting.popleft()
                process = context.Process(target=_work, args=(function, arguments, threads, place))
                with seeing(gpus[place % len(gpus)] if gpus else None):
                    process.start()
                running[process] = place, rest
            multiprocessing.connection.wait([process.sentinel for process in running])
            for process in [process for process in running if process.exitcode is not None]:
                place, rest = running.pop(process)
                places.append(place)
                waiting += [rest] if rest else []
                if process.exitcode:
                    raise SystemExit(process.exitcode)
    except KeyboardInterrupt:  # the others have had the same Ctrl-C
        raise SystemExit(130) from None
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def gpu_names() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them: numbers, or what the user called them."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if given is None else map(str.strip, given.split(","))
    return list(names)[:count]  # what follows a name that is no GPU's does not count


@contextmanager
def seeing(gpu: str | None) -> Iterator[None]:
    """Processes that are started here see this GPU alone: set before they begin, whatever they import."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], threads: int, place: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:  # a parent that was killed must not leave a child that goes on writing
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(threads)
    draw_on_line(place)
    try:
        function(*arguments)
    except InputError as error:
        print(f"wvq: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
