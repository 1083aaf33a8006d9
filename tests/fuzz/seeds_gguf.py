"""Tiny models and vocabularies in GGUF, as llama.cpp's converter writes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import Folder, Known
from fuzz.mutations_binary import Gguf
from fuzz.seeds_models import LLAMA_CONFIG, arrays
from fuzz.seeds_tokenizers import pieces
from fuzz.use import use_model, use_tokenizer
from pellucid.base.array import BLOCKS
from pellucid.base.errors import PellucidError
from pellucid.checkpoint.files.gguf import TYPES
from pellucid.config import ModelConfig
from pellucid.families import FAMILIES
from pellucid.families.translation.gguf_out import outline
from pellucid.families.translation.rules import to_theirs
from pellucid.text.readers.sentencepiece_proto import fields


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
    }
    kind = config.final_norm.kind if config.final_norm else "rms"
    numbers[f"attention.layer_norm_{'rms_' if kind == 'rms' else ''}epsilon"] = (6, 1e-5)
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
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scale_linear",
        "rope.dimension_count",
        "attention.sliding_window",
        "attention.scale",
        "vocab_size",
        "expert_weights_norm",
        "expert_gating_func",
        "attention.value_length",
        "logit_scale",
        "leading_dense_block_count",
        "nextn_predict_layers",
    )
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


def _in_blocks(kind: int) -> Gguf:
    """A model whose matrices are blocks of 32 weights, any codes in them."""
    rng, plain = np.random.default_rng(0), _gguf_model("llama")
    elements, size = BLOCKS[TYPES[kind]]

    def tensor(name: str, sizes: tuple[int, ...], old: int, values: bytes) -> tuple[str, tuple[int, ...], int, bytes]:
        if len(sizes) < 2 or sizes[0] % elements:
            return name, sizes, old, values
        blocks = rng.integers(0, 256, (sizes[0] * sizes[1] // elements, size), np.uint8)
        blocks[:, :2] = np.array([0.01], np.float16).view(np.uint8) if kind == 20 else 120
        return name, sizes, kind, blocks.tobytes()

    return Gguf(plain.metadata, [tensor(*one) for one in plain.tensors], plain.more)


def _common_keys_do(family: Any) -> bool:
    """Whether a file of the family needs no keys beyond those that ``_gguf_model`` writes."""
    config: ModelConfig = family.config(family.TINY)
    if not all(layer.attention and layer.mlp and not layer.experts for layer in config.layers):
        return False
    return config.logit_scale == 1.0 and all(layer.residual_scale == 1.0 for layer in config.layers)


def _written_models() -> dict[str, Gguf]:
    """Models as we write them, of families whose TINY llama.cpp has words for."""
    found: dict[str, Gguf] = {}
    for name, family in FAMILIES.items():
        config: ModelConfig = family.config(family.TINY)
        if not family.GGUF:
            continue
        try:
            outlined = outline(config, FAMILIES)
        except PellucidError:
            continue
        metadata: list[tuple[str, int, Any]] = [
            ("general.architecture", 8, outlined.architecture),
            *((key, *_typed(value)) for key, value in outlined.metadata.items()),
            *_gguf_words(config.vocab_size),
        ]
        tensors = []
        for theirs, array in to_theirs(config, family.GGUF.weights, arrays(config)):
            tensors.append((theirs, tuple(reversed(array.shape)), 0, np.ascontiguousarray(array.data).tobytes()))
        for setting, values in outlined.tensors.items():
            tensors.append((setting, tuple(reversed(values.shape)), 0, values.astype("<f4").tobytes()))
        found[name] = Gguf(metadata, tensors)
    return found


def _typed(value: Any) -> tuple[int, Any]:
    """A value with its type's number."""
    if isinstance(value, list):
        return 9, (_typed(value[0])[0], value)
    return (7 if isinstance(value, bool) else 4 if isinstance(value, int) else 6), value


def gguf_seeds() -> list[Folder]:
    written = _written_models()
    found = list(written.values())
    others = [name for name, family in FAMILIES.items() if family.GGUF and name not in written]
    found += [_gguf_model(name) for name in others if _common_keys_do(FAMILIES[name])]
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
    found += [_in_blocks(kind) for kind in (20, 39)]  # IQ4_NL, MXFP4
    return [*({"model.gguf": content} for content in found), *_known_gguf()]


def gguf_written_seeds() -> list[Folder]:
    """Of models that can be written."""
    return [*({"model.gguf": content} for content in _written_models().values()), *_known_gguf()]


def read_gguf(folder: Path) -> None:
    from pellucid.auto import open_model

    use_model(open_model(folder / "model.gguf"))


def _spm_words() -> list[tuple[str, int, Any]]:
    listed = pieces()
    return [
        ("tokenizer.ggml.model", 8, "llama"),
        ("tokenizer.ggml.tokens", 9, (8, [text for text, _, _ in listed])),
        ("tokenizer.ggml.scores", 9, (6, [score for _, score, _ in listed])),
        ("tokenizer.ggml.token_type", 9, (5, [kind for _, _, kind in listed])),
        ("tokenizer.ggml.bos_token_id", 4, 1),
        ("tokenizer.ggml.eos_token_id", 4, 2),
        ("tokenizer.ggml.unknown_token_id", 4, 0),
        ("tokenizer.ggml.padding_token_id", 4, 2),
        ("tokenizer.ggml.add_bos_token", 7, True),
        ("tokenizer.ggml.add_eos_token", 7, False),
        ("tokenizer.ggml.add_space_prefix", 7, True),
    ]


Words = list[tuple[str, int, Any]]


def _other_words() -> tuple[list[Words], Words]:
    """A unigram model with a character map, WordPiece, Gemma 4's merges of characters; and RWKV's bytes."""
    unigram = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁", -2.0, 1)]
    unigram += [(token, -3.0, 1) for token in "Helowrd12ab"] + [("▁He", -4.0, 1), ("llo", -5.0, 1)]
    pieces_ = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"▁hello", "▁hello", "▁12", "e", "l"]
    names = (("unknown", 1), ("cls", 2), ("seperator", 3), ("padding", 0))
    gemma = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *"Helo\n12", "lo", "llo"] + [
        f"<0x{byte:02X}>" for byte in range(256)
    ]
    rwkv = ["<s>", *(f"\\x{byte:02x}" for byte in range(256)), "the", "llo", "\\n\\n", "漢", "\\xe3\\x81"]
    of_bytes: Words = [
        ("tokenizer.ggml.model", 8, "rwkv"),
        ("tokenizer.ggml.tokens", 9, (8, rwkv)),
        ("tokenizer.ggml.token_type", 9, (5, [3] + [1] * (len(rwkv) - 1))),
    ]
    return [
        [
            ("tokenizer.ggml.model", 8, "t5"),
            ("tokenizer.ggml.tokens", 9, (8, [text for text, _, _ in unigram])),
            ("tokenizer.ggml.scores", 9, (6, [score for _, score, _ in unigram])),
            ("tokenizer.ggml.token_type", 9, (5, [kind for _, _, kind in unigram])),
            ("tokenizer.ggml.precompiled_charsmap", 9, (0, list(_charsmap()))),
            ("tokenizer.ggml.add_space_prefix", 7, True),
            ("tokenizer.ggml.remove_extra_whitespaces", 7, True),
        ],
        [
            ("tokenizer.ggml.model", 8, "bert"),
            ("tokenizer.ggml.tokens", 9, (8, list(dict.fromkeys(pieces_)))),
            ("tokenizer.ggml.token_type", 9, (5, [3] * 4 + [1] * (len(set(pieces_)) - 4))),
            *((f"tokenizer.ggml.{name}_token_id", 4, place) for name, place in names),
        ],
        [
            ("tokenizer.ggml.model", 8, "gemma4"),
            ("tokenizer.ggml.tokens", 9, (8, gemma)),
            ("tokenizer.ggml.token_type", 9, (5, [3] * 4 + [1] * 10 + [6] * 256)),
            ("tokenizer.ggml.merges", 9, (8, ["l o", "l lo"])),
            ("tokenizer.ggml.bos_token_id", 4, 2),
            ("tokenizer.ggml.eos_token_id", 4, 1),
            ("tokenizer.ggml.unknown_token_id", 4, 3),
        ],
    ], of_bytes


@cache
def _charsmap() -> bytes:
    """SentencePiece's own map of two characters, as its trainer writes it."""
    import io
    import tempfile

    import sentencepiece

    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("FF21\t41\nFF11\t31 32\n")
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["hello world"] * 20), model_writer=model, vocab_size=12, model_type="char",
            normalization_rule_tsv=rules.name, minloglevel=2,
        )  # fmt: skip
    return next(
        value for field, spec in fields(model.getvalue()) if field == 3 for number, value in fields(spec) if number == 2
    )


def gguf_tokenizer_seeds() -> list[Folder]:
    base = _gguf_model("llama")
    head = [pair for pair in base.metadata if not pair[0].startswith("tokenizer.")]
    more = tuple(
        f"tokenizer.ggml.{name}"
        for name in ("eot_token_id", "seperator_token_id", "mask_token_id", "pre", "precompiled_charsmap")
    )
    others, _ = _other_words()
    return [
        {"model.gguf": Gguf([*head, *words], base.tensors, more)}
        for words in (_gguf_words(LLAMA_CONFIG.vocab_size), _spm_words(), _spm_words(), *others)
    ]


def gguf_rwkv_seeds() -> list[Folder]:
    base = _gguf_model("llama")
    head = [pair for pair in base.metadata if not pair[0].startswith("tokenizer.")]
    return [{"model.gguf": Gguf([*head, *_other_words()[1]], base.tensors, ("tokenizer.ggml.eos_token_id",))}]


def read_gguf_rwkv(folder: Path) -> None:
    from pellucid.checkpoint.files.gguf import GGUFFile
    from pellucid.text.readers.gguf import tokenizer_from_gguf

    use_tokenizer(tokenizer_from_gguf(GGUFFile(folder / "model.gguf").metadata), folder, saved=False)


def read_gguf_tokenizer(folder: Path) -> None:
    from pellucid.checkpoint.files.gguf import GGUFFile
    from pellucid.text.readers.gguf import tokenizer_from_gguf

    use_tokenizer(tokenizer_from_gguf(GGUFFile(folder / "model.gguf").metadata), folder)


def gguf_split_seeds() -> list[Folder]:
    """A model in three parts, as llama.cpp's gguf-split cuts it; the last holds two tensors."""
    whole = _gguf_model("llama")
    cuts = (0, 4, len(whole.tensors) - 2, len(whole.tensors))
    folder: Folder = {}
    for number in range(3):
        split = [("split.no", 2, number), ("split.count", 2, 3), ("split.tensors.count", 5, len(whole.tensors))]
        metadata = [*(whole.metadata if number == 0 else []), *split]
        part = Gguf(metadata, whole.tensors[cuts[number] : cuts[number + 1]], ("split.no", "split.count"))
        folder[f"model-{number + 1:05d}-of-00003.gguf"] = part
    return [folder]


def read_gguf_split(folder: Path) -> None:
    """From any of its parts."""
    from pellucid.auto import open_model

    for number in (1, 3):
        path = folder / f"model-{number:05d}-of-00003.gguf"
        use_model(open_model(path if path.exists() else folder))


def read_gguf_to_write(folder: Path) -> None:
    """What was read, written again in fewer bits, and compared there."""
    from pellucid.auto import open_model
    from pellucid.checkpoint.gguf_out import save_gguf

    save_gguf(folder / "out.gguf", open_model(folder / "model.gguf"), "q8_0")


def imatrix_seeds() -> list[Folder]:
    tensors: list[tuple[str, tuple[int, ...], int, bytes]] = []
    for name, matrices in (("blk.0.attn_q.weight", 1), ("blk.0.ffn_up_exps.weight", 3)):
        sums, counts = np.arange(32 * matrices, dtype="<f4"), np.full(matrices, 9, "<f4")
        tensors.append((f"{name}.in_sum2", (32, matrices), 0, sums.tobytes()))
        tensors.append((f"{name}.counts", (1, matrices), 0, counts.tobytes()))
    metadata: list[tuple[str, int, Any]] = [
        ("general.type", 8, "imatrix"),
        ("imatrix.datasets", 9, (8, ["text.txt"])),
        ("imatrix.chunk_count", 4, 4),
        ("imatrix.chunk_size", 4, 512),
    ]
    return [{"imatrix.gguf": Gguf(metadata, tensors, ("general.alignment",))}]


def read_imatrix_file(folder: Path) -> None:
    from pellucid.checkpoint.imatrix import read_imatrix, write_imatrix

    imatrix = read_imatrix(folder / "imatrix.gguf")
    for columns in imatrix.importance().values():
        assert np.isfinite(columns).all()
        assert (columns > 0).all()
    imatrix.about("x")
    write_imatrix(folder / "again.gguf", imatrix)
