"""Optimizers: AdamW for everything, or Muon for the matrices inside the layers and AdamW for the rest; decay on
matrices alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """``lr`` is the peak, and for Muon too: its updates are scaled to AdamW's size (Liu et al. 2025, *Muon is
    scalable*).
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95  # Muon's


def is_matrix_of_a_layer(name: str, parameter: Tensor) -> bool:
    """True for the weights of linear maps within layers: not for embeddings, positions, the output head, norms and
    biases.
    """
    return parameter.ndim == 2 and name.startswith("layers.")


def make_optimizers(model: nn.Module, settings: OptimSettings) -> list[torch.optim.Optimizer]:
    """The optimizers of the parameters that want gradients. Vectors (norms, biases) never decay. Source: Loshchilov &
    Hutter 2019; Jordan 2024.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    muon = [
        parameter for name, parameter in named if settings.optimizer == "muon" and is_matrix_of_a_layer(name, parameter)
    ]
    taken = {id(parameter) for parameter in muon}
    rest = [parameter for _, parameter in named if id(parameter) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    made: list[torch.optim.Optimizer] = []
    if rest:  # with LoRA every parameter is a matrix of a layer
        made.append(
            torch.optim.AdamW(
                [group for group in groups if group["params"]], lr=settings.lr, betas=betas, fused=_can_fuse(rest)
            )
        )
    if muon:
        made.append(
            torch.optim.Muon(
                muon,
                lr=settings.lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return made


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    return all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in parameters)


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
