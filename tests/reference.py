"""Reference implementations of every family, with the weights of one of our decoders: transformers, or torch's own
transformer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.checkpoint.save import save_checkpoint
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import to_theirs
from pellucid.model.decoder import Decoder, Layer
from pellucid.model.load import to_tensor, weights_of
from pellucid.model.mlp import MLP
from pellucid.model.position import sinusoidal_table

# Every family, and every optional part of it: "llama", "llama/biases", … ``tiny`` takes either.
MODELS = [name for family, module in FAMILIES.items() for name in (family, *(f"{family}/{v}" for v in module.VARIANTS))]


def tiny_hf(model: str) -> dict[str, Any]:
    """The config.json of one of ``MODELS``."""
    family, _, variant = model.partition("/")
    return FAMILIES[family].TINY | (FAMILIES[family].VARIANTS[variant] if variant else {})


@cache
def tiny(model: str) -> Decoder:
    """One of ``MODELS``. Weights are larger than a fresh model's and biases are not zero, so that every term counts."""
    hf = tiny_hf(model)
    decoder = Decoder(FAMILIES[hf["model_type"]].config(hf))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            around = 1.0 if name.endswith(("norm.weight", "out_scale")) else 0.0
            parameter.normal_(around, 0.2, generator=generator)
    return decoder.requires_grad_(False).eval()


def _facts(part: Any) -> Iterator[tuple[str, str, object]]:
    """What a description says, field by field: words and switches as they are, numbers as whether they are said."""
    for field in fields(part):
        value = getattr(part, field.name)
        parts = value if isinstance(value, tuple) else (value,)
        if any(is_dataclass(one) for one in parts):
            for one in parts:
                yield from _facts(one)
            continue
        said = value if value is None or isinstance(value, bool | str) else value == field.default
        yield type(part).__name__, field.name, said


def _saying_something_new() -> Iterator[str]:
    told: set[tuple[str, str, object]] = set()
    for model in MODELS:
        hf = tiny_hf(model)
        facts = set(_facts(FAMILIES[hf["model_type"]].config(hf)))
        if not {fact for fact in facts if fact[1] not in ("model_type", "extra")} <= told:
            told |= facts
            yield model


TELLING = list(_saying_something_new())  # each says something in its description that none before it says


def telling(models: Sequence[str] = MODELS, also: Iterable[str] = ()) -> list[Any]:
    """``models`` for a test of what follows from a description alone: those that say something which none before them
    says (and ``also``) are run by `make test`, all of them by `make test-all`.
    """
    often = {*TELLING, *also, *(set(models) - set(MODELS))}
    return [model if model in often else pytest.param(model, marks=pytest.mark.slow) for model in models]


def reference_logits(decoder: Decoder, token_ids: Tensor) -> Tensor:
    """(B, T) ids -> (B, T, V) logits of the reference."""
    if decoder.config.model_type == "vanilla":
        return torch_transformer(decoder, token_ids)
    return reference_model(decoder)(token_ids).logits


def reference_model(decoder: Decoder) -> nn.Module:
    """transformers' model of the same family, config and weights."""
    import transformers

    family = FAMILIES[decoder.config.model_type]
    if any(layer.experts for layer in decoder.config.layers):
        return _through_files(decoder)
    theirs = {
        name: to_tensor(array).clone()
        for name, array in to_theirs(decoder.config, family.WEIGHTS, dict(weights_of(decoder)))
    }
    hf = family.to_hf(decoder.config)
    if decoder.config.model_type == "chatglm":  # transformers knows it as ``glm``, under other names
        config, theirs = _as_glm(decoder, theirs)
    else:
        config = transformers.AutoConfig.for_model(**hf)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    if decoder.config.model_type == "chatglm":
        _add_biases(model, decoder)
    missing, unexpected = model.load_state_dict(theirs, strict=False)
    if unexpected:
        return _through_files(decoder)
    head = {"lm_head.weight", *(rule.theirs for rule in family.WEIGHTS if rule.ours == "lm_head.weight")}
    assert decoder.config.tie_embeddings or not missing, missing
    assert head.issuperset(missing), missing
    model.tie_weights()
    return model.requires_grad_(False)


def _through_files(decoder: Decoder) -> nn.Module:
    """transformers' model of a folder that we wrote: it stacks experts in memory by rules of its own, which are for
    files.
    """
    import transformers

    with TemporaryDirectory() as folder:
        save_checkpoint(folder, decoder.config, dict(weights_of(decoder)))
        # Of Mistral 4 the automatic class knows the model of images and text alone.
        alone = decoder.config.model_type == "mistral4"
        kind = transformers.Mistral4ForCausalLM if alone else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(folder, attn_implementation="eager", experts_implementation="eager")
    return model.requires_grad_(False).eval()


def _as_glm(decoder: Decoder, theirs: dict[str, Tensor]) -> tuple:
    """ChatGLM's own layout → transformers' ``glm``: other names, q, k, v apart."""
    import transformers

    config, attention = decoder.config, decoder.config.layers[0].mixer
    assert attention.rope
    rope, partial = attention.rope, attention.rope.dim / attention.head_dim
    scaling = {"rope_type": "linear", "factor": rope.scaling.factor} if rope.scaling else {"rope_type": "default"}
    glm = transformers.GlmConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.layers[0].mlp.d_ff,
        num_hidden_layers=config.num_layers,
        num_attention_heads=attention.num_heads,
        num_key_value_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        rope_parameters=scaling | {"rope_theta": attention.rope.theta, "partial_rotary_factor": partial},
        rms_norm_eps=next(iter(config.layers[0].norms.values())).eps,
        attention_bias=attention.qkv_bias,
        tie_word_embeddings=config.tie_embeddings,
        max_position_embeddings=config.context_len,
        pad_token_id=0,
        eos_token_id=[2],
    )
    renamed = {}
    for name, value in theirs.items():
        for old, new in (
            ("transformer.embedding.word_embeddings", "model.embed_tokens"),
            ("transformer.encoder.final_layernorm", "model.norm"),
            ("transformer.output_layer", "lm_head"),
            ("transformer.encoder.", "model."),
            ("self_attention.dense", "self_attn.o_proj"),
            ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
            ("mlp.dense_4h_to_h", "mlp.down_proj"),
        ):
            name = name.replace(old, new)
        if "query_key_value" in name:
            parts = value.split((attention.q_dim, attention.kv_dim, attention.kv_dim))
            renamed |= {
                name.replace("self_attention.query_key_value", f"self_attn.{x}_proj"): part
                for x, part in zip("qkv", parts, strict=True)
            }
        else:
            renamed[name] = value
    return glm, renamed


def _add_biases(model: nn.Module, decoder: Decoder) -> None:
    """``add_bias_linear`` of ChatGLM's own code: a bias on every linear map of a layer; ``glm`` has no such switch."""
    if decoder.config.layers[0].mlp.bias:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and ".layers." in name:
                module.bias = nn.Parameter(torch.zeros(module.out_features))


def torch_transformer(decoder: Decoder, token_ids: Tensor) -> Tensor:
    """``vanilla`` with torch's nn.TransformerEncoderLayer and a causal mask; by its Python code, whose attention is
    chosen by ``sdpa_kernel``.
    """
    torch.backends.mha.set_fastpath_enabled(False)
    config, layer = decoder.config, decoder.config.layers[0]
    norm = next(iter(layer.norms.values()))
    table = sinusoidal_table(token_ids.shape[1], config.d_model).to(decoder.dtype)
    x = decoder.embed(token_ids) * decoder.embed.weight.new_tensor(config.embedding_scale) + table
    mask = nn.Transformer.generate_square_subsequent_mask(token_ids.shape[1], dtype=decoder.dtype)
    for ours in decoder.layers:
        assert isinstance(ours, Layer)
        assert isinstance(ours.mlp, MLP)
        theirs = nn.TransformerEncoderLayer(
            config.d_model,
            layer.mixer.num_heads,
            layer.mlp.d_ff,
            0.0,
            layer.mlp.activation,
            norm.eps,
            True,
            layer.mixer_norms.sum is None,
            bias=norm.bias,
        ).eval()
        attention = theirs.self_attn
        projections: list[Any] = [ours.attention.q_proj, ours.attention.k_proj, ours.attention.v_proj]
        attention.in_proj_weight.data = torch.cat([p.weight for p in projections])
        if norm.bias:
            attention.in_proj_bias.data = torch.cat([p.bias for p in projections])
        attention.out_proj.load_state_dict(ours.attention.o_proj.state_dict())
        theirs.linear1.load_state_dict(ours.mlp.up_proj.state_dict())
        theirs.linear2.load_state_dict(ours.mlp.down_proj.state_dict())
        attention_norm, mlp_norm = ours.attention_norm or ours.attention_sum_norm, ours.mlp_norm or ours.mlp_sum_norm
        assert attention_norm is not None
        assert mlp_norm is not None
        theirs.norm1.load_state_dict(attention_norm.state_dict())
        theirs.norm2.load_state_dict(mlp_norm.state_dict())
        x = theirs.to(x.dtype)(x, src_mask=mask, is_causal=True)
    x = x if decoder.final_norm is None else decoder.final_norm(x)
    return x @ (decoder.embed.weight if decoder.head is None else decoder.head.weight).T
