"""TensorBoard's event files, for those who watch there: the metrics of each step, and samples of text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import UnsupportedError

if TYPE_CHECKING:
    from pellucid.train.runs.run import Step

FOLDER = "tensorboard"


class EventFiles:
    """Event files of a run, in ``RUN/tensorboard``. Going on after step N, what was written of later steps is taken
    back.

    Raises: UnsupportedError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, num_done: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UnsupportedError(
                "TensorBoard is not installed",
                where="--tensorboard",
                remedy="pip install 'pellucid[tensorboard]', or pip install tensorboard",
            ) from None
        self._writer: Any = SummaryWriter(
            str(folder / FOLDER), purge_step=num_done + 1 if num_done else None, flush_secs=10
        )

    def write(self, step: Step) -> None:
        for name, value in figures(step).items():
            self._writer.add_scalar(name, value, step.step)

    def write_text(self, step: int, text: str) -> None:
        self._writer.add_text("sample", text, step)

    def close(self) -> None:
        self._writer.close()


def figures(step: Step) -> dict[str, float]:
    """What a step came to, by the names under which it is shown."""
    all_of_them = {
        "loss/train": step.loss,
        "loss/validation": step.val_loss,
        "loss/balance": step.balance,
        "preference/margin": step.val_margin,
        "preference/accuracy": step.val_accuracy,
        "lr": step.lr,
        "grad_norm": step.grad_norm,
        "tokens_per_second": step.tokens / step.seconds,
    }
    return {name: value for name, value in all_of_them.items() if value is not None}
