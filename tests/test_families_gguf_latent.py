"""GGUF files of latent attention, the maps from the latent apart or joined, have the logits of transformers' model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from test_families_gguf import assert_logits, reference, write

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.checkpoint import open_checkpoint, open_config
from pellucid.families import FAMILIES
from pellucid.families.translation import gguf_latent
from pellucid.families.translation.gguf_latent import HeadsOfMap
from pellucid.quant import dequantize

WIDTHS = {"attention__kv_lora_rank": 16, "attention__q_lora_rank": 24, "rope__dimension_count": 4}
OLD: dict[str, Any] = WIDTHS | {"attention__key_length": 12, "attention__value_length": 12}
NEW: dict[str, Any] = WIDTHS | {
    "attention__head_count_kv": 1,
    "attention__key_length": 20,
    "attention__value_length": 16,
}
NEW |= {"attention__key_length_mla": 12, "attention__value_length_mla": 12}
EXPERTS: dict[str, Any] = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 24,
    "expert_shared_count": 1,
}
EXPERTS |= {"leading_dense_block_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True}
V3: dict[str, Any] = EXPERTS | {"expert_gating_func": 2, "expert_group_count": 4, "expert_group_used_count": 2}
V2: dict[str, Any] = EXPERTS | {"expert_weights_scale": 1.0, "expert_weights_norm": False, "expert_shared_count": 2}
STRETCHED: dict[str, Any] = {"rope__scaling__type": "yarn", "rope__scaling__factor": 40.0}
STRETCHED |= {"rope__scaling__original_context_length": 16, "rope__scaling__yarn_log_multiplier": 0.0707}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 16}
YARN |= {"mscale": 0.707, "mscale_all_dim": 0.707}


def test_minicpm3_with_the_scales_that_llama_cpp_has(tmp_path: Path) -> None:
    model = reference("minicpm3", scale_emb=12, scale_depth=1.4, dim_model_base=256, rms_norm_eps=1e-6)
    assert_logits(write(tmp_path / "m.gguf", model, "minicpm3", **OLD), model)


@pytest.mark.parametrize("apart", [True, False])
def test_deepseek_v3_with_groups_and_a_correction(apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converters of before 2025 kept both maps from the latent in one."""
    if not apart:
        joined = (*(rule for rule in FAMILIES["deepseek_v3"].GGUF.weights if rule not in gguf_latent.APART),
                  *gguf_latent.JOINED)  # fmt: skip
        writer = FAMILIES["deepseek_v3"].GGUF.__class__(**vars(FAMILIES["deepseek_v3"].GGUF) | {"weights": joined})
        with monkeypatch.context() as patch:
            patch.setattr(FAMILIES["deepseek_v3"], "GGUF", writer)
            path = write_experts(tmp_path / "m.gguf", "deepseek_v3", **(OLD | V3))
    else:
        path = write_experts(tmp_path / "m.gguf", "deepseek_v3", **(NEW | V3))
    assert open_config(path).model_type == "deepseek_v3"
    assert_logits(path, reference("deepseek_v3", rms_norm_eps=1e-6))


def test_deepseek_v2_is_told_by_its_routing_and_yarn_scales_its_scores(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_scaling": YARN}
    keys = {name: value for name, value in NEW.items() if name != "attention__q_lora_rank"}
    path = write_experts(tmp_path / "m.gguf", "deepseek_v2", changed, **(keys | V2 | STRETCHED))
    assert open_config(path).model_type == "deepseek_v2"
    assert_logits(path, reference("deepseek_v2", **changed))


def test_youtu_is_deepseek2_without_experts(tmp_path: Path) -> None:
    model = reference("youtu", rms_norm_eps=1e-6)
    path = write(tmp_path / "m.gguf", model, "deepseek2", **NEW, leading_dense_block_count=2)
    assert open_config(path).model_type == "youtu"
    assert_logits(path, model)


def write_experts(path: Path, family: str, changed: dict[str, Any] | None = None, **keys: Any) -> Path:
    model = reference(family, **(changed or {"rms_norm_eps": 1e-6}))
    return write(path, model, "deepseek2", **keys)


def test_a_stack_in_blocks_that_is_stored_turned_is_widened(tmp_path: Path) -> None:
    place = FAMILIES["minicpm3"].config(FAMILIES["minicpm3"].TINY | {"qk_nope_head_dim": 32}).layers[0]
    values = np.random.default_rng(0).normal(size=(4, 16, 32)).astype(np.float32)
    blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    stack = Array("q8_0", (4, 16, 32), blocks)
    (rows,) = HeadsOfMap(turned=True).forward([stack], place)
    expected = dequantize(stack).reshape(4, 16, 32).swapaxes(1, 2).reshape(128, 16)
    np.testing.assert_array_equal(rows.data, expected)
    np.testing.assert_array_equal(
        HeadsOfMap(turned=True).inverse([rows], place)[0].data, expected.reshape(4, 32, 16).swapaxes(1, 2)
    )
    with pytest.raises(WeightsError, match="4 matrices"):
        HeadsOfMap().forward([Array.from_numpy(values[0])], place)


def test_widths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = reference("youtu")
    narrow: dict[str, Any] = NEW | {"rope__dimension_count": 12}
    strange: dict[str, Any] = NEW | {"no_such_expert_scale": 2.0}
    with pytest.raises(ConfigError, match="do not fit each other"):
        open_config(write(tmp_path / "a.gguf", model, "deepseek2", **narrow))
    with pytest.raises(UnsupportedError, match="no_such_expert_scale"):
        open_checkpoint(write(tmp_path / "b.gguf", model, "deepseek2", **strange))
