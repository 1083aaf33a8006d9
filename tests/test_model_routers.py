"""Every kind of router: transformers' own on the same logits, and by worked examples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.ernie4_5_moe.modeling_ernie4_5_moe import Ernie4_5_MoeTopKRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2TopKRouter
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from pellucid.base.errors import ConfigError
from pellucid.config import ExpertsConfig, MLPConfig
from pellucid.model.context import Context
from pellucid.model.moe import MoE
from pellucid.operations.places import Places
from pellucid.operations.route import Route

E = 8
V3 = {"scores": "sigmoid", "correction_bias": True, "normalize_eps": 1e-20, "wide": True}


def spread(logits: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter(-1, chosen, weights)


def fed(router: torch.nn.Module, logits: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and experts of a router whose logits are these: its matrix is the identity."""
    router.weight = torch.nn.Parameter(torch.eye(E))
    _, weights, chosen = router(logits, *more)
    return weights.detach(), chosen


def config(**keys: Any) -> Any:
    same = {"num_experts": E, "num_local_experts": E, "num_experts_per_tok": 3, "hidden_size": E}
    return SimpleNamespace(**same | keys)


def deepseek_v3(logits: Tensor, bias: Tensor, groups: int, kept: int, norm: bool) -> Tensor:
    router = DeepseekV3TopkRouter(
        config(n_group=groups, topk_group=kept, norm_topk_prob=norm, routed_scaling_factor=2.5)
    )
    router.e_score_correction_bias.data = bias
    return spread(logits, *fed(router, logits))


def deepseek_v2(logits: Tensor, bias: Tensor, method: str) -> Tensor:
    router = DeepseekV2TopkRouter(config(n_group=4, topk_group=2, topk_method=method, routed_scaling_factor=16.0))
    return spread(logits, *fed(router, logits))


def minimax(logits: Tensor, bias: Tensor) -> Tensor:
    return spread(logits, *fed(MiniMaxM2TopKRouter(config()), logits, bias))


def ernie(logits: Tensor, bias: Tensor) -> Tensor:
    router = Ernie4_5_MoeTopKRouter(config(moe_num_experts=E, moe_k=3, moe_norm_min=1e-12))
    router.moe_statics.e_score_correction_bias.data = bias[None]
    return spread(logits, *fed(router, logits))


def gpt_oss(logits: Tensor, bias: Tensor) -> Tensor:
    return spread(logits, *fed(GptOssTopKRouter(config()), logits))


def llama4(logits: Tensor, bias: Tensor) -> Tensor:
    router = Llama4Router(config())
    router.weight = torch.nn.Parameter(torch.eye(E))
    return router(logits)[0].detach()


def phimoe(logits: Tensor, bias: Tensor) -> Tensor:
    return spread(logits, *sparsemixer(logits, jitter_eps=0.05, training=False))


V2 = {"normalize": False, "scale": 16.0, "wide": True}
ROUTERS = {
    "deepseek_v3": (
        lambda x, b: deepseek_v3(x, b, 4, 2, True),
        V3 | {"num_groups": 4, "groups_per_token": 2, "scale": 2.5},
    ),
    "glm4_moe": (lambda x, b: deepseek_v3(x, b, 1, 1, True), V3 | {"scale": 2.5}),
    "unnormalized": (
        lambda x, b: deepseek_v3(x, b, 2, 1, False),
        V3 | {"num_groups": 2, "scale": 2.5, "normalize": False, "normalize_eps": 0.0},
    ),
    "deepseek_v2": (
        lambda x, b: deepseek_v2(x, b, "group_limited_greedy"),
        V2 | {"num_groups": 4, "groups_per_token": 2, "group_score": "max"},
    ),
    "deepseek_v2_lite": (lambda x, b: deepseek_v2(x, b, "greedy"), V2),
    "minimax_m2": (minimax, {"scores": "sigmoid", "correction_bias": True}),
    "ernie4_5_moe": (ernie, {"correction_bias": True, "normalize_eps": 1e-12, "wide": True}),
    "gpt_oss": (gpt_oss, {"router_bias": True}),
    "llama4": (llama4, {"scores": "sigmoid", "normalize": False, "weighs": "input"}),
    "phimoe": (phimoe, {"scores": "sparsemixer", "normalize": False, "jitter": 0.05, "experts_per_token": 2}),
}


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([0.1, 1.0, 4.0]))
def test_weights_equal_those_of_transformers_router_in_torch_and_by_the_equation(
    name: str, seed: int, size: float
) -> None:
    theirs, fields = ROUTERS[name]
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(5, E, generator=generator)
    bias = 0.3 * torch.randn(E, generator=generator)
    described = ExpertsConfig(**{"num_experts": E, "experts_per_token": 3} | fields)
    expected = theirs(logits, bias)
    moe = MoE(E, MLPConfig(d_ff=3), described)
    if moe.correction_bias is not None:
        moe.correction_bias.data = bias
    torch.testing.assert_close(moe.route(logits), expected, rtol=2e-6, atol=1e-7)
    places = Places(np.arange(5), np.zeros(5, int), np.arange(5))
    equation = Route(config=described, name="mlp").reference(
        [logits.double().numpy()], {"mlp.correction_bias": bias.numpy()}, places
    )
    np.testing.assert_allclose(equation, expected.numpy(), rtol=2e-6, atol=1e-7)


def test_a_correction_chooses_and_does_not_weigh() -> None:
    described = ExpertsConfig(num_experts=4, experts_per_token=2, scores="sigmoid", correction_bias=True, scale=2.0)
    moe = MoE(2, MLPConfig(d_ff=3), described)
    assert moe.correction_bias is not None
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    torch.testing.assert_close(moe.route(logits), torch.tensor([[0.0, 1.092898, 0.907102, 0.0]]), rtol=0, atol=1e-5)
    moe.correction_bias.data = torch.tensor([0.0, -9.0, 0.0, 9.0])
    torch.testing.assert_close(moe.route(logits), torch.tensor([[0.0, 0.0, 1.462117, 0.537883]]), rtol=0, atol=1e-5)


def test_a_wide_router_computes_in_float32_in_a_narrow_model_and_its_correction_stays_float32() -> None:
    described = ExpertsConfig(num_experts=4, experts_per_token=2, correction_bias=True, wide=True)
    moe = MoE(16, MLPConfig(d_ff=3), described)
    moe.router.weight.data = torch.randn(4, 16).bfloat16()
    x = torch.randn(3, 16).bfloat16()
    logits = moe.rate(x, Context(torch.arange(3)[None]))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, x.float() @ moe.router.weight.float().T)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_groups": 3}, "equal groups"),
        ({"num_groups": 4, "groups_per_token": 5}, "equal groups"),
        ({"num_groups": 4, "groups_per_token": 1, "experts_per_token": 3}, "more experts than there are"),
        ({"num_groups": 8, "groups_per_token": 4}, "no two best"),
        ({"normalize_eps": 1e-9, "normalize": False}, "means nothing"),
        ({"jitter": 0.1}, "sparsemixer"),
        ({"scores": "sparsemixer"}, "logits alone"),
        ({"scores": "relu"}, "scores is not what"),
        ({"scale": -1.0}, "positive"),
    ],
)
def test_routers_that_cannot_be_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ExpertsConfig(**dict[str, Any]({"num_experts": 8, "experts_per_token": 2}) | wrong)
