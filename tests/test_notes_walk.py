"""The notes' system, whole: texts → tokenizer → the paper's transformer → cross-entropy → trained → saved → generating
→ explained.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pellucid import AutoConfig, AutoModelForCausalLM, AutoTokenizer, trace
from pellucid.causal_lm import CausalLM
from pellucid.explain.show.html import write_page
from pellucid.model.position import sinusoidal_table
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.tokenizer import save_tokenizer, train_characters

TEXTS = ["hello world", "today is monday", "Attention Is All You Need", "大模型令人头秃"]
CONTEXT, D_MODEL, HEADS = 32, 32, 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "notes.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    save_tokenizer(train_characters([folder / "notes.txt"]), folder)
    return AutoTokenizer.from_pretrained(folder)


def fresh(tokenizer: Tokenizer) -> CausalLM:
    config = AutoConfig.for_model(
        "vanilla",
        vocab_size=len(tokenizer),
        d_model=D_MODEL,
        num_heads=HEADS,
        num_layers=2,
        d_ff=64,
        context_len=CONTEXT,
        norm_order="pre",
    )
    return AutoModelForCausalLM.from_config(config, seed=0)


@pytest.fixture(scope="module")
def trained(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    """Sixty steps on the four texts, then saved and read back."""
    model, folder = fresh(tokenizer), tmp_path_factory.mktemp("vanilla")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(batch["input_ids"], batch["attention_mask"], labels=labels).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, device="cpu")


def test_a_fresh_model_is_explained_step_by_step(tokenizer: Tokenizer) -> None:
    t = trace(fresh(tokenizer).eval(), tokenizer, TEXTS)
    batch, length = t["embed"].shape[:2]
    assert (batch, length) == (4, len("Attention Is All You Need"))
    assert t["embed"].shape[2] == D_MODEL
    assert t["layers.0.q"].shape == (4, HEADS, length, D_MODEL // HEADS)
    assert all(check.ok for check in t.checks)


def test_the_positions_added_are_the_papers_table(tokenizer: Tokenizer) -> None:
    t = trace(fresh(tokenizer).eval(), tokenizer, TEXTS[2])
    torch.testing.assert_close(t["pos_embed"][0], sinusoidal_table(CONTEXT, D_MODEL)[: t["pos_embed"].shape[1]])


def test_training_teaches_it_the_texts_and_the_trained_model_is_explained(
    tokenizer: Tokenizer, trained: CausalLM, tmp_path: Path
) -> None:
    before, after = (trace(model.eval(), tokenizer, TEXTS[2]) for model in (fresh(tokenizer), trained))
    assert after.surprise().mean_nats < before.surprise().mean_nats / 4
    assert all(check.ok for check in after.checks)
    write_page(after, tmp_path / "page.html")
    assert "PE" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_inference_loop_writes_what_it_was_taught(tokenizer: Tokenizer, trained: CausalLM) -> None:
    prompt = tokenizer("Attention Is", return_tensors="pt")["input_ids"]
    new = trained.generate(prompt, max_new_tokens=len(" All You Need"), stop_token_ids=())
    assert tokenizer.decode(new[0].tolist()) == "Attention Is All You Need"
