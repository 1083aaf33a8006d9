"""A mixture of experts: what it computes, rows that do not depend on their neighbours, and what is built on linear
maps.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tiny

from pellucid import AutoModelForCausalLM
from pellucid.base.errors import ConfigError
from pellucid.checkpoint.open import open_checkpoint
from pellucid.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import EachExpert, Unstack
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.invariant import padded_rows
from pellucid.model.moe import MoE
from pellucid.model.quantized import QuantizedLinear
from pellucid.train.lora import LoraSettings, attach_lora, load_adapter, lora_layers, merge, save_adapter

SPARSE = [name for name in FAMILIES if any(layer.experts for layer in tiny(name).config.layers)]
EVERY = pytest.mark.parametrize("family", SPARSE)
IDS = torch.tensor([[5, 9, 2, 7, 5, 11, 40, 3]])


def moe(family: str) -> MoE:
    sparse = next(layer.mlp for layer in tiny(family).layers if isinstance(layer.mlp, MoE))
    assert isinstance(sparse, MoE)
    return sparse


def context(rows: int, rows_invariant: bool = False) -> Context:
    return Context(torch.arange(rows)[None], rows_invariant=rows_invariant)


def logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(IDS, context(8)), context(8))


def test_a_token_is_sent_to_its_best_experts_by_worked_example() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 3.0, -9.0, -9.0]])
    d_model, mlp = 2, MLPConfig(d_ff=3)
    normalized = MoE(d_model, mlp, ExpertsConfig(num_experts=4, experts_per_token=2)).route(scores)
    torch.testing.assert_close(normalized, torch.tensor([[0, 0.731059, 0.268941, 0], [0.5, 0.5, 0, 0]]))
    plain = MoE(d_model, mlp, ExpertsConfig(num_experts=4, experts_per_token=2, normalize=False)).route(scores)
    torch.testing.assert_close(plain, scores.softmax(-1) * (normalized > 0))


@EVERY
def test_the_result_is_the_weighted_sum_of_every_expert_run_on_every_row(family: str) -> None:
    sparse, x = moe(family), torch.randn(2, 5, 32)
    weights = sparse.route(sparse.router(x, context(5)))
    shares = [weights[..., e, None] for e in range(len(sparse.experts))]
    if sparse.config.weighs == "input":
        expected = sum(expert(share * x, context(5)) for expert, share in zip(sparse.experts, shares, strict=True))
    else:
        expected = sum(share * expert(x, context(5)) for expert, share in zip(sparse.experts, shares, strict=True))
    if sparse.shared is not None:
        gate = 1.0 if sparse.shared_gate is None else torch.sigmoid(sparse.shared_gate(x, context(5)))
        expected = expected + gate * sparse.shared(x, context(5))
    torch.testing.assert_close(sparse(x, context(5)), expected, rtol=1e-4, atol=1e-4)


@EVERY
@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 70), seed=st.integers(0, 2**16))
@torch.inference_mode()
def test_a_row_is_the_same_bit_for_bit_alone_and_beside_any_others(family: str, count: int, seed: int) -> None:
    """As the executor calls it: rows padded up to a size that it chooses."""
    sparse = moe(family)
    x = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))

    def run(rows: torch.Tensor) -> torch.Tensor:
        padded = torch.cat((rows, rows.new_zeros(padded_rows(len(rows)) - len(rows), 32)))
        return sparse(padded[None], context(len(padded), rows_invariant=True))[0, : len(rows)]

    together = run(x)
    for row in {0, count // 2, count - 1}:
        assert torch.equal(run(x[row : row + 1])[0], together[row])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(run(x[order]), together[order])


def test_where_gradients_are_wanted_an_expert_that_no_token_chose_has_one_of_zeros() -> None:
    sparse = copy.deepcopy(moe("mixtral")).requires_grad_()
    x = torch.randn(1, 1, 32)
    sparse(x, context(1)).sum().backward()
    chosen = sparse.route(sparse.router(x, context(1)))[0, 0] > 0
    for expert, met in zip(sparse.experts, chosen, strict=True):
        gradients = [parameter.grad for parameter in expert.parameters()]
        assert all(gradient is not None for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients if gradient is not None) == bool(met)


@pytest.mark.parametrize("wrong", [{"experts_per_token": 5}, {"num_experts": 0}, {"shared_gated": True}])
def test_experts_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ExpertsConfig(**{"num_experts": 4, "experts_per_token": 2} | wrong)  # type: ignore[arg-type]


def test_more_experts_than_any_model_has_are_refused_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match="too many experts"):
        FAMILIES["mixtral"].config(FAMILIES["mixtral"].TINY | {"num_local_experts": 2**20})


def test_active_parameters_leave_out_the_experts_that_a_token_does_not_meet() -> None:
    config: ModelConfig = tiny("mixtral").config
    layer: LayerConfig = config.layers[0]
    assert layer.experts
    one = 3 * config.d_model * layer.mlp.d_ff
    assert config.num_parameters() - config.num_active_parameters() == config.num_layers * 6 * one
    assert tiny("llama").config.num_active_parameters() == tiny("llama").config.num_parameters()


# --- what is built on linear maps ------------------------------------------------------------------------------------


@EVERY
def test_lora_over_experts_is_saved_loaded_and_merged(family: str, tmp_path: Path) -> None:
    model, lora = copy.deepcopy(tiny(family)), LoraSettings(rank=2)
    names = attach_lora(model, lora, torch.Generator().manual_seed(0))
    stacked = any(isinstance(one, Unstack | EachExpert) for rule in FAMILIES[family].WEIGHTS for one in rule.transforms)
    assert any(name.endswith(".mlp.experts.3.down_proj") for name in names) != stacked  # PEFT makes no maps of a stack
    assert not any("router" in name for name in names)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1, generator=torch.Generator().manual_seed(1))
    adapted = logits(model)
    assert not torch.allclose(adapted, logits(tiny(family)), atol=1e-2)
    save_adapter(tmp_path, model, lora)
    again = copy.deepcopy(tiny(family))
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), adapted)
    merge(again)
    torch.testing.assert_close(logits(again), adapted, rtol=1e-4, atol=1e-4)


def test_experts_stay_in_blocks_when_asked_and_learn_through_lora(tmp_path: Path) -> None:
    mixtral = FAMILIES["mixtral"]
    model = AutoModelForCausalLM.from_config(
        mixtral.config(mixtral.TINY | {"intermediate_size": 64}), seed=0, device="cpu"
    )
    model.save_pretrained(tmp_path)
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, quantize="q8", dtype="float32", device="cpu")
    assert isinstance(packed.get_submodule("layers.1.mlp.experts.7.down_proj"), QuantizedLinear)
    assert not isinstance(packed.get_submodule("layers.1.mlp.router"), QuantizedLinear)
    plain = open_checkpoint(tmp_path).weights["layers.1.mlp.experts.7.down_proj.weight"].data
    torch.testing.assert_close(
        packed.get_parameter("layers.1.mlp.experts.7.down_proj.weight").numpy(), plain, rtol=0, atol=1e-3
    )
    attach_lora(packed, LoraSettings(rank=2))
    packed.train()
    packed.hidden(IDS, context(8)).sum().backward()
    assert all(layer.lora_b.grad is not None for layer in lora_layers(packed).values())
