"""The files for `accelerate launch` that are shipped, read by Accelerate itself."""

from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parent.parent / "pipelines" / "launch"


def environment(name: str, **changes: int) -> dict[str, str]:
    """What `accelerate launch` tells the processes about their engine, with these options on its command line."""
    file = str(FOLDER / f"{name}.yaml")
    changed = [text for option, value in changes.items() for text in (f"--{option}", str(value))]
    options = launch_command_parser().parse_args(["--config_file", file, "--num_processes", "2", *changed, "script.py"])
    options, _, _ = _validate_launch_command(options)
    told = prepare_multi_gpu_env(options)
    engine = ("FSDP_", "PARALLELISM_CONFIG_", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_PARALLELISM_CONFIG")
    return {key: value for key, value in told.items() if key.startswith(engine)}
