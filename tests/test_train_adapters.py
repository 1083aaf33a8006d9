"""Adapters of other kinds: DoRA, whole modules beside, one on another; each equal to what PEFT makes of it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from option_walk import make_model
from reference import reference_model, tiny
from test_train_going_on import finetune, metrics, pellucid
from test_train_lora import IDS, Noise, close, fresh, logits, noisy

from pellucid import AutoConfig, AutoModelForCausalLM
from pellucid.auto import open_model
from pellucid.base.errors import CheckpointError, ConfigError, RequestError, UnsupportedError
from pellucid.model.decoder import Decoder
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
from pellucid.train.runs.loop import accumulate
from pellucid.train.runs.optim import OptimSettings, make_optimizers
from pellucid.train.runs.run import Run, RunSettings, Training
from pellucid.train.runs.schedule import Schedule

peft = pytest.importorskip("peft", reason="pip install peft")
FAMILIES = ("llama", "qwen2", "gpt2", "chatglm")  # biases; maps of several in one; transposed ones


def adapted(family: str, **settings: Any) -> tuple[Decoder, LoraSettings]:
    """As if it had learned: directions, lengths and whole modules are others."""
    model, chosen = fresh(family), LoraSettings(rank=4, **settings)
    attach_lora(model, chosen, torch.Generator().manual_seed(3))
    noisy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_a" not in name and "lora_b" not in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return model, chosen


def theirs_over(family: str, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(reference_model(tiny(family)), str(folder)).eval()


# --- DoRA -------------------------------------------------------------------------------------------------------------


def test_rows_have_the_lengths_that_were_learned() -> None:
    """W = [[3, 4], [0, 1]] and an update of nothing: lengths 5 and 1; with 10 and 1 the first row doubles."""
    model = fresh("llama")
    attach_lora(model, LoraSettings(rank=2, dora=True))
    layer = lora_layers(model)["layers.0.attention.q_proj"]
    lengths = torch.linalg.norm(layer.base.weight, dim=1)
    assert layer.lora_magnitude is not None
    torch.testing.assert_close(layer.lora_magnitude.detach(), lengths)
    close(logits(model), logits(tiny("llama")))
    with torch.no_grad():
        layer.lora_magnitude[0] *= 2
    torch.testing.assert_close(layer.weight[0], 2 * layer.base.weight[0])
    torch.testing.assert_close(layer.weight[1:], layer.base.weight[1:])


def test_lengths_are_those_of_float32_under_autocast() -> None:
    model, _ = adapted("llama", dora=True)
    layer = lora_layers(model)["layers.0.attention.q_proj"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer._lengths(), torch.linalg.norm(layer._sum(), dim=1))
        assert layer._sum().dtype == torch.float32
    assert layer.lora_magnitude is not None
    torch.testing.assert_close(torch.linalg.norm(layer.weight, dim=1), layer.lora_magnitude.detach())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("error:.*missing adapter keys")
@pytest.mark.habit("training", "DoRA: --dora; `use_dora` as PEFT has it", "works")
def test_peft_loads_our_dora_with_equal_logits_and_merged_it_stays_so(family: str, tmp_path: Path) -> None:
    model, settings = adapted(family, dora=True, rslora=family == "llama")
    save_adapter(tmp_path, model, settings)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_dora"] is True
    if family != "chatglm":  # transformers' own GLM names its maps otherwise
        with torch.no_grad():
            close(theirs_over(family, tmp_path)(IDS).logits, logits(model))
    again = fresh(family)
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    expected = logits(model)
    merge(model)
    close(logits(model), expected)
    with without_adapter(again):
        close(logits(again), logits(tiny(family)))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.habit("tools", "an adapter that PEFT trained with `use_dora=True`", "works")
def test_we_load_pefts_dora_with_equal_logits_and_gradients(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=10, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    made = peft.get_peft_model(reference_model(tiny(family)), config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    out = made(IDS)
    made.save_pretrained(str(tmp_path))
    model = fresh(family)
    load_adapter(model, tmp_path, trainable=True)
    close(logits(model), out.logits)
    from pellucid.train.data.batch import Batch

    batch = Batch.of(IDS[:, :-1], IDS[:, 1:])
    accumulate(model, [batch], language_loss)
    made(IDS, labels=IDS).loss.backward()
    theirs = {name: p.grad for name, p in made.named_parameters() if "magnitude" in name}
    ours = {name: p.grad for name, p in model.named_parameters() if "magnitude" in name}
    if family != "gpt2":  # whose three maps are one there
        assert len(ours) == len(theirs)
    total = [sum(float(grad.norm()) ** 2 for grad in one.values() if grad is not None) for one in (ours, theirs)]
    assert total[0] == pytest.approx(total[1], rel=1e-4)


def test_dora_takes_a_map_whole() -> None:
    with pytest.raises(ConfigError, match="DoRA takes a map whole"):
        attach_lora(fresh("gpt2"), LoraSettings(rank=2, dora=True, targets=("v_proj",)))


# --- whole modules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.filterwarnings("error:.*missing adapter keys")
@pytest.mark.habit("training", "--modules-to-save embed_tokens,lm_head", "works")
def test_modules_that_learn_whole_are_pefts_modules_to_save(family: str, tmp_path: Path) -> None:
    names = {"gpt2": ("wte", "ln_f")}.get(family, ("embed_tokens", "lm_head", "norm"))
    model, settings = adapted(family, modules_to_save=names, targets="all-linear")
    learned = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert {"embed.weight", "final_norm.weight"} <= learned
    assert not any("attention" in name or "mlp." in name for name in learned)
    save_adapter(tmp_path, model, settings)
    with torch.no_grad():
        close(theirs_over(family, tmp_path)(IDS).logits, logits(model))
    again = fresh(family)
    load_adapter(again, tmp_path)
    close(logits(again), logits(model))


@pytest.mark.habit("tools", "an adapter that PEFT trained with `modules_to_save`", "works")
def test_we_load_pefts_modules_to_save_with_equal_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for tied, family in ((True, "tied"), (False, "untied")):
        base = fresh_of(tied)
        config = peft.LoraConfig(
            r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=tied
        )
        made = peft.get_peft_model(reference_model(base), config).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            expected = made(IDS).logits
        made.save_pretrained(str(tmp_path / family))
        load_adapter(base, tmp_path / family)
        close(logits(base), expected)


def fresh_of(tied: bool) -> Decoder:
    family = next(
        name for name in ("qwen2", "qwen3", "llama", "smollm3", "gemma2") if tiny(name).config.tie_embeddings == tied
    )
    return fresh(family)


@pytest.mark.habit(
    "tools",
    "`modules_to_save=['embed_tokens']` of a tied model, without `ensure_weight_tying`",
    "pointer",
    "merge_and_unload with PEFT",
)
def test_of_a_tied_table_one_name_cannot_be_changed_alone(tmp_path: Path) -> None:
    base = fresh_of(True)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with pytest.warns(UserWarning, match="tie"):
        made = peft.get_peft_model(reference_model(base), config)
    made.save_pretrained(str(tmp_path))
    with pytest.raises(UnsupportedError, match="one table, one is changed alone"):
        load_adapter(base, tmp_path)


def test_modules_that_are_not_there_or_have_an_update_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no module 'nothing'.*embed_tokens"):
        attach_lora(fresh("llama"), LoraSettings(modules_to_save=("nothing",)))
    with pytest.raises(ConfigError, match="to learn whole, and to have an update"):
        attach_lora(fresh("llama"), LoraSettings(modules_to_save=("q_proj",)))


@pytest.mark.parametrize("kind", [{"dora": True}, {"modules_to_save": ("embed_tokens",)}], ids=["dora", "saved"])
def test_a_run_goes_on_bit_for_bit(kind: dict[str, Any], tmp_path: Path) -> None:
    def run(folder: Path) -> Run:
        torch.manual_seed(0)
        model, settings = fresh("llama"), LoraSettings(rank=4, **kind)
        attach_lora(model, settings, torch.Generator().manual_seed(0))
        training = Training(
            model=model,
            samples=Noise(),
            optimizers=make_optimizers(model, OptimSettings(lr=1e-2)),
            schedule=Schedule(num_steps=4, warmup_steps=1),
            loss_function=language_loss,
            write_model=partial(write_lora, model=model, settings=settings, base="somewhere"),
            read_model=read_lora,
        )
        return Run(folder, training, RunSettings(num_steps=4, batch_size=2, lr=1e-2, save_every=2, eval_every=0))

    whole = run(tmp_path / "whole")
    whole.run()
    parts = run(tmp_path / "parts")
    for _ in range(2):
        parts.step()
    parts.save()
    again = run(tmp_path / "parts")
    assert again.resume()
    again.run()
    files = [(tmp_path / name / "checkpoints/step-00000004/adapter_model.safetensors") for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


# --- as it is typed: on quantized weights, and one on another ---------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}", "answer": f"a{n}"}) + "\n" for n in range(8)))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


STEPS = ["--steps", 3, "--val-fraction", 0, "--lr", 0.05, "-q"]


@pytest.mark.parametrize(
    "words",
    [["--dora"], ["--rslora"], ["--dora", "--quantize", "q8"], ["--modules-to-save", "embed_tokens,lm_head,norm"]],
    ids=" ".join,
)
@pytest.mark.habit("training", "rsLoRA: --rslora", "works")
def test_kept_or_merged_it_says_the_same(words: list[str], model: Path, chats: Path, tmp_path: Path) -> None:
    for name, more in (("kept", ["--no-merge"]), ("merged", [])):
        finetune(model, chats, tmp_path / name, *STEPS, *words, *more)
    ids = torch.tensor([[5, 6, 7, 8]])
    both = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name, device="cpu")(ids).logits for name in ("kept", "merged")
    ]
    torch.testing.assert_close(*both, rtol=0, atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(model, device="cpu")(ids).logits
    assert not torch.allclose(both[0], plain, atol=1e-2)


@pytest.fixture(scope="module")
def sft(model: Path, chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sft") / "adapter"
    finetune(model, chats, out, *STEPS, "--no-merge")
    return out


@pytest.mark.habit("training", "an adapter on an adapter: finetune -m ADAPTER", "works")
def test_an_adapter_on_an_adapter_is_one_on_the_merged_model(sft: Path, chats: Path, tmp_path: Path) -> None:
    finetune(sft, chats, tmp_path / "chain", *STEPS, "--no-merge")
    pellucid("convert", sft, tmp_path / "merged")
    finetune(tmp_path / "merged", chats, tmp_path / "flat", *STEPS, "--no-merge")
    names = ("chain", "flat")
    assert [line["loss"] for line in metrics(tmp_path / "chain")] == [
        line["loss"] for line in metrics(tmp_path / "flat")
    ]
    ids = torch.tensor([[5, 6, 7, 8]])
    both = [AutoModelForCausalLM.from_pretrained(tmp_path / name, device="cpu")(ids).logits for name in names]
    assert torch.equal(*both)
    assert AutoConfig.from_pretrained(tmp_path / "chain").hidden_size == 32
    pellucid("convert", tmp_path / "chain", tmp_path / "whole")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "whole", device="cpu")(ids).logits, both[0])


def test_a_changed_adapter_beneath_is_noticed_and_so_is_a_circle(sft: Path, chats: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(sft, tmp_path / "sft")
    finetune(tmp_path / "sft", chats, tmp_path / "chain", *STEPS, "--no-merge")
    finetune(sft.parent / "adapter", chats, tmp_path / "other", *STEPS, "--no-merge", "--seed", 5)
    shutil.copy2(tmp_path / "other/adapter_model.safetensors", tmp_path / "sft/adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="its weights are others"):
        open_model(tmp_path / "chain")
    for one, other in (("chain", "sft"), ("sft", "chain")):
        path = tmp_path / one / "adapter_config.json"
        described = json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / other)}
        path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="each other's base"):
        open_model(tmp_path / "chain")


@pytest.mark.parametrize("method", ["dpo", "kto"])
@pytest.mark.habit("training", "DPO on an SFT adapter", "works")
@pytest.mark.habit("training", "KTO on an SFT adapter", "works")
def test_preferences_on_an_sft_adapter_compare_with_the_sft_model(
    method: str, sft: Path, pairs: Path, tmp_path: Path
) -> None:
    """TRL's way: the reference is what the model was before, its first adapter included."""
    said = finetune(sft, pairs, tmp_path, *STEPS[:-1], "--method", method).stderr
    assert "the new one goes on top of it" in " ".join(said.split())
    first = metrics(tmp_path)[0]["loss"]
    assert first == pytest.approx({"dpo": 0.693147, "kto": 0.5}[method], abs=1e-5), "nothing differs from it yet"
    assert metrics(tmp_path)[-1]["loss"] != first


def test_kto_cannot_leave_out_modules_that_learned_whole(model: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="KTO compares with the model without its adapter"):
        finetune(model, pairs, tmp_path, *STEPS, "--method", "kto", "--modules-to-save", "lm_head")


@pytest.mark.habit("training", "--method full on an adapter's model", "works")
def test_all_weights_learn_from_an_adapters_model_too(sft: Path, chats: Path, tmp_path: Path) -> None:
    finetune(sft, chats, tmp_path / "full", *STEPS, "--method", "full", "--lr", 1e-9)
    ids = torch.tensor([[5, 6, 7, 8]])
    both = [AutoModelForCausalLM.from_pretrained(path, device="cpu")(ids).logits for path in (sft, tmp_path / "full")]
    torch.testing.assert_close(*both, rtol=0, atol=1e-4)
