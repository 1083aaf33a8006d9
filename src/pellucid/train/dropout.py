"""Dropout as a watcher of the forward pass: the model knows nothing of it, and a trained model carries no trace."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WHERE = (
    "embed",
    "attn_out",
    "mlp_out",
)  # Vaswani et al. 2017 §5.4: each part's output before it is added, and the embeddings


class Dropout:
    """A ``Context`` recorder that drops a fraction ``p`` of what enters the residual stream."""

    def __init__(self, p: float) -> None:
        self.p = p

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        return F.dropout(value, self.p) if name in WHERE else value
