"""Each step once more, in float64, from the recorded inputs and the weights: the equation as written, free of the
model's own code.

Only rotary angles are taken from the model (``position.rotation``): at far positions their float32 rounding is part of
the model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.config import ExpertsConfig, MLPConfig, NormConfig, RopeConfig
from pellucid.model.position import rotation

if TYPE_CHECKING:
    from pellucid.explain.trace import Trace

ACTIVATIONS = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: x.clamp(min=0),
}
CHUNK = 2**23  # weight numbers in float64 at a time


def wide(x: Tensor) -> Tensor:
    """The same numbers in float64, on the CPU where the device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def values(trace: Trace, path: str, columns: Tensor) -> Tensor:
    """A recorded step at some of the kept positions (``columns`` index ``trace.positions``)."""
    axes, value = trace.tap(path).axes, trace[path]
    if "position" in axes:
        return value.index_select(axes.index("position"), columns)
    places = torch.tensor(trace.positions, device=columns.device)[columns]
    return value.index_select(axes.index("key"), places)


def recompute(trace: Trace, path: str, columns: Tensor) -> Tensor:
    """The step's values at ``columns``, float64. Raises: NotRecordedError where an input is missing."""
    tap, config = trace.tap(path), trace.config
    layer = config.layers[tap.layer or 0]
    places = torch.tensor(trace.positions, device=columns.device)[columns]

    def given(index: int = 0) -> Tensor:
        return wide(values(trace, tap.inputs[index], columns))

    match tap.kind:
        case "lookup":
            table = trace.weight(tap.weights[0].name)
            rows = wide(table[trace.token_ids[:, places] if path == "embed" else trace.position_ids[:, places]])
            return rows * config.embedding_scale if path == "embed" else rows
        case "position":
            return sinusoidal(trace.position_ids[:, places], config.d_model)
        case "copy":
            return given()
        case "sum":
            return given(0) + given(1)
        case "norm":
            x = given(0) if len(tap.inputs) == 1 else given(0) + given(1)
            return norm(x, norm_of(trace, path), *(wide(trace.weight(weight.name)) for weight in tap.weights))
        case "linear":
            x = given()
            x = x.transpose(1, 2).flatten(2) if x.ndim == 4 else x  # z's heads, side by side
            y = linear(x, *(trace.weight(weight.name) for weight in tap.weights))
            if tap.name in ("q", "k", "v"):
                return y.unflatten(-1, (-1, layer.mixer.head_dim)).transpose(1, 2)
            return softcap(y, config.logit_softcap) if path == "logits" else y
        case "rotate":
            assert layer.mixer.rope
            return rotate(given(), *angles(trace, layer.mixer.rope, places), layer.mixer.rope.layout)
        case "scores":
            return scores(trace, tap.layer or 0, given(), wide(trace[tap.inputs[1]]), places)
        case "softmax":
            return given().softmax(-1)
        case "mix":
            v = wide(trace[tap.inputs[1]])
            return given() @ v.repeat_interleave(layer.mixer.num_heads // layer.mixer.num_kv_heads, 1)
        case "activation":
            act = ACTIVATIONS[layer.mlp.activation](given())
            return act * given(1) if layer.mlp.gated else act
        case "route":
            assert layer.experts
            return route(given(), layer.experts)
        case "experts":
            return experts(trace, tap.layer or 0, given(0), given(1))
    raise AssertionError(tap.kind)


def route(logits: Tensor, config: ExpertsConfig) -> Tensor:
    """(…, E) weights of the experts: softmax, all but the largest set to 0, and what is left divided by its sum where
    it is normalized.
    """
    shares = logits.softmax(-1)
    kept = torch.zeros_like(shares).scatter(-1, logits.topk(config.experts_per_token, -1).indices, 1.0) * shares
    return kept / kept.sum(-1, keepdim=True) if config.normalize else kept


def experts(trace: Trace, layer: int, x: Tensor, weights: Tensor) -> Tensor:
    """(B, T, D): the weighted sum of those experts that count, one after another, and of the shared one."""
    config, at = trace.config.layers[layer], f"layers.{layer}.mlp"
    assert config.experts
    y = torch.zeros_like(x)
    for e in range(config.experts.num_experts):
        rows = weights[..., e] != 0
        if rows.any():
            y[rows] += weights[..., e][rows][:, None] * mlp(trace, f"{at}.experts.{e}", config.mlp, x[rows])
    if config.experts.shared:
        shared = mlp(trace, f"{at}.shared", config.experts.shared, x)
        y = y + (
            shared * linear(x, trace.weight(f"{at}.shared_gate.weight")).sigmoid()
            if config.experts.shared_gated
            else shared
        )
    return y


def mlp(trace: Trace, path: str, config: MLPConfig, x: Tensor) -> Tensor:
    """What one MLP makes of rows, by its weights."""

    def through(name: str, x: Tensor) -> Tensor:
        biases = (f"{path}.{name}.bias",) if config.bias else ()
        return linear(x, *(trace.weight(its) for its in (f"{path}.{name}.weight", *biases)))

    act = ACTIVATIONS[config.activation]
    return through(
        "down_proj",
        act(through("gate_proj", x)) * through("up_proj", x) if config.gated else act(through("up_proj", x)),
    )


def norm_of(trace: Trace, path: str) -> NormConfig:
    """The config of the norm that makes a step."""
    tap = trace.tap(path)
    if tap.layer is None:
        assert trace.config.final_norm
        return trace.config.final_norm
    layer = trace.config.layers[tap.layer]
    its = layer.mixer.qk_norm if tap.name in ("q_norm", "k_norm") else layer.norms[tap.weights[0].name.split(".")[2]]
    assert its
    return its


def normalized(x: Tensor, config: NormConfig) -> tuple[Tensor, Tensor, Tensor]:
    """(x̂, μ, √(σ² + eps)) over the last axis; for RMSNorm μ is 0 and σ² the mean square."""
    mean = x.mean(-1, keepdim=True) if config.kind == "layer" else torch.zeros_like(x[..., :1])
    deviation = ((x - mean).square().mean(-1, keepdim=True) + config.eps).sqrt()
    return (x - mean) / deviation, mean, deviation


def norm(x: Tensor, config: NormConfig, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
    y = normalized(x, config)[0] * (config.offset + gamma)
    return y if beta is None else y + beta


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b in float64, the weight converted a part at a time."""
    rows = max(CHUNK // weight.shape[1], 1)
    y = torch.cat([x @ wide(part).T for part in weight.split(rows)], -1)
    return y if bias is None else y + wide(bias)


def sinusoidal(positions: Tensor, d_model: int) -> Tensor:
    """(B, T) → (B, T, D)."""
    places = wide(positions)[..., None]
    dimension = torch.arange(d_model, device=places.device)
    angle = places / 10000 ** (wide(dimension - dimension % 2) / d_model)
    return torch.where(dimension % 2 == 0, angle.sin(), angle.cos())


def angles(trace: Trace, rope: RopeConfig, places: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin that the model used at these places, (B, 1, T, R)."""
    positions = trace.position_ids[:, places]
    lengths = trace.position_ids.amax(1, keepdim=True).add(1).expand_as(positions)
    cos, sin = rotation(rope, positions, lengths, trace.model.dtype)
    return wide(cos), wide(sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """Complex multiplication by e^{it}: another way to say the same as the model's ``rotate``."""
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    a, b = (turned[..., :pairs], turned[..., pairs:]) if layout == "half" else (turned[..., 0::2], turned[..., 1::2])
    z = torch.complex(a.contiguous(), b.contiguous()) * torch.complex(cos, sin)
    turned = torch.cat((z.real, z.imag), -1) if layout == "half" else torch.stack((z.real, z.imag), -1).flatten(-2)
    return torch.cat((turned, rest), -1)


def scores(trace: Trace, layer: int, q: Tensor, k: Tensor, places: Tensor) -> Tensor:
    attention = trace.config.layers[layer].mixer
    k = k.repeat_interleave(attention.num_heads // attention.num_kv_heads, 1)
    dots = torch.einsum("bhte,bhse->bhts", q, k) * attention.softmax_scale
    return torch.where(visible(trace, layer, places).to(dots.device), softcap(dots, attention.softcap), -torch.inf)


def visible(trace: Trace, layer: int, places: Tensor) -> Tensor:
    """(B, 1, positions, T): which place may look at which."""
    window = trace.config.layers[layer].mixer.window
    keys = torch.arange(trace.token_ids.shape[1], device=places.device)
    distance = places[:, None] - keys
    near = (distance >= 0) & (distance < (window or len(keys)))
    return near & (trace.mask[:, None, None, :] | (distance == 0))


def softcap(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)


def without_scale_and_shift(x: Tensor, config: NormConfig) -> Tensor:
    """The norm in the model's own precision, before γ and β."""
    if config.kind == "layer":
        return F.layer_norm(x, x.shape[-1:], eps=config.eps)
    return F.rms_norm(x.float(), x.shape[-1:], eps=config.eps).to(x.dtype)
