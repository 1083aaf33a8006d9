"""Folders of models of images and text, as transformers writes them: the text part opens, and its logits are those of
the whole model for a text without images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid.base.errors import UnsupportedError
from pellucid.checkpoint import open_checkpoint
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.load import load_decoder

IDS = torch.tensor([[1, 5, 9, 2, 7, 30, 4, 61, 13, 8, 90, 3, 22, 47, 5, 19, 33, 71, 80, 6]])
EYES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
EYES |= {"image_size": 28, "patch_size": 14}
CLIP = EYES | {"model_type": "clip_vision_model", "projection_dim": 16}
QWEN = {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2, "patch_size": 14}
# model_type, perhaps with a year -> its text part, its vision part, and keys of its own
WHOLE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", EYES | {"model_type": "siglip_vision_model"}, {"mm_tokens_per_image": 1}),
    "gemma4": (
        "gemma4_text",
        {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
        | {"num_key_value_heads": 2, "patch_size": 4, "position_embedding_size": 64},
        {"image_token_id": 95, "video_token_id": 94, "audio_token_id": 93},
    ),
    "mistral3": ("mistral", EYES | {"model_type": "pixtral", "head_dim": 8}, {"image_token_index": 95}),
    "mistral3/2025": ("ministral3", EYES | {"model_type": "pixtral", "head_dim": 8}, {"image_token_index": 95}),
    "llama4": (
        "llama4_text",
        EYES | {"projector_input_dim": 16, "projector_output_dim": 16, "vision_output_dim": 16},
        {"image_token_index": 95, "boi_token_index": 94, "eoi_token_index": 93},
    ),
    "llava": ("llama", CLIP, {"image_token_index": 95}),
    "internvl": ("qwen2", EYES | {"image_size": [28, 28], "patch_size": [14, 14]}, {"image_token_id": 95}),
    "cohere2_vision": ("cohere2", EYES | {"model_type": "siglip_vision_model"}, {"image_token_id": 95}),
    "qwen2_vl": ("qwen2", QWEN | {"embed_dim": 16, "mlp_ratio": 1, "hidden_size": 32}, {"image_token_id": 95}),
    "qwen2_5_vl": ("qwen2", QWEN | {"out_hidden_size": 32}, {"image_token_id": 95}),
    "qwen3_vl_moe": (
        "qwen3_moe",
        QWEN | {"out_hidden_size": 32, "deepstack_visual_indexes": [0]},
        {"image_token_id": 95},
    ),
    "qwen3_vl": ("qwen3", QWEN | {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}, {"image_token_id": 95}),
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 1, 2]}}


def whole(model_type: str, **text: Any) -> transformers.PreTrainedModel:
    part, vision, own = WHOLE[model_type]
    described = FAMILIES[part].TINY | {"initializer_range": 0.5} | text
    if vision is not None and "depth" in vision:
        described = described | MROPE | {"model_type": f"{model_type}_text"}
    tied = {"tie_word_embeddings": described.get("tie_word_embeddings", False)}
    whole_type = model_type.partition("/")[0]
    config = transformers.AutoConfig.for_model(whole_type, text_config=described, vision_config=vision, **own, **tied)
    torch.manual_seed(0)
    return transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", WHOLE)
def test_the_text_part_has_the_whole_models_logits(
    model_type: str, tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = whole(model_type, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.model_type == WHOLE[model_type][0]
    assert "of this model of images and text, the text part is read" in capsys.readouterr().err
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))
        theirs = model(IDS).logits
    if model_type == "cohere2_vision":  # whose class leaves out the scale that its text model has
        theirs = theirs * checkpoint.config.logit_scale
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_config_may_hold_the_text_part_beside_the_vision_part(tmp_path: Path) -> None:
    """As the published Qwen2-VL and Qwen2.5-VL have it."""
    whole("qwen2_vl").save_pretrained(tmp_path)
    expected = open_checkpoint(tmp_path).config
    file = tmp_path / "config.json"
    hf = json.loads(file.read_text())
    text = hf.pop("text_config")
    rope = text.pop("rope_parameters")
    text["rope_theta"], text["rope_scaling"] = rope["rope_theta"], {"type": "mrope", "mrope_section": [1, 1, 2]}
    file.write_text(json.dumps({**text, **hf}))
    assert open_checkpoint(tmp_path).config == expected


def test_a_text_part_that_is_no_family_is_refused_by_name(tmp_path: Path) -> None:
    model = whole("llava")
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    hf = json.loads(file.read_text())
    hf["text_config"]["model_type"] = "of_tomorrow"
    file.write_text(json.dumps(hf))
    with pytest.raises(UnsupportedError, match="model_type 'of_tomorrow' is not implemented"):
        open_checkpoint(tmp_path)


def test_a_model_whose_text_part_is_changed_by_images_is_refused(tmp_path: Path) -> None:
    """PaliGemma's prompt sees both ways: as Gemma it would be another model."""
    whole("llava").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "paligemma"}))
    with pytest.raises(UnsupportedError, match="model_type 'paligemma' is not implemented"):
        open_checkpoint(tmp_path)
