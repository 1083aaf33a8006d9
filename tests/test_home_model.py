"""Loading, calling, looking at and training a model as transformers' users do; and their own tools on ours."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from reference import reference_model, tiny, tiny_hf

import pellucid
from pellucid import AutoConfig, AutoModelForCausalLM
from pellucid.base import notice
from pellucid.base.errors import ConfigError, ModelNotFoundError, RequestError
from pellucid.causal_lm import CausalLM, loading
from pellucid.checkpoint.save import save_checkpoint
from pellucid.families import FAMILIES
from pellucid.model.load import weights_of

IDS = torch.tensor([[5, 17, 3, 88, 41, 7], [9, 9, 12, 60, 2, 30]])


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_told", set())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, in float32."""
    path = tmp_path_factory.mktemp("models") / "llama"
    save_checkpoint(str(path), tiny("llama").config, dict(weights_of(tiny("llama"))))
    return path


def load(folder: Path, **call: Any) -> Any:
    settings: dict[str, Any] = {"device": "cpu"} | call
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.habit("loading", "from_pretrained(name, torch_dtype=torch.bfloat16)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, dtype='bfloat16')", "works")
@pytest.mark.parametrize(
    "call",
    [
        {"torch_dtype": torch.bfloat16},
        {"torch_dtype": "bfloat16"},
        {"dtype": torch.bfloat16},
        {"dtype": "bfloat16", "torch_dtype": "bfloat16"},
    ],
)
def test_the_dtype_by_either_word(folder: Path, call: dict[str, Any]) -> None:
    assert load(folder, **call).dtype == torch.bfloat16


@pytest.mark.habit(
    "loading",
    "from_pretrained(name, dtype=torch.int8)",
    "pointer",
    "quantize='q8'; models run in float32, bfloat16, float16",
)
@pytest.mark.parametrize("dtype", [torch.int8, "int8", torch.complex64])
def test_a_dtype_that_models_do_not_run_in_is_refused_by_either_word(folder: Path, dtype: Any) -> None:
    with pytest.raises(ConfigError, match="is not one that models run in"):
        load(folder, torch_dtype=dtype)


@pytest.mark.habit("loading", "from_pretrained(name, config=folder)", "works")
def test_a_config_may_be_named_by_its_folder(folder: Path) -> None:
    assert load(folder, config=folder).config == load(folder, config=str(folder)).config == load(folder).config


@pytest.mark.habit("loading", "from_pretrained(name, device_map='auto')", "works")
@pytest.mark.habit("loading", "from_pretrained(name, device_map='cpu')", "works")
@pytest.mark.habit("loading", "from_pretrained(name, device_map={'': 0})", "works")
@pytest.mark.habit("model", "model.hf_device_map", "works")
@pytest.mark.parametrize("where", ["auto", "cpu", torch.device("cpu"), {"": "cpu"}])
def test_a_device_map_of_one_device(folder: Path, where: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=where)
    assert model.device.type == ("cuda" if torch.cuda.is_available() and where == "auto" else "cpu")
    assert set(model.hf_device_map) == {""}


@pytest.mark.habit("loading", "from_pretrained(name, low_cpu_mem_usage=True)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, use_safetensors=True)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, attn_implementation='sdpa')", "works")
@pytest.mark.habit("loading", "from_pretrained(name, trust_remote_code=True)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, local_files_only=True)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, revision='main')", "works")
@pytest.mark.habit("loading", "from_pretrained(name, use_cache=True)", "works")
@pytest.mark.habit("loading", "from_pretrained(name, token=None)", "works")
@pytest.mark.parametrize(
    "call",
    [
        {"low_cpu_mem_usage": True},
        {"use_safetensors": True},
        {"attn_implementation": "sdpa"},
        {"trust_remote_code": True},
        {"local_files_only": True},
        {"revision": "main"},
        {"use_cache": True},
        {"token": None},
    ],
)
def test_what_is_so_in_any_case_is_taken(folder: Path, call: dict[str, Any]) -> None:
    torch.testing.assert_close(load(folder, **call)(IDS).logits, load(folder)(IDS).logits)


@pytest.mark.habit(
    "loading",
    "from_pretrained(name, attn_implementation='flash_attention_2')",
    "differs",
    "torch's fused kernel attends in any case, and it says so",
)
def test_another_way_to_attend_is_answered_with_what_is_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(folder, attn_implementation="flash_attention_2")
    assert "torch's fused kernel attends in any case" in capsys.readouterr().err


@pytest.mark.habit(
    "loading",
    "from_pretrained(name, load_in_8bit=True)",
    "differs",
    "matrices in blocks of 32 (quantize='q4', 'q8'), and it says so",
)
@pytest.mark.habit(
    "loading",
    "from_pretrained(name, load_in_4bit=True)",
    "differs",
    "matrices in blocks of 32 (quantize='q4', 'q8'), and it says so",
)
@pytest.mark.habit(
    "loading",
    "from_pretrained(name, quantization_config=BitsAndBytesConfig(load_in_4bit=True))",
    "differs",
    "matrices in blocks of 32 (quantize='q4', 'q8'), and it says so",
)
@pytest.mark.parametrize(
    ("call", "blocks"),
    [
        ({"load_in_8bit": True}, "q8"),
        ({"load_in_4bit": True}, "q4"),
        ({"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True)}, "q4"),
    ],
)
def test_bits_and_bytes_words_for_blocks(folder: Path, call: dict[str, Any], blocks: str) -> None:
    assert torch.equal(load(folder, **call)(IDS).logits, load(folder, quantize=blocks)(IDS).logits)


@pytest.mark.habit("loading", "from_pretrained(folder, subfolder=…)", "works")
def test_a_part_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").symlink_to(folder)
    assert torch.equal(load(tmp_path, subfolder="inside")(IDS).logits, load(folder)(IDS).logits)


@pytest.mark.habit("loading", "model, info = from_pretrained(name, output_loading_info=True)", "works")
def test_the_report_of_loading_is_empty(folder: Path) -> None:
    model, report = load(folder, output_loading_info=True)
    assert isinstance(model, CausalLM)
    assert not any(report.values())


@pytest.mark.habit("loading", "from_pretrained(None, config=config, state_dict=…)", "works")
def test_weights_in_memory(folder: Path) -> None:
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    ours = AutoModelForCausalLM.from_pretrained(None, state_dict=theirs.state_dict(), config=config, device="cpu")
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.habit("loading", "from_pretrained(name, config=config)", "works")
@pytest.mark.habit(
    "loading",
    "from_pretrained(name, config=a config of other sizes)",
    "pointer",
    "from_config(config) for fresh weights",
)
def test_a_config_beside_the_folders_must_be_of_the_same_model(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert load(folder, config=config).config == config
    theirs = transformers.AutoConfig.from_pretrained(folder)
    theirs.pad_token_id = 7
    assert load(folder, config=theirs).config.pad_token_id == 7
    config.num_hidden_layers = 1
    with pytest.raises(ConfigError, match="differs from the folder's"):
        load(folder, config=config)


@pytest.mark.habit("loading", "from_pretrained(name, torch_dtyp='float32')", "pointer", "did you mean 'torch_dtype'?")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"torch_dtyp": "float32"}, "did you mean 'torch_dtype'"),
        ({"max_memory": {0: "1GB"}}, "a model is on one device"),
        ({"output_attentions": True}, "ask the call"),
    ],
)
def test_an_argument_that_is_not_here_says_what_is(folder: Path, call: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        load(folder, **call)


@pytest.mark.habit(
    "loading",
    "from_pretrained(name, device_map={'model.layers.0': 0, …: 1})",
    "pointer",
    "device_map='auto' or 'cuda:0'",
)
@pytest.mark.habit(
    "loading",
    "from_pretrained(name, ignore_mismatched_sizes=True)",
    "pointer",
    "weights of other shapes are never loaded",
)
@pytest.mark.habit(
    "loading",
    "from_pretrained(name, quantization_config={'quant_method': 'gptq'})",
    "pointer",
    "quantize='q4'; what is quantized already opens as it is",
)
@pytest.mark.habit("loading", "from_pretrained(name, attn_implementation='magic')", "pointer", "sdpa, eager, …")
@pytest.mark.parametrize(
    "call",
    [
        {"device_map": {"model.layers.0": 0, "model.layers.1": 1}},
        {"dtype": "float32", "torch_dtype": "bfloat16"},
        {"attn_implementation": "magic"},
        {"ignore_mismatched_sizes": True},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
)
def test_what_cannot_be_is_refused_in_words(folder: Path, call: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load(folder, **call)


# --- calling ----------------------------------------------------------------------------------------------------------


@pytest.mark.habit("forward", "model(ids, output_attentions=True).attentions", "works")
@pytest.mark.habit("forward", "model(ids, output_hidden_states=True).hidden_states", "works")
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "glm4", "mixtral"])
def test_the_stream_and_the_patterns_are_transformers(family: str) -> None:
    ours, theirs = CausalLM(tiny(family).config), cast(transformers.PreTrainedModel, reference_model(tiny(family)))
    ours.load_state_dict(tiny(family).state_dict())
    ours.eval()
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        mine = ours(IDS, output_hidden_states=True, output_attentions=True)
        other = theirs(IDS, output_hidden_states=True, output_attentions=True)
    assert len(mine.hidden_states) == len(other.hidden_states) == ours.config.num_layers + 1
    for a, b in zip(mine.hidden_states[1:], other.hidden_states[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()))
    for a, b in zip(mine.attentions, other.attentions, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.habit("forward", "model(next_ids, past_key_values=out.past_key_values)", "works")
def test_states_go_on_where_they_were(folder: Path) -> None:
    theirs: Any
    model, theirs = load(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        first = model(IDS[:, :4])
        assert first.past_key_values.get_seq_length() == 4
        rest = model(IDS[:, 4:], past_key_values=first.past_key_values)
        assert rest.past_key_values is first.past_key_values
        torch.testing.assert_close(rest.logits, theirs(IDS).logits[:, 4:], rtol=0, atol=1e-5)
        one = model(torch.tensor([[3], [8]]), past_key_values=rest.past_key_values)
        whole = theirs(torch.cat((IDS, torch.tensor([[3], [8]])), 1)).logits
        torch.testing.assert_close(one.logits[:, -1], whole[:, -1], rtol=0, atol=1e-5)
    assert model(IDS).past_key_values is None, "gradients are wanted: nothing is kept beside them"


@pytest.mark.habit("forward", "model(ids, attention_mask=whole_mask, past_key_values=past)", "works")
def test_states_of_padded_texts(folder: Path) -> None:
    model = load(folder)
    padded, mask = torch.tensor([[0, 0, 17, 3, 88, 41]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        whole = model(padded, attention_mask=mask).logits
        first = model(padded[:, :4], attention_mask=mask[:, :4])
        rest = model(padded[:, 4:], attention_mask=mask, past_key_values=first.past_key_values)
        torch.testing.assert_close(rest.logits, whole[:, 4:], rtol=0, atol=1e-5)
        alone = model(padded[:, 2:]).logits
        torch.testing.assert_close(whole[:, 2:], alone, rtol=0, atol=1e-5)


@pytest.mark.habit("forward", "past_key_values.crop(500)", "works")
def test_states_grow_as_long_as_the_text(folder: Path) -> None:
    model, past = load(folder), None
    out: Any = None
    text = torch.randint(0, 96, (1, 600), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for token in text[0].split(150):
            out = model(token[None], past_key_values=past)
            past = out.past_key_values
        torch.testing.assert_close(out.logits[0, -1], model(text).logits[0, -1], rtol=0, atol=1e-4)
        assert past is not None
        past.crop(500)
        again = model(text[:, 500:], past_key_values=past).logits
        torch.testing.assert_close(again[0, -1], out.logits[0, -1], rtol=0, atol=1e-4)


@pytest.mark.habit("forward", "(logits,) = model(ids, return_dict=False, use_cache=False)", "works")
@pytest.mark.habit("forward", "model(ids, logits_to_keep=torch.tensor([1, 3]))", "works")
def test_embeddings_logits_to_keep_and_tuples(folder: Path) -> None:
    model = load(folder)
    with torch.no_grad():
        whole = model(IDS, use_cache=False)
        torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(IDS)).logits, whole.logits)
        assert torch.equal(model(IDS, logits_to_keep=2).logits, model(IDS).logits[:, -2:])
        assert model(IDS, logits_to_keep=torch.tensor([1, 3])).logits.shape == (2, 2, 96)
        assert torch.equal(whole[0], whole.logits)
        assert torch.equal(whole["logits"], whole.logits)
        assert list(whole) == ["logits"]
        (logits,) = model(IDS, return_dict=False, use_cache=False)
        assert torch.equal(logits, whole.logits)
        loss, logits = model(IDS, labels=IDS, use_cache=False).to_tuple()
        assert loss.ndim == 0


@pytest.mark.habit(
    "forward",
    "model([1, 2, 3])",
    "pointer",
    "tokenizer(text, return_tensors='pt')['input_ids'], or torch.tensor([ids])",
)
@pytest.mark.habit("forward", "model(torch.tensor([1, 2, 3]))", "pointer", "a batch: torch.tensor([ids])")
@pytest.mark.habit("forward", "model(ids, head_mask=…)", "pointer", "trace(model, tokenizer, text, edits=…)")
@pytest.mark.parametrize(
    "ids",
    [[1, 2, 3], [[1, 2, 3]], torch.tensor([1, 2, 3]), torch.ones(1, 3)],
    ids=["a list", "lists", "one axis", "fractions"],
)
def test_what_is_no_batch_of_ids_gets_a_word(folder: Path, ids: Any) -> None:
    with pytest.raises(RequestError, match="a tensor of whole numbers"):
        load(folder)(ids)
    with pytest.raises(TypeError, match="edit the run"):
        load(folder)(IDS, head_mask=torch.ones(2, 4))


# --- the description --------------------------------------------------------------------------------------------------


@pytest.mark.habit(
    "config",
    "config.n_embd, config.n_layer (GPT-2), d_model (MPT), …",
    "works",
    "by the names of each family's own file",
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "qwen3", "mixtral", "gpt_neox", "bloom", "mpt"])
def test_the_config_answers_to_transformers_names(family: str, tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path), tiny(family).config, dict(weights_of(tiny(family))))
    ours, theirs = AutoConfig.from_pretrained(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "eos_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("bos_token_id", "pad_token_id", "model_type", "is_encoder_decoder", "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name), name
    if hasattr(theirs, "max_position_embeddings"):
        assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.to_dict()["model_type"] == family
    assert json.loads(ours.to_json_string()) == json.loads(json.dumps(ours.to_dict()))
    assert FAMILIES[family].config(ours.to_dict()) == ours


@pytest.mark.habit("config", "config.num_hidden_layers = 3; AutoModelForCausalLM.from_config(config)", "works")
@pytest.mark.habit(
    "config",
    "model.config.hidden_size = 128 of a model that is built",
    "pointer",
    "AutoConfig.from_pretrained, then from_config",
)
@pytest.mark.habit("config", "model.config.use_cache = False", "works")
@pytest.mark.habit("config", "model.config.pad_token_id = tokenizer.pad_token_id", "works")
@pytest.mark.habit("config", "config.hiden_size", "pointer", "did you mean 'hidden_size'?")
def test_a_config_is_changed_before_the_model_is_built(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.hidden_size, config.vocab_size = 3, 64, 50  # type: ignore[misc]
    model: Any = AutoModelForCausalLM.from_config(config, seed=1)
    assert (len(model.layers), model.embed.weight.shape) == (3, (50, 64))
    with pytest.raises(ConfigError, match="of a model that is built cannot be set"):
        model.config.hidden_size = 128
    model.config.pad_token_id, model.config.use_cache, model.config.pretraining_tp = 0, False, 1
    assert (model.config.pad_token_id, model.config.use_cache) == (0, False)
    assert AutoConfig.from_pretrained(folder).use_cache
    with pytest.raises(AttributeError, match="has no 'hiden_size'"):
        _ = config.hiden_size


@pytest.mark.habit("config", "copy.deepcopy(config), pickle.dumps(config)", "works")
def test_a_config_is_copied_pickled_and_compared(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.use_cache = False
    for again in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert again == config == tiny("llama").config
        assert hash(again) == hash(tiny("llama").config)
        assert again.use_cache is False
    assert isinstance(config, pellucid.ModelConfig)


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.habit("model", "model.get_memory_footprint()", "works")
def test_parts_and_sizes_by_transformers_names(folder: Path) -> None:
    theirs: Any
    ours, theirs = load(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    assert ours.get_memory_footprint() == pytest.approx(theirs.get_memory_footprint(), rel=0.01)
    assert torch.equal(ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    assert torch.equal(ours.get_output_embeddings().weight, theirs.get_output_embeddings().weight)
    assert len(ours.model.layers) == len(theirs.model.layers)
    assert ours.can_generate()
    assert ours.name_or_path == str(folder)
    assert load(folder, quantize="q8").num_parameters() == ours.num_parameters()


@pytest.mark.habit("model", "model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=8)", "works")
@pytest.mark.parametrize("tied", [True, False])
def test_more_tokens_begin_as_the_mean_of_the_others(tied: bool) -> None:
    keys = tiny_hf("llama") | {"tie_word_embeddings": tied}
    model: Any = AutoModelForCausalLM.from_config(FAMILIES["llama"].config(keys), seed=1)
    before = model(IDS).logits
    model.resize_token_embeddings(100)
    assert model.config.vocab_size == 100
    after = model(IDS).logits
    torch.testing.assert_close(after[..., :96], before)
    mean = model.get_output_embeddings().weight[:96].mean(0)
    torch.testing.assert_close(model.get_output_embeddings().weight[96], mean)
    model.resize_token_embeddings(90, pad_to_multiple_of=8)
    assert model(IDS).logits.shape[-1] == 96
    assert model.generate(IDS, max_new_tokens=2).shape == (2, 8)


@pytest.mark.habit("model", "model(ids, labels=ids).loss.backward()", "works")
@pytest.mark.habit("model", "torch.optim.AdamW(model.parameters())", "works")
def test_a_loaded_model_trains(folder: Path) -> None:
    model = load(folder)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # before train(), as transformers' Trainer makes it
    before = model.train()(IDS, labels=IDS).loss
    before.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    assert model(IDS, labels=IDS).loss.item() < before.item()
    frozen = load(folder).requires_grad_(False)
    frozen.train()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.habit("model", "model.gradient_checkpointing_enable(); loss.backward()", "works")
def test_layers_computed_anew_have_the_same_gradients(folder: Path) -> None:
    plain, anew = load(folder).train(), load(folder).train()
    anew.gradient_checkpointing_enable()
    for model in (plain, anew):
        model(IDS, labels=IDS).loss.backward()
    for one, other in zip(plain.parameters(), anew.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.habit("forward", "model(ids, labels=ids, num_items_in_batch=n).loss", "works")
def test_the_loss_of_a_share_of_a_batch(folder: Path) -> None:
    model = load(folder)
    whole = model(IDS, labels=IDS).loss
    halves = sum(model(row[None], labels=row[None], num_items_in_batch=10).loss for row in IDS)
    torch.testing.assert_close(halves, whole)


@pytest.mark.habit("saving", "model.save_pretrained(folder)", "works")
@pytest.mark.habit("saving", "model.save_pretrained(folder, max_shard_size='2GB')", "works")
@pytest.mark.habit("saving", "model.save_pretrained(folder, safe_serialization=True)", "works")
@pytest.mark.habit("saving", "GenerationConfig.from_pretrained(folder)", "works")
def test_what_is_saved_opens_with_its_settings(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    model.generation_config.max_new_tokens = 9
    model.save_pretrained(tmp_path, max_shard_size="20KB", safe_serialization=True)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert load(tmp_path).generation_config.max_new_tokens == 9
    assert transformers.GenerationConfig.from_pretrained(tmp_path).max_new_tokens == 9
    torch.testing.assert_close(load(tmp_path)(IDS).logits, model(IDS).logits)
    with pytest.raises(ConfigError, match="5GB"):
        model.save_pretrained(tmp_path, max_shard_size="many")


@pytest.mark.habit("generate", "model.generate('Once upon')", "works", "transformers takes tensors alone")
@pytest.mark.habit("generate", "model.generate(['Once', 'Once upon a'])", "works")
@pytest.mark.habit(
    "saving",
    "model.save_pretrained(folder) with the tokenizer it came with",
    "works",
    "transformers wants a second line for it",
)
def test_the_tokenizer_is_saved_with_the_model_and_texts_are_prompts(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained("tiny", device="cpu")
    model.save_pretrained(tmp_path)
    ours, theirs = pellucid.AutoTokenizer.from_pretrained(tmp_path), pellucid.AutoTokenizer.from_pretrained("tiny")
    assert ours.encode("Once upon a time") == theirs.encode("Once upon a time")
    ids = torch.tensor([theirs.encode("Once upon")])
    call: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    assert model.generate("Once upon", **call).tolist() == model.generate(ids, **call).tolist()
    assert model.generate(["Once", "Once upon a"], max_new_tokens=3).shape[0] == 2
    bare = AutoModelForCausalLM.from_config(model.config)
    with pytest.raises(RequestError, match="needs a tokenizer"):
        bare.generate("Once")


@pytest.mark.habit("loading", "from_pretrained('no such model')", "works", "an OSError, as in transformers")
def test_a_name_that_is_none_says_so() -> None:
    with pytest.raises(ModelNotFoundError):
        AutoModelForCausalLM.from_pretrained("no such model")


@pytest.mark.habit(
    "forward",
    "model(padded, attention_mask=mask) of a model with learned positions",
    "differs",
    "positions are counted from each text's first token, and it says so",
)
def test_positions_that_the_mask_says_are_said_once_where_transformers_counts_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids, padded = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    for family, mask, said in (
        ("llama", padded, False),
        ("llama", torch.tensor([[1, 0, 1, 1]] * 2), True),
        ("gpt2", padded, True),
    ):
        notice._told.clear()
        model = CausalLM(tiny(family).config)
        model.load_state_dict(tiny(family).state_dict())
        for _ in range(2):
            model(ids, attention_mask=mask)
        assert capsys.readouterr().err.count("positions are counted by attention_mask") == said
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        assert not capsys.readouterr().err


@pytest.mark.parametrize(("ids", "mask"), [((1, 0), None), ((2, 3), (2, 1, 3, 3)), ((2, 3), (1, 3))])
def test_shapes_that_no_text_has_are_refused(ids: tuple[int, ...], mask: tuple[int, ...] | None) -> None:
    model = CausalLM(tiny("llama").config)
    with pytest.raises(RequestError, match=r"input_ids must be|attention_mask says"):
        model(torch.zeros(ids, dtype=torch.long), attention_mask=None if mask is None else torch.ones(mask))


@pytest.mark.habits(
    "loading", "from_pretrained(name, {}=…)", "pointer", table="src/pellucid/causal_lm/loading.py:ELSEWHERE"
)
@pytest.mark.habits(
    "loading", "from_pretrained(name, {}=…)", "pointer", table="src/pellucid/checkpoint/sources/asked.py:ELSEWHERE"
)
@pytest.mark.parametrize("name", loading.ELSEWHERE)
def test_an_argument_of_loading_that_is_not_here_says_what_to_write(folder: Path, name: str) -> None:
    with pytest.raises(TypeError) as error:
        load(folder, **{name: "x"})
    assert loading.ELSEWHERE[name] in str(error.value)
    load(folder, **{name: None})
