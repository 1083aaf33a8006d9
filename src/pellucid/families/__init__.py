"""Model families: one file a ``model_type``, data and translation only.

A family module holds ``config(hf) -> ModelConfig`` and its inverse ``to_hf(config)``; ``WEIGHTS``, the rules between
its names and ours; ``IGNORED``, patterns of known buffers that are no weights; ``GGUF``, how llama.cpp's files of it
are read, or None; ``TINY``, a small config that enrols it in every conformance test; and ``VARIANTS``, name → config
keys changed, which enrol its optional parts (biases, ties, windows, scalings). Optional: ``HARMLESS``, patterns of its
own keys that change nothing; ``ALSO``, rules for other names that files have for the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

from pellucid.base.errors import UnsupportedError
from pellucid.base.typed import scalar, shown
from pellucid.config import ModelConfig
from pellucid.families import (
    afmoe,
    apertus,
    arcee,
    axk1,
    bamba,
    biogpt,
    bloom,
    chatglm,
    codegen,
    cohere,
    cohere2,
    cohere2_moe,
    cwm,
    dbrx,
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone4,
    exaone_moe,
    falcon,
    falcon_h1,
    falcon_mamba,
    flex_olmo,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    glm,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granite_swa,
    granitemoe,
    granitemoe_swa,
    granitemoehybrid,
    granitemoeshared,
    helium,
    hunyuan_v1_dense,
    hunyuan_v1_moe,
    hy_v3,
    hyperclovax,
    internlm3,
    iquestcoder,
    jais2,
    jamba,
    kimi_linear,
    lfm2,
    lfm2_moe,
    llama,
    llama4,
    mamba,
    mamba2,
    mellum,
    mimo_v2_flash,
    minicpm3,
    minimax_m2,
    ministral,
    ministral3,
    mistral,
    mistral4,
    mixtral,
    mpt,
    nanochat,
    nemotron,
    nemotron_h,
    olmo,
    olmo2,
    olmo3,
    olmo_hybrid,
    olmoe,
    openai_gpt,
    opt,
    persimmon,
    phi,
    phi3,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    smollm3,
    solar_open,
    stablelm,
    starcoder2,
    vanilla,
    vaultgemma,
    youtu,
)
from pellucid.families.translation.harmless import suspicious, to_report
from pellucid.families.translation.rules import some

FAMILIES: dict[str, ModuleType] = {
    "llama": llama,
    "gpt2": gpt2,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "gemma3_text": gemma3,
    "mistral": mistral,
    "gemma": gemma,
    "gemma2": gemma2,
    "phi3": phi3,
    "glm": glm,
    "glm4": glm4,
    "smollm3": smollm3,
    "olmo": olmo,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "seed_oss": seed_oss,
    "starcoder2": starcoder2,
    "exaone4": exaone4,
    "stablelm": stablelm,
    "gpt_neox": gpt_neox,
    "phi": phi,
    "gptj": gptj,
    "granite": granite,
    "cohere": cohere,
    "cohere2": cohere2,
    "cohere2_moe": cohere2_moe,
    "dbrx": dbrx,
    "arcee": arcee,
    "helium": helium,
    "nemotron": nemotron,
    "ernie4_5": ernie4_5,
    "gpt_bigcode": gpt_bigcode,
    "gpt_neo": gpt_neo,
    "opt": opt,
    "ministral": ministral,
    "cwm": cwm,
    "vaultgemma": vaultgemma,
    "jais2": jais2,
    "internlm3": internlm3,
    "iquestcoder": iquestcoder,
    "hyperclovax": hyperclovax,
    "hunyuan_v1_dense": hunyuan_v1_dense,
    "persimmon": persimmon,
    "codegen": codegen,
    "biogpt": biogpt,
    "falcon": falcon,
    "bloom": bloom,
    "mpt": mpt,
    "nanochat": nanochat,
    "glm4_moe": glm4_moe,
    "dots1": dots1,
    "solar_open": solar_open,
    "exaone_moe": exaone_moe,
    "olmoe": olmoe,
    "flex_olmo": flex_olmo,
    "apertus": apertus,
    "openai-gpt": openai_gpt,
    "granitemoe": granitemoe,
    "granitemoeshared": granitemoeshared,
    "granite_swa": granite_swa,
    "granitemoe_swa": granitemoe_swa,
    "gpt_oss": gpt_oss,
    "lfm2": lfm2,
    "lfm2_moe": lfm2_moe,
    "minimax_m2": minimax_m2,
    "phimoe": phimoe,
    "ernie4_5_moe": ernie4_5_moe,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "llama4_text": llama4,
    "qwen3_next": qwen3_next,
    "olmo_hybrid": olmo_hybrid,
    "kimi_linear": kimi_linear,
    "qwen3_5_text": qwen3_5,
    "qwen3_5_moe_text": qwen3_5_moe,
    "mamba": mamba,
    "falcon_mamba": falcon_mamba,
    "mamba2": mamba2,
    "nemotron_h": nemotron_h,
    "bamba": bamba,
    "jamba": jamba,
    "afmoe": afmoe,
    "hy_v3": hy_v3,
    "mellum": mellum,
    "mimo_v2_flash": mimo_v2_flash,
    "granitemoehybrid": granitemoehybrid,
    "falcon_h1": falcon_h1,
    "chatglm": chatglm,
    "minicpm3": minicpm3,
    "mistral4": mistral4,
    "gemma4_text": gemma4,
    "ministral3": ministral3,
    "axk1": axk1,
    "youtu": youtu,
    "glm4_moe_lite": glm4_moe_lite,
    "deepseek_v3": deepseek_v3,
    "deepseek_v2": deepseek_v2,
    "vanilla": vanilla,
}


def family_of(model_type: object, where: object, hf: Mapping[str, Any] | None = None) -> ModuleType:
    """The family of a config.json. Raises: UnsupportedError naming those there are, and those of the config's keys
    ``hf`` that look like mechanisms of which no family here has heard.
    """
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    new = unheard_of(hf or {})
    more = f"; of its keys no family here reads {some(new, 12)}" if new else ""
    raise UnsupportedError(
        f"model_type {shown(model_type)} is not implemented",
        where=where,
        expected="one of " + ", ".join(FAMILIES),
        remedy=f"docs/add-a-family.md says how a family is added{more}",
    )


def unheard_of(hf: Mapping[str, Any]) -> list[str]:
    """Names of a config's keys that look like mechanisms and that no family reads."""
    text = hf.get("text_config")
    suspects = suspicious({**hf, **(text if isinstance(text, Mapping) else {})})
    for family in FAMILIES.values():  # null means absent: what a family does not ask for comes back as it was
        unread = family.config(dict.fromkeys(suspects) | family.TINY).extra
        harmless = getattr(family, "HARMLESS", ())
        suspects = [name for name in suspects if name in unread and not any(fnmatchcase(name, it) for it in harmless)]
    return [name if name.isprintable() else shown(name) for name in suspects]


def unread_keys(config: ModelConfig) -> list[str]:
    """The keys of a model's config.json of which nobody here knows what they mean; they have no effect."""
    return to_report(config.extra, getattr(FAMILIES[config.model_type], "HARMLESS", ()))


def family_of_gguf(metadata: Mapping[str, Any], where: object) -> ModuleType:
    """The family of a GGUF file: its ``general.architecture``, and whether it has experts. Raises: UnsupportedError
    naming those there are.
    """
    readable: dict[tuple[str, bool], list[ModuleType]] = {}
    for family in FAMILIES.values():
        for kind in family.GGUF.kinds if family.GGUF else ():
            readable.setdefault(kind, []).append(family)
    architecture = metadata.get("general.architecture")
    experts = bool(scalar(metadata, f"{architecture}.expert_count", int, where=where))
    if isinstance(architecture, str) and (architecture, experts) in readable:
        families = readable[architecture, experts]
        said = (family for family in families if family.GGUF.when and family.GGUF.when(metadata))
        return next(said, next((family for family in families if not family.GGUF.when), families[0]))
    names = ", ".join(dict.fromkeys(name for name, _ in readable))
    what = " with experts" if experts else ""
    raise UnsupportedError(
        f"GGUF architecture {architecture!r}{what} is not implemented", where=where, expected=f"one of {names}"
    )
