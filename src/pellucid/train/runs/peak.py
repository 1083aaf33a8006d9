"""What this machine's matrix products reach, to say how much of it training uses (MFU)."""

from __future__ import annotations

import time

import torch

SECONDS = 0.25
SIDES = (128, 256, 512, 1024, 2048, 4096, 8192)


@torch.no_grad()
def matrix_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of the fastest square product found in a quarter of a second.

    Products of n × n matrices take 2 n³ operations. They grow while the time allows: a small CPU stops at 1,024, a GPU
    goes on.
    """
    end, best = time.perf_counter() + SECONDS, 0.0
    for side in SIDES:
        a, b = torch.randn(side, side, device=device).to(dtype), torch.randn(side, side, device=device).to(dtype)
        _seconds(a, b)  # the first one warms up
        took = min(_seconds(a, b) for _ in range(3))
        best = max(best, 2 * side**3 / took)
        if (
            side >= 512 and time.perf_counter() + 4 * 8 * took > end
        ):  # the next size: four products of eight times the work
            break
    return best


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    began = time.perf_counter()
    _ = a @ b
    if a.device.type != "cpu":
        torch.accelerator.synchronize(a.device)
    return max(time.perf_counter() - began, 1e-9)
