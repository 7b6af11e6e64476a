"""What watches a training: a progress bar, a count of its steps, and what lets it be stopped."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from rarec.progress import progress_bar
from rarec.stopping import SavingLoop


class RichProgress(TrainerCallback):
    """A progress bar with the loss, in place of the bar of transformers.

    Args:
        title: Text before the bar.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._stack = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the bar."""
        bar = progress_bar(self.title, state.max_steps, done=state.global_step)
        self._advance = self._stack.enter_context(bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Move the bar."""
        self._advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Show the loss."""
        if logs and "loss" in logs:
            self._advance(0, note=f"loss {float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Leave the full bar on the screen."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after a training that was stopped."""
        self._stack.close()


class StepCounter(TrainerCallback):
    """Counts the steps of this process, without those before a checkpoint that it went on from."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Count one."""
        self.steps += 1


class SaveWhenStopped(TrainerCallback):
    """Lets a training save its newest state when somebody asks it to stop.

    Args:
        stopping: What knows whether somebody has.
    """

    def __init__(self, stopping: SavingLoop) -> None:
        self.stopping = stopping

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Note that the first step begins."""
        self.stopping.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask the trainer for a checkpoint, after which it is stopped."""
        self.stopping.end_step()
        if self.stopping.is_asked_to_stop:
            control.should_save = True
