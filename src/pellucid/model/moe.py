"""A mixture of experts: a router sends each token through a few of many MLPs, and their results are summed up by
weight.

Experts are modules of their own, each with matrices of its own, as files name them: a file's weights are mapped and
never copied into a stack, and whatever knows a linear map (blocks of few bits, LoRA, Muon) knows these. What a stack
would buy is one call for all of them on a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.config import ExpertsConfig, MLPConfig
from pellucid.model.context import Context
from pellucid.model.invariant import rows_invariant_linear
from pellucid.model.linear import Linear, for_products
from pellucid.model.mlp import MLP


class MoE(nn.Module):
    """Σ_{e ∈ S} w_e · MLP_e(x), S the experts that the router likes best, w what it makes of their scores (see
    ``ExpertsConfig``); plus a shared expert, where there is one.

    The tap ``experts`` is w spread out: (B, T, E), 0 for experts that were not chosen. What a recorder makes of it is
    what is computed. Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral) §2.1; Dai et al. 2024 (DeepSeekMoE) §3.2,
    shared experts.
    """

    def __init__(self, d_model: int, mlp: MLPConfig, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Linear(d_model, config.num_experts, bias=config.router_bias)
        self.correction_bias = (  # chooses and does not weigh, so no gradient reaches it
            nn.Parameter(torch.zeros(config.num_experts, dtype=torch.float32), requires_grad=False)
            if config.correction_bias
            else None
        )
        self.experts = nn.ModuleList(MLP(d_model, mlp) for _ in range(config.num_experts))
        self.shared = MLP(d_model, config.shared) if config.shared else None
        self.shared_gate = Linear(d_model, 1, bias=False) if config.shared_gated else None

    def forward(self, x: Float[Tensor, "B T D"], ctx: Context) -> Float[Tensor, "B T D"]:
        x = for_products(ctx.tap(self, "mlp_in", x))
        logits = ctx.tap(self, "router_logits", self.rate(x, ctx))  # (B, T, E)
        weights = ctx.tap(self, "experts", self.route(logits))  # (B, T, E)
        unseen = replace(ctx, recorder=None)  # taps are of the layer: an expert has none of its own
        y = self.mix(x.flatten(0, 1), weights.flatten(0, 1), unseen).view_as(x)
        if self.shared is not None:
            shared = self.shared(x, unseen)
            y = y + (
                shared if self.shared_gate is None else shared / (1 + torch.exp(-self.shared_gate(x, unseen)))
            )  # ⊙ σ, in steps that round alike
        return y

    def rate(self, x: Float[Tensor, "*rows D"], ctx: Context) -> Float[Tensor, "*rows E"]:
        """The router's logits; ``wide``: products and sums in float32, where the model's own dtype is narrower."""
        if not self.config.wide or x.dtype.itemsize >= torch.float32.itemsize:
            return self.router(x, ctx)
        bias = None if self.router.bias is None else self.router.bias.float()
        with torch.autocast(x.device.type, enabled=False):
            return (rows_invariant_linear if ctx.rows_invariant else F.linear)(
                x.float(), self.router.weight.float(), bias
            )

    def route(self, logits: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        """Each token's weights over the experts, in float32 at least; 0 for those it does not go through."""
        config, wide = self.config, logits.to(torch.promote_types(logits.dtype, torch.float32))
        if config.scores == "sparsemixer":
            chosen, weights = self._mixed(wide)
        else:
            scores = self.scores(wide)
            chosen = self._chosen(wide, scores)
            if config.normalize and config.scores == "softmax" and not config.normalize_eps:
                weights = wide.gather(-1, chosen).softmax(-1)  # of all, divided by the sum of the chosen: the same
            else:
                weights = scores.gather(-1, chosen)
                if config.normalize:
                    weights = weights / (weights.sum(-1, keepdim=True) + config.normalize_eps)
        return torch.zeros_like(wide).scatter(-1, chosen, config.scale * weights)

    def scores(self, logits: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        """What the router makes of its logits: how much of a token each expert could have."""
        if self.config.scores == "sigmoid":
            return 1 / (1 + torch.exp(-logits))  # steps that round alike
        return logits.softmax(-1)

    def chosen(self, logits: Float[Tensor, "*rows E"]) -> Int[Tensor, "*rows k"]:
        """The experts that tokens go through."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.config.scores == "sparsemixer":
            return self._mixed(wide)[0]
        return self._chosen(wide, self.scores(wide))

    def _chosen(self, logits: Float[Tensor, "*rows E"], scores: Float[Tensor, "*rows E"]) -> Int[Tensor, "*rows k"]:
        """The best experts: by logits, or by scores where something is added to them, or they are added up."""
        config = self.config
        by_sum = config.num_groups > 1 and config.group_score == "top2"
        rank = scores if self.correction_bias is not None or by_sum else logits
        if self.correction_bias is not None:
            rank = rank + self.correction_bias
        if config.num_groups > 1:
            by_group = rank.unflatten(-1, (config.num_groups, -1))  # (…, G, E/G)
            best = by_group.topk(2 if by_sum else 1, -1).values.sum(-1)  # (…, G)
            closed = torch.ones_like(best, dtype=torch.bool)
            closed = closed.scatter(-1, best.topk(config.groups_per_token, -1).indices, False)
            rank = by_group.masked_fill(closed[..., None], float("-inf")).flatten(-2)
        return rank.topk(config.experts_per_token, -1).indices

    def _mixed(self, logits: Float[Tensor, "*rows E"]) -> tuple[Int[Tensor, "*rows k"], Float[Tensor, "*rows k"]]:
        """One expert after the other, each with its share of the exponentials of those left that are near it."""
        chosen, weights, left = [], [], logits
        for _ in range(self.config.experts_per_token):
            best, one = left.max(-1, keepdim=True)
            far = (best - logits) / torch.maximum(logits.abs(), best) > 2 * self.config.jitter
            weights.append(left.masked_fill(far, float("-inf")).softmax(-1).gather(-1, one))
            chosen.append(one)
            left = left.scatter(-1, one, float("-inf"))
        return torch.cat(chosen, -1), torch.cat(weights, -1)

    def mix(self, x: Float[Tensor, "N D"], weights: Float[Tensor, "N E"], ctx: Context) -> Float[Tensor, "N D"]:
        """The weighted sum of what the experts make of each row. Rows are grouped by expert, so that each has one
        product for all of its own.

        A row's sum is in the order of the experts, whatever rows are beside it. Where gradients are wanted every expert
        runs, on no rows if need be: its gradient is then zero and not absent, which optimizers, and processes that add
        theirs up, rely on.
        """
        chosen = (weights != 0).T  # (E, N)
        rows = chosen.nonzero()[:, 1]  # by expert, then in order
        shares = weights.T.masked_select(chosen)[:, None]
        read = x.index_select(0, rows)
        if self.config.weighs == "input":
            read = (read * shares).to(x.dtype)
        groups = read.split(chosen.sum(1).tolist())
        made = [
            expert(group, ctx)
            for expert, group in zip(self.experts, groups, strict=True)
            if len(group) or torch.is_grad_enabled()
        ]
        weighted = torch.cat(made)
        if self.config.weighs == "output":
            weighted = weighted * shares
        return torch.zeros_like(x).index_add(0, rows, weighted.to(x.dtype))
