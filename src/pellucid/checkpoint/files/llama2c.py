"""llama2.c's ``.bin``, read: a model as Karpathy's run.c maps it (version 0, float32).

    7 × int32  dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len; a negative vocab_size says that the
               classifier is not the embedding table
    float32    the arrays below, end to end, each kind stacked over the layers

Source: https://github.com/karpathy/llama2.c, run.c: Config, memory_map_weights; export.py: legacy_export.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, UnsupportedError
from pellucid.base.files import map_file
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.config import MAX_LAYERS
from pellucid.families.translation.rules import PermuteRope, Rule

HEADER = struct.Struct("<7i")
MAGIC = b"24ka"  # "ak42", little-endian: export.py's versions 1 and 2 begin with it
NORM_EPS, ROPE_THETA = 1e-5, 10000.0  # constants in run.c
BOS, EOS = 1, 2

WEIGHTS = (
    Rule("token_embedding_table", "embed.weight"),
    Rule("rms_att_weight.{i}", "layers.{i}.attention_norm.weight"),
    Rule("wq.{i}", "layers.{i}.attention.q_proj.weight", (PermuteRope(lambda attention: attention.num_heads),)),
    Rule("wk.{i}", "layers.{i}.attention.k_proj.weight", (PermuteRope(lambda attention: attention.num_kv_heads),)),
    Rule("wv.{i}", "layers.{i}.attention.v_proj.weight"),
    Rule("wo.{i}", "layers.{i}.attention.o_proj.weight"),
    Rule("rms_ffn_weight.{i}", "layers.{i}.mlp_norm.weight"),
    Rule("w1.{i}", "layers.{i}.mlp.gate_proj.weight"),
    Rule("w2.{i}", "layers.{i}.mlp.down_proj.weight"),
    Rule("w3.{i}", "layers.{i}.mlp.up_proj.weight"),
    Rule("rms_final_weight", "final_norm.weight"),
    Rule("wcls", "lm_head.weight"),
)
IGNORED = ("freq_cis_real", "freq_cis_imag")  # the rotary table: run.c computes it instead


class Llama2cFile(Lazy):
    """One ``.bin``: name → Array, named as run.c names them, with ``.{i}`` for the layer; ``hf_config`` describes the
    model.

    Raises: CheckpointError where header and length do not fit; UnsupportedError for export.py's other versions.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        buffer = map_file(self.path)
        sizes = _read_header(buffer, self.path)
        self.hf_config = _hf_config(*sizes)
        data = buffer[HEADER.size :]
        layout = _layout(*sizes)
        floats = sum((num_layers or 1) * math.prod(shape) for _, num_layers, shape in layout)
        if 4 * floats != len(data):
            raise CheckpointError(
                "the file's length does not fit its header",
                where=self.path,
                expected=f"{HEADER.size + 4 * floats} bytes",
                received=len(buffer),
                remedy="no llama2.c checkpoint of version 0, or an incomplete download",
            )
        make: dict[str, Callable[[], Array]] = {}
        end = 0
        for stacked, num_layers, shape in layout:
            for name in [f"{stacked}.{i}" for i in range(num_layers)] or [stacked]:
                start, end = end, end + 4 * math.prod(shape)
                make[name] = partial(Array.from_buffer, "float32", shape, data[start:end])
        super().__init__(make)


def find_tokenizer(path: Path) -> Path | None:
    """The tokenizer beside a checkpoint: ``tok512.bin`` for a vocabulary of 512, else ``tokenizer.bin``."""
    with open(path, "rb") as file:
        vocab_size = abs(_read_header(memoryview(file.read(HEADER.size)), path)[5])
    for name in (f"tok{vocab_size}.bin", "tokenizer.bin"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    return None


def _read_header(buffer: memoryview, where: Path) -> tuple[int, ...]:
    if buffer[:4] == MAGIC:
        raise UnsupportedError(
            "a llama2.c checkpoint of a later version",
            where=where,
            remedy="export it with --version 0, or to Hugging Face's format",
        )
    if len(buffer) < HEADER.size:
        raise CheckpointError(
            "the file is truncated", where=where, expected=f"at least {HEADER.size} bytes", received=len(buffer)
        )
    sizes = HEADER.unpack(buffer[: HEADER.size])
    dim, _, num_layers, num_heads, num_kv_heads, vocab_size, _ = sizes
    good = min(*sizes[:5], abs(vocab_size), sizes[6]) > 0 and num_layers <= MAX_LAYERS
    if not good or dim % num_heads or num_heads % num_kv_heads or dim // num_heads % 2:
        raise CheckpointError(
            "not a llama2.c checkpoint",
            where=where,
            expected="dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len that fit each other",
            received=list(sizes),
        )
    return sizes


def _layout(
    dim: int, hidden_dim: int, num_layers: int, num_heads: int, num_kv_heads: int, vocab_size: int, seq_len: int
) -> list[tuple[str, int, tuple[int, ...]]]:
    """(name, how many are stacked, or 0 for one that is not, shape of each), in the order of the file.

    Weights of a projection are (out, in).
    """
    head_dim = dim // num_heads
    kv_dim = num_kv_heads * head_dim
    classifier: list[tuple[str, int, tuple[int, ...]]] = [("wcls", 0, (-vocab_size, dim))] if vocab_size < 0 else []
    return [
        ("token_embedding_table", 0, (abs(vocab_size), dim)),
        ("rms_att_weight", num_layers, (dim,)),
        ("wq", num_layers, (dim, dim)),
        ("wk", num_layers, (kv_dim, dim)),
        ("wv", num_layers, (kv_dim, dim)),
        ("wo", num_layers, (dim, dim)),
        ("rms_ffn_weight", num_layers, (dim,)),
        ("w1", num_layers, (hidden_dim, dim)),
        ("w2", num_layers, (dim, hidden_dim)),
        ("w3", num_layers, (hidden_dim, dim)),
        ("rms_final_weight", 0, (dim,)),
        ("freq_cis_real", 0, (seq_len, head_dim // 2)),
        ("freq_cis_imag", 0, (seq_len, head_dim // 2)),
        *classifier,
    ]


def _hf_config(
    dim: int, hidden_dim: int, num_layers: int, num_heads: int, num_kv_heads: int, vocab_size: int, seq_len: int
) -> dict[str, Any]:
    """The same model as a Hugging Face config of family ``llama``."""
    return {
        "model_type": "llama",
        "vocab_size": abs(vocab_size),
        "hidden_size": dim,
        "intermediate_size": hidden_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": seq_len,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "tie_word_embeddings": vocab_size > 0,
        "bos_token_id": BOS,
        "eos_token_id": [
            EOS,
            BOS,
        ],  # run.c ends a text at BOS: it is what stands between two stories in the training data
        "dtype": "float32",
    }
