"""Mixtures of experts: how a router chooses among many MLPs, and what each counts for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.checks import check_number, check_size
from pellucid.config.mlp import MLPConfig, linear_shapes, mlp_shapes

Scores = Literal["softmax", "sigmoid", "sparsemixer"]


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts: many MLPs of one shape, of which each token goes through a few, and their weighted sum.

    With logits r = x W_rᵀ (+ b, ``router_bias``), each expert's score is s = softmax(r) or σ(r). S are the
    ``experts_per_token`` of the largest s + c, c the ``correction_bias``, which chooses and does not weigh; of groups
    (``num_groups`` > 1) only the ``groups_per_token`` best are looked at, by the sum of their two largest s + c
    (``top2``) or by the largest (``max``). A token's result is Σ_{e ∈ S} w_e · MLP_e(x) with w = ``scale`` · s, or,
    ``normalize``, ``scale`` · s / (Σ_{S} s + ``normalize_eps``); or Σ MLP_e(w_e · x), where weights multiply the
    ``input``. ``wide``: the router's weights are kept and its logits computed in float32, whatever the rest is in.

    ``sparsemixer``: experts are chosen one after the other, the largest logit of those left first, and each weighs its
    softmax among the logits left that are near it, (max − r) / max(|r|, max) ≤ 2 ``jitter``. (What is computed when
    nothing is trained; training draws them.)

    ``shared`` is one more MLP that every token goes through; ``shared_gated`` multiplies what it gives by σ(x W_gᵀ), a
    number a token.

    Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral) §2.1; Dai et al. 2024 (shared); DeepSeek-AI 2024
    (DeepSeek-V2) §2.2, groups; (V3) §2.1.2, sigmoid and correction; Liu et al. 2024 (GRIN, sparsemixer).
    """

    num_experts: int
    experts_per_token: int
    scores: Scores = "softmax"
    router_bias: bool = False
    correction_bias: bool = False
    num_groups: int = 1
    groups_per_token: int = 1
    group_score: Literal["top2", "max"] = "top2"
    normalize: bool = True
    normalize_eps: float = 0.0
    scale: float = 1.0
    weighs: Literal["output", "input"] = "output"
    jitter: float = 0.0
    wide: bool = False
    shared: MLPConfig | None = None
    shared_gated: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "experts")
        check_size("experts", num_experts=self.num_experts, experts_per_token=self.experts_per_token)
        check_size("experts", num_groups=self.num_groups, groups_per_token=self.groups_per_token)
        check_number("experts", scale=self.scale)
        if not 0 <= self.normalize_eps < 1 or not 0 <= self.jitter < 1:
            raise ConfigError("normalize_eps and jitter are small numbers", where="experts", expected="0 ≤ · < 1")
        if self.normalize_eps and not self.normalize:
            raise ConfigError("normalize_eps means nothing without normalize", where="experts")
        self._check_groups()
        if self.scores == "sparsemixer" and (self.normalize or self.correction_bias or self.num_groups > 1):
            raise ConfigError(
                "a sparsemixer chooses and weighs by logits alone",
                where="experts",
                expected="no normalize, correction_bias or groups",
            )
        if self.jitter and self.scores != "sparsemixer":
            raise ConfigError("jitter is a sparsemixer's", where="experts", received=self.jitter)
        if self.shared_gated and self.shared is None:
            raise ConfigError("there is no shared expert to gate", where="experts")

    def _check_groups(self) -> None:
        if self.num_experts % self.num_groups or self.groups_per_token > self.num_groups:
            raise ConfigError(
                "experts divide into equal groups, of which a token sees some",
                where="experts",
                expected=f"num_groups a divisor of {self.num_experts}, groups_per_token at most num_groups",
                received=f"num_groups {self.num_groups}, groups_per_token {self.groups_per_token}",
            )
        if self.experts_per_token > self.groups_per_token * self.group_size:
            raise ConfigError(
                "a token cannot go through more experts than there are",
                where="experts",
                expected=f"at most {self.groups_per_token * self.group_size}"
                + (f" in its {self.groups_per_token} groups" if self.num_groups > 1 else ""),
                received=self.experts_per_token,
                remedy="check num_experts_per_tok in config.json",
            )
        if self.num_groups > 1 and self.group_score == "top2" and self.group_size < 2:
            raise ConfigError("a group of one expert has no two best", where="experts", expected="group_score max")

    @property
    def group_size(self) -> int:
        return self.num_experts // self.num_groups

    def weight_shapes(self, prefix: str, d_model: int, mlp: MLPConfig) -> dict[str, tuple[int, ...]]:
        """Its weights, each expert an ``mlp``: ``{"layers.0.mlp.router.weight": (8, 576), …}`` for ``layers.0.mlp.``"""
        shapes = linear_shapes(f"{prefix}router", self.num_experts, d_model, self.router_bias)
        if self.correction_bias:
            shapes[f"{prefix}correction_bias"] = (self.num_experts,)
        for e in range(self.num_experts):
            shapes |= mlp_shapes(f"{prefix}experts.{e}.", d_model, mlp)
        if self.shared:
            shapes |= mlp_shapes(f"{prefix}shared.", d_model, self.shared)
        if self.shared_gated:
            shapes |= linear_shapes(f"{prefix}shared_gate", 1, d_model, False)
        return shapes
