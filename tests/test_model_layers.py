"""Layers of one part alone: a mixer, or an MLP, and what neither has is not asked for."""

from __future__ import annotations

import pytest
import torch
from test_operations_reference import GPT2, LLAMA, MOE, in_turn, random_decoder

from pellucid.base.errors import ConfigError
from pellucid.config import LayerConfig, ModelConfig, NormConfig, PartNorms, weight_shapes
from pellucid.executor import StepInput
from pellucid.generate import Engine, PromptLookup, Request
from pellucid.model.executor import TorchExecutor
from pellucid.operations import taps_of
from pellucid.sampling import GREEDY


def test_a_layer_of_one_part_has_the_weights_and_the_taps_of_that_part() -> None:
    config = in_turn(LLAMA)
    of_mixer, of_mlp = ([name for name in weight_shapes(config) if name.startswith(f"layers.{i}.")] for i in (0, 1))
    assert {name.split(".")[2] for name in of_mixer} == {"attention_norm", "attention"}
    assert {name.split(".")[2] for name in of_mlp} == {"mlp_norm", "mlp"}
    names = [[tap.name for tap in taps_of(config).values() if tap.layer == i] for i in (0, 1)]
    assert (names[0][:2], names[0][-2:]) == (["resid_pre", "attn_in"], ["attn_out", "resid_post"])
    assert (names[1][:2], names[1][-2:]) == (["resid_pre", "mlp_in"], ["mlp_out", "resid_post"])
    assert config.num_parameters() == LLAMA.num_parameters()


@pytest.mark.parametrize("config", [LLAMA, GPT2, MOE], ids=lambda config: config.model_type)
def test_parts_in_layers_of_their_own_compute_what_they_do_together(config: ModelConfig) -> None:
    whole = random_decoder(config)
    apart = random_decoder(in_turn(config))
    names = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in apart.named_parameters():
            head, _, rest = name.partition(".")
            number, _, rest = rest.partition(".")
            parameter.copy_(names[f"layers.{int(number) // 2}.{rest}" if head == "layers" else name])
    ids = [5, 6, 7, 8, 9, 10]
    rows = []
    for decoder in (whole, apart):
        executor = TorchExecutor(decoder)
        slot = executor.allocate(8)
        executor.step([StepInput(slot, ids[:4], ())])
        executor.step([StepInput(slot, [1], ())])
        executor.truncate(slot, 4)
        other = executor.fork(slot, 8)
        rows.append(executor.step([StepInput(slot, ids[4:], (0, 1)), StepInput(other, ids[4:5], (0,))]).numpy())
    assert (rows[0] == rows[1]).all()
    request = Request(prompt_ids=ids * 2, max_new_tokens=6, stop_token_ids=(), sampling=GREEDY)
    answers = [
        Engine(TorchExecutor(decoder), speculate=speculate).run([request])[0].answers[0].token_ids
        for decoder in (whole, apart)
        for speculate in (None, PromptLookup(3))
    ]
    assert answers == [answers[0]] * 4


def test_a_layer_needs_a_part_and_no_part_that_is_absent_has_norms() -> None:
    first, norms = LLAMA.layers[0], PartNorms(before=NormConfig())
    for match, made in (
        ("a layer needs a mixer or an MLP", {"mixer": None, "mlp": None}),
        ("a part that is absent has no norms", {"mixer": first.mixer, "mlp": None, "mlp_norms": norms}),
        ("experts need the shape of an MLP", {"mixer": first.mixer, "mlp": None, "experts": MOE.layers[0].experts}),
        ("parts run beside each other where there are two", {"mixer": first.mixer, "mlp": None, "parallel": True}),
    ):
        with pytest.raises(ConfigError, match=match):
            LayerConfig(**{"mixer_norms": PartNorms(), "mlp_norms": PartNorms(), **made})
