"""GGUF files of Gemma 4 have the logits of transformers' model: lists a layer, rope_freqs, the vectors beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_families_gguf import IDS, assert_logits, reference, write

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.checkpoint import open_checkpoint, open_config

FREQS = {"rope_freqs.weight": np.array([1.0, 1.0, *[1e30] * 6], np.float32)}
KEYS: dict[str, Any] = {
    "attention__key_length": 16,
    "attention__value_length": 16,
    "attention__key_length_swa": 8,
    "attention__value_length_swa": 8,
    "attention__sliding_window": 8,
    "attention__sliding_window_pattern": [True, False, True, False],
    "attention__shared_kv_layers": 2,
    "embedding_length_per_layer_input": 8,
    "rope__freq_base": 1e6,
    "rope__freq_base_swa": 1e4,
    "rope__dimension_count": 16,
    "rope__dimension_count_swa": 8,
    "final_logit_softcapping": 0.0,
}


def model(**changed: Any) -> transformers.PreTrainedModel:
    made = reference("gemma4_text", **changed)
    for name, buffer in made.named_buffers():
        if name.endswith("layer_scalar"):
            torch.nn.init.normal_(buffer, 1.0, 0.2)
    return made


def file(path: Path, made: transformers.PreTrainedModel, **keys: Any) -> Path:
    return write(path, made, "gemma4", beside=FREQS, **(KEYS | keys))


def test_layers_that_share_keys_and_have_vectors_beside(tmp_path: Path) -> None:
    made = model()
    assert_logits(file(tmp_path / "m.gguf", made), made)


def test_wider_mlps_of_layers_that_share_and_capped_logits(tmp_path: Path) -> None:
    made = model(use_double_wide_mlp=True, final_logit_softcapping=3.0)
    path = file(tmp_path / "m.gguf", made, feed_forward_length=[48, 48, 96, 96], final_logit_softcapping=3.0)
    assert_logits(path, made)


def test_keys_that_are_values_and_fewer_of_them_in_wide_layers(tmp_path: Path) -> None:
    own = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_kv_shared_layers": 0}
    made = model(**own, hidden_size_per_layer_input=0)
    keys = {"attention__head_count_kv": [2, 1, 2, 1], "attention__shared_kv_layers": 0}
    path = file(tmp_path / "m.gguf", made, **keys, embedding_length_per_layer_input=0)
    assert [layer.mixer.num_kv_heads for layer in open_config(path).layers] == [2, 1, 2, 1]
    assert_logits(path, made)


def test_logits_are_capped_at_thirty_where_a_file_is_silent_as_llama_cpp_has_it(tmp_path: Path) -> None:
    path = file(tmp_path / "m.gguf", model(), final_logit_softcapping=None)
    assert open_config(path).logit_softcap == 30.0


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"block_count": 2**31, "attention__sliding_window_pattern": True}, "block_count is out of range"),
        ({"attention__sliding_window_pattern": [True, False]}, "must name each layer's"),
        ({"attention__shared_kv_layers": 4}, "shared_kv_layers is out of range"),
        ({"feed_forward_length": [48, 96, 48, 96]}, "twice as wide"),
        ({"attention__value_length_swa": 4}, "several widths"),
        ({"expert_count": 8}, "with experts is not implemented"),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=words):
        open_checkpoint(file(tmp_path / "m.gguf", model(), **keys))


def test_frequencies_that_are_no_pairs_that_turn_are_refused(tmp_path: Path) -> None:
    strange = {"rope_freqs.weight": np.array([1.0, 2.0, *[1e30] * 6], np.float32)}
    with pytest.raises(ConfigError, match="which pairs of a head turn"):
        open_checkpoint(write(tmp_path / "m.gguf", model(), "gemma4", beside=strange, **KEYS))
    assert IDS.shape[1] > 8  # longer than a window
