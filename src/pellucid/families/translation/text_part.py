"""The text part of a model of images and text: a decoder of its own, in a folder with other things.

Its config stands under ``text_config``, its weights under names that ``checkpoint.naming`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

# Models of images and text whose text part is a decoder as it stands, without change: what that part is where its
# config does not say it. (Not those whose text sees both ways, or reads images by layers of its own.)
WITH_IMAGES = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "mistral3": "mistral",  # or ministral3, as its text_config says
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "aya_vision": "cohere2",
    "idefics3": "llama",
    "smolvlm": "llama",
    "internvl": "qwen2",
    "cohere2_vision": "cohere2",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
# Text parts that transformers gives a name of their own: without images each is that family.
TEXT_TYPES = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
TEXT_TYPES |= {"qwen3_vl_moe_text": "qwen3_moe"}
THETA = {"qwen2_vl": 1e6, "qwen2_5_vl": 1e6, "qwen3_vl": 5e5, "qwen3_vl_moe": 5e5}  # where nothing says it
# Configs that hold the text part's keys beside the vision part's, not under ``text_config``.
FLAT = ("qwen2_vl", "qwen2_5_vl")
_NOT_TEXT = ("vision_*", "image_*", "video_*")


def text_part(hf: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config of the text part of a model of images and text, from its config.json; None where it is no such model.

    What the whole says of tokens, ties and type stands for the part, too, where that does not say it.
    """
    text, whole = hf.get("text_config"), hf.get("model_type")
    if text is None and whole in FLAT:
        text = {k: v for k, v in hf.items() if not any(fnmatchcase(k, pattern) for pattern in _NOT_TEXT)}
        del text["model_type"]
    if not isinstance(text, Mapping) or not isinstance(whole, str) or whole not in WITH_IMAGES:
        return None
    shared = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype")
    above = {name: hf[name] for name in shared if hf.get(name) is not None}
    rope = {"rope_theta": THETA[whole]} if whole in THETA else {}
    part = {"model_type": WITH_IMAGES[whole], **rope, **above, **{k: v for k, v in text.items() if v is not None}}
    if isinstance(part["model_type"], str):
        part["model_type"] = TEXT_TYPES.get(part["model_type"], part["model_type"])
    return in_one_place(part)


def in_one_place(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with ``_one_place`` of what they say of rotation."""
    return {
        key: _one_place(value) if key in ("rope_scaling", "rope_parameters") else value for key, value in hf.items()
    }


def _one_place(rope: Any) -> Any:
    """Rotary settings without the sections that turn by height and width: a token of text has its place for all three.

    Source: Wang et al. 2024 (Qwen2-VL) §2.1, M-RoPE.
    """
    if not isinstance(rope, Mapping) or "mrope_section" not in rope:
        return rope
    kept = {key: value for key, value in rope.items() if key not in ("mrope_section", "mrope_interleaved")}
    return {key: "default" if value == "mrope" else value for key, value in kept.items()}


# Parts of the names of the tensors that are none of the text part's.
_OF_IMAGES = {
    "visual",
    "vision_tower",
    "embed_vision",
    "audio_tower",
    "embed_audio",
    "vision_model",
    "vision_encoder",
    "multi_modal_projector",
    "mm_projector",
    "connector",
}


def is_of_images(name: str) -> bool:
    """Whether a tensor of such a model is of the part that sees, or joins it to the text part."""
    return not _OF_IMAGES.isdisjoint(name.split("."))
