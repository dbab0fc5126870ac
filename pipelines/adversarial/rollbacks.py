"""Returns of a run to the step before it took a new turn, where what followed did it harm."""

from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import remove_whole, write_json
from wvq.tokenizer.storage.untrusted import read_json

from ..training.run import ROLLBACKS_FILE, Run


class Rollbacks:
    """How often a run has gone back to its `turning_point`, kept in rollbacks.json; the same on all processes.

    A run goes back by losing its later checkpoints: it then resumes as one that was killed does, and all that follows
    from how often that was so is the same whether it is killed or not.

    Args:
        run: whose configuration has a `turning_point`.
        limit: of returns; after the last the run does without what it turned to.

    Attributes:
        share: what is left of a weight that each return halves: 1, 0.5, 0.25, ..., and 0 after the last.
    """

    def __init__(self, run: Run, limit: int):
        self.run, self.limit, self.path = run, limit, run.folder / ROLLBACKS_FILE
        self.records = on_first_process(lambda: read_json(self.path) if self.path.exists() else [])
        self.share: float = self.records[-1]["share"] if self.records else 1.0

    def after(self, step: int, score: str, value: float, fall: float) -> str | None:
        """Have the run resume from its turning point if a score of the evaluation after `step` is more than `fall`
        below what it was there; returns what to tell the user then. A collective call.

        Raises:
            InputError: if it has fallen, and the checkpoint of the turning point is gone.
        """
        turned = self.run.config.turning_point
        if not 0 < turned < step or not self.share:
            return None
        return on_first_process(lambda: self._go_back(turned, step, score, value, fall))

    def _go_back(self, turned: int, step: int, score: str, value: float, fall: float) -> str | None:
        before = [row[score] for row in self.run.metrics() if row["step"] == turned and score in row][-1]
        if value >= before - fall:  # not so NaN
            return None
        what = f"step {step}: {score} fell from {before:.2f} at step {turned} to {value:.2f}"
        checkpoints = self.run.checkpoints()
        kept = [path for path in checkpoints if path.name == f"step-{turned:08d}"]
        if not kept:
            raise InputError(f"{what}, and {self.run.folder} has no checkpoint of step {turned} to go back to")
        # Killed before it is noted, the run comes here again by the same steps.
        for path in reversed(checkpoints[checkpoints.index(kept[0]) + 1 :]):
            remove_whole(path)
        share = self.share / 2 if len(self.records) + 1 < self.limit else 0.0
        record = {"step": step, "back_to": turned, score: value, f"{score}_before": before, "share": share}
        write_json(self.path, [*self.records, record])
        return f"{what}; back to step {turned}, with {share:g} of the weight"
