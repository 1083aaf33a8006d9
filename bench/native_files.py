"""The GGUF files that ``native.py`` measures on, made once into a cache folder.

SmolLM2-135M's Q4_1 file as shipped, and the same weights as bf16 and f32 and requantized to Q4_0, Q8_0 and Q4_K_M
(embeddings, which are the head too, at 8 bits in Q4_0 and Q4_K_M, as in the shipped file); and a Llama of 1.1 billion
parameters, and a Qwen3-MoE of as many of which a token goes through a third, made of random blocks, whose answers mean
nothing and whose speed means as much as any.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMOLLM2 = ("q4_1", "q4_0", "q8_0", "bf16", "f32", "q4_k_m")
BILLION = ("1b-q4_0", "1b-q8_0")
MIXTURES = ("moe-q4_0", "moe-q8_0")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pellucid" / "bench"

# llama.cpp's own quantizer, in its environment: file in, file out, its number of the file type, whether embeddings stay
# at 8 bits.
QUANTIZE = """
import ctypes, sys, llama_cpp as L
p = L.llama_model_quantize_default_params()
p.ftype, p.allow_requantize, p.nthread = int(sys.argv[3]), True, 1
if int(sys.argv[4]): p.output_tensor_type = p.token_embedding_type = 8
sys.exit(L.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))
"""
FILE_TYPES = {"f32": (0, 0), "q4_0": (2, 1), "q8_0": (7, 0), "q4_k_m": (15, 1), "bf16": (32, 0)}


def file_of(name: str, llamacpp_python: str) -> Path:
    """The file of that name in ``SMOLLM2``, ``BILLION`` or ``MIXTURES``, made now if it is not there."""
    if name == "q4_1":
        from pellucid.auto import locate

        return locate("smollm2")
    path = CACHE / f"{name}.gguf"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        unfinished = path.with_suffix(".unfinished")
        if name in BILLION:
            write_billion(unfinished, name.removeprefix("1b-"))
        elif name in MIXTURES:
            write_mixture(unfinished, name.removeprefix("moe-"))
        else:
            kind, keep = FILE_TYPES[name]
            command = [
                llamacpp_python,
                "-c",
                QUANTIZE,
                str(file_of("q4_1", llamacpp_python)),
                str(unfinished),
                str(kind),
                str(keep),
            ]
            subprocess.run(command, check=True, capture_output=True)
        unfinished.replace(path)
    return path


def write_billion(path: Path, dtype: str) -> None:
    """TinyLlama's shape: 22 layers, 2048 wide, 32 heads of which 4 hold keys, d_ff 5632; Q4_0 with a head of Q6_K, as
    llama.cpp makes them.
    """
    import numpy as np
    from gguf import GGUFWriter

    random = np.random.default_rng(0)
    layers, width, heads, kv_heads, d_ff, vocab = 22, 2048, 32, 4, 5632, 32000
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(d_ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    matrix = random_matrices(writer, random)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", vocab, width, dtype)
    for i in range(layers):
        kv_width = width // heads * kv_heads
        norm(f"blk.{i}.attn_norm.weight")
        for name, rows, columns in (
            ("q", width, width),
            ("k", kv_width, width),
            ("v", kv_width, width),
            ("output", width, width),
        ):
            matrix(f"blk.{i}.attn_{name}.weight", rows, columns, dtype)
        norm(f"blk.{i}.ffn_norm.weight")
        for name, rows, columns in (("gate", d_ff, width), ("up", d_ff, width), ("down", width, d_ff)):
            matrix(f"blk.{i}.ffn_{name}.weight", rows, columns, dtype)
    norm("output_norm.weight")
    matrix("output.weight", vocab, width, "q6_k" if dtype == "q4_0" else dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_matrices(writer, random):
    """A function that adds a matrix, or a stack of them, of random blocks: a small scale, and any numbers behind it."""
    import numpy as np
    from gguf import GGMLQuantizationType

    scale = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)

    def matrix(name: str, rows: int, columns: int, kind: str, stack: int | None = None) -> None:
        elements, size, place = {"q4_0": (32, 18, 0), "q8_0": (32, 34, 0), "q6_k": (256, 210, 208)}[kind]
        blocks = random.integers(0, 256, ((stack or 1) * rows, columns // elements, size), np.uint8)
        blocks[..., place : place + 2] = scale
        shape = (rows, -1) if stack is None else (stack, rows, columns // elements * size)
        writer.add_tensor(name, blocks.reshape(shape), raw_dtype=GGMLQuantizationType[kind.upper()])

    return matrix


def write_mixture(path: Path, dtype: str) -> None:
    """Qwen3-30B-A3B's widths with fewer of them: 6 layers, 2048 wide, 32 heads of 128 of which 4 hold keys, 32 experts
    of 768 of which a token goes through 8.
    """
    import numpy as np
    from gguf import GGUFWriter

    random = np.random.default_rng(0)
    layers, width, heads, kv_heads, head_dim, vocab = 6, 2048, 32, 4, 128, 32000
    num_experts, chosen, d_ff = 32, 8, 768
    writer = GGUFWriter(str(path), "qwen3moe")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(d_ff)
    writer.add_expert_feed_forward_length(d_ff)
    writer.add_expert_count(num_experts)
    writer.add_expert_used_count(chosen)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    matrix = random_matrices(writer, random)

    def norm(name: str, over: int) -> None:
        writer.add_tensor(name, np.ones(over, np.float32))

    matrix("token_embd.weight", vocab, width, dtype)
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight", width)
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            matrix(f"blk.{i}.attn_{name}.weight", rows * head_dim, width, dtype)
        norm(f"blk.{i}.attn_q_norm.weight", head_dim)
        norm(f"blk.{i}.attn_k_norm.weight", head_dim)
        matrix(f"blk.{i}.attn_output.weight", width, heads * head_dim, dtype)
        norm(f"blk.{i}.ffn_norm.weight", width)
        router = random.normal(0, width**-0.5, (num_experts, width)).astype(np.float32)
        writer.add_tensor(f"blk.{i}.ffn_gate_inp.weight", router)
        for name, rows, columns in (("gate", d_ff, width), ("up", d_ff, width), ("down", width, d_ff)):
            matrix(f"blk.{i}.ffn_{name}_exps.weight", rows, columns, dtype, stack=num_experts)
    norm("output_norm.weight", width)
    matrix("output.weight", vocab, width, "q6_k" if dtype == "q4_0" else dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
