"""When a loss is no number: where it went wrong first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.base.errors import PellucidError
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import Batch


class TrainingError(PellucidError, ArithmeticError):
    """A loss or gradient that is not finite, or a loss that leapt; names step, batch, and the first tap or weight that
    is wrong.
    """


class _Found(Exception):
    pass


class _FirstBad:
    """A recorder that stops at the first value that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {module: path for path, module in model.named_modules()}
        self.where = ""

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        if not torch.isfinite(value).all():
            self.where = f"{self._paths[module]}.{name}".lstrip(".")
            raise _Found
        return value


@torch.no_grad()
def first_bad_value(model: Decoder, batch: Batch) -> str | None:
    """What is first not finite: a weight, or a tapped value of the forward pass (``layers.3.attention.q``); None where
    all is well.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
    watch = _FirstBad(model)
    ctx = batch.context(watch)
    try:
        model.logits(model.hidden(batch.token_ids, ctx)[:, -1:], ctx)
    except _Found:
        return watch.where
    return None


def bad_gradients(model: nn.Module) -> list[str]:
    """Weights whose gradient is not finite, in the order of computation."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
