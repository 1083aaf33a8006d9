"""ORPO, SimPO and KTO: losses and gradients are TRL's on one batch, computed by TRL's own code on the same weights."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reference import reference_model, tiny
from test_train_preference import gradients, model_with_lora, pairs, rows
from torch import Tensor

from pellucid.base.errors import ConfigError
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.data.example_batches import ExampleBatches, rows_of
from pellucid.train.data.example_store import Making, describe, tokenize_examples
from pellucid.train.data.masks import Masking
from pellucid.train.lora import merge
from pellucid.train.objectives.judged import JudgedBatch, JudgedSettings, check_both, judged_loss, mismatched
from pellucid.train.objectives.preference import PreferenceBatch, PreferenceSettings, preference_loss
from pellucid.train.runs.loop import accumulate

trl = pytest.importorskip("trl", reason="pip install trl")


@pytest.fixture(scope="module")
def model() -> Decoder:
    """All of its weights learn, and it has moved away from ``tiny``."""
    return moved(tiny("llama"))


def moved(base: Decoder) -> Decoder:
    model = copy.deepcopy(base).requires_grad_()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model


def theirs_of(model: Decoder) -> Any:
    """transformers' model of the same weights, which learn."""
    return reference_model(model).requires_grad_()


def as_theirs(batch: Batch, pick: slice = slice(None)) -> dict[str, Tensor]:
    """Whole rows, their labels, and which places hold text: our rows with the last target at their end."""
    ids, targets = batch.token_ids[pick], batch.targets[pick]
    counted = (targets != IGNORED).flip(1).cumsum(1).flip(1) > 0
    whole = torch.cat([ids, targets[:, -1:].clamp(min=0)], 1)
    place = counted.sum(1)  # of the last target
    for row, end in enumerate(place.tolist()):
        whole[row, end] = targets[row, end - 1]
        whole[row, end + 1 :] = 0
    text = torch.arange(whole.shape[1]) <= place[:, None]
    labels = torch.cat([torch.full_like(targets[:, :1], IGNORED), targets], 1)
    return {"input_ids": whole, "attention_mask": text.long(), "labels": labels}


def theirs_of_pairs(kind: str, hf: Any, batch: PreferenceBatch, **settings: Any) -> Tensor:
    """The loss that TRL's trainer computes, without the trainer's machinery."""
    if kind == "orpo":
        from trl.experimental.orpo import ORPOTrainer as Trainer
    else:
        from trl.experimental.cpo import CPOTrainer as Trainer
    trainer: Any = Trainer.__new__(Trainer)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value)
    vars(trainer).update(
        accelerator=accelerator,
        is_encoder_decoder=False,
        padding_value=0,
        pad_token_id=0,
        aux_loss_enabled=False,
        loss_type=kind,
        label_smoothing=0.0,
        alpha=0.0,
        cpo_alpha=0.0,
        **settings,
    )
    both = {}
    for name, pick in (("chosen", slice(0, None, 2)), ("rejected", slice(1, None, 2))):
        both |= {f"{name}_{key}": value for key, value in as_theirs(batch, pick).items()}
    return trainer.get_batch_loss_metrics(hf, both)[0]


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (PreferenceSettings(kind="orpo", beta=0.3), {"beta": 0.3}),
        (PreferenceSettings(kind="orpo", beta=2.0), {"beta": 2.0}),
        (PreferenceSettings(kind="simpo", beta=2.0, gamma=1.0), {"beta": 2.0, "simpo_gamma": 1.0}),
        (PreferenceSettings(kind="simpo", beta=0.5, gamma=0.0), {"beta": 0.5, "simpo_gamma": 0.0}),
    ],
    ids=lambda value: value.kind if isinstance(value, PreferenceSettings) else str(value),
)
@pytest.mark.habit("training", "ORPO: --method orpo", "works")
@pytest.mark.habit("training", "SimPO: --method simpo, --gamma", "works")
def test_orpo_and_simpo_are_trls_loss_and_gradients(
    settings: PreferenceSettings, theirs: dict[str, float], model: Decoder
) -> None:
    hf, batch = theirs_of(model), pairs(4)
    expected = theirs_of_pairs(settings.kind, hf, batch, **theirs)
    expected.backward()
    loss = preference_loss(model, batch, settings)
    (loss.total / loss.num_targets).backward()
    assert loss.total.item() / 4 == pytest.approx(expected.item(), rel=1e-5)
    ours = gradients(model)["embed.weight"]
    torch.testing.assert_close(ours, hf.get_input_embeddings().weight.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["orpo", "simpo"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_split_of_the_pairs_gives_the_same_loss_and_gradient(kind: Any, size: int, model: Decoder) -> None:
    settings, batch = PreferenceSettings(kind=kind, beta=0.5), pairs(4)

    def loss(one: Decoder, part: Batch) -> Any:
        return preference_loss(one, part, settings)

    results = []
    for parts in ([batch], batch.split(size)):
        means = accumulate(model, parts, loss)
        results.append((means.nll, gradients(model)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_nearly_certain_answers_have_finite_odds() -> None:
    from pellucid.train.objectives.preference import _log1mexp

    x = torch.tensor([-1e-12, -1e-6, -0.5, -0.7, -9.0, -200.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(_log1mexp(x)[2:5], torch.log(1 - torch.exp(x))[2:5], rtol=1e-9, atol=0)
    _log1mexp(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


# --- KTO -------------------------------------------------------------------------------------------------------------


def judged(good: list[bool]) -> JudgedBatch:
    batch, other = rows(len(good), 12, seed=5), rows(len(good), 12, seed=6)
    return JudgedBatch(batch.token_ids, batch.targets, batch.positions, None, torch.tensor(good), other)


class Fused(torch.nn.Module):
    """transformers' model with the output that TRL patches into it: log-probabilities of the labels."""

    def __init__(self, hf: torch.nn.Module) -> None:
        super().__init__()
        self.hf = hf

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> Any:
        logits = self.hf(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
        log_p = logits.log_softmax(-1)
        wanted = labels[:, 1:]
        each = log_p.gather(-1, wanted.clamp(min=0)[..., None])[..., 0].masked_fill(wanted == IGNORED, 0.0)
        return SimpleNamespace(log_probs=each, entropy=torch.zeros_like(each), mean_logits=logits.mean(-1))


def theirs_of_judged(hf: torch.nn.Module, reference: torch.nn.Module, batch: JudgedBatch, **settings: Any) -> Tensor:
    trainer: Any = trl.KTOTrainer.__new__(trl.KTOTrainer)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value)
    model, second = Fused(hf), Fused(reference)
    vars(trainer).update(
        accelerator=accelerator,
        model=model,
        ref_model=second,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        calculate_KL=True,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        loss_type="kto",
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    assert batch.good is not None
    assert batch.mismatched is not None
    ours, other = as_theirs(batch), as_theirs(batch.mismatched)
    inputs = {"label": batch.good, "completion_mask": (ours["labels"] != IGNORED).long()}
    inputs |= {"KL_completion_mask": (other["labels"] != IGNORED).long()}
    inputs |= {name: ours[name] for name in ("input_ids", "attention_mask")}
    inputs |= {f"KL_{name}": other[name] for name in ("input_ids", "attention_mask")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.trainer.kto_trainer.disable_gradient_checkpointing", lambda *_: nullcontext())
        return trainer._compute_loss(model, inputs, return_outputs=False)


@pytest.mark.parametrize("good", [[True, False, True, False], [True, True, True, False], [False] * 4], ids=str)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.75, 2.0)])
@pytest.mark.habit("training", "KTO: --method kto, desirable_weight as --good-weight", "works")
def test_kto_is_trls_loss_and_gradients(good: list[bool], weights: tuple[float, float], model: Decoder) -> None:
    base, batch = tiny("llama"), judged(good)
    hf = theirs_of(model)
    expected = theirs_of_judged(
        hf, reference_model(base), batch, beta=0.3, desirable_weight=weights[0], undesirable_weight=weights[1]
    )
    expected.backward()
    settings = JudgedSettings(beta=0.3, good_weight=weights[0], bad_weight=weights[1])
    loss = judged_loss(model, batch, settings, reference=base)
    (loss.total / loss.num_targets).backward()
    assert loss.total.item() / 4 == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        gradients(model)["embed.weight"], hf.get_input_embeddings().weight.grad, rtol=1e-3, atol=1e-6
    )


def test_without_a_second_model_the_reference_is_the_model_without_its_lora() -> None:
    tuned, batch = model_with_lora(), judged([True, False, True, False])
    whole = copy.deepcopy(tuned)
    merge(whole)
    expected = judged_loss(whole, batch, reference=tiny("llama"))
    torch.testing.assert_close(judged_loss(tuned, batch).total, expected.total, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="nothing to compare the model with"):
        judged_loss(whole, batch)


def test_each_prompt_meets_the_answer_of_the_row_before() -> None:
    parts = [([1, 2], [3]), ([4], [5, 6]), ([7, 8, 9], [10, 11])]
    assert mismatched(parts, 8) == [([1, 2], [10, 11]), ([4], [3]), ([7, 8, 9], [5, 6])]
    assert mismatched(parts, 4) == [([1, 2], [10, 11]), ([4], [3]), ([7, 8, 9], [5])]


@pytest.mark.habit("data", "finetune -d: TRL's `prompt`, `completion`, `label`", "works")
@pytest.mark.habit("data", "pairs for KTO, each answer apart", "works")
def test_records_of_kto_become_rows_that_say_which_are_good(shared: Path, tmp_path: Path) -> None:
    from pellucid import AutoTokenizer

    mini = AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")
    records = [
        {"prompt": "你好", "completion": "您好", "label": True},
        {"prompt": "你好", "completion": "滚", "label": False},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "kto_tag": False},
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made = tokenize_examples(
        tmp_path / "made", [tmp_path / "data.jsonl"], Masking(mini), Making(context_len=64, judged=True)
    )
    assert made.good is not None
    assert made.good.tolist() == [True, False, False, True, False]
    assert "left out" not in describe(made.counts)
    batch = ExampleBatches(made, rows_of(range(5), made), pad_id=0).shuffled(0, 5)
    assert isinstance(batch, JudgedBatch)
    assert batch.mismatched is not None
    assert batch.good is not None
    asked, answers = [], []
    for one in (batch, batch.mismatched):
        learned = one.targets != IGNORED
        answers.append([mini.decode(row[mask].tolist()) for row, mask in zip(one.targets, learned, strict=True)])
        first = learned.long().argmax(1)
        asked.append([mini.decode(row[: at + 1].tolist()) for row, at in zip(one.token_ids, first, strict=True)])
    assert asked[0] == asked[1]
    assert answers[1] == [answers[0][-1], *answers[0][:-1]]
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    with pytest.raises(Exception, match="nothing says whether this answer is a good one"):
        tokenize_examples(
            tmp_path / "no", [tmp_path / "data.jsonl"], Masking(mini), Making(context_len=64, judged=True)
        )


def test_one_kind_alone_or_far_more_of_one_is_said() -> None:
    assert "all 3 answers are good" in (check_both([True] * 3) or "")
    assert check_both([True, False] * 4) is None
    assert "--bad-weight 3 would even them out" in (check_both([True] * 3 + [False]) or "")
