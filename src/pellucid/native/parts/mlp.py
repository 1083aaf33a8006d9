"""The MLP, and a mixture of experts in its place, as functions of the program."""

from __future__ import annotations

from collections.abc import Mapping

from pellucid.config import XIELU, ExpertsConfig, LayerConfig, MLPConfig, ModelConfig
from pellucid.native.kinds import Part
from pellucid.native.layout import Layout
from pellucid.native.parts.text import biases, named, normed, norms, numbers, title
from pellucid.native.writing import filled, real, scaled, times

ACTIVATIONS = {name: name.upper() for name in ("silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu")}
SCORES = {"softmax": "SOFTMAX", "sigmoid": "SIGMOID", "sparsemixer": "SPARSEMIXER"}


def mlp(config: ModelConfig, layout: Layout, part: Part) -> str:
    layer, described = part.layer, part.layer.mlp
    assert described is not None
    values = {
        **_frame(config, part, "the MLP"),
        "d_ff": described.d_ff,
        "activation": _activation(layout, part, described),
        **biases(layout, part, "mlp", ("gate", "up", "down")),
    }
    conditions = _conditions(layer) | {"gated": described.gated, "at_once": "mlp_post_norm" not in layer.norms}
    return filled("part_mlp.c.in", values, conditions)


def experts(config: ModelConfig, layout: Layout, part: Part) -> str:
    layer, described, router = part.layer, part.layer.mlp, part.layer.experts
    assert described is not None
    assert router is not None
    conditions = _conditions(layer)
    shared, gated = router.shared, router.shared_gated
    plain = not conditions["post_norm"] and not conditions["scaled"]
    values = {
        **_frame(config, part, "experts"),
        "router": _router(router),
        "router_words": _words(router),
        "num_experts": router.num_experts,
        "num_rated": 2 if gated else 1,
        "router_bias": numbers(layout, part, "mlp.router.bias"),
        "correction": numbers(layout, part, "mlp.correction_bias"),
        "shared": str(shared is not None).lower(),
        "shared_gate_logits": "m->shared_gate" if gated else "NULL",
        "inside": "act(W_gate x) ⊙ W_up x" if described.gated else "act(W_up x)",
        "weighs_input": str(router.weighs == "input").lower(),
        "forms": " | ".join(_forms(described, "expert") + (_forms(shared, "shared") if shared else [])),
        "router_forms": " | ".join(
            f"form_for(layer->{name}.format)" for name in ("router", *(("shared_gate",) if gated else ()))
        ),
        "gate": "&layer->expert_gate_proj" if described.gated else "NULL",
        **biases(layout, part, "mlp.experts.0", ("gate", "up", "down")),
        "d_ff": described.d_ff,
        "activation": _activation(layout, part, described),
        **_shared(layout, part, shared),
    }
    return filled("part_experts.c.in", values, conditions | {"shared_gated": gated, "plain": plain})


def _frame(config: ModelConfig, part: Part, what: str) -> dict[str, object]:
    """What either begins and ends with."""
    layer, parallel = part.layer, part.layer.parallel
    read, stream = "mlp_norm", "resid_mid" if layer.mixer is not None and not parallel else "resid_pre"
    if parallel and "mlp_norm" not in layer.norms:
        read = "attention_norm"  # what attention reads
    names = ["mlp_norm", "mlp_post_norm", "mlp_sum_norm"]
    if parallel:
        names += ["attention_post_norm", *(["attention_norm"] if read == "attention_norm" else [])]
    return {
        "title": title(
            config, part, f"{stream} and what {what} make{'' if what == 'experts' else 's'} of it", "resid_post"
        ),
        "name": part.name,
        "norms": norms(layer, names),
        "read_by_mlp": named(layer, read),
        "mlp_in": normed(layer, read, stream),
        "norm_of_mixer": named(layer, "attention_post_norm"),
        "stream": "resid_pre + attn_out" if parallel else stream,
        "scale": scaled(layer.residual_scale),
        "times": times(layer.residual_scale),
    }


def _activation(layout: Layout, part: Part, mlp: MLPConfig) -> str:
    """An Activation of c/rows.h."""
    fields = {"kind": ACTIVATIONS[mlp.activation], "alpha": real(mlp.alpha)}
    if mlp.limit is not None:
        fields["limit"] = real(mlp.limit)
    if mlp.up_offset:
        fields["up_offset"] = real(mlp.up_offset)
    if mlp.activation == "xielu":
        own = {name: f"*{numbers(layout, part, f'mlp.xielu.{name}')}" for name in XIELU}
        fields["positive"] = f"softplus({own['alpha_p']})"
        fields["negative"] = f"{own['beta']} + softplus({own['alpha_n']})"
        fields |= {name: own[name] for name in ("beta", "eps")}
    return ", ".join(f".{name} = {value}" for name, value in fields.items())


def _conditions(layer: LayerConfig) -> dict[str, bool]:
    return {
        "parallel": layer.parallel,
        "post_norm": "mlp_post_norm" in layer.norms,
        "sum_norm": "mlp_sum_norm" in layer.norms,
        "scaled": layer.residual_scale != 1,
    }


def _router(router: ExpertsConfig) -> str:
    """A Router of c/experts.h."""
    fields: Mapping[str, object] = {
        "num_experts": router.num_experts,
        "chosen": router.experts_per_token,
        "scores": SCORES[router.scores],
        "num_groups": router.num_groups,
        "groups": router.groups_per_token,
        "by_two": str(router.group_score == "top2").lower(),
        "normalize": str(router.normalize).lower(),
        "normalize_eps": real(router.normalize_eps),
        "scale": real(router.scale),
        "jitter": real(router.jitter),
    }
    return ", ".join(f".{name} = {value}" for name, value in fields.items())


def _words(router: ExpertsConfig) -> str:
    scores = router.scores + (", summing to 1" if router.normalize else "")
    return f"{router.experts_per_token} of {router.num_experts} experts for each row, by {scores}{times(router.scale)}"


def _forms(described: MLPConfig, name: str) -> list[str]:
    return [f"form_for(layer->{name}_{map_}_proj.format)" for map_ in ("gate", "up") if map_ == "up" or described.gated]


def _shared(layout: Layout, part: Part, shared: MLPConfig | None) -> dict[str, object]:
    """The shared expert's part of an Experts."""
    maps = ("gate", "up", "down")
    values: dict[str, object] = dict.fromkeys(
        (f"shared_{name}_{end}" for name in maps for end in ("proj", "bias")), "NULL"
    )
    values |= {"shared_d_ff": 0, "shared_activation": "0"}
    if shared is not None:
        values |= {
            f"shared_{name}_proj": f"&layer->shared_{name}_proj" for name in maps if name != "gate" or shared.gated
        }
        own = biases(layout, part, "mlp.shared", maps)
        values |= {f"shared_{name}": value for name, value in own.items()}
        values |= {"shared_d_ff": shared.d_ff, "shared_activation": _activation(layout, part, shared)}
    return values
