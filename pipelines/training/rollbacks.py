"""Returns of a run to the step before it took a new turn, where what followed did it harm."""

from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import remove_whole, write_json
from wvq.tokenizer.storage.untrusted import read_json

from .run import ROLLBACKS_FILE, Run


class Rollbacks:
    """How often a run has gone back to its `turning_point`, kept in rollbacks.json; the same on all processes.

    A run goes back by losing its later checkpoints: it then resumes as one that was killed does, and all that follows
    from how often that was so is the same whether it is killed or not.

    Args:
        run: whose configuration has a `turning_point`.
        limit: of them; after the last the run does without what it turned to.
    """

    def __init__(self, run: Run, limit: int):
        self.run, self.limit, self.path = run, limit, run.folder / ROLLBACKS_FILE
        self.records = on_first_process(lambda: read_json(self.path) if self.path.exists() else [])

    @property
    def share(self) -> float:
        """What is left of a weight that each return halves: 1, 0.5, 0.25, ..., and 0 after the last."""
        return 0.5 ** len(self.records) if len(self.records) < self.limit else 0.0

    def needed(self, step: int, score: str, value: float, fall: float) -> bool:
        """Whether a score of the evaluation after `step` is more than `fall` below that at the turning point."""
        turned = self.run.config.turning_point
        if not 0 < turned < step or not self.share:
            return False
        rows = on_first_process(self.run.metrics)
        before = [row[score] for row in rows if row["step"] == turned and score in row]
        return bool(before) and not value >= before[-1] - fall  # NaN has fallen

    def go_back(self, step: int, score: str, value: float) -> str:
        """Have the run that is at `step` resume from its turning point; returns what to tell the user.

        Raises:
            InputError: if the checkpoint of the turning point is gone.
        """
        turned = self.run.config.turning_point
        record = {"step": step, "back_to": turned, score: value}

        def remove() -> None:
            kept = f"step-{turned:08d}"
            if kept not in {path.name for path in self.run.checkpoints()}:
                raise InputError(
                    f"{score} fell to {value:.2f} at step {step}, and {self.run.folder} has no checkpoint of step "
                    f"{turned} to go back to"
                )
            # Killed in here, it falls again and is back here; only when they are gone it counts.
            for path in reversed(self.run.checkpoints()):
                if path.name > kept:
                    remove_whole(path)
            write_json(self.path, [*self.records, record])

        on_first_process(remove)
        self.records = [*self.records, record]
        return f"{score} fell to {value:.2f} at step {step}: back to step {turned}"
