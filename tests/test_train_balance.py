"""The balance loss: transformers' number, returned and not kept, what it does to gradients, what a run says."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_model, tiny
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from pellucid.base.errors import ConfigError
from pellucid.checkpoint.open import open_checkpoint
from pellucid.cli.app import app
from pellucid.config import ExpertsConfig, MLPConfig
from pellucid.explain import trace
from pellucid.model.decoder import Decoder
from pellucid.model.moe import MoE
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.objectives.balance import DEFAULT, balance_loss, default_balance
from pellucid.train.objectives.loss import language_loss
from pellucid.train.runs.loop import accumulate, checkpoint_activations
from pellucid.train.runs.optim import OptimSettings, make_optimizers
from pellucid.train.runs.sizes import Sizes, describe, flops_per_token


def model(family: str = "mixtral") -> Decoder:
    return copy.deepcopy(tiny(family)).requires_grad_()


def batch(rows: int = 4, padding: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(3)
    ids, targets = (torch.randint(0, 96, (rows, 12), generator=generator) for _ in range(2))
    if padding:
        targets[0, -padding:] = IGNORED
    targets[-1, 2] = IGNORED  # in mid-row: a token all the same
    return Batch.of(ids, targets)


def gradients(its: Decoder) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in its.named_parameters() if parameter.grad is not None}
    its.zero_grad()
    return found


def routed(logits: torch.Tensor, experts_per_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and choice of Mixtral's router."""
    described = ExpertsConfig(num_experts=logits.shape[-1], experts_per_token=experts_per_token)
    moe = MoE(4, MLPConfig(d_ff=4), described)
    return moe.scores(logits), moe.chosen(logits)


def test_even_use_costs_the_number_of_experts_a_token_has_and_one_favourite_pair_costs_half_of_all() -> None:
    even = torch.eye(4).repeat_interleave(2, 0)[None] * 50 + torch.eye(4).roll(1, 1).repeat_interleave(2, 0)[None] * 50
    everyone = torch.ones(1, 8, dtype=torch.bool)
    assert balance_loss([routed(even, 2)], everyone).item() == pytest.approx(2.0)
    favourites = torch.tensor([50.0, 50.0, 0.0, 0.0]).expand(1, 8, 4)
    assert balance_loss([routed(favourites, 2)], everyone).item() == pytest.approx(4.0)


@settings(max_examples=20, deadline=None)
@given(layers=st.integers(1, 4), experts=st.integers(2, 12), top=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_the_loss_equals_transformers_on_the_same_router_logits(layers: int, experts: int, top: int, seed: int) -> None:
    top, generator = min(top, experts), torch.Generator().manual_seed(seed)
    logits = [torch.randn(3, 7, experts, generator=generator) for _ in range(layers)]
    counted = torch.rand(3, 7, generator=generator) < 0.7
    counted[0, 0] = True
    theirs = load_balancing_loss_func(tuple(its.flatten(0, 1) for its in logits), experts, top, counted.long())  # type: ignore[arg-type]
    torch.testing.assert_close(balance_loss([routed(its, top) for its in logits], counted), theirs)


@pytest.mark.parametrize(
    "family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "flex_olmo", "granitemoe", "gpt_oss", "phimoe"]
)
def test_loss_and_gradients_equal_those_of_the_reference_model(family: str) -> None:
    ours, its = model(family), batch(padding=5)
    loss = language_loss(ours, its, balance=0.5)
    (loss.total / loss.num_targets).backward()
    theirs = reference_model(tiny(family)).requires_grad_()
    mask = torch.ones_like(its.token_ids)
    mask[0, -5:] = 0
    out = theirs(its.token_ids, attention_mask=mask, output_router_logits=True)
    nll = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), its.targets.flatten(), ignore_index=IGNORED)
    assert loss.balance is not None
    torch.testing.assert_close(loss.balance / loss.num_targets, out.aux_loss.detach())
    (nll + 0.5 * out.aux_loss).backward()
    for name, parameter in theirs.named_parameters():
        if name.endswith((".gate.weight", ".router.weight")):
            layer = int(name.split(".")[2])
            mine = ours.get_parameter(f"layers.{layer}.mlp.router.weight").grad
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["glm4_moe/groups", "minimax_m2", "llama4_text", "ernie4_5_moe"])
def test_other_routers_count_whom_they_choose_and_share_their_scores_out(family: str) -> None:
    """By the equation, from recorded steps: f of the experts with a weight, P of the scores divided by their sum."""
    ours, its = model(family), batch()
    loss = language_loss(ours, its, balance=0.5)
    t = trace(ours, None, its.token_ids.tolist())
    sparse = [i for i, layer in enumerate(ours.config.layers) if layer.experts]
    chosen = torch.stack([t[f"layers.{i}.experts"] != 0 for i in sparse]).float()
    logits = torch.stack([t[f"layers.{i}.router_logits"] for i in sparse])
    experts = ours.config.layers[sparse[0]].experts
    assert experts is not None
    softmax = experts.scores == "softmax"
    scores = logits.softmax(-1) if softmax else torch.sigmoid(logits)
    shares = scores / scores.sum(-1, keepdim=True)
    expected = chosen.shape[-1] * (chosen.mean((0, 1, 2)) * shares.mean((0, 1, 2))).sum()
    assert loss.balance is not None
    torch.testing.assert_close(loss.balance / loss.num_targets, expected)
    (loss.total / loss.num_targets).backward()
    router = ours.get_parameter(f"layers.{sparse[0]}.mlp.router.weight").grad
    assert router is not None
    assert router.any()


def test_layers_of_different_numbers_of_experts_are_refused() -> None:
    config = tiny("mixtral").config
    experts = config.layers[0].experts
    assert experts is not None
    fewer = replace(experts, num_experts=4)
    uneven = Decoder(replace(config, layers=(replace(config.layers[0], experts=fewer), *config.layers[1:])))
    with pytest.raises(ConfigError, match="different numbers of experts"):
        language_loss(uneven.initialize(), batch(), balance=0.01)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_correction_stays_as_it_was_and_everything_else_learns(optimizer: Any) -> None:
    its = model("glm4_moe")
    before = {name: parameter.detach().clone() for name, parameter in its.named_parameters()}
    (made, *more) = make_optimizers(its, OptimSettings(optimizer=optimizer, lr=1e-2))
    loss = language_loss(its, batch(), balance=0.01)
    loss.total.backward()
    for one in (made, *more):
        one.step()
    same = {name for name, parameter in its.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {f"layers.{i}.mlp.correction_bias" for i in (1, 2)}


def test_the_loss_is_returned_and_nothing_is_kept_on_the_model() -> None:
    its = model()
    before = {name: set(vars(module)) for name, module in its.named_modules()}
    loss = language_loss(its, batch(), balance=0.01)
    assert loss.balance is not None
    assert not loss.balance.requires_grad
    assert {name: set(vars(module)) for name, module in its.named_modules()} == before
    assert language_loss(its, batch()).balance is None


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_any_split_gives_the_same_gradients_but_for_the_balance_that_is_each_parts_own(rows: int) -> None:
    """What is claimed: the cross-entropy splits exactly; the balance loss is the mean of the micro-batches', weighted
    by their targets.
    """
    its, whole = model(), batch(rows=6, padding=7)
    language_loss(its, whole).total.div(whole.num_targets).backward()
    exact = gradients(its)
    accumulate(its, whole.split(rows), language_loss)
    torch.testing.assert_close(gradients(its), exact, rtol=1e-4, atol=1e-6)

    weight, mean = 0.5, torch.zeros(())
    total = language_loss(its, whole).total / whole.num_targets
    for part in whole.split(rows):
        loss = language_loss(its, part, balance=1.0)
        its_own = (loss.total - language_loss(its, part).total) / part.num_targets
        mean = mean + part.num_targets / whole.num_targets * its_own
    (total + weight * mean).backward()
    wanted = gradients(its)
    means = accumulate(its, whole.split(rows), lambda model, part: language_loss(model, part, balance=weight))
    assert means.balance is not None
    torch.testing.assert_close(means.balance, mean.detach())
    torch.testing.assert_close(gradients(its), wanted, rtol=1e-3, atol=1e-5)


def test_activations_computed_again_give_the_same_gradients() -> None:
    its = model()
    language_loss(its, batch(), balance=0.5).total.backward()
    wanted = gradients(its)
    checkpoint_activations(its)
    language_loss(its, batch(), balance=0.5).total.backward()
    torch.testing.assert_close(gradients(its), wanted)


def test_training_on_it_evens_the_experts_out() -> None:
    its = model()
    optimizer = torch.optim.AdamW(its.parameters(), lr=1e-2)
    found = []
    for _ in range(15):
        loss = language_loss(its, batch(), balance=1.0)
        (loss.total / loss.num_targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert loss.balance is not None
        found.append(loss.balance.item() / loss.num_targets)
    assert found[-1] < found[0] - 0.05
    assert found[-1] >= 1.9


def test_a_model_without_experts_has_nothing_to_balance() -> None:
    with pytest.raises(ConfigError, match="no experts"):
        language_loss(model("llama"), batch(), balance=0.01)


def test_the_weight_is_the_models_own_where_it_says_one() -> None:
    sparse = tiny("mixtral").config
    assert default_balance(tiny("llama").config) is None
    assert default_balance(sparse) == DEFAULT
    assert default_balance(replace(sparse, extra={"router_aux_loss_coef": 0.001})) == 0.001
    assert default_balance(replace(sparse, extra={"router_aux_loss_coef": "much"})) == DEFAULT


def test_sizes_of_a_mixture_and_work_by_active_parameters() -> None:
    sizes = Sizes(depth=2, context_len=32, d_model=64, d_ff=96, experts_per_token=2)
    few, many = (describe("mixtral", replace(sizes, num_experts=count), vocab_size=100) for count in (2, 16))
    assert many.num_parameters() > 3 * few.num_parameters()
    routers = 6 * 2 * 64 * (16 - 2)
    assert flops_per_token(many, 32) - flops_per_token(few, 32) == routers
    with pytest.raises(ConfigError, match="no experts"):
        describe("llama", replace(sizes, num_experts=4), vocab_size=100)


def test_pretrain_makes_a_small_mixture_says_its_balance_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and looked at the moon. " * 60)
    command = [
        "pretrain",
        "-d",
        str(tmp_path / "text.txt"),
        "-o",
        str(tmp_path / "run"),
        "--model-type",
        "mixtral",
        "--num-experts",
        "4",
    ]
    command += [
        "--depth",
        "1",
        "--d-model",
        "32",
        "--num-heads",
        "2",
        "--d-ff",
        "32",
        "--tokenizer",
        "char",
        "--context-len",
        "16",
        "--untie",
    ]
    command += ["--batch-size", "4", "--steps", "6", "--eval-every", "3", "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(1.5 < line["balance"] < 4.0 for line in lines)
    assert "balance: 0.01" in (tmp_path / "run" / "run.yaml").read_text()
    config = open_checkpoint(tmp_path / "run").config
    assert config.layers[0].experts is not None
    assert config.layers[0].experts.num_experts == 4
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    said = " ".join(CliRunner().invoke(app, ["inspect", str(tmp_path / "run")]).output.split())
    for text in (
        "of them for each token",
        "4 experts, 2 for each token, each 32 → 32 → 32",
        "experts.0–3.up_proj 32 × 32",
    ):
        assert text in said


def test_two_processes_learn_what_one_learns_with_micro_batches_of_the_same_rows(tmp_path: Path) -> None:
    """Over FSDP, whose processes send each other every expert's gradient, that of an idle one included."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat and looked at the moon. " * 60)
    sizes = (
        "--model-type mixtral --num-experts 8 --depth 1 --d-model 32 --num-heads 2 --d-ff 32"
        " --tokenizer char --context-len 8 --untie"
    )
    how = "--batch-size 2 --steps 3 --eval-every 0 --sample-every 0 --record-every 0 --device cpu --balance 0.5 -q"
    command = ["pretrain", "-d", str(tmp_path / "text.txt"), *sizes.split(), *how.split()]
    two = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    done = subprocess.run(
        [*two, "-m", "pellucid", *command, "-o", str(tmp_path / "two")], timeout=600, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert CliRunner().invoke(app, [*command, "--micro-batch-size", "1", "-o", str(tmp_path / "one")]).exit_code == 0
    one, both = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for name in ("loss", "balance", "grad_norm"):
        assert [line[name] for line in both] == pytest.approx([line[name] for line in one], rel=1e-4)
