"""How a grid looks in the terminal while it runs."""

from __future__ import annotations

from restore_vlm.bench import GridProgress
from restore_vlm.bench.plan import Job
from restore_vlm.terminal import Bars


class GridBars(GridProgress):
    """A bar for all runs and one for each that is running.

    Args:
        display: Where the bars are.
    """

    def __init__(self, display: Bars) -> None:
        self.display, self.failed = display, 0

    def on_start(self, done: int, total: int) -> None:
        self._move(done, total)

    def on_step(self, job: Job, step: int, steps: int, note: str) -> None:
        self.display.move(job.label, step, steps, note)

    def on_finish(self, job: Job, error: str | None, done: int, total: int) -> None:
        self.display.drop(job.label)
        if error:
            self.failed += 1
            self.display.say(f"{job.label} failed: {error}")
        self._move(done, total)

    def on_warning(self, text: str) -> None:
        self.display.say(text)

    def _move(self, done: int, total: int) -> None:
        self.display.move("runs", done, total, f"{self.failed} failed" if self.failed else "")
