"""SmolLM2, the default model: its file as shipped, against transformers on the same dequantized weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import reference_model

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.causal_lm import CausalLM
from pellucid.text.tokenizer import Tokenizer

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "床前明月光，",
    "Attention is all you need because",
]
NEW = 64


@pytest.fixture(scope="module")
def model(smollm2: Path) -> CausalLM:
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(smollm2)


@torch.inference_mode()
def test_greedy_tokens_equal_transformers(model: CausalLM, tokenizer: Tokenizer) -> None:
    """Each of our tokens is transformers' own choice after the same tokens before it; by induction, the same greedy
    text.
    """
    theirs = reference_model(model)
    tokenizer.padding_side = "left"
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    together = model.generate(**batch, max_new_tokens=NEW, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    start = batch["input_ids"].shape[1]
    for row, mask in zip(together, batch["attention_mask"], strict=True):
        prompt_len = int(mask.sum())
        ours = row[start - prompt_len :]
        chosen = theirs(ours[None]).logits[0].argmax(-1)[prompt_len - 1 : -1].tolist()
        new = ours[prompt_len:].tolist()
        ends = [i for i, token in enumerate(new) if token in model.config.eos_token_ids]
        kept = ends[0] + 1 if ends else NEW
        assert new[:kept] == chosen[:kept]


def test_a_prompt_in_a_batch_writes_what_it_writes_alone(model: CausalLM, tokenizer: Tokenizer) -> None:
    tokenizer.padding_side = "left"
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    together = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    for row, prompt in list(zip(together, PROMPTS, strict=True))[:2]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist() == row.tolist()


def test_it_answers_through_its_chat_template(model: CausalLM, tokenizer: Tokenizer) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer.tolist(), skip_special_tokens=True)
