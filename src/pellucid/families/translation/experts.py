"""What configs and files of mixtures of experts have in common: DeepSeek's keys, and the names that experts go by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import SPLIT_GATE_UP, Each, Place, Rule, Unstack

ByLayer = tuple[tuple[MLPConfig, ExpertsConfig | None], ...]
GATED = ("gate_proj", "up_proj", "down_proj")

# Keys that mean nothing to the decoder: the dense width where no layer is dense, heads that guess further tokens.
HARMLESS = ("intermediate_size", "num_nextn_predict_layers", "num_mtp_layers")


@dataclass(frozen=True)
class Flat:
    """A matrix of one row (1, E) as a vector (E,)."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(1, -1)) for array in arrays]


def deepseek_experts(
    keys: Keys,
    *,
    count: str = "n_routed_experts",
    num_experts: int | None = None,
    per_token: int = 8,
    shared: str | None = "n_shared_experts",
    num_shared: int = 1,
    width: int | None = None,
    normalize: bool = True,
    scale: float = 1.0,
) -> tuple[MLPConfig, ExpertsConfig]:
    """One expert and the routing of DeepSeek-V3 and those that follow it: sigmoid scores with a correction, groups.

    ``count`` and ``shared`` are the keys that hold these numbers; the rest are defaults where a config is silent.
    """
    keys.only("scoring_func", "sigmoid", "noaux_tc")  # the latter is what some call sigmoids with a correction
    keys.only("topk_method", "noaux_tc")
    d_ff, activation = keys.size("moe_intermediate_size", width), keys.activation("hidden_act", "silu")
    normalize = keys.switch("norm_topk_prob", normalize)
    together = keys.get(shared, num_shared) if shared else 0
    if not isinstance(together, int) or together < 0:
        raise ConfigError(f"{shared} must be a whole number", where=keys.where, received=repr(together))
    return MLPConfig(d_ff=d_ff, activation=activation), ExpertsConfig(
        num_experts=keys.size(count, num_experts),
        experts_per_token=keys.size("num_experts_per_tok", per_token),
        scores="sigmoid",
        correction_bias=True,
        num_groups=keys.size("n_group", 1),
        groups_per_token=keys.size("topk_group", 1),
        normalize=normalize,
        normalize_eps=1e-20 if normalize else 0.0,
        scale=float(keys.get("routed_scaling_factor", scale)),
        wide=True,
        shared=MLPConfig(d_ff=d_ff * together, activation=activation) if together else None,
    )


def mlps_of(keys: Keys, expert: MLPConfig, experts: ExpertsConfig, sparse: Sequence[bool]) -> ByLayer:
    """Each layer's MLP: the mixture where it is ``sparse``, else a dense one of ``intermediate_size``."""
    if all(sparse):
        return ((expert, experts),) * len(sparse)
    dense = MLPConfig(d_ff=keys.size("intermediate_size"), activation=expert.activation, gated=expert.gated)
    return tuple((expert, experts) if here else (dense, None) for here in sparse)


def sparse_after(keys: Keys, default: int) -> list[bool]:
    """Which layers are mixtures: ``mlp_layer_types`` says it, or all but the first ``first_k_dense_replace``."""
    num_layers, first = keys.num_layers("num_hidden_layers"), keys.get("first_k_dense_replace", default)
    if (kinds := keys.get("mlp_layer_types")) is None:
        return [i >= first for i in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or not {"dense", "sparse"}.issuperset(kinds):
        raise ConfigError(
            "mlp_layer_types must name each layer's MLP",
            where=keys.where,
            expected=f"{num_layers} times dense or sparse",
            received=repr(kinds)[:200],
        )
    return [kind == "sparse" for kind in kinds]


def a_sparse_layer(config: ModelConfig) -> tuple[LayerConfig, ExpertsConfig]:
    """The first that there is, which stands for all. Raises: ConfigError where there is none."""
    for layer in config.layers:
        if layer.experts:
            return layer, layer.experts
    raise ConfigError("a model of this family has experts", where=config.model_type)


def widths_to_hf(config: ModelConfig) -> dict[str, Any]:
    """``intermediate_size``, that of dense layers (as it was, where there are none), and ``moe_intermediate_size``."""
    width = a_sparse_layer(config)[0].mlp.d_ff
    dense = next((layer.mlp.d_ff for layer in config.layers if not layer.experts), None)
    return {
        "intermediate_size": config.extra.get("intermediate_size", width) if dense is None else dense,
        "moe_intermediate_size": width,
    }


def deepseek_to_hf(
    config: ModelConfig, *, count: str = "n_routed_experts", shared: str | None = "n_shared_experts"
) -> dict[str, Any]:
    """The keys of ``deepseek_experts`` and ``sparse_after``, where the dense layers are the first."""
    layer, experts = a_sparse_layer(config)
    written = widths_to_hf(config) | {
        count: experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "n_group": experts.num_groups,
        "topk_group": experts.groups_per_token,
        "norm_topk_prob": experts.normalize,
        "routed_scaling_factor": experts.scale,
        "first_k_dense_replace": next(i for i, one in enumerate(config.layers) if one.experts),
    }
    return written | ({shared: experts.shared.d_ff // layer.mlp.d_ff if experts.shared else 0} if shared else {})


def expert_rules(
    at: str = "model.layers.{i}.mlp",
    *,
    router: str = "gate",
    names: Sequence[str] = GATED,
    shared: str | None = None,
    correction: str | None = None,
) -> tuple[Rule, ...]:
    """Each expert's tensors by themselves. ``names``: what theirs calls gate, up and down (w1, w3, w2)."""
    ours, pairs = "layers.{i}.mlp", list(zip(names, GATED, strict=True))
    rules = [Rule(f"{at}.{router}.weight", f"{ours}.router.weight")]
    rules += [Rule(f"{at}.experts.{{e}}.{one}.weight", f"{ours}.experts.{{e}}.{name}.weight") for one, name in pairs]
    if shared:
        rules += [Rule(f"{at}.{shared}.{name}.weight", f"{ours}.shared.{name}.weight") for name in GATED]
    if correction:
        rules.append(Rule(f"{at}.{correction}", f"{ours}.correction_bias"))
    return tuple(rules)


def fused(
    at: str = "model.layers.{i}.mlp.experts", gate_up: str = "gate_up_proj", down: str = "down_proj"
) -> tuple[Rule, ...]:
    """All experts of a layer in two tensors, as transformers 5 has them in memory: (E, 2F, D) and (E, D, F)."""
    ours = "layers.{i}.mlp.experts.{e}"
    return (
        Rule(
            f"{at}.{gate_up}",
            (f"{ours}.gate_proj.weight", f"{ours}.up_proj.weight"),
            (Unstack(), Each(SPLIT_GATE_UP, 2)),
        ),
        Rule(f"{at}.{down}", f"{ours}.down_proj.weight", (Unstack(),)),
    )


def in_memory(rules: Iterable[Rule], at: str) -> tuple[Rule, ...]:
    """Other names of the same weights, as transformers 5 has them in memory and saves a plain ``state_dict``: experts
    fused, and all that stands under ``at`` under ``mlp``.
    """
    moved = [
        Rule(rule.theirs.replace(f".{at}.", ".mlp."), rule.ours, rule.transforms)
        for rule in rules
        if f".{at}." in rule.theirs and "{e}" not in rule.theirs and at != "mlp"
    ]
    return (*fused(), *moved)
