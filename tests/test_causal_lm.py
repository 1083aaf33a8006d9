"""``AutoModelForCausalLM`` as Hugging Face users know it: call, loss, generate, save; transformers reads back what it
saves.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers
from reference import reference_model, telling, tiny

import pellucid
from pellucid import AutoConfig, AutoModelForCausalLM
from pellucid.base.errors import ConfigError, ContextLengthError, NotFiniteError, RequestError
from pellucid.families import FAMILIES


def model_of(family: str) -> pellucid.causal_lm.CausalLM:
    model = AutoModelForCausalLM.from_config(FAMILIES[family].config(FAMILIES[family].TINY))
    model.load_state_dict(tiny(family).state_dict())
    return model


IDS = torch.tensor([[5, 17, 3, 88, 41, 7], [9, 9, 12, 60, 2, 30]])


def test_loss_equals_transformers_with_padding_and_ignored_labels() -> None:
    model = model_of("llama")
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    labels = IDS.masked_fill(mask == 0, -100)
    theirs = reference_model(model)(IDS, attention_mask=mask, labels=labels)
    ours = model(IDS, attention_mask=mask, labels=labels)
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.logits[0], theirs.logits[0], rtol=0, atol=1e-5)


def test_gradients_reach_every_weight() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**FAMILIES["qwen3"].TINY))
    loss = model(IDS, labels=IDS).loss
    assert loss is not None
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_fresh_model_is_about_as_surprised_as_chance() -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"].config(FAMILIES["llama"].TINY), seed=3)
    loss = model(IDS, labels=IDS).loss
    assert loss is not None
    assert loss.item() == pytest.approx(torch.tensor(96.0).log().item(), abs=0.2)


def test_guessing_ahead_changes_no_token() -> None:
    model, other = model_of("llama"), model_of("qwen3")
    for sampling in ({}, {"do_sample": True, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}):
        plain = model.generate(IDS, max_new_tokens=20, stop_token_ids=(), **sampling)
        for guessing in ({"prompt_lookup_num_tokens": 5}, {"assistant_model": model}, {"assistant_model": other}):
            assert torch.equal(model.generate(IDS, max_new_tokens=20, stop_token_ids=(), **sampling, **guessing), plain)
    with pytest.raises(RequestError, match="exclude each other"):
        model.generate(IDS, prompt_lookup_num_tokens=5, assistant_model=model)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "qwen3"])
def test_transformers_reads_back_what_we_save_with_equal_logits(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(
        model(IDS).logits, theirs(IDS).logits, rtol=0, atol=1e-5 * model(IDS).logits.abs().max().item()
    )


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_save_and_load_round_trips_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    model.save_pretrained(tmp_path, max_shard_size=20_000)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device="cpu")
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_generate_equals_transformers_greedy_and_keeps_the_prompt() -> None:
    model = model_of("llama")
    theirs = reference_model(model).generate(
        IDS[:1], max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0
    )  # type: ignore[operator]
    ours = model.generate(IDS[:1], max_new_tokens=10, do_sample=False, stop_token_ids=())
    assert ours.tolist() == theirs.tolist()


def test_generate_pads_rows_that_ended_early_and_takes_left_padding() -> None:
    model = model_of("llama")
    alone = [model.generate(row[None], max_new_tokens=8, stop_token_ids=())[0, 6:] for row in IDS]
    end = int(alone[0][1])  # the model's second token, so its answer ends there
    out = model.generate(IDS, max_new_tokens=8, stop_token_ids=(end,), pad_token_id=0)
    assert out[0, 6:8].tolist() == alone[0][:2].tolist()
    assert out.shape[1] > 8, "the other row goes on"
    assert out[0, 8:].tolist() == [0] * (out.shape[1] - 8)
    left = torch.nn.functional.pad(IDS[:1], (3, 0))
    padded = model.generate(left, attention_mask=(left != 0).long(), max_new_tokens=8, stop_token_ids=())
    assert padded[0, 9:].tolist() == alone[0].tolist()


def test_the_same_seed_samples_the_same_text() -> None:
    model = model_of("llama")
    given = {"max_new_tokens": 12, "do_sample": True, "temperature": 2.0, "stop_token_ids": ()}
    first, second, other = (model.generate(IDS, seed=seed, **given).tolist() for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_edited_weights_are_never_stale() -> None:
    model = model_of("llama")
    before = model.generate(IDS[:1], max_new_tokens=6, stop_token_ids=()).tolist()
    with torch.no_grad():
        model.embed.weight.copy_(model.embed.weight.flip(0))
    assert model.generate(IDS[:1], max_new_tokens=6, stop_token_ids=()).tolist() != before


def test_errors_say_what_was_expected() -> None:
    model = model_of("llama")
    with pytest.raises(ContextLengthError, match="64"):
        model.generate(torch.ones(1, 100, dtype=torch.long), max_new_tokens=4)
    with pytest.raises(RequestError, match="0 to 95"):
        model(torch.tensor([[96]]))
    with pytest.raises(ConfigError, match="dtype 'float12'"):
        AutoModelForCausalLM.from_config(model.config, dtype="float12")
    with pytest.raises(RequestError, match="attention_mask"):
        model.generate(
            IDS, attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
        )  # right padding has no place to continue


@pytest.mark.parametrize("grad", [False, True])
def test_a_number_that_is_not_finite_is_named_and_not_returned(grad: bool) -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["qwen2"].TINY, seed=0, device="cpu").eval()
    ids = torch.tensor([[5, 9, 2, 7]])
    with torch.set_grad_enabled(grad):
        assert bool(model(ids).logits.isfinite().all())
        with torch.no_grad():
            model.get_parameter("layers.1.attention.k_proj.bias").fill_(math.nan)  # which torch's fused kernel hides
        with pytest.raises(NotFiniteError, match=r"layers\.1\.attention\.k_proj\.bias: nan at \(0,\)"):
            model(ids, attention_mask=torch.tensor([[0, 1, 1, 1]]))
    with pytest.raises(NotFiniteError, match=r"layers\.1\.attention\.k_proj\.bias"):
        model.generate(ids, max_new_tokens=2)


def test_a_value_that_outgrows_float16_is_named_by_its_tap() -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"].TINY, seed=0, device="cpu").eval()
    with torch.no_grad():
        model.get_parameter("layers.1.mlp.down_proj.weight").fill_(6e4)
        model.get_parameter("layers.1.mlp.up_proj.weight").fill_(6e3)
        model.get_parameter("layers.1.mlp.gate_proj.weight").fill_(6e3)
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp_\w+: -?(inf|nan).*float16"):
        model.half()(torch.tensor([[5, 9, 2, 7]]))
