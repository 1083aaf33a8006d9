"""Every reader: tiny valid files, and what a user does with what was read of them.

A target's ``seeds`` are folders as mappings of names to contents; ``read`` is called with such a folder in which one
file was damaged. It goes as far as a user would: weights are dequantized, a token is computed, a text is encoded.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import Binary, Content, Gguf, Json, JsonLines, Known, Proto, Text
from pellucid.base.array import Array
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import FAMILIES
from pellucid.families.rules import to_theirs

Folder = dict[str, Content]


@dataclass(frozen=True)
class Target:
    """``weight``: inputs of it beside those of others. ``fixed``: files of the seeds that are never damaged."""

    seeds: Callable[[], list[Folder]]
    read: Callable[[Path], None]
    weight: int = 1
    fixed: tuple[str, ...] = ()


# --- what is done with what was read -----------------------------------------------------------------------------------


def use_weights(checkpoint: Any) -> None:
    from pellucid.quant import dequantize

    for name in checkpoint.weights:
        if checkpoint.weights[name].nbytes < 2**20:
            dequantize(checkpoint.weights[name])


def use_model(checkpoint: Any) -> None:
    """Two tokens after three, by the torch executor; the native one's program and parameters; the description again."""
    from pellucid.families import family_of
    from pellucid.generate.generate import generate
    from pellucid.model.executor import TorchExecutor
    from pellucid.model.load import load_decoder
    from pellucid.native import pack
    from pellucid.native.layout import plan as plan_layout
    from pellucid.native.program import source, supports

    config: ModelConfig = checkpoint.config
    use_weights(checkpoint)
    family_of(config.model_type, "fuzz").to_hf(config)
    if not supports(config):
        layout = plan_layout(config, pack.formats_of(config, checkpoint.weights, None))
        pack.write_parameters(io.BytesIO(), config, layout, checkpoint.weights)
        source(config, layout, kv_cache="f16")
    executor = TorchExecutor(load_decoder(config, checkpoint.weights, "float32", "cpu"))
    generate(executor, [[1, 2, 3]], max_new_tokens=2)


def use_tokenizer(tokenizer: Any, folder: Path) -> None:
    text = "Hello <s> wörld\n 12"
    ids = tokenizer.encode(text)
    tokenizer.encode(text, add_special_tokens=False)
    tokenizer.decode(ids)
    tokenizer.decode(ids, skip_special_tokens=True)
    tokenizer.pieces("a é")
    tokenizer.convert_ids_to_tokens(ids)
    stream = tokenizer.text_stream(True)
    _ = "".join([stream.push(i) for i in ids]) + stream.flush()
    _ = (len(tokenizer), tokenizer.get_vocab(), tokenizer.all_special_ids, tokenizer.stop_token_ids, repr(tokenizer))
    _ = tokenizer.pad_token_id
    out = folder / "saved"
    try:
        tokenizer.save_pretrained(out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read_model(folder: Path) -> None:
    from pellucid.auto import open_model

    use_model(open_model(folder))


def read_tokenizer(folder: Path) -> None:
    from pellucid.text.load import load_tokenizer

    use_tokenizer(load_tokenizer(folder), folder)


# --- models ------------------------------------------------------------------------------------------------------------


@cache
def arrays(config: ModelConfig) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: Array.from_numpy((rng.standard_normal(shape, np.float32) * 0.2).astype(np.float32))
        for name, shape in weight_shapes(config).items()
    }


def _theirs(family: Any, config: ModelConfig) -> dict[str, Array]:
    return dict(to_theirs(config, family.WEIGHTS, arrays(config)))


def safetensors(tensors: dict[str, Array]) -> bytes:
    header, data = {}, bytearray()
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    for name, array in tensors.items():
        values = np.ascontiguousarray(array.data).tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


ROPE: dict[str, Any] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "attention_factor": 1.1,
        "truncate": False,
    },
    "longrope": {
        "type": "longrope",
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
    },
}
KEYS: dict[str, Any] = {
    "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "head_dim": 8,
    "hidden_act": "silu", "dtype": "float32", "torch_dtype": "bfloat16", "attention_bias": False, "mlp_bias": False,
    "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1, "layer_types": ["full_attention"] * 2,
    "rope_ratio": 1, "scale_attn_by_inverse_layer_idx": True, "n_inner": 128, "partial_rotary_factor": 0.5,
    "mlp_only_layers": [0], "decoder_sparse_step": 1, "norm_order": "pre", "original_max_position_embeddings": 16,
    "quantization_config": {"bits": 4}, "pad_token_id": 0, "architectures": ["X"], "auto_map": {}, "model_type": "llama",
}  # fmt: skip


def _configs(name: str) -> Callable[[], list[Folder]]:
    def seeds() -> list[Folder]:
        family = FAMILIES[name]
        config = family.config(family.TINY)
        weights = Binary(safetensors(_theirs(family, config)))
        variants = [family.TINY, family.TINY]
        if (rope := config.layers[0].mixer.rope) and "max_position_embeddings" in family.TINY:
            for scaling in map(dict, ROPE.values()):
                scaling |= {
                    key: value[:1] * (rope.dim // 2) for key, value in scaling.items() if isinstance(value, list)
                }
                variants.append({**family.TINY, "rope_theta": 1e4, "rope_scaling": scaling})
                variants.append({**family.TINY, "rope_parameters": {**scaling, "rope_theta": 1e4}})
        return [{"config.json": Json(variant, KEYS), "model.safetensors": weights} for variant in variants]

    return seeds


LLAMA = FAMILIES["llama"]
LLAMA_CONFIG: ModelConfig = LLAMA.config(LLAMA.TINY)


def _llama_folder(**files: Content) -> Folder:
    return {
        "config.json": Json(LLAMA.TINY),
        "model.safetensors": Binary(safetensors(_theirs(LLAMA, LLAMA_CONFIG)), 1800),
        **{name.replace("__", "."): content for name, content in files.items()},
    }


GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "max_new_tokens": 20,
    "max_length": 40,
}


def read_generation(folder: Path) -> None:
    """What the file asks for, and a request that follows it."""
    from pellucid.auto import open_model
    from pellucid.defaults import AnswerDefaults
    from pellucid.generate.request import Request

    checkpoint = open_model(folder)
    asked = AnswerDefaults.of(checkpoint.config, checkpoint.generation_config)
    request = Request(prompt_ids=[1], sampling=asked.sampling, stop=asked.stop, stop_token_ids=asked.stop_token_ids)
    request.fit(checkpoint.config, checkpoint.config.context_len)


def _sharded() -> Folder:
    theirs = list(_theirs(LLAMA, LLAMA_CONFIG).items())
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = dict(theirs[:9]), dict(theirs[9:])
    weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    return {
        "config.json": Json(LLAMA.TINY),
        "model.safetensors.index.json": Json({"metadata": {"total_size": 1}, "weight_map": weight_map}),
        **{file: Binary(safetensors(part), 900) for file, part in zip(files, parts, strict=True)},
    }


class SafetensorsHeader:
    """A safetensors file whose header is damaged as JSON, its length made right again."""

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:8], "little")
        self.data, self.body, self.header = data, data[8 + size :], Json(json.loads(data[8 : 8 + size]))

    def whole(self) -> bytes:
        return self.data

    def damaged(self, rng: Any) -> bytes:
        text = self.header.damaged(rng)
        return len(text).to_bytes(8, "little") + text + self.body


def _safetensors_seeds() -> list[Folder]:
    whole = _llama_folder()
    data = whole["model.safetensors"].whole()
    return [
        whole,
        {**whole, "model.safetensors": SafetensorsHeader(data)},
        {**whole, "model.safetensors": SafetensorsHeader(data)},
    ]


def _adapter_seeds() -> list[Folder]:
    rng = np.random.default_rng(1)
    tensors = {}
    for i in range(2):
        for part, out in (("q_proj", 32), ("v_proj", 16)):
            at = f"base_model.model.model.layers.{i}.self_attn.{part}"
            tensors[f"{at}.lora_A.weight"] = Array.from_numpy(rng.standard_normal((4, 32), np.float32))
            tensors[f"{at}.lora_B.weight"] = Array.from_numpy(rng.standard_normal((out, 4), np.float32))
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "use_rslora": False,
        "rank_pattern": {"layers.0.self_attn.q_proj": 4},
        "alpha_pattern": {"v_proj": 16},
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    base = {f"base/{name}": content for name, content in _llama_folder().items()}
    more = {
        "use_dora": True,
        "revision": "main",
        "layers_to_transform": [0],
        "layers_pattern": "layers",
        "exclude_modules": [],
    }
    weights = safetensors(tensors)
    return [
        {**base, "adapter_config.json": Json(described, more), "adapter_model.safetensors": content}
        for content in (Binary(weights, 900), SafetensorsHeader(weights), Binary(weights))
    ]


def _torch_bin_seeds() -> list[Folder]:
    import torch

    theirs = {name: torch.from_numpy(np.array(array.data)) for name, array in _theirs(LLAMA, LLAMA_CONFIG).items()}
    first = next(iter(theirs))
    wide = torch.zeros(1).expand(2**16, 2**16)  # strides of 0: 17 GB in four bytes
    variants = [
        theirs,
        {name: tensor.half() for name, tensor in theirs.items()},
        {**theirs, first: wide},
        {**theirs, first: torch.zeros(1).expand(96, 32)},
        {**theirs, first: theirs[first].t().contiguous().t()},
        {**theirs, first: theirs[first].to(torch.complex64)},
        {**theirs, first: torch.zeros(96, 32).to_sparse()},
        {**theirs, "n": 3},
        {"state_dict": theirs},
        {**theirs, first: torch.nn.Parameter(theirs[first])},
    ]
    found: list[Folder] = []
    for variant in variants:
        for new in (True, False):
            file = io.BytesIO()
            torch.save(variant, file, _use_new_zipfile_serialization=new)
            found.append({"config.json": Json(LLAMA.TINY), "pytorch_model.bin": Binary(file.getvalue(), 4000)})
    return found


def read_repeated(folder: Path) -> None:
    from pellucid.checkpoint.torch_bin import open_torch_bin
    from pellucid.quant import dequantize

    for array in open_torch_bin(folder / "pytorch_model.bin").values():
        dequantize(array)


def _repeated_seeds() -> list[Folder]:
    """A model whose tensors are one number each, repeated by strides of 0: 5 kB that claim gigabytes."""
    import torch

    wide = {**LLAMA.TINY, "vocab_size": 50_000, "hidden_size": 8192, "intermediate_size": 30_000}
    config = LLAMA.config(wide)
    shapes = {name: array.shape for name, array in _shapes(config).items()}
    file = io.BytesIO()
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, file)
    whole = _torch_bin_seeds()[0]
    return [
        {
            "config.json": Json(LLAMA.TINY),
            "pytorch_model.bin": Known(whole["pytorch_model.bin"], Binary(file.getvalue(), 4000)),
        }
    ]


def _shapes(config: ModelConfig) -> dict[str, Array]:
    """Their names and shapes, without the numbers."""
    empty = {
        name: Array("float32", shape, np.broadcast_to(np.float32(0), shape))
        for name, shape in weight_shapes(config).items()
    }
    return dict(to_theirs(config, LLAMA.WEIGHTS, empty))


def _llama2c_bytes() -> bytes:
    import struct

    from pellucid.checkpoint.llama2c import WEIGHTS

    mine = dict(to_theirs(LLAMA_CONFIG, WEIGHTS, arrays(LLAMA_CONFIG)))
    order = [rule.theirs for rule in WEIGHTS]
    at = order.index("rms_final_weight")
    parts = [
        mine[stem.replace("{i}", str(i))] for stem in order[:at] for i in (range(2) if "{i}" in stem else range(1))
    ]
    data = b"".join(np.ascontiguousarray(part.data).tobytes() for part in [*parts, mine["rms_final_weight"]])
    return struct.pack("<7i", 32, 48, 2, 4, 2, 96, 64) + data + bytes(4 * 64 * 4 * 2)


def read_llama2c(folder: Path) -> None:
    from pellucid.auto import open_model

    use_model(open_model(folder / "model.bin"))


# --- GGUF --------------------------------------------------------------------------------------------------------------


def _gguf_model(name: str, **more: tuple[int, Any]) -> Gguf:
    """A file as llama.cpp's converter writes it, by family; our own writer, so that it can be damaged by its parts."""
    family = FAMILIES[name]
    config: ModelConfig = family.config(
        {name: value for name, value in family.TINY.items() if name != "mlp_only_layers"}
    )
    layer, architecture = config.layers[0], family.GGUF.architecture
    attention = layer.mixer
    numbers: dict[str, tuple[int, Any]] = {
        "context_length": (4, config.context_len),
        "embedding_length": (4, config.d_model),
        "block_count": (4, config.num_layers),
        "feed_forward_length": (4, layer.mlp.d_ff),
        "attention.head_count": (4, attention.num_heads),
        "attention.head_count_kv": (4, attention.num_kv_heads),
        "attention.key_length": (4, attention.head_dim),
        "attention.value_length": (4, attention.head_dim),
        "attention.layer_norm_rms_epsilon": (6, 1e-5),
        "attention.layer_norm_epsilon": (6, 1e-5),
    }
    if attention.rope:
        numbers |= {"rope.freq_base": (6, 10000.0), "rope.dimension_count": (4, attention.rope.dim)}
    if layer.experts:
        numbers |= {
            "expert_count": (4, layer.experts.num_experts),
            "expert_used_count": (4, layer.experts.experts_per_token),
        }
        if architecture != "llama":  # Mixtral's are as wide as an MLP would be
            numbers |= {"expert_feed_forward_length": (4, layer.mlp.d_ff)}
        if layer.experts.shared:
            numbers |= {"expert_shared_feed_forward_length": (4, layer.experts.shared.d_ff)}
    numbers |= more
    metadata: list[tuple[str, int, Any]] = [
        ("general.architecture", 8, architecture),
        ("general.name", 8, "tiny"),
        ("general.alignment", 4, 32),
        *((f"{architecture}.{key}", kind, value) for key, (kind, value) in numbers.items()),
        *_gguf_words(config.vocab_size),
    ]
    tensors = []
    for theirs, array in to_theirs(config, family.GGUF.weights, arrays(config)):
        values = np.ascontiguousarray(array.data)
        tensors.append((theirs, tuple(reversed(array.shape)), 0, values.tobytes()))
    known = (
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scale_linear", "rope.dimension_count",
        "attention.sliding_window", "attention.scale", "vocab_size", "expert_weights_norm", "expert_gating_func",
        "attention.value_length", "logit_scale", "leading_dense_block_count", "nextn_predict_layers",
    )  # fmt: skip
    keys = [f"{architecture}.{key}" for key in known]
    keys += [
        "split.count",
        "split.no",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.padding_token_id",
        "general.file_type",
    ]
    return Gguf(metadata, tensors, tuple(keys))


def _gguf_words(vocab_size: int) -> list[tuple[str, int, Any]]:
    """A byte-level vocabulary of so many tokens."""
    tokens = ["<s>", "</s>", "<|im_end|>", *(chr(code) for code in range(33, 33 + vocab_size - 8))]
    tokens += [f"<{place}>" for place in range(vocab_size - len(tokens))]
    tokens[-1], tokens[-2] = "ab", "abc"
    return [
        ("tokenizer.ggml.model", 8, "gpt2"),
        ("tokenizer.ggml.pre", 8, "smollm"),
        ("tokenizer.ggml.tokens", 9, (8, tokens)),
        ("tokenizer.ggml.token_type", 9, (5, [3, 3, 3] + [1] * (vocab_size - 3))),
        ("tokenizer.ggml.merges", 9, (8, ["a b", "ab c"])),
        ("tokenizer.ggml.bos_token_id", 4, 0),
        ("tokenizer.ggml.eos_token_id", 4, 1),
        ("tokenizer.ggml.unknown_token_id", 4, 0),
        ("tokenizer.ggml.add_bos_token", 7, True),
        ("tokenizer.chat_template", 8, "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ]


def _known_gguf() -> list[Folder]:
    """A head of 1,048,576 dimensions; arrays where one number belongs, or one word."""
    array, words = (9, (4, [1, 2])), (9, (8, ["gpt2", "llama"]))
    hostile = [_gguf_model("llama", **{"attention.key_length": (4, 2**20)})]
    hostile += [_gguf_model("llama", **{key: array}) for key in ("context_length", "rope.freq_base", "expert_count")]
    whole = _gguf_model("llama")
    for key, value in (("tokenizer.ggml.model", words), ("tokenizer.ggml.eos_token_id", array)):
        pairs: list[tuple[str, int, Any]] = [
            (name, value[0], value[1]) if name == key else (name, kind, old) for name, kind, old in whole.metadata
        ]
        hostile.append(Gguf(pairs, whole.tensors, whole.more))
    return [{"model.gguf": Known(whole, one)} for one in hostile]


def _gguf_seeds() -> list[Folder]:
    found = [_gguf_model(name) for name, family in FAMILIES.items() if family.GGUF]
    scaled: list[dict[str, tuple[int, Any]]] = [
        {"rope.scaling.type": (8, "linear"), "rope.scaling.factor": (6, 2.0)},
        {
            "rope.scaling.type": (8, "yarn"),
            "rope.scaling.factor": (6, 2.0),
            "rope.scaling.original_context_length": (4, 32),
            "rope.scaling.attn_factor": (6, 1.0),
        },
    ]
    found += [_gguf_model("llama", **more) for more in scaled]
    return [*({"model.gguf": content} for content in found), *_known_gguf()]


def read_gguf(folder: Path) -> None:
    from pellucid.auto import open_model

    use_model(open_model(folder / "model.gguf"))


def _spm_words() -> list[tuple[str, int, Any]]:
    pieces = _pieces()
    return [
        ("tokenizer.ggml.model", 8, "llama"),
        ("tokenizer.ggml.tokens", 9, (8, [text for text, _, _ in pieces])),
        ("tokenizer.ggml.scores", 9, (6, [score for _, score, _ in pieces])),
        ("tokenizer.ggml.token_type", 9, (5, [kind for _, _, kind in pieces])),
        ("tokenizer.ggml.bos_token_id", 4, 1),
        ("tokenizer.ggml.eos_token_id", 4, 2),
        ("tokenizer.ggml.unknown_token_id", 4, 0),
        ("tokenizer.ggml.padding_token_id", 4, 2),
        ("tokenizer.ggml.add_bos_token", 7, True),
        ("tokenizer.ggml.add_eos_token", 7, False),
        ("tokenizer.ggml.add_space_prefix", 7, True),
    ]


def _gguf_tokenizer_seeds() -> list[Folder]:
    base = _gguf_model("llama")
    head = [pair for pair in base.metadata if not pair[0].startswith("tokenizer.")]
    more = tuple(
        f"tokenizer.ggml.{name}"
        for name in ("eot_token_id", "seperator_token_id", "mask_token_id", "pre", "precompiled_charsmap")
    )
    return [
        {"model.gguf": Gguf([*head, *words], base.tensors, more)}
        for words in (_gguf_words(LLAMA_CONFIG.vocab_size), _spm_words(), _spm_words())
    ]


def read_gguf_tokenizer(folder: Path) -> None:
    from pellucid.checkpoint.gguf import GGUFFile
    from pellucid.text.readers.gguf import tokenizer_from_gguf

    use_tokenizer(tokenizer_from_gguf(GGUFFile(folder / "model.gguf").metadata), folder)


# --- tokenizers --------------------------------------------------------------------------------------------------------


def _pieces() -> list[tuple[str, float, int]]:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = ["▁", "H", "e", "l", "o", "w", "r", "d", "a", "é", "ll", "▁H", "▁He", "▁Hell", "▁Hello", "or", "ld"]
    return pieces + [(word, -float(place), 1) for place, word in enumerate(words)]


def _sentencepiece() -> bytes:
    from pellucid.text.readers.sentencepiece_proto import build_model

    return build_model(
        _pieces(), unk_piece="<unk>", bos_piece="<s>", eos_piece="</s>", byte_fallback=True, add_dummy_prefix=True
    )


def added(place: int, content: str) -> dict[str, Any]:
    return {
        "id": place,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _tokenizer_json(model: dict[str, Any], **parts: Any) -> Json:
    words = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts}
    return Json(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(0, "<s>"), added(1, "</s>")],
            **words,
            "model": model,
        }
    )


LETTERS = "HeloWwrdabc"


def _tokenizer_jsons() -> list[Json]:
    vocab = {
        token: place
        for place, token in enumerate(["<s>", "</s>", "<unk>", *dict.fromkeys(LETTERS), "Ġ", "Ċ", "1", "2", "ll", "lo"])
    }
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [["l", "l"], ["l", "o"]],
    }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    replace = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    prepend = {"type": "Prepend", "prepend": "▁"}
    lower: list[dict[str, Any]] = [
        {"type": "Lowercase"},
        {"type": "NFD"},
        {"type": "StripAccents"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
    ]
    split = {"type": "Split", "pattern": {"Regex": "\\s+|\\p{L}+"}, "behavior": "Isolated", "invert": False}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    spaced = {"▁": 0, **{token: place + 1 for place, token in enumerate(vocab) if token != "<s>"}, "<s>": len(vocab)}
    fuse = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return [
        _tokenizer_json(bpe, pre_tokenizer=level, decoder=level, post_processor=template),
        _tokenizer_json(
            bpe,
            normalizer={"type": "Sequence", "normalizers": [replace, prepend, {"type": "NFC"}]},
            pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]},
            decoder=level,
        ),
        _tokenizer_json(
            {**bpe, "vocab": spaced, "byte_fallback": True, "unk_token": "<unk>"},
            normalizer=prepend,
            pre_tokenizer=space,
            decoder=fuse,
        ),
        _tokenizer_json(
            {
                "type": "Unigram",
                "unk_id": 0,
                "vocab": [["<unk>", 0.0], *([token, -1.0] for token in list(vocab)[3:])],
                "byte_fallback": False,
            },
            normalizer={"type": "Sequence", "normalizers": lower},
            pre_tokenizer=space,
            decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        ),
        _tokenizer_json(
            {
                "type": "WordPiece",
                "unk_token": "<unk>",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab,
            },
            pre_tokenizer={"type": "BertPreTokenizer"},
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        ),
        _tokenizer_json(
            {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab}, pre_tokenizer={"type": "Whitespace"}
        ),
    ]


def _known_tokenizer_jsons() -> list[Known]:
    """Replacements of replacements, one token with the id 300,000,000, a prefix of 60,000 signs before each word."""
    import copy

    plain = _tokenizer_jsons()[0]
    made = []
    grow = {"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 20}
    parts: list[tuple[str, Any]] = [
        ("normalizer", {"type": "Sequence", "normalizers": [grow] * 8}),
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [{**grow, "pattern": {"Regex": "|l"}, "content": "ll"}] * 12},
        ),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 9000}] * 12}),
        ("decoder", {"type": "Sequence", "decoders": [grow] * 8}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(l+)+$"}, "behavior": "Isolated", "invert": False}),
    ]
    for part, value in parts:
        made.append(Known(plain, Json({**plain.tree, part: value})))
    far = copy.deepcopy(plain.tree)
    far["model"]["vocab"]["H"] = 300_000_000
    return [*made, Known(plain, Json(far))]


TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": {
        "content": "</s>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "__type": "AddedToken",
    },
    "pad_token": "</s>",
    "unk_token": None,
    "model_max_length": 64,
    "clean_up_tokenization_spaces": True,
    "add_bos_token": True,
    "add_prefix_space": False,
    "padding_side": "left",
    "additional_special_tokens": ["<x>"],
    "added_tokens_decoder": {"0": {"content": "<s>", "special": True}, "1": {"content": "</s>", "special": True}},
    "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
CONFIG_KEYS: dict[str, Any] = {
    "stop_token_ids": [1], "model_input_names": ["input_ids"], "extra_special_tokens": {"image_token": "<i>"}, "legacy": True,
    "truncation_side": "left", "image_token": "<img>", "split_special_tokens": True, "llama2c": True, "add_eos_token": True,
    "tokenizer_class": "LlamaTokenizer", "encode_special_tokens": True, "errors": "replace", "sp_model_kwargs": {},
}  # fmt: skip


def read_tokenizer_chat(folder: Path) -> None:
    from pellucid.text.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    use_tokenizer(tokenizer, folder)
    if tokenizer.chat_template is not None:
        tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)


def _config_seeds() -> list[Folder]:
    config = {**TOKENIZER_CONFIG}
    flat = {name: value for name, value in config.items() if name != "added_tokens_decoder"}
    legacy = {
        "special_tokens_map.json": Json(
            {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "additional_special_tokens": ["<x>"]}
        ),
        "added_tokens.json": Json({"<x>": 40, "<y>": 41}),
    }
    model: Folder = {"tokenizer.model": Binary(_sentencepiece())}
    words: Folder = {"tokenizer.json": _tokenizer_jsons()[0]}
    llama = {**config, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"}
    glm = {
        "tokenizer_class": "ChatGLMTokenizer",
        "added_tokens_decoder": {"0": {"content": "<unk>"}, "1": {"content": "<|user|>"}},
    }
    found: list[Folder] = []
    for files in (words, model):
        written = Json(config if files is words else llama, CONFIG_KEYS)
        found.append(
            {**files, "tokenizer_config.json": written, "generation_config.json": Json({"eos_token_id": [1, 2]})}
        )
        found.append({**files, "tokenizer_config.json": Json(flat, CONFIG_KEYS), **legacy})
        found.append({**files, "tokenizer_config.json": written})
    found.append({**model, "tokenizer_config.json": Json(glm, CONFIG_KEYS)})
    far = {str(300 + place * 2**20): {"content": f"<x{place}>", "special": True} for place in range(1, 900)}
    near = {str(300 + place): {"content": f"<x{place}>", "special": True} for place in range(1, 900)}
    configs = [Json({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": tokens}) for tokens in (near, far)]
    found.append({**model, "tokenizer_config.json": Known(*configs)})
    return found


def _vocab_seeds() -> list[Folder]:
    vocab = {
        token: place
        for place, token in enumerate([*LETTERS[:4], "Ġ", "1", "2", "ll", "lo", "<|endoftext|>", "W", "r", "d"])
    }
    return [
        {
            "vocab.json": Json(vocab),
            "merges.txt": Text("#version: 0.2\nl l\nl o\n", ("l", "o", "ll", "lo", "Ġ", "H", "#version")),
            "tokenizer_config.json": Json({"tokenizer_class": "GPT2Tokenizer"}, CONFIG_KEYS),
        }
    ]


def _tiktoken_seeds() -> list[Folder]:
    import base64

    ranks = "\n".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256))
    ranks += f"\n{base64.b64encode(b'll').decode()} 256\n{base64.b64encode(b'llo').decode()} 257\n"
    special = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>")
    config = {
        "tokenizer_class": "ChatGLM4Tokenizer",
        "added_tokens_decoder": {
            str(258 + place): {"content": token, "special": True} for place, token in enumerate(special)
        },
    }
    return [{"tokenizer.model": Text(ranks, ("bGw=", "256", "257", "AA==")), "tokenizer_config.json": Json(config)}]


def _llama2c_words() -> list[Folder]:
    import struct

    tokens = [
        b"<unk>",
        b"\n<s>\n",
        b"\n</s>\n",
        *(f"<0x{byte:02X}>".encode() for byte in range(256)),
        b" ",
        b"a",
        b"l",
        b"ll",
    ]
    data = struct.pack("<i", 10) + b"".join(struct.pack("<fi", -1.0, len(token)) + token for token in tokens)
    return [{"tok263.bin": Binary(data, 60), "tokenizer_config.json": Json({})}, {"tok263.bin": Binary(data)}]


TEMPLATE = """{%- set ns = namespace(last=0) -%}
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' and loop.index0 > ns.last %}{% set ns.last = loop.index0 %}{% endif -%}
{{ '<|' + message['role'] + '|>' }}{{ message.content | trim }}{{ eos_token }}
{%- endfor -%}
{% macro one(x) %}{{ x * 2 }}{% endmacro %}{{ one('a') }}{{ range(3) | list | length }}
{% if add_generation_prompt %}{% generation %}<|assistant|>{% endgeneration %}{% endif %}"""
TEMPLATE_WORDS = (
    "{{", "}}", "{%", "%}", "range(10**9)", "'a'*10**9", "|join", "|tojson", "messages", "message", "loop", "ns", "**", "//", "0",
    "{% for i in range(99999) %}", "{% endfor %}", "{{ self }}", "{{ messages.append(messages) }}", "{{ 'a'.join(['b']*9999999) }}",
    "{{ '%999999999s' % 1 }}", "{{ '{:>999999999}'.format(1) }}", "{{ 9**9**9 }}", "{{ ''.__class__ }}", "{% include 'x' %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ raise_exception('x') }}", "{{ strftime_now('%Y') }}", "|center(999999999)",
)  # fmt: skip


def _template_seeds() -> list[Folder]:
    files = {"tokenizer.json": _tokenizer_jsons()[0], "tokenizer_config.json": Json(TOKENIZER_CONFIG)}
    return [{**files, "chat_template.jinja": Text(TEMPLATE, TEMPLATE_WORDS)}]


# --- training ----------------------------------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
RECORDS: list[Any] = [
    {"text": "Hello"},
    {"prompt": "a", "completion": "b"},
    {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
        "label": True,
    },
    {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}],
        "tools": [TOOL],
        "label": True,
    },
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
    {"instruction": "a", "instances": [{"input": "b", "output": "c"}]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {
        "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "rejected": [{"role": "user", "content": "a"}],
    },
]


def read_records(folder: Path) -> None:
    from pellucid.train.data.records import read_examples
    from pellucid.train.data.sources import DataError, documents

    list(read_examples(folder / "records.jsonl", fill={"name": "x"}))
    with suppress(DataError):  # most records have no text of that name
        ["".join(pieces) for pieces in documents(folder / "records.jsonl")]


def read_masked(folder: Path) -> None:
    from pellucid.text.load import load_tokenizer
    from pellucid.train.data.examples import Pair
    from pellucid.train.data.masks import Masking
    from pellucid.train.data.records import read_examples

    tokenizer = _cached_tokenizer(folder, load_tokenizer)
    masking = Masking(tokenizer, stop_token_ids=(1,))
    for read in read_examples(folder / "records.jsonl"):
        if isinstance(read.example, Pair):
            masking.pair(read.example, read.where)
        elif read.example is not None:
            masking.tokens(read.example, read.where)


_tokenizers: dict[Path, Any] = {}


def _cached_tokenizer(folder: Path, load: Callable[[Path], Any]) -> Any:
    if folder not in _tokenizers:
        _tokenizers[folder] = load(folder)
    return _tokenizers[folder]


def _records_seeds() -> list[Folder]:
    return [{"records.jsonl": JsonLines([record])} for record in RECORDS]


def _masked_seeds() -> list[Folder]:
    files: Folder = {"tokenizer.json": _tokenizer_jsons()[0], "tokenizer_config.json": Json(TOKENIZER_CONFIG)}
    return [{**files, "records.jsonl": JsonLines([record])} for record in RECORDS]


def read_made_examples(folder: Path) -> None:
    """A folder of tokenized examples, which is believed where it is what was asked for."""
    import os

    from pellucid.text.load import load_tokenizer
    from pellucid.train.data.example_store import Making, tokenize_examples
    from pellucid.train.data.masks import Masking

    tokenizer = _cached_tokenizer(folder, load_tokenizer)
    before = Path.cwd()
    os.chdir(folder)  # the manifest names its source as it was named
    kept = {path: path.read_bytes() for path in Path("made").glob("*")}
    try:
        masking = Masking(tokenizer, stop_token_ids=(1,))
        examples = tokenize_examples(Path("made"), [Path("records.jsonl")], masking, Making(context_len=64))
        for number in range(len(examples)):
            _ = examples[number]
        _ = (examples.lengths, examples.records)
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
        os.chdir(before)


def _examples_seeds() -> list[Folder]:
    import tempfile

    files = _masked_seeds()[0]
    with tempfile.TemporaryDirectory() as made:
        for name, content in files.items():
            (Path(made) / name).write_bytes(content.whole())
        read_made_examples(Path(made))
        _tokenizers.clear()
        manifest = json.loads((Path(made) / "made" / "manifest.json").read_text())
        others = {f"made/{path.name}": Binary(path.read_bytes(), 200) for path in (Path(made) / "made").iterdir()}
    return [{**files, **others, "made/manifest.json": Json(manifest)}]


def _distributed_seeds() -> list[Folder]:
    import hashlib

    weights = {f"model.{name}": array for name, array in arrays(LLAMA_CONFIG).items()}
    parts: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    tensors: dict[str, Any] = {}
    for name, array in weights.items():
        half = max(array.shape[0] // 2, 1)
        rows = [[0, 0, half], [1, half, array.shape[0]]]
        parts[0][name], parts[1][name] = (Array.from_numpy(np.ascontiguousarray(array.data[a:b])) for _, a, b in rows)
        tensors[name] = {"dtype": "float32", "shape": list(array.shape), "rows": rows}
    names = [f"process-{rank + 1:05d}-of-00002.safetensors" for rank in range(2)]
    data = [safetensors(part) for part in parts]
    files = [
        {"name": name, "bytes": len(one), "sha256": hashlib.sha256(one).hexdigest()}
        for name, one in zip(names, data, strict=True)
    ]
    index = {"format": 1, "files": files, "tensors": tensors}
    return [
        {
            "config.json": Json(LLAMA.TINY),
            "distributed.json": Json(index),
            **{name: Binary(one, 900) for name, one in zip(names, data, strict=True)},
        }
    ]


RUN = """# a run
steps: 100
batch-size: 4
learning-rate: 0.001
context_len: 64
data: [a.txt, b.txt]
seed: 1
"""
YAML_WORDS = (
    "steps:", "[a, b]", "{a: b}", "&a", "*a", "!!python/object:os.system", "2026-11-27", "yes", "~", "0x10", "1e5", ".nan", "- a", "? a",
    "!!binary", "12:30:45", "<<:", "|", ">", "true", "1_000",
)  # fmt: skip


def read_run(folder: Path) -> None:
    from pellucid.cli.runs.run_config import read_yaml

    read_yaml(str(folder / "run.yaml"))


def _run_seeds() -> list[Folder]:
    return [{"run.yaml": Text(RUN, YAML_WORDS)}]


# --- native ------------------------------------------------------------------------------------------------------------


def read_two_files(folder: Path) -> None:
    """``convert --two-files`` of a tokenizer: the vocabulary as the program holds it."""
    from pellucid.native import vocabulary
    from pellucid.text.load import load_tokenizer

    vocabulary.of(load_tokenizer(folder))


def _two_files_seeds() -> list[Folder]:
    return [
        {"tokenizer.json": _known_tokenizer_jsons()[-1]},
        {"tokenizer.json": _tokenizer_jsons()[0]},
        {
            "tokenizer.model": Proto(_sentencepiece()),
            "tokenizer_config.json": Json({"tokenizer_class": "LlamaTokenizer"}),
        },
    ]


def _sentencepiece_seeds() -> list[Folder]:
    files: Folder = {"tokenizer_config.json": Json({"tokenizer_class": "LlamaTokenizer"})}
    glm: Folder = {"tokenizer_config.json": Json({"tokenizer_class": "ChatGLMTokenizer"})}
    return [{"tokenizer.model": Proto(_sentencepiece()), **one} for one in (files, files, glm)]


TARGETS: dict[str, Target] = {
    **{f"config-{name}": Target(_configs(name), read_model, 2, ("model.safetensors",)) for name in FAMILIES},
    "generation-config": Target(
        lambda: [_llama_folder(generation_config__json=Json(GENERATION))],
        read_generation,
        1,
        ("config.json", "model.safetensors"),
    ),
    "adapter": Target(_adapter_seeds, read_model, 3, ("base/config.json", "base/model.safetensors")),
    "safetensors": Target(_safetensors_seeds, read_model, 2, ("config.json",)),
    "safetensors-index": Target(lambda: [_sharded()], read_model, 2, ("config.json",)),
    "torch-bin": Target(_torch_bin_seeds, read_model, 2, ("config.json",)),
    "torch-bin-repeated": Target(_repeated_seeds, read_repeated, 1, ("config.json",)),
    "llama2c": Target(lambda: [{"model.bin": Binary(_llama2c_bytes(), 28)}], read_llama2c),
    "distributed": Target(_distributed_seeds, read_model, 2, ("config.json",)),
    "gguf": Target(_gguf_seeds, read_gguf, 6),
    "gguf-tokenizer": Target(_gguf_tokenizer_seeds, read_gguf_tokenizer, 3),
    "tokenizer-json": Target(
        lambda: [{"tokenizer.json": one} for one in (*_tokenizer_jsons(), *_known_tokenizer_jsons())], read_tokenizer, 6
    ),
    "sentencepiece": Target(_sentencepiece_seeds, read_tokenizer, 4, ("tokenizer_config.json",)),
    "tokenizer-config": Target(_config_seeds, read_tokenizer_chat, 4, ("tokenizer.model", "tokenizer.json")),
    "vocab-merges": Target(_vocab_seeds, read_tokenizer, 2),
    "tiktoken": Target(_tiktoken_seeds, read_tokenizer, 1),
    "llama2c-words": Target(_llama2c_words, read_tokenizer, 1),
    "chat-template": Target(_template_seeds, read_tokenizer_chat, 2, ("tokenizer.json", "tokenizer_config.json")),
    "examples": Target(
        _examples_seeds, read_made_examples, 1, ("records.jsonl", "tokenizer.json", "tokenizer_config.json")
    ),
    "records": Target(_records_seeds, read_records, 3),
    "records-masked": Target(_masked_seeds, read_masked, 2, ("tokenizer.json", "tokenizer_config.json")),
    "run-yaml": Target(_run_seeds, read_run, 1),
    "two-files": Target(_two_files_seeds, read_two_files, 2, ("tokenizer_config.json",)),
}


def plan(total: int) -> Iterator[tuple[str, int]]:
    """So many inputs in all, each target's share by its weight."""
    whole = sum(target.weight for target in TARGETS.values())
    for name, target in TARGETS.items():
        yield name, max(total * target.weight // whole, 1)
