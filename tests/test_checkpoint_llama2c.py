"""llama2.c's ``.bin``: the trained stories260K reads as its Hugging Face folder does, and damage is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pellucid.base.errors import CheckpointError, PellucidError, UnsupportedError
from pellucid.checkpoint import open_checkpoint, open_config
from pellucid.checkpoint.files.llama2c import Llama2cFile, find_tokenizer

SIZES = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 5, "seq_len": 16}


def count_floats(
    dim: int, hidden_dim: int, n_layers: int, n_heads: int, n_kv_heads: int, vocab_size: int, seq_len: int
) -> int:
    """run.c's memory_map_weights, pointer by pointer."""
    head_size = dim // n_heads
    total = abs(vocab_size) * dim  # token_embedding_table
    total += n_layers * dim  # rms_att_weight
    total += n_layers * dim * (n_heads * head_size)  # wq
    total += n_layers * dim * (n_kv_heads * head_size)  # wk
    total += n_layers * dim * (n_kv_heads * head_size)  # wv
    total += n_layers * (n_heads * head_size) * dim  # wo
    total += n_layers * dim  # rms_ffn_weight
    total += n_layers * dim * hidden_dim * 3  # w1, w2, w3
    total += dim  # rms_final_weight
    total += seq_len * head_size // 2 * 2  # freq_cis_real, freq_cis_imag
    return total + (-vocab_size * dim if vocab_size < 0 else 0)  # wcls


def write(path: Path, *, floats: int | None = None, **changed: int) -> Path:
    sizes = SIZES | changed
    values = np.arange(count_floats(**sizes) if floats is None else floats, dtype="<f4")
    path.write_bytes(struct.pack("<7i", *sizes.values()) + values.tobytes())
    return path


def test_the_arrays_lie_where_run_c_maps_them(tmp_path: Path):
    file = Llama2cFile(write(tmp_path / "x.bin", vocab_size=-5))
    assert file["token_embedding_table"].data[:, 0].tolist() == [0, 8, 16, 24, 32]
    assert file["rms_att_weight.1"].data[0] == 40 + 8  # after the table and layer 0's
    assert file["wq.0"].data[0, 0] == 56
    assert file["wk.0"].shape == (4, 8)
    assert file["w2.1"].shape == (8, 12)
    assert file["wcls"].data[-1, -1] == count_floats(**(SIZES | {"vocab_size": -5})) - 1  # the file's last number


@pytest.mark.parametrize("vocab_size", [5, -5])
def test_a_negative_vocabulary_size_says_that_the_classifier_is_its_own(vocab_size: int, tmp_path: Path):
    checkpoint = open_checkpoint(write(tmp_path / "x.bin", vocab_size=vocab_size))
    assert checkpoint.config.vocab_size == 5
    assert checkpoint.config.tie_embeddings == (vocab_size > 0)
    assert ("lm_head.weight" in checkpoint.weights) == (vocab_size < 0)
    assert ("wcls" in checkpoint.stored) == (vocab_size < 0)


def test_stories260k_reads_as_its_hugging_face_folder(stories: Path):
    ours, theirs = open_checkpoint(stories / "stories260K.bin"), open_checkpoint(stories / "hf")
    assert ours.kind == "llama2c"
    assert ours.config.layers == theirs.config.layers
    assert (ours.config.vocab_size, ours.config.context_len) == (512, 512)
    assert ours.config == open_config(stories / "stories260K.bin")
    assert list(ours.weights) == list(theirs.weights)
    for name, array in ours.weights.items():  # q and k rows permuted, all else the same bytes
        assert np.array_equal(array.data, theirs.weights[name].data), name
    assert ours.tokenizer_path == stories / "tok512.bin"
    assert ours.config.num_parameters() == 260_032


def test_a_text_ends_where_run_c_ends_it(stories: Path):
    assert 1 in open_config(stories / "stories260K.bin").eos_token_ids  # BOS


def test_plain_weights_are_views_of_the_map(tmp_path: Path):
    checkpoint = open_checkpoint(write(tmp_path / "x.bin"))
    checkpoint.weights["layers.1.attention.v_proj.weight"].data[:] = -1
    assert (checkpoint.stored["wv.1"].data == -1).all()


def test_the_tokenizer_beside_it_is_found_by_size_first(tmp_path: Path):
    path = write(tmp_path / "x.bin", vocab_size=-5)
    assert find_tokenizer(path) is None
    (tmp_path / "tokenizer.bin").touch()
    assert find_tokenizer(path) == tmp_path / "tokenizer.bin"
    (tmp_path / "tok5.bin").touch()
    assert find_tokenizer(path) == tmp_path / "tok5.bin"


@pytest.mark.parametrize(
    "changed",
    [
        {"dim": 0},
        {"dim": -8},
        {"dim": 9},
        {"n_layers": 2**31 - 1},
        {"n_heads": 3},
        {"n_heads": 8, "n_kv_heads": 8},
        {"n_kv_heads": 0},
        {"vocab_size": 0},
        {"seq_len": -1},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(changed: dict[str, int], tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"x\.bin: not a llama2\.c checkpoint"):
        Llama2cFile(write(tmp_path / "x.bin", floats=3, **changed))


@pytest.mark.parametrize("by", [-1, 1])
def test_a_length_that_does_not_fit_the_header_is_refused(by: int, tmp_path: Path):
    with pytest.raises(CheckpointError, match="length does not fit"):
        Llama2cFile(write(tmp_path / "x.bin", floats=count_floats(**SIZES) + by))


def test_sizes_that_overflow_are_refused_without_an_allocation(tmp_path: Path):
    big = {"dim": 2**30, "n_heads": 2, "hidden_dim": 2**31 - 1, "vocab_size": 2**31 - 1}
    with pytest.raises(CheckpointError, match="length does not fit"):
        Llama2cFile(write(tmp_path / "x.bin", floats=3, **big))


def test_other_versions_and_scraps_are_refused(tmp_path: Path):
    (tmp_path / "v1.bin").write_bytes(struct.pack("<Ii", 0x616B3432, 1) + bytes(300))
    with pytest.raises(UnsupportedError, match="later version"):
        open_checkpoint(tmp_path / "v1.bin")
    for content in (b"", b"12345678"):
        (tmp_path / "scrap.bin").write_bytes(content)
        with pytest.raises(PellucidError, match=r"scrap\.bin"):
            open_checkpoint(tmp_path / "scrap.bin")
