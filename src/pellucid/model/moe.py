"""A mixture of experts: a router sends each token through a few of many MLPs, and their results are summed up by
weight.

Experts are modules of their own, each with matrices of its own, as files name them: a file's weights are mapped and
never copied into a stack, and whatever knows a linear map (blocks of few bits, LoRA, Muon) knows these. What a stack
would buy is one call for all of them on a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.config import ExpertsConfig, MLPConfig
from pellucid.model.context import Context
from pellucid.model.linear import Linear, for_products
from pellucid.model.mlp import MLP


class MoE(nn.Module):
    """Σ_{e ∈ S} w_e · MLP_e(x), S the experts of the largest router logits, w their softmax; plus a shared expert,
    where there is one.

    The tap ``experts`` is w spread out: (B, T, E), 0 for experts that were not chosen. What a recorder makes of it is
    what is computed. Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral) §2.1; Dai et al. 2024 (DeepSeekMoE) §3.2,
    shared experts.
    """

    def __init__(self, d_model: int, mlp: MLPConfig, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Linear(d_model, config.num_experts, bias=False)
        self.experts = nn.ModuleList(MLP(d_model, mlp) for _ in range(config.num_experts))
        self.shared = MLP(d_model, config.shared) if config.shared else None
        self.shared_gate = Linear(d_model, 1, bias=False) if config.shared_gated else None

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(ctx.tap(self, "mlp_in", x))
        weights = ctx.tap(self, "experts", self.route(ctx.tap(self, "router_logits", self.router(x, ctx))))  # (B, T, E)
        unseen = replace(ctx, recorder=None)  # taps are of the layer: an expert has none of its own
        y = self.mix(x.flatten(0, 1), weights.flatten(0, 1), unseen).view_as(x)
        if self.shared is not None:
            shared = self.shared(x, unseen)
            y = y + (
                shared if self.shared_gate is None else shared / (1 + torch.exp(-self.shared_gate(x, unseen)))
            )  # ⊙ σ, in steps that round alike
        return y

    def route(self, logits: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        """Each token's weights over the experts, in float32 at least; 0 for those it does not go through."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        best = wide.topk(self.config.experts_per_token, -1)
        # softmax over all, divided by the sum of the chosen, is softmax over the chosen
        chosen = best.values.softmax(-1) if self.config.normalize else wide.softmax(-1).gather(-1, best.indices)
        return torch.zeros_like(wide).scatter(-1, best.indices, chosen)

    def mix(self, x: Float[Tensor, "N D"], weights: Float[Tensor, "N E"], ctx: Context) -> Float[Tensor, "N D"]:
        """The weighted sum of what the experts make of each row. Rows are grouped by expert, so that each has one
        product for all of its own.

        A row's sum is in the order of the experts, whatever rows are beside it. Where gradients are wanted every expert
        runs, on no rows if need be: its gradient is then zero and not absent, which optimizers, and processes that add
        theirs up, rely on.
        """
        chosen = (weights != 0).T  # (E, N)
        rows = chosen.nonzero()[:, 1]  # by expert, then in order
        groups = x.index_select(0, rows).split(chosen.sum(1).tolist())
        made = [
            expert(group, ctx)
            for expert, group in zip(self.experts, groups, strict=True)
            if len(group) or torch.is_grad_enabled()
        ]
        weighted = torch.cat(made) * weights.T.masked_select(chosen)[:, None]
        return torch.zeros_like(x).index_add(0, rows, weighted.to(x.dtype))
