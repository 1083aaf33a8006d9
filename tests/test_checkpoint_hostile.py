"""Damaged and hostile files: whatever the bytes, an answer or a PellucidError; quickly, and without memory.

Each property takes a small valid file and changes it at random: bits flipped, bytes overwritten with telling numbers,
cut off, parts repeated. Every array that is still there is read.
"""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.base.array import Array
from pellucid.base.errors import PellucidError
from pellucid.checkpoint import SafetensorsFile, open_checkpoint, save_safetensors
from pellucid.checkpoint.files.gguf import GGUFFile
from pellucid.checkpoint.files.llama2c import Llama2cFile
from pellucid.config import weight_shapes
from pellucid.families import llama
from pellucid.families.translation.rules import to_theirs
from pellucid.quant import dequantize

SECONDS, BYTES = 2.0, 8 * 2**20
fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TELLING = [struct.pack("<Q", number) for number in (0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)]
TELLING += [struct.pack("<I", number) for number in (0, 1, 7, 8, 9, 13, 2**31, 2**32 - 1)]
TELLING += [
    b"\xff",
    b"\x00",
    b'"',
    b"{",
    b"[",
    b"}",
    b",",
    b"-",
    b"1e9",
    b"true",
    b"null",
    b"\\ud800",
    b"99999999999999999999",
]


@st.composite
def damage(draw: st.DrawFn, whole: bytes, header: int) -> bytes:
    """``whole`` with one to four changes, most of them within its first ``header`` bytes."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(header, len(data) - 1)) | st.integers(0, len(data) - 1)) if data else 0
        match draw(st.sampled_from(["flip", "overwrite", "insert", "delete", "repeat", "cut"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                new = draw(st.sampled_from(TELLING))
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = draw(st.sampled_from(TELLING) | st.binary(max_size=16))
            case "delete":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 200))]
            case "cut":
                del data[at:]
    return bytes(data)


def opens_or_says_why(open_file: Callable[[], Any]) -> None:
    """Success or PellucidError, within a time and a memory."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        for array in open_file().values():
            if array.nbytes < BYTES:
                dequantize(array)
    except PellucidError:
        pass
    finally:
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert peak < BYTES, f"{peak} bytes"


CONFIG = llama.config(llama.TINY)


def small_arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: Array.from_numpy(rng.standard_normal(shape, np.float32)) for name, shape in weight_shapes(CONFIG).items()
    }


@pytest.fixture(scope="module")
def safetensors_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("hostile") / "model.safetensors"
    save_safetensors(
        path,
        {
            "a": Array.from_numpy(np.ones((3, 2), np.float32)),
            "b": Array.from_numpy(np.ones(5, np.float16)),
            "ü": Array.from_numpy(np.ones((), bool)),
        },
    )
    return path.read_bytes()


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole tiny Llama, so that the damage also reaches the family's translation."""
    path = tmp_path_factory.mktemp("hostile") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    layer = CONFIG.layers[0]
    writer.add_context_length(CONFIG.context_len)
    writer.add_embedding_length(CONFIG.d_model)
    writer.add_block_count(CONFIG.num_layers)
    writer.add_feed_forward_length(layer.mlp.d_ff)
    writer.add_head_count(layer.mixer.num_heads)
    writer.add_head_count_kv(layer.mixer.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "é"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.0, -2.0])
    writer.add_eos_token_id(2)
    assert llama.GGUF is not None
    for name, array in to_theirs(CONFIG, llama.GGUF.weights, small_arrays()):
        quantized = name.endswith(("ffn_up.weight", "attn_k.weight"))
        values = gguf.quants.quantize(array.data, gguf.GGMLQuantizationType.Q4_0) if quantized else array.data
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType.Q4_0 if quantized else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@fuzz
@given(data=st.data())
def test_damaged_safetensors(data: st.DataObject, safetensors_bytes: bytes, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(data.draw(damage(safetensors_bytes, header=400)))
    opens_or_says_why(lambda: SafetensorsFile(tmp_path / "x.safetensors"))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "BF16", "dtype", "shape"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "w", "__metadata__"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@fuzz
@given(header=json_values, data=st.binary(max_size=64))
def test_safetensors_with_any_json_as_header(header: Any, data: bytes, tmp_path: Path):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    opens_or_says_why(lambda: SafetensorsFile(tmp_path / "x.safetensors"))


@fuzz
@given(data=st.data())
def test_damaged_gguf(data: st.DataObject, gguf_bytes: bytes, tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(data.draw(damage(gguf_bytes, header=2000)))
    opens_or_says_why(lambda: GGUFFile(tmp_path / "x.gguf").tensors)
    opens_or_says_why(lambda: open_checkpoint(tmp_path / "x.gguf").weights)


GGUF_VALUES = [
    (0, b"\x00"),
    (5, struct.pack("<i", -1)),
    (5, struct.pack("<i", 4096)),
    (10, struct.pack("<Q", 2**64 - 1)),
    (6, struct.pack("<f", float("nan"))),
    (6, struct.pack("<f", float("inf"))),
    (7, b"\x01"),
    (8, struct.pack("<Q", 3) + b"abc"),
    (9, struct.pack("<IQ", 5, 0)),
    (9, struct.pack("<IQ2i", 5, 2, 1, 2)),
    (9, struct.pack("<IQQ", 8, 1, 0)),
]
GGUF_KEYS = [
    "general.architecture",
    "general.alignment",
    *(
        f"llama.{name}"
        for name in ("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size")
    ),
    *(f"llama.attention.{name}" for name in ("head_count", "head_count_kv", "layer_norm_rms_epsilon", "key_length")),
    *(
        f"llama.rope.{name}"
        for name in ("freq_base", "scaling.type", "scaling.factor", "scaling.original_context_length")
    ),
    *(f"tokenizer.ggml.{name}" for name in ("eos_token_id", "bos_token_id", "padding_token_id", "tokens")),
]


@pytest.mark.parametrize("key", GGUF_KEYS)
def test_metadata_of_any_type_and_value_is_taken_or_refused(key: str, gguf_bytes: bytes, tmp_path: Path):
    """Every key that the reader and the family ask for, with a zero, a minus one, a NaN, a text, a list, …"""
    version, num_tensors, num_pairs = struct.unpack_from("<IQQ", gguf_bytes, 4)
    for kind, value in GGUF_VALUES:
        added = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value
        body = gguf_bytes[24:].replace(
            struct.pack("<Q", len(key)) + key.encode(), struct.pack("<Q", len(key)) + b"x" * len(key), 1
        )
        head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_pairs + 1)
        (tmp_path / "x.gguf").write_bytes(head + added + body)
        opens_or_says_why(lambda: open_checkpoint(tmp_path / "x.gguf").weights)


@fuzz
@given(
    sizes=st.lists(st.integers(-3, 9) | st.sampled_from([2**31 - 1, -(2**31), 64, 4096]), min_size=7, max_size=7),
    data=st.binary(max_size=200),
)
def test_llama2c_files_of_any_header(sizes: list[int], data: bytes, tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(struct.pack("<7i", *sizes) + data)
    opens_or_says_why(lambda: Llama2cFile(tmp_path / "x.bin"))


@fuzz
@given(
    key=st.sampled_from([*llama.TINY, "rope_scaling", "rope_theta", "head_dim", "hidden_act", "dtype", "eos_token_id"]),
    value=json_values,
)
def test_config_json_with_any_value_for_a_key(key: str, value: Any, tmp_path: Path):
    if not (tmp_path / "model.safetensors").exists():
        save_safetensors(tmp_path / "model.safetensors", dict(to_theirs(CONFIG, llama.WEIGHTS, small_arrays())))
    (tmp_path / "config.json").write_text(json.dumps(llama.TINY | {key: value}))
    opens_or_says_why(lambda: open_checkpoint(tmp_path).weights)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), name=st.sampled_from(["x.gguf", "x.safetensors", "x.bin", "x"]))
def test_any_bytes_under_any_name(content: bytes, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    opens_or_says_why(lambda: open_checkpoint(tmp_path / name).weights)
