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
    """Each of our tokens is transformers' own choice after the same tokens before it; by induction, the same greedy text."""
    theirs = reference_model(model)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    for prompt in prompts:
        ours = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False)[0]
        chosen = theirs(ours[None]).logits[0].argmax(-1)
        assert ours[len(prompt) :].tolist() == chosen[len(prompt) - 1 : -1].tolist()
        assert len(ours) == len(prompt) + NEW or ours[-1] in model.config.eos_token_ids


def test_five_prompts_in_one_batch_write_what_each_writes_alone(model: CausalLM, tokenizer: Tokenizer) -> None:
    tokenizer.padding_side = "left"
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    together = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=12, do_sample=False)
    for row, prompt in zip(together, PROMPTS, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        alone = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert row[batch["input_ids"].shape[1] :][: len(alone)].tolist() == alone.tolist()


def test_it_answers_through_its_chat_template(model: CausalLM, tokenizer: Tokenizer) -> None:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer.tolist(), skip_special_tokens=True)
