"""LoRA: the update and nothing else learns; kept, merged, written and read it is the same model; peft agrees in both directions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import reference_model, tiny
from torch import Tensor, nn

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.checkpoint.safetensors import SafetensorsFile
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.linear import Linear, LoraLinear
from pellucid.train.batch import Batch
from pellucid.train.lora import LoraSettings, attach_lora, load_adapter, lora_layers, merge, save_adapter, without_adapter
from pellucid.train.loss import language_loss

IDS = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(1))
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")


def fresh(family: str) -> Decoder:
    return copy.deepcopy(tiny(family))


def logits(model: Decoder, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(ids, Context(torch.arange(ids.shape[1]).expand(ids.shape)))


def noisy(model: Decoder) -> Decoder:
    """As if it had learned: B is not zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_b.normal_(0, 0.3, generator=generator)
    return model


def adapted(family: str, **settings: Any) -> tuple[Decoder, LoraSettings]:
    model, chosen = fresh(family), LoraSettings(rank=4, **settings)
    attach_lora(model, chosen, torch.Generator().manual_seed(3))
    return noisy(model), chosen


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


# --- a small worked example ------------------------------------------------------------------------------------------


def test_a_map_gains_scale_times_b_a() -> None:
    with torch.device("cpu"):
        base = Linear(2, 2, bias=False)
    base.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    lora = LoraLinear(base, nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.tensor([[3.0], [-1.0]])), scale=0.5)
    x = torch.tensor([[2.0, 1.0]])  # A x = 4; 0.5 · B · 4 = (6, −2)
    assert lora(x, Context(torch.zeros(1, 1))).tolist() == [[8.0, -1.0]]
    assert lora.weight.tolist() == [[2.5, 3.0], [-0.5, 0.0]]


@pytest.mark.parametrize(("rslora", "scale"), [(False, 4.0), (True, 8.0)])
def test_scale_is_alpha_over_rank_or_its_root(rslora: bool, scale: float) -> None:
    assert LoraSettings(rank=4, alpha=16, rslora=rslora).scale() == scale


# --- attaching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "chatglm", "vanilla"])
def test_attached_it_changes_nothing_and_a_step_changes_nothing_but_it(family: str) -> None:
    model = fresh(family)
    before, plain = logits(model), copy.deepcopy(dict(model.named_parameters()))
    names = attach_lora(model, LoraSettings(rank=2))
    assert len(names) == sum(isinstance(module, Linear) for name, module in fresh(family).named_modules() if name != "lm_head")
    assert torch.equal(logits(model), before)
    loss = language_loss(model, Batch.of(IDS[:, :-1], IDS[:, 1:]))
    loss.total.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if "lora_" in name}
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    assert not torch.equal(logits(model), before)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, plain[name.replace(".base.", ".")]), name


def test_targets_go_by_our_names_and_by_hugging_faces() -> None:
    def attached(family: str, *targets: str) -> list[str]:
        return attach_lora(fresh(family), LoraSettings(targets=targets))

    assert attached("gpt2", "c_attn") == [f"layers.{i}.attention.{x}_proj" for i in (0, 1) for x in "qkv"]
    assert attached("gpt2", "mlp.c_proj") == ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj"]
    assert attached("gpt2", "layers.1.attention.v_proj") == ["layers.1.attention.v_proj"]
    assert attached("llama", "self_attn.q_proj", "v_proj") == [f"layers.{i}.attention.{x}_proj" for i in (0, 1) for x in "qv"]
    assert attached("chatglm", "dense_h_to_4h") == [f"layers.{i}.mlp.{x}_proj" for i in (0, 1) for x in ("gate", "up")]
    assert attached("chatglm", "lm_head") == ["lm_head"]


def test_targets_that_are_no_linear_map_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no linear map 'q_porj'.*q_proj"):
        attach_lora(fresh("llama"), LoraSettings(targets=("q_porj",)))
    with pytest.raises(UnsupportedError, match="lm_head cannot be adapted: it is tied to the embedding table"):
        attach_lora(fresh("llama"), LoraSettings(targets=("lm_head",)))
    with pytest.raises(UnsupportedError, match="wte cannot be adapted: it is an embedding table"):
        attach_lora(fresh("gpt2"), LoraSettings(targets=("wte",)))
    model, _ = adapted("llama")
    with pytest.raises(ConfigError, match="already"):
        attach_lora(model, LoraSettings())


def test_without_the_adapter_it_is_its_base_bit_for_bit() -> None:
    model, _ = adapted("qwen2")
    with without_adapter(model):
        assert torch.equal(logits(model), logits(tiny("qwen2")))
    assert not torch.allclose(logits(model), logits(tiny("qwen2")))


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_it_is_a_plain_model_with_the_same_logits(family: str) -> None:
    model, _ = adapted(family)
    kept = logits(model)
    merge(model)
    assert not lora_layers(model)
    assert {name: p.shape for name, p in model.named_parameters()} == {name: p.shape for name, p in tiny(family).named_parameters()}
    close(logits(model), kept)


# --- peft ------------------------------------------------------------------------------------------------------------


def theirs_over(family: str, folder: Path) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.PeftModel.from_pretrained(reference_model(tiny(family)), str(folder)).eval()


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        *((family, "all-linear") for family in FAMILIES),
        ("gpt2", ("c_attn", "mlp.c_proj")),
        ("gpt2", ("v_proj",)),  # a third of c_attn: the rest of its B is zeros
        ("qwen3", ("layers.1.attention.q_proj",)),
    ],
)
@pytest.mark.filterwarnings("error:.*missing adapter keys")
def test_peft_loads_what_we_write_with_equal_logits(family: str, targets: Any, rslora: bool, tmp_path: Path) -> None:
    model, settings = adapted(family, targets=targets, rslora=rslora)
    save_adapter(tmp_path, model, settings, base="somewhere")
    theirs = theirs_over(family, tmp_path)
    with torch.no_grad():
        close(theirs(IDS).logits, logits(model))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "somewhere"


@pytest.mark.parametrize("merging", [False, True])
@pytest.mark.parametrize(
    ("family", "extra"),
    [
        *((family, {"target_modules": "all-linear"}) for family in FAMILIES),
        ("gpt2", {"target_modules": ["c_attn"], "use_rslora": True}),
        ("llama", {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"layers.1.mlp.down_proj": 3}, "alpha_pattern": {"q_proj": 5}}),
    ],
)
def test_we_load_what_peft_writes_with_equal_logits(family: str, extra: dict[str, Any], merging: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    made = peft.get_peft_model(reference_model(tiny(family)), peft.LoraConfig(r=4, lora_alpha=10, task_type="CAUSAL_LM", **extra)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
        expected = made(IDS).logits
    made.save_pretrained(tmp_path)
    model = fresh(family)
    assert not torch.allclose(logits(model), expected, atol=1e-2)
    load_adapter(model, tmp_path)
    if merging:
        merge(model)
    close(logits(model), expected)


@pytest.mark.parametrize("family", ["gpt2", "chatglm", "vanilla"])
def test_written_and_read_it_is_the_same_bit_for_bit(family: str, tmp_path: Path) -> None:
    model, settings = adapted(family)
    save_adapter(tmp_path, model, settings)
    again = fresh(family)
    assert load_adapter(again, tmp_path).rank == 4
    assert torch.equal(logits(again), logits(model))
    save_adapter(tmp_path / "again", again, settings)
    files = [dict(SafetensorsFile(folder / "adapter_model.safetensors")) for folder in (tmp_path, tmp_path / "again")]
    assert {n: a.data.tobytes() for n, a in files[0].items()} == {n: a.data.tobytes() for n, a in files[1].items()}
