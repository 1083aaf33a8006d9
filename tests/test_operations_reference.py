"""The float64 reference says what all implementations compute: transformers', torch's, the decoder's, tap by tap."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from reference import MODELS, reference_logits, reference_model, telling, tiny

import pellucid.config
from pellucid.config import ModelConfig, NormConfig, PartNorms, RopeConfig, RopeScaling
from pellucid.config.recurrent import Recurrent
from pellucid.explain import trace
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.operations import reference, taps_of
from pellucid.operations.taps import READS

BATCH = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [3, 4, 5, 6, 7]]
EVERY = pytest.mark.parametrize("model", telling(also=FAMILIES))


def weights_of(decoder: Decoder) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in decoder.named_parameters()}


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest value; −∞ must meet −∞."""
    assert ours.shape == theirs.shape
    masked = np.isinf(theirs)
    np.testing.assert_array_equal(masked, np.isinf(ours))
    return float(np.abs(np.where(masked, 0, ours) - np.where(masked, 0, theirs)).max() / np.abs(theirs[~masked]).max())


@EVERY
def test_logits_are_those_of_other_implementations(model: str) -> None:
    decoder, ids = tiny(model), [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    theirs = reference_logits(decoder, torch.tensor([ids]))[0].detach()
    assert distance(reference(decoder.config, weights_of(decoder), ids)["logits"], theirs.numpy()) < 5e-6


@pytest.mark.parametrize("model", telling([model for model in MODELS if not model.startswith(("vanilla", "chatglm"))]))
def test_in_float64_they_agree_to_the_rounding_of_angles(model: str) -> None:
    """transformers keeps norms' and rotary's float32 inside a float64 model: what is left is that."""
    decoder, ids = tiny(model), [5, 6, 7, 8, 9, 10, 11, 12]
    theirs = reference_model(decoder).double()(torch.tensor([ids])).logits[0]
    wide = all(not isinstance(layer.mixer, Recurrent) for layer in decoder.config.layers)  # recurrences stay in float32
    most = 3e-6 if wide else 1e-5
    assert distance(reference(decoder.config, weights_of(decoder), ids)["logits"], theirs.numpy()) < most


@EVERY
def test_every_tap_of_a_padded_batch_is_the_decoders(model: str) -> None:
    check_taps(tiny(model))


def check_taps(decoder: Decoder, texts: list[list[int]] = BATCH, most: float = 1e-5) -> None:
    t = trace(decoder, None, texts)
    ours = reference(decoder.config, weights_of(decoder), t.token_ids, positions=t.position_ids, mask=t.mask)
    assert list(ours) == list(t)
    real = t.mask.numpy()
    for path, value in t.items():
        axes = t.tap(path).axes
        axis = axes.index("position" if "position" in axes else "key")
        rows = (np.moveaxis(np.where(np.isinf(its), -1e9, its), axis, 1)[real] for its in (ours[path], value.numpy()))
        assert distance(*rows) < most, path


def routed(config: ModelConfig, **experts: Any) -> ModelConfig:
    """The same model with another router in every layer."""
    experts = {"normalize": True} | experts
    layers = (
        replace(layer, experts=replace(layer.experts, **experts)) if layer.experts else layer for layer in config.layers
    )
    return replace(config, layers=tuple(layers))


def active(config: ModelConfig, **mlp: Any) -> ModelConfig:
    """The same model with another MLP in every layer."""
    return replace(config, layers=tuple(replace(layer, mlp=replace(layer.mlp, **mlp)) for layer in config.layers))


def changed(config: ModelConfig, **mixer: Any) -> ModelConfig:
    """The same model with other attention in every layer."""
    layers = tuple(replace(layer, mixer=replace(layer.mixer, **mixer)) for layer in config.layers)
    return replace(config, layers=layers)


def normed(config: ModelConfig, mixer_norms: PartNorms, mlp_norms: PartNorms, parallel: bool = False) -> ModelConfig:
    layers = (
        replace(layer, mixer_norms=mixer_norms, mlp_norms=mlp_norms, parallel=parallel) for layer in config.layers
    )
    return replace(config, layers=tuple(layers))


def in_turn(config: ModelConfig) -> ModelConfig:
    """Layers that are a mixer alone and layers that are an MLP alone, in turn."""
    layers = [
        part
        for layer in config.layers
        for part in (
            replace(layer, mlp=None, experts=None, mlp_norms=PartNorms()),
            replace(layer, mixer=None, mixer_norms=PartNorms()),
        )
    ]
    return replace(config, layers=tuple(layers))


RMS, LAYER, BIASED = NormConfig(offset=1.0), NormConfig(kind="layer", bias=True), NormConfig(bias=True)
GROUPED = NormConfig(groups=4, offset=1.0)
EVERYWHERE = PartNorms(before=LAYER, after=RMS, sum=LAYER)
ROUTERS = {
    "sigmoid": {"scores": "sigmoid"},
    "sigmoid, as it is": {"scores": "sigmoid", "normalize": False, "scale": 2.5},
    "corrected": {"scores": "sigmoid", "correction_bias": True, "normalize_eps": 1e-20, "wide": True},
    "corrected softmax": {"correction_bias": True, "normalize_eps": 1e-12},
    "groups": {"scores": "sigmoid", "correction_bias": True, "num_groups": 4, "groups_per_token": 2, "scale": 1.5},
    "groups by softmax": {"num_groups": 4, "groups_per_token": 2, "normalize": False},
    "groups by their best": {"num_groups": 2, "group_score": "max", "normalize": False, "scale": 16.0},
    "biased router": {"router_bias": True, "shared": None, "shared_gated": False},
    "input weighed": {"scores": "sigmoid", "normalize": False, "weighs": "input", "shared_gated": False},
    "sparsemixer": {"scores": "sparsemixer", "normalize": False, "jitter": 0.2},
    "large eps": {"scores": "sigmoid", "normalize_eps": 0.5},
}
LLAMA, GPT2, MOE = (tiny(name).config for name in ("llama", "gpt2", "qwen2_moe"))
DIM = LLAMA.layers[0].mixer.head_dim
DESCRIPTIONS = (
    {
        "sandwich": normed(LLAMA, PartNorms(before=RMS, after=RMS), PartNorms(before=RMS, after=RMS)),
        "after alone": normed(GPT2, PartNorms(after=LAYER), PartNorms(after=LAYER)),
        "RMS norms in groups": normed(LLAMA, PartNorms(before=GROUPED, after=GROUPED), PartNorms(sum=GROUPED)),
        "RMS norms with a bias": normed(LLAMA, PartNorms(before=BIASED), PartNorms(before=BIASED)),
        "all three": normed(GPT2, EVERYWHERE, EVERYWHERE),
        "none": replace(normed(GPT2, PartNorms(), PartNorms()), final_norm=None),
        "parallel": normed(LLAMA, PartNorms(before=RMS), PartNorms(before=LAYER), parallel=True),
        "parallel, one norm": normed(LLAMA, PartNorms(before=LAYER), PartNorms(after=RMS), parallel=True),
        "parallel experts": normed(MOE, PartNorms(before=RMS), PartNorms(), parallel=True),
        "one part a layer": in_turn(LLAMA),
        "one part a layer, normed after": in_turn(normed(GPT2, EVERYWHERE, EVERYWHERE)),
        "one part a layer, experts": in_turn(MOE),
        "sandwiched experts": normed(MOE, PartNorms(before=RMS, after=RMS), PartNorms(before=RMS, after=RMS)),
        "q and k by head": changed(LLAMA, qk_norm=RMS),
        "q and k over all": changed(LLAMA, qk_norm=LAYER, qk_norm_over="all"),
        "soft caps": replace(changed(LLAMA, softcap=2.0, scale=0.7), logit_softcap=3.0),
        "window": changed(LLAMA, window=3),
        "clamped swiglu": active(LLAMA, alpha=1.702, limit=0.5, up_offset=1.0),
        "clamped gelu": active(LLAMA, activation="gelu_tanh", limit=0.5),
        "clamped experts": active(MOE, alpha=1.702, limit=0.5, up_offset=1.0, bias=True),
        "narrow values": changed(LLAMA, v_head_dim=6, v_scale=0.7, gated=True),
        "narrow values and sinks": changed(LLAMA, v_head_dim=6, sinks=True, window=3),
        "chunks": changed(LLAMA, chunk=4),
        "sinks": changed(LLAMA, sinks=True),
        "sinks, windows and a soft cap": changed(LLAMA, sinks=True, window=3, softcap=2.0),
        "interleaved": changed(LLAMA, rope=RopeConfig(dim=DIM // 2, layout="interleaved")),
        "no rope, sinusoidal": replace(changed(LLAMA, rope=None), position="sinusoidal", embedding_scale=8.0),
        "no rope, learned": replace(changed(LLAMA, rope=None), position="learned"),
    }
    | {
        f"{scaling.kind} rope": changed(LLAMA, rope=RopeConfig(dim=DIM, scaling=scaling))
        for scaling in (
            RopeScaling(kind="linear", factor=3.0),
            RopeScaling(kind="dynamic", factor=3.0, original_context_len=8),
            RopeScaling(kind="llama3", factor=3.0, original_context_len=8),
            RopeScaling(kind="yarn", factor=3.0, original_context_len=8),
            RopeScaling(
                kind="longrope",
                factor=3.0,
                original_context_len=8,
                short_factors=(2.0,) * (DIM // 2),
                long_factors=(3.0,) * (DIM // 2),
            ),
            RopeScaling(kind="factors", short_factors=tuple(1.0 + i for i in range(DIM // 2))),
        )
    }
    | {f"router: {name}": routed(MOE, **router) for name, router in ROUTERS.items()}
)


def random_decoder(config: ModelConfig) -> Decoder:
    decoder, generator = Decoder(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(0.7 if "norm.weight" in name else 0.0, 0.2, generator=generator)
    return decoder.requires_grad_(False).eval()


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_every_legal_description_is_computed_as_the_decoder_does(description: str) -> None:
    check_taps(random_decoder(DESCRIPTIONS[description]))


def test_one_text_has_no_batch_axis() -> None:
    decoder = tiny("llama")
    alone = reference(decoder.config, weights_of(decoder), [3, 4, 5])
    batch = reference(decoder.config, weights_of(decoder), [[3, 4, 5]])
    for path in batch:
        np.testing.assert_array_equal(alone[path], batch[path][0])


def test_what_is_wanted_is_kept() -> None:
    decoder = tiny("qwen3")
    kept = reference(decoder.config, weights_of(decoder), [3, 4, 5], wanted={"logits", "layers.1.pattern"})
    assert list(kept) == ["layers.1.pattern", "logits"]
    np.testing.assert_array_equal(kept["logits"], reference(decoder.config, weights_of(decoder), [3, 4, 5])["logits"])


# Fields that change no number of a forward pass over given token ids.
NAMES = {
    f"ModelConfig.{name}" for name in ("model_type", "bos_token_id", "eos_token_ids", "pad_token_id", "dtype", "extra")
}


def test_every_field_of_the_description_is_read_by_an_operation() -> None:
    """A field that is added to the description and that no operation reads is a mechanism that nobody says."""
    described = {
        f"{part.__name__}.{field.name}"
        for part in vars(pellucid.config).values()
        if isinstance(part, type) and is_dataclass(part)
        for field in fields(part)
    }
    configs = [tiny(model).config for model in MODELS] + list(DESCRIPTIONS.values())
    kinds = {type(tap.operation) for config in configs for tap in taps_of(config).values()}
    read = {name for kind in kinds for name in kind.reads} | set(READS)
    assert read == described - NAMES
