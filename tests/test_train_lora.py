"""LoRA: the update and nothing else learns; kept, merged, written and read it is the same model; peft agrees in both
directions.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from reference import reference_model, telling, tiny
from torch import Tensor, nn
from train_worker import Noise

from pellucid import AutoModelForCausalLM
from pellucid.base.array import BLOCKS, Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.causal_lm import CausalLM
from pellucid.checkpoint.adapters.adapted import fingerprint
from pellucid.checkpoint.adapters.adapter import TENSORS as ADAPTER
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.open import open_checkpoint
from pellucid.explain import trace
from pellucid.model.blocks import ON_DEVICE, decode_on_device, require_decoder
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.linear import Linear, LoraLinear
from pellucid.model.load import load_weights
from pellucid.model.quantized import QuantizedLinear
from pellucid.quant import DECODERS, LAYOUTS, dequantize
from pellucid.train.data.batch import Batch
from pellucid.train.lora import (
    LoraSettings,
    attach_lora,
    load_adapter,
    lora_layers,
    merge,
    read_lora,
    save_adapter,
    without_adapter,
    write_lora,
)
from pellucid.train.objectives.loss import language_loss
from pellucid.train.objectives.preference import PreferenceBatch, preference_loss
from pellucid.train.runs.checkpoint import TENSORS
from pellucid.train.runs.loop import accumulate
from pellucid.train.runs.optim import OptimSettings, make_optimizers
from pellucid.train.runs.run import Run, RunSettings, Training
from pellucid.train.runs.schedule import Schedule

IDS = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(1))
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")


def fresh(family: str) -> Decoder:
    return copy.deepcopy(tiny(family))


def logits(model: Decoder, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(ids, Context(torch.arange(ids.shape[1]).expand(ids.shape)))


def noisy(model: Decoder, size: float = 0.3) -> Decoder:
    """As if it had learned: B is not zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_b.normal_(0, size, generator=generator)
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
    lora = LoraLinear(
        base, nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.tensor([[3.0], [-1.0]])), scale=0.5
    )
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
    assert len(names) == sum(
        isinstance(module, Linear) for name, module in fresh(family).named_modules() if name != "lm_head"
    )
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
    assert attached("llama", "self_attn.q_proj", "v_proj") == [
        f"layers.{i}.attention.{x}_proj" for i in (0, 1) for x in "qv"
    ]
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


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_a_kept_adapter_is_explained_as_what_it_amounts_to(family: str) -> None:
    """The tap of q has the adapter in it, and every identity holds of the weights that ``trace`` shows: W + scale · B
    A.
    """
    kept, merged = adapted(family, dropout=0.5)[0].train(), adapted(family)[0]
    merge(merged)
    its, others = trace(kept, None, IDS), trace(merged, None, IDS)
    assert its.checks.ok, its.checks.failed
    assert list(its) == list(others)
    for path, value in its.items():
        torch.testing.assert_close(value, others[path], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(its["layers.0.q"], trace(tiny(family), None, IDS)["layers.0.q"], atol=1e-2)
    assert torch.equal(
        its.weight("layers.0.attention.q_proj.weight"), merged.get_parameter("layers.0.attention.q_proj.weight")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_over_weights_of_any_dtype_and_under_autocast(dtype: torch.dtype) -> None:
    model, batch = fresh("llama").to(dtype), Batch.of(IDS[:, :-1], IDS[:, 1:])
    attach_lora(model, LoraSettings(rank=4, targets=("all-linear",)), torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(12):
        losses.append(accumulate(model, batch.split(1), language_loss, autocast=torch.bfloat16).nll.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    assert {layer.lora_a.dtype for layer in lora_layers(model).values()} == {torch.float32}


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_merged_it_is_a_plain_model_with_the_same_logits(family: str) -> None:
    model, _ = adapted(family)
    kept = logits(model)
    merge(model)
    assert not lora_layers(model)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in tiny(family).named_parameters()
    }
    close(logits(model), kept)


def test_kept_merged_and_opened_it_tells_the_same_story_and_transformers_loads_it(
    stories: Path, tmp_path: Path
) -> None:
    base = stories / "hf"
    model = AutoModelForCausalLM.from_pretrained(base, device="cpu")
    settings = LoraSettings(rank=4, alpha=8)
    attach_lora(model, settings, torch.Generator().manual_seed(3))
    noisy(model, 0.05)
    save_adapter(
        tmp_path / "adapter", model, settings, base=str(base), base_sha256=fingerprint(open_checkpoint(base).stored)
    )
    prompt = torch.tensor([[1, 403, 407, 261, 378]])
    story = model.generate(prompt, max_new_tokens=30)
    assert not torch.equal(
        story, AutoModelForCausalLM.from_pretrained(base, device="cpu").generate(prompt, max_new_tokens=30)
    )
    model.save_pretrained(tmp_path / "kept")
    kept = logits_of(model, story)
    merge(model)
    model.save_pretrained(tmp_path / "merged")
    opened = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name, device="cpu") for name in ("adapter", "kept", "merged")
    ]
    for its in (model, *opened):
        assert torch.equal(its.generate(prompt, max_new_tokens=30), story)
        close(logits_of(its, story), kept)
    with torch.no_grad():
        close(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(story).logits, kept)


# --- peft ------------------------------------------------------------------------------------------------------------


def theirs_over(family: str, folder: Path) -> nn.Module:
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
        (
            "llama",
            {
                "target_modules": ["q_proj", "down_proj"],
                "rank_pattern": {"layers.1.mlp.down_proj": 3},
                "alpha_pattern": {"q_proj": 5},
            },
        ),
    ],
)
def test_we_load_what_peft_writes_with_equal_logits(
    family: str, extra: dict[str, Any], merging: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = peft.get_peft_model(
        reference_model(tiny(family)), peft.LoraConfig(r=4, lora_alpha=10, task_type="CAUSAL_LM", **extra)
    ).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
        expected = made(IDS).logits
    made.save_pretrained(str(tmp_path))
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


# --- runs ------------------------------------------------------------------------------------------------------------


class Pairs(Noise):
    def shuffled(self, first: int, count: int) -> Batch:
        return PreferenceBatch.of_pairs(super().shuffled(first, count), super().shuffled(first + 1000, count))


def lora_run(folder: Path, family: str, method: str) -> Run:
    torch.manual_seed(0)
    model, settings = fresh(family), LoraSettings(rank=4, dropout=0.1)
    attach_lora(model, settings, torch.Generator().manual_seed(0))
    training = Training(
        model=model,
        samples=Noise() if method == "lora" else Pairs(),
        optimizers=make_optimizers(model, OptimSettings(lr=1e-2)),
        schedule=Schedule(num_steps=8, warmup_steps=2),
        loss_function=language_loss if method == "lora" else preference_loss,
        write_model=partial(write_lora, model=model, settings=settings, base="somewhere"),
        read_model=read_lora,
    )
    steps = RunSettings(
        num_steps=8, batch_size=4, micro_batch_size=2, lr=1e-2, save_every=4, eval_every=0, spike=0.0, keep=0
    )
    return Run(folder, training, steps)


@pytest.mark.parametrize("method", ["lora", "dpo"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_run_goes_on_bit_for_bit_from_a_checkpoint_of_the_adapter_alone(
    family: str, method: str, tmp_path: Path
) -> None:
    whole = lora_run(tmp_path / "whole", family, method)
    whole.run()
    begun = lora_run(tmp_path / "begun", family, method)
    begun.run(lambda step: setattr(begun, "stop_asked", "enough" if step.step == 4 else None))
    going_on = lora_run(tmp_path / "begun", family, method)
    assert going_on.resume()
    assert going_on.num_done == 4
    going_on.run()
    last = [folder / "checkpoints" / "step-00000008" for folder in (tmp_path / "whole", tmp_path / "begun")]
    assert sorted(file.name for file in last[0].iterdir()) == ["adapter_config.json", ADAPTER, "training.json", TENSORS]
    for name in (ADAPTER, TENSORS):
        a, b = ({key: array.data.tobytes() for key, array in SafetensorsFile(folder / name).items()} for folder in last)
        assert a == b, name
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "begun")]
    assert [json.loads(line)["loss"] for line in logs[0]] == [json.loads(line)["loss"] for line in logs[1]]


def test_another_adapter_than_the_attached_one_is_refused(tmp_path: Path) -> None:
    model, settings = adapted("llama")
    save_adapter(tmp_path, model, settings)
    for other in (LoraSettings(rank=2), LoraSettings(rank=4, alpha=1), LoraSettings(rank=4, targets=("q_proj",))):
        model = fresh("llama")
        attach_lora(model, other)
        with pytest.raises(WeightsError, match="another than the one attached"):
            read_lora(tmp_path, model)


# --- over blocks of few bits (QLoRA) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [*DECODERS])
def test_a_quantized_map_equals_the_same_map_over_decoded_weights_bit_for_bit(bits: str) -> None:
    rng = np.random.default_rng(0)
    blocks = random_blocks(bits, (8, 256), rng)
    plain, frozen = Linear(256, 8, bias=True), QuantizedLinear(blocks, torch.float32, torch.device("cpu"))
    plain.weight = nn.Parameter(torch.from_numpy(dequantize(blocks).copy()), requires_grad=False)
    frozen.bias = plain.bias = nn.Parameter(torch.randn(8), requires_grad=False)
    results = []
    for linear in (plain, frozen):
        x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = linear(x, Context(torch.zeros(1, 1)))
        y.square().sum().backward()
        results.append((y, x.grad))
    for theirs, ours in (*zip(*results, strict=True), (plain.weight, frozen.weight)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)  # MXFP4 reaches beyond float32


@pytest.mark.parametrize("bits", ON_DEVICE)
def test_blocks_are_decoded_on_a_device_as_quant_decodes_them(bits: str) -> None:
    blocks = random_blocks(bits, (6, 512), np.random.default_rng(1))
    decoded = decode_on_device(torch.from_numpy(blocks.data), bits).view(blocks.shape)
    assert torch.equal(decoded, torch.from_numpy(dequantize(blocks)))


def test_blocks_that_only_a_cpu_decodes_are_named_before_they_are_moved() -> None:
    require_decoder("iq4_nl", torch.device("cpu"))
    with pytest.raises(UnsupportedError, match="iq4_nl blocks are decoded on a CPU only"):
        require_decoder("iq4_nl", torch.device("meta"))


def random_blocks(bits: str, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Blocks with any integers and finite scales."""
    elements, size = BLOCKS[bits]
    stored = rng.integers(0, 256, (shape[0], shape[1] // elements, size), np.uint8)
    layout = stored.reshape(-1).view(LAYOUTS[bits])
    for name in {"d", "m", "dmin"} & set(layout.dtype.names or ()):
        layout[name] = rng.normal(0, 0.01, layout.shape).astype(np.float16)
    if bits == "mxfp4":
        layout["e"] = rng.integers(115, 127, layout.shape)  # powers of two
    return Array(bits, shape, stored.reshape(shape[0], -1))


@pytest.mark.parametrize("quantize", ["q8", "q4"])
def test_qlora_is_lora_over_the_decoded_weights(quantize: str, stories: Path, tmp_path: Path) -> None:
    """Loss, gradients, what is saved, and what merging gives: the same."""
    frozen = AutoModelForCausalLM.from_pretrained(stories / "stories260K.bin", device="cpu", quantize=quantize)
    plain = AutoModelForCausalLM.from_pretrained(stories / "stories260K.bin", device="cpu")
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, Linear):
                module.weight.copy_(frozen.get_parameter(f"{name}.weight"))
    ids = torch.randint(0, 512, (2, 17), generator=torch.Generator().manual_seed(0))
    found = []
    for model in (plain, frozen):
        settings = LoraSettings(rank=4, dropout=0.1)
        attach_lora(model, settings, torch.Generator().manual_seed(3))
        noisy(model, 0.05).train()
        torch.manual_seed(0)
        loss = language_loss(model, Batch.of(ids[:, :-1], ids[:, 1:]))
        loss.total.backward()
        found.append((loss.total, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert torch.equal(gradient, found[1][1][name]), name
    assert sum(p.numel() for p in frozen.parameters()) < 0.5 * sum(p.numel() for p in plain.parameters())
    save_adapter(tmp_path, frozen, settings)
    load_adapter(
        again := AutoModelForCausalLM.from_pretrained(stories / "stories260K.bin", device="cpu", quantize=quantize),
        tmp_path,
    )
    frozen.eval()
    assert torch.equal(logits_of(again, ids), logits_of(frozen, ids))
    kept = logits_of(frozen, ids)
    merge(frozen)
    close(logits_of(frozen, ids), kept)
    assert not [module for module in frozen.modules() if isinstance(module, QuantizedLinear)]


def logits_of(model: CausalLM, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def test_a_gguf_file_keeps_its_own_blocks(smollm2: Path) -> None:
    config, weights = (checkpoint := open_checkpoint(smollm2)).config, checkpoint.weights
    with torch.device("meta"):
        model = Decoder(replace(config, layers=config.layers[:1]))
    load_weights(model, weights, device="cpu", quantize="q4")
    frozen = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert {name: module.format for name, module in frozen.items()} == {
        name: weights[f"{name}.weight"].dtype for name in frozen
    }
    assert {module.format for module in frozen.values()} >= {"q4_1"}
    for name, module in frozen.items():
        assert np.array_equal(module.weight.numpy(), dequantize(weights[f"{name}.weight"])), name
