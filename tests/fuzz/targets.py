"""Every reader: tiny valid files, and what a user does with what was read of them.

A target's ``seeds`` are folders as mappings of names to contents; ``read`` is called with such a folder in which one
file was damaged. It goes as far as a user would: weights are dequantized, a token is computed, a text is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutations import Binary, Folder, Json
from fuzz.seeds_gguf import (
    gguf_rwkv_seeds,
    gguf_seeds,
    gguf_split_seeds,
    gguf_tokenizer_seeds,
    gguf_written_seeds,
    imatrix_seeds,
    read_gguf,
    read_gguf_rwkv,
    read_gguf_split,
    read_gguf_to_write,
    read_gguf_tokenizer,
    read_imatrix_file,
)
from fuzz.seeds_models import (
    GENERATION,
    adapter_seeds,
    configs,
    distributed_seeds,
    llama2c_bytes,
    llama_folder,
    read_generation,
    read_llama2c,
    read_repeated,
    repeated_seeds,
    safetensors_seeds,
    sharded,
    torch_bin_seeds,
)
from fuzz.seeds_quantized import quantized_parts_seeds, quantized_seeds
from fuzz.seeds_tokenizers import (
    config_seeds,
    ice_text_seeds,
    known_tokenizer_jsons,
    llama2c_words,
    read_tokenizer_chat,
    read_two_files,
    sentencepiece_seeds,
    tekken_seeds,
    template_seeds,
    tiktoken_seeds,
    tokenizer_jsons,
    two_files_seeds,
    vocab_seeds,
    word_piece_seeds,
)
from fuzz.seeds_training import (
    examples_seeds,
    masked_seeds,
    read_made_examples,
    read_masked,
    read_records,
    read_run,
    records_seeds,
    run_seeds,
)
from fuzz.use import read_model, read_tokenizer
from pellucid.families import FAMILIES


@dataclass(frozen=True)
class Target:
    """``weight``: inputs of it beside those of others. ``fixed``: files of the seeds that are never damaged. ``times``:
    bytes that a byte of the file may become: beside a text's own tokens (ids, texts, places, masks: some 150 bytes
    each in ``tokenizers``, and a short token is a byte) there are those of its beginnings that a template is tried on.
    """

    seeds: Callable[[], list[Folder]]
    read: Callable[[Path], None]
    weight: int = 1
    fixed: tuple[str, ...] = ()
    times: int = 4


TARGETS: dict[str, Target] = {
    **{f"config-{name}": Target(configs(name), read_model, 2, ("model.safetensors",)) for name in FAMILIES},
    "generation-config": Target(
        lambda: [llama_folder(generation_config__json=Json(GENERATION))],
        read_generation,
        1,
        ("config.json", "model.safetensors"),
    ),
    "adapter": Target(adapter_seeds, read_model, 3, ("base/config.json", "base/model.safetensors")),
    "safetensors": Target(safetensors_seeds, read_model, 2, ("config.json",)),
    "safetensors-index": Target(lambda: [sharded()], read_model, 2, ("config.json",)),
    "quantized": Target(quantized_seeds, read_model, 4),
    "quantized-parts": Target(quantized_parts_seeds, read_model, 3, ("config.json",)),
    "torch-bin": Target(torch_bin_seeds, read_model, 2, ("config.json",)),
    "torch-bin-repeated": Target(repeated_seeds, read_repeated, 1, ("config.json",)),
    "llama2c": Target(lambda: [{"model.bin": Binary(llama2c_bytes(), 28)}], read_llama2c),
    "distributed": Target(distributed_seeds, read_model, 2, ("config.json",)),
    "gguf": Target(gguf_seeds, read_gguf, 6),
    "gguf-split": Target(gguf_split_seeds, read_gguf_split, 3),
    "gguf-written": Target(gguf_written_seeds, read_gguf_to_write, 3),
    "imatrix": Target(imatrix_seeds, read_imatrix_file, 2),
    "gguf-tokenizer": Target(gguf_tokenizer_seeds, read_gguf_tokenizer, 5),
    "gguf-rwkv": Target(gguf_rwkv_seeds, read_gguf_rwkv, 1),
    "tokenizer-json": Target(
        lambda: [{"tokenizer.json": one} for one in (*tokenizer_jsons(), *known_tokenizer_jsons())], read_tokenizer, 6
    ),
    "sentencepiece": Target(sentencepiece_seeds, read_tokenizer, 4, ("tokenizer_config.json",)),
    "tokenizer-config": Target(config_seeds, read_tokenizer_chat, 4, ("tokenizer.model", "tokenizer.json")),
    "vocab-merges": Target(vocab_seeds, read_tokenizer, 2),
    "tiktoken": Target(tiktoken_seeds, read_tokenizer, 2),
    "tekken": Target(tekken_seeds, read_tokenizer, 2),
    "word-piece": Target(word_piece_seeds, read_tokenizer, 1),
    "ice-text": Target(ice_text_seeds, read_tokenizer, 1),
    "llama2c-words": Target(llama2c_words, read_tokenizer, 1),
    "chat-template": Target(template_seeds, read_tokenizer_chat, 2, ("tokenizer.json", "tokenizer_config.json")),
    "examples": Target(
        examples_seeds, read_made_examples, 1, ("records.jsonl", "tokenizer.json", "tokenizer_config.json")
    ),
    "records": Target(records_seeds, read_records, 3),
    "records-masked": Target(masked_seeds, read_masked, 2, ("tokenizer.json", "tokenizer_config.json"), 300),
    "run-yaml": Target(run_seeds, read_run, 1),
    "two-files": Target(two_files_seeds, read_two_files, 2, ("tokenizer_config.json",)),
}


def plan(total: int) -> Iterator[tuple[str, int]]:
    """So many inputs in all, each target's share by its weight."""
    whole = sum(target.weight for target in TARGETS.values())
    for name, target in TARGETS.items():
        yield name, max(total * target.weight // whole, 1)
