"""Folders of a tokenizer and of a pipeline, damaged at random: `python tests/hostile_folders.py --seconds 600`.

Each case loads a folder after a mutation of its JSON or safetensors. Loading either succeeds or raises `InputError`,
within seconds, within memory, and without writing anything, wherever that would be.
"""

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from wvq.pipelines import ClassConditionalPipeline
from wvq.prior import PriorConfig, build_prior
from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer

SECONDS_A_CASE = 20
MEMORY_A_CASE = 2 * 2**30  # bytes that a case may take beyond what the process has
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 3, 10**6, 10**9, 10**12, 2**63, 10**30, -(10**18), 0.5, 1e308, float("nan"),
    float("inf"), "", "x", "8", "../x", "/etc/passwd", "os", "__import__('os')", "\ud800", "a\nb", "owner/kernel", [],
    [1], [0, 1], [10**9], ["a"], {}, {"class_path": "os.system", "init_args": {}}, [[[[]]]], "float16", "gpt2", "llama",
    "ema", "transport", "kmeans++", "yarn", ["transformers", "LlamaForCausalLM"], ["os", "system"],
]  # fmt: skip
KEYS = [
    "auto_map", "attn_implementation", "_attn_implementation", "quantization_config", "torch_dtype", "rope_scaling",
    "trust_remote_code", "num_labels", "per_layer_config", "_class_name", "codebook_size", "class_names", "generation",
    "base_model_tp_plan", "name_or_path", "use_kernels", "distributed_config", "__class__", "__init__", "rope_type",
]  # fmt: skip


def write_folders(folder: Path) -> None:
    """A valid tokenizer in tokenizer/ and valid pipelines in llama/ and gpt2/."""
    torch.manual_seed(0)
    config = TokenizerConfig(
        image_size=8, channels=1, base_channels=8, channel_multipliers=(1, 1), num_blocks=1, latent_channels=8,
        codebook_size=16, codebook_dim=4,
    )  # fmt: skip
    tokenizer = VQTokenizer(config).eval()
    tokenizer.save_pretrained(folder / "tokenizer")
    for name in ("llama", "gpt2"):
        size = PriorConfig(
            architecture=name, hidden_size=16, num_layers=1, num_heads=2, num_codes=16, num_tokens=16, num_classes=2
        )
        ClassConditionalPipeline(tokenizer, build_prior(size), ("cat", "dog")).save_pretrained(folder / name)


def load(folder: Path) -> None:
    """Load the tokenizer, or the pipeline, of a folder."""
    loader = ClassConditionalPipeline if (folder / "prior").exists() else VQTokenizer
    loader.from_pretrained(folder)


def mutate(file: Path, rng: random.Random) -> None:
    """Change one file of a folder, by what it is."""
    content = file.read_bytes()
    if rng.random() < 0.1:
        _replace(file, rng)
    elif file.suffix == ".json" and rng.random() < 0.85:
        description = json.loads(content)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            description = _changed(description, rng)
        file.write_text(json.dumps(description))
    elif file.suffix == ".safetensors" and rng.random() < 0.7:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        header = _changed_header(header, rng) if rng.random() < 0.5 else _changed(header, rng)
        text = json.dumps(header).encode()
        claimed = rng.choice([len(text)] * 8 + [0, 2**40, 2**63, len(text) + 8])
        file.write_bytes(struct.pack("<Q", claimed) + text + content[8 + length :])
    else:
        damaged = bytearray(content[: rng.randrange(len(content) + 1)] if rng.random() < 0.3 else content)
        for _ in range(rng.choice((1, 3, 30))):
            if damaged:
                damaged[rng.randrange(min(len(damaged), rng.choice((16, 2000, len(damaged)))))] = rng.randrange(256)
        file.write_bytes(bytes(damaged))


def _replace(file: Path, rng: random.Random) -> None:
    """Something else under the file's name."""
    file.unlink()
    ways: list[Callable[[], Any]] = [
        lambda: None,
        file.mkdir,
        lambda: os.mkfifo(file),
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to("/etc/passwd"),
        lambda: file.symlink_to(file),
        lambda: file.write_text("[" * 100_000),
        lambda: file.write_text("1" * 10_000),
        lambda: file.write_bytes(b"\x80\x04cos\nsystem\n."),
        lambda: file.with_name("model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"x": rng.choice(["../x.safetensors", "/dev/zero", "config.json", 3, None])}})
        ),
        lambda: (file.touch(), os.truncate(file, 2**40)),
    ]
    rng.choice(ways)()


def _changed(value: Any, rng: random.Random) -> Any:
    """JSON with a value, at some depth, replaced, removed, added or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if kind < 0.3:
            return value | {rng.choice(KEYS): rng.choice(VALUES)}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        position = rng.randrange(len(value))
        return [*value[:position], _changed(value[position], rng), *value[position + rng.randrange(2) :]]
    if type(value) is int and rng.random() < 0.3:
        return value + rng.choice((-1, 1, value))
    return rng.choice(VALUES)


def _changed_header(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A safetensors header with another shape, type or extent of one tensor."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = dict(header[name])
    kind = rng.randrange(3)
    if kind == 0:
        entry["shape"] = rng.choice([[], [10**12], [10**9, 10**9], [0], entry["shape"][::-1], [*entry["shape"], 1]])
    elif kind == 1:
        entry["dtype"] = rng.choice(["F64", "F32", "F16", "BF16", "I64", "I32", "BOOL", "U8", "C64", "F8_E4M3", "X"])
    else:
        entry["data_offsets"] = rng.choice([[0, 0], [0, 2**60], [-1, 4], [8, 4], entry["data_offsets"][::-1]])
    return header | {name: entry}


@contextmanager
def guarded(written: list[str]) -> Iterator[None]:
    """Raise TimeoutError after `SECONDS_A_CASE`, MemoryError beyond `MEMORY_A_CASE`; note what is written where."""

    def too_long(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS_A_CASE} seconds")

    _written.append(written)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_A_CASE, limits[1]))
    signal.alarm(SECONDS_A_CASE)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, previous)
        _written.pop()


_written: list[list[str]] = []
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _written:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in _CHANGES or event in _RUNS:
        _written[-1].append(f"{event} {arguments[0]!r}")


sys.addaudithook(_audit)


def run_case(valid: Path, room: Path, seed: int) -> tuple[str, str]:
    """(name of the file mutated, "loaded" or "refused") of the case with this seed.

    Raises:
        AssertionError: for a file written, a process started, a connection made.
    """
    rng = random.Random(seed)
    kind = rng.choice(("tokenizer", "llama", "gpt2"))
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(valid / kind, room)
    file = rng.choice(sorted(path for path in room.rglob("*") if path.is_file()))
    mutate(file, rng)
    written: list[str] = []
    outcome = "loaded"
    with guarded(written):
        try:
            load(room)
        except InputError:
            outcome = "refused"
    assert not written, written
    return f"{kind}/{file.relative_to(room)}", outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    started, slowest = time.perf_counter(), 0.0
    counts: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        write_folders(Path(folder) / "valid")
        seed = options.seed
        while time.perf_counter() - started < options.seconds:
            begun = time.perf_counter()
            try:
                counts[run_case(Path(folder) / "valid", Path(folder) / "case", seed)[1]] += 1
            except BaseException as error:  # whatever else comes out of loading is what this is looking for
                if isinstance(error, KeyboardInterrupt):
                    raise
                counts["failed"] += 1
                failures.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
                print(failures[-1], flush=True)
            slowest = max(slowest, time.perf_counter() - begun)
            seed += 1
    seconds = time.perf_counter() - started
    print(f"{sum(counts.values())} cases in {seconds:.0f} s, the slowest {slowest:.1f} s: {dict(counts)}")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
