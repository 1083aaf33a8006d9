"""MFU: the operations that it counts are those that torch is seen to do."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import tiny
from torch.utils.flop_counter import FlopCounterMode

from pellucid.config import weight_shapes
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.lora import LoraSettings, attach_lora, lora_layers
from pellucid.train.objectives.loss import language_loss
from pellucid.train.runs.sizes import flops_per_token

ROWS, LENGTH = 2, 12


def counted(model: Decoder, learned: int = LENGTH) -> float:
    """Operations of all matrix products but attention's, forward and backward, for each token; ``learned`` targets of a
    row count.
    """
    ids = torch.randint(model.config.vocab_size, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    targets = ids[:, 1:].clone()
    targets[:, : LENGTH - learned] = IGNORED
    with FlopCounterMode(display=False) as counter:
        language_loss(model, Batch.of(ids[:, :-1], targets)).total.backward()
    by_operator = counter.get_flop_counts()["Global"]
    return sum(
        flops for operator, flops in by_operator.items() if operator in (torch.ops.aten.mm, torch.ops.aten.addmm)
    ) / (ROWS * LENGTH)


def vectors(model: Decoder) -> int:
    """Parameters of no matrix product: norms and biases, which the formula takes along."""
    return sum(shape[0] for shape in weight_shapes(model.config).values() if len(shape) == 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "vanilla", "qwen2"])
@pytest.mark.parametrize("learned", [LENGTH, 3])
def test_all_weights_take_six_operations_and_tables_none(family: str, learned: int) -> None:
    model = copy.deepcopy(tiny(family)).requires_grad_()
    assert flops_per_token(model.config, 0, head_share=learned / LENGTH) == pytest.approx(
        counted(model, learned) + 6 * vectors(model)
    )


def test_frozen_weights_take_four_and_lora_s_own_six() -> None:
    model = copy.deepcopy(tiny("llama"))
    attach_lora(model, LoraSettings(rank=2), torch.Generator().manual_seed(0))
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    formula = flops_per_token(model.config, 0, adapter=adapter) - 4 * vectors(model)
    first = [
        its for name, its in lora_layers(model).items() if name in {f"layers.0.attention.{one}_proj" for one in "qkv"}
    ]
    beneath = sum(
        2 * (its.base.in_features * its.base.out_features + its.lora_a.numel()) for its in first
    )  # what enters needs no gradient
    assert counted(model) == pytest.approx(formula - beneath)
    assert formula < 0.8 * flops_per_token(model.config, 0)
