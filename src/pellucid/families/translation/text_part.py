"""The text part of a model of images and text: a decoder of its own, in a folder with other things.

Its config stands under ``text_config``, its weights under names that ``checkpoint.naming`` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Models of images and text whose text part is a decoder as it stands, without change: what that part is where its
# config does not say it. (Not those whose text sees both ways, or reads images by layers of its own.)
WITH_IMAGES = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "llava": "llama",
    "llava_next": "llama",
    "aya_vision": "cohere2",
    "idefics3": "llama",
    "smolvlm": "llama",
}


def text_part(hf: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config of the text part of a model of images and text, from its config.json; None where it is no such model.

    What the whole says of tokens, ties and type stands for the part, too, where that does not say it.
    """
    text, whole = hf.get("text_config"), hf.get("model_type")
    if not isinstance(text, Mapping) or not isinstance(whole, str) or whole not in WITH_IMAGES:
        return None
    shared = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype")
    above = {name: hf[name] for name in shared if hf.get(name) is not None}
    return {"model_type": WITH_IMAGES[whole], **above, **{k: v for k, v in text.items() if v is not None}}


# Parts of the names of the tensors that are none of the text part's.
_OF_IMAGES = {"vision_tower", "vision_model", "vision_encoder", "multi_modal_projector", "mm_projector", "connector"}


def is_of_images(name: str) -> bool:
    """Whether a tensor of such a model is of the part that sees, or joins it to the text part."""
    return not _OF_IMAGES.isdisjoint(name.split("."))
