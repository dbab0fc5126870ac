"""Work that goes on beside the training loop, such as writing a checkpoint."""

import threading
from collections.abc import Callable


class Background:
    """One piece of work at a time, in a thread that ends with the program, however that ends."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Begin a piece of work, once the one before has ended; raises what that one has raised."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # whatever it is, it is raised where somebody waits
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the work, if there is any, has ended; raises what it has raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error
