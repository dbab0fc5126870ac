"""Ray on this machine alone: room for two workers and what reads for them, little memory, nothing that goes out."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import ray

_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def local_ray() -> Iterator[None]:
    """Inside, Ray runs; its start takes ten seconds, and every worker as long again."""
    with patch.dict("os.environ", _ENVIRONMENT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray itself
        ray.init(
            address="local", num_cpus=3, object_store_memory=80 * 2**20,
            include_dashboard=False, configure_logging=False, log_to_driver=False,
        )  # fmt: skip
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield
        finally:
            ray.shutdown()
