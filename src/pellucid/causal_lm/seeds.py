"""One seed for every generator of random numbers that a script may use."""

from __future__ import annotations

import random

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Python's, numpy's and torch's; ``deterministic``: torch's algorithms that always give the same, too."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the global one, which scripts draw from
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
