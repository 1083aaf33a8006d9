"""Model families: one file a ``model_type``, data and translation only.

A family module holds ``config(hf) -> ModelConfig`` and its inverse ``to_hf(config)``; ``WEIGHTS``, the rules between its names
and ours; ``IGNORED``, patterns of known buffers that are no weights; ``GGUF``, how llama.cpp's files of it are read, or None; and
``TINY``, a small config that enrols it in every conformance test. ``PREFIXES`` (optional) may be absent from names in files.
"""

from __future__ import annotations

from types import ModuleType

from pellucid.base.errors import UnsupportedError
from pellucid.families import chatglm, gpt2, llama, qwen2, qwen3, vanilla

FAMILIES: dict[str, ModuleType] = {
    "llama": llama,
    "gpt2": gpt2,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "chatglm": chatglm,
    "vanilla": vanilla,
}


def family_of(model_type: object, where: object) -> ModuleType:
    """The family of a config.json. Raises: UnsupportedError naming those there are."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise UnsupportedError(f"model_type {model_type!r} is not implemented", where=where, expected="one of " + ", ".join(FAMILIES))


def family_of_gguf(architecture: object, where: object) -> ModuleType:
    """The family of a GGUF file's ``general.architecture``. Raises: UnsupportedError naming those there are."""
    readable = {family.GGUF.architecture: family for family in FAMILIES.values() if family.GGUF}
    if isinstance(architecture, str) and architecture in readable:
        return readable[architecture]
    raise UnsupportedError(f"GGUF architecture {architecture!r} is not implemented", where=where, expected="one of " + ", ".join(readable))
