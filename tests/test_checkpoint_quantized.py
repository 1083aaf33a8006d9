"""Quantized folders: the numbers are those that the formats' documents say, and those that their libraries make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized_folders import WRITTEN, tensors, write_folder

from pellucid.checkpoint import open_checkpoint
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import matches
from pellucid.quant import dequantize


@pytest.mark.parametrize("name", WRITTEN)
def test_weights_are_the_numbers_that_were_written(name: str, tmp_path: Path) -> None:
    """Float32 products of numbers that float64 multiplies: within one rounding of each step."""
    written = WRITTEN[name]
    checkpoint = open_checkpoint(write_folder(tmp_path, written))
    _, numbers = tensors(written)
    for match in matches(checkpoint.config, FAMILIES["llama"].WEIGHTS):
        array = checkpoint.weights[match.ours[0]]
        assert array.shape == numbers[match.theirs].shape
        assert array.dtype == (written.stored if "_proj." in match.theirs else "float32")
        np.testing.assert_allclose(dequantize(array), numbers[match.theirs], rtol=3e-7, atol=1e-9)
