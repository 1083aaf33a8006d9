"""How a training run is shown: a bar that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from pellucid.cli.terminal.console import notice
from pellucid.cli.terminal.numbers import count, duration

if TYPE_CHECKING:
    from pellucid.train.runs.run import Step

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """``with TrainingProgress(…) as progress:``, then ``progress.show(step)`` after each step. All of it goes to
    stderr.

    ``step_flops`` are the operations that a step needs, padding left out. ``peak`` is what the machine's matrix
    products reach, in operations per second; against it stands MFU, the share of it that training uses (Chowdhery et
    al. 2022, PaLM). 0: not known.
    """

    def __init__(
        self, num_steps: int, first: int, step_flops: float, *, peak: float = 0.0, quiet: bool = False
    ) -> None:
        self.num_steps, self.step_flops, self.peak, self.quiet = num_steps, step_flops, peak, quiet
        self._first = first
        self._began = self._spoke = time.monotonic()
        self._loss = self._rate = self._steps = 0.0  # smoothed, so that they can be read: tokens and steps a second
        self._bar: Any = None

    def __enter__(self) -> TrainingProgress:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("train", total=self.num_steps, completed=self._first, figures="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Step) -> None:
        weight = 1.0 if not self._loss else 0.1
        self._loss += weight * (step.loss - self._loss)
        self._rate += weight * (step.tokens / step.seconds - self._rate)
        self._steps += weight * (1 / step.seconds - self._steps)
        if step.val_loss is not None:
            preferred = (
                f", margin {step.val_margin:.3f}, {100 * (step.val_accuracy or 0):.0f} % of pairs right"
                if step.val_margin is not None
                else ""
            )
            self.say(f"step {step.step}: validation loss {step.val_loss:.4f}{preferred}")
        if step.skipped:
            self.say(f"step {step.step} left out: {step.skipped}")
        if self._bar is not None:
            self._bar.update(self._task, completed=step.step, figures=self.figures(step))
        elif time.monotonic() - self._spoke > SECONDS_BETWEEN_LINES or step.step == self.num_steps:
            self._spoke = time.monotonic()
            self.say(f"step {step.step}/{self.num_steps} {self.figures(step)}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            notice(text)

    def figures(self, step: Step) -> str:
        """``loss 2.31, 9.71 K tokens/s, MFU 61 %, lr 6.00e-04, grad 1.24, 3 min 20 s left``."""
        flops = self._steps * self.step_flops
        work = f"MFU {100 * flops / self.peak:.0f} %" if self.peak else f"{count(flops)}FLOP/s"
        left = (time.monotonic() - self._began) / max(step.step - self._first, 1) * (self.num_steps - step.step)
        rate, gradient = count(self._rate), f"{step.grad_norm:.2f}"
        balance = "" if step.balance is None else f"balance {step.balance:.2f}, "
        speed = f"{rate} tokens/s, {work}, lr {step.lr:.2e}, grad {gradient}, {duration(left)} left"
        return f"loss {self._loss:.3f}, {balance}{speed}"
