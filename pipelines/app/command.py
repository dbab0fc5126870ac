"""`wvq app`: look at a pipeline, or two, in a browser."""

import importlib.util
import os
from dataclasses import dataclass, field

from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.storage.untrusted import user_path

from .limits import Limits


@dataclass(frozen=True)
class Application:
    """Pipelines to look at in a browser."""

    pipeline: tuple[str, ...] = ("runs/pipeline",)
    """Folder or hub repository of the pipeline; given twice, two are compared."""
    data: DataConfig | None = None
    """Where test images come from, such as --data.source fashion-mnist; without it there are none."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 shows the page to everybody who reaches this machine, without a password."""
    port: int = 7860
    """Port to listen on; 0 for any that is free."""
    limits: Limits = field(default_factory=Limits)
    """What a user of the page may ask for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipeline", tuple(str(user_path(name)) for name in self.pipeline))
        if len(self.pipeline) not in (1, 2) or len(set(self.pipeline)) < len(self.pipeline):
            raise InputError(f"pipeline is {list(self.pipeline)}; give one, or two different ones")
        check_range(self, "port", least=0, most=65535)
        check_range(self.limits, "max_images", "max_waiting", least=1)
        check_range(self.limits, "max_seconds", "max_megabytes", "max_megapixels", least=0.001)


def show(config: Application) -> None:
    """Serve the page until the process is interrupted.

    Raises:
        InputError: without Gradio; for a pipeline or images that cannot be read; for a port that is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("wvq app needs Gradio; install it with: pip install 'wvq[app]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    from .models import load_model
    from .page.page import build_page
    from .page.server import listening_socket, serve

    with listening_socket(config.host, config.port) as bound:
        models = [load_model(name, config.data) for name in config.pipeline]
        serve(build_page(models, config.limits), config.limits, config.host, bound)
