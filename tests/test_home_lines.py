"""Lines that transformers' users type on a config and a model: each gives what it gives on theirs, same weights."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from reference import tiny, tiny_hf

import pellucid
from pellucid import AutoConfig, AutoModelForCausalLM
from pellucid.base import notice
from pellucid.base.errors import ConfigError, RequestError
from pellucid.causal_lm import names
from pellucid.causal_lm.model import CausalLM
from pellucid.checkpoint.save import save_checkpoint
from pellucid.families import FAMILIES, hf_config
from pellucid.model.load import weights_of

IDS = torch.tensor([[5, 17, 3, 88, 41, 7], [9, 9, 12, 60, 2, 30]])

CONFIG = (
    "config.hidden_size",
    "config.num_hidden_layers",
    "config.num_attention_heads",
    "config.num_key_value_heads",
    "config.head_dim",
    "config.intermediate_size",
    "config.max_position_embeddings",
    "config.vocab_size",
    "config.rms_norm_eps",
    "config.hidden_act",
    "config.rope_parameters",
    "config.tie_word_embeddings",
    "config.torch_dtype",
    "config.bos_token_id, config.eos_token_id, config.pad_token_id",
    "config.use_cache",
    "config.architectures",
    "config.model_type",
    "config.attention_bias",
    "config.attention_dropout",
    "config.is_encoder_decoder",
    "config.output_attentions, config.output_hidden_states",
    "config.return_dict",
    "config.problem_type",
    "config.name_or_path",
    "config.get_text_config().hidden_size",
    "config.to_dict()['hidden_size']",
    "'hidden_size' in config",
    "getattr(config, 'sliding_window', None)",
    "hasattr(config, 'quantization_config')",
    "config.use_cache = False; config.use_cache",
    "config.num_hidden_layers = 1; config.num_hidden_layers",
    "config.update({'num_hidden_layers': 1}); config.num_hidden_layers",
    "config.my_own_key = 1; config.my_own_key",
    "config.save_pretrained(folder / 'saved'); type(config).from_pretrained(folder / 'saved').hidden_size",
    "config.to_json_file(folder / 'one.json'); type(config).from_json_file(folder / 'one.json').hidden_size",
    "type(config).from_dict(config.to_dict()).vocab_size",
    "copy.deepcopy(config) == config",
)
FORWARD = (
    "model(ids).logits",
    "model(input_ids=ids).logits",
    "model(ids)[0]",
    "model(ids)['logits']",
    "model(ids, attention_mask=torch.ones_like(ids)).logits",
    "model(ids, labels=ids).loss",
    "model(ids, labels=ids, return_dict=False)[0]",
    "model(ids, labels=ids).to_tuple()[1]",
    "list(model(ids, use_cache=False).keys())",
    "model(ids, use_cache=True).past_key_values.get_seq_length()",
    "len(model(ids, use_cache=True).past_key_values)",
    "model(ids, use_cache=False).past_key_values",
    "model(ids, past_key_values=model(ids, use_cache=True).past_key_values).logits",
    "model(ids, output_hidden_states=True).hidden_states[-1]",
    "len(model(ids, output_hidden_states=True).hidden_states)",
    "model.config.output_hidden_states = True; len(model(ids).hidden_states)",
    "model(ids, logits_to_keep=1).logits",
    "model(inputs_embeds=model.get_input_embeddings()(ids)).logits",
    "model(ids, position_ids=torch.arange(6)[None]).logits",
    "model(ids, cache_position=torch.arange(6)).logits",
    "model(ids, token_type_ids=torch.zeros_like(ids)).logits",
    "model.forward(ids).logits",
    "model.model(ids).last_hidden_state",
    "model.base_model(ids)[0]",
    "model.get_decoder()(ids)[0]",
    "model.lm_head(model.model(ids).last_hidden_state)",
    "copy.deepcopy(model)(ids).logits",
)
MODEL = (
    "model.device",
    "model.dtype",
    "model.training",
    "model.train().training",
    "model.eval().training",
    "model.num_parameters()",
    "model.num_parameters(only_trainable=True)",
    "model.num_parameters(exclude_embeddings=True)",
    "model.get_input_embeddings().weight",
    "model.get_output_embeddings().weight",
    "model.lm_head.weight",
    "model.lm_head.weight is model.get_input_embeddings().weight",
    "model.model.embed_tokens.weight",
    "model.model.norm.weight",
    "len(model.model.layers)",
    "model.model.layers[0].self_attn.q_proj.weight",
    "model.model.layers[-1].mlp.gate_proj.weight",
    "model.model.layers[1].input_layernorm.weight",
    "model.model.layers[1].post_attention_layernorm.weight",
    "[layer.self_attn.o_proj.weight.shape for layer in model.model.layers]",
    "model.resize_token_embeddings(104).weight.shape",
    "model.tie_weights()",
    "model.gradient_checkpointing_enable(); model.is_gradient_checkpointing",
    "model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})",
    "model.activation_checkpointing_enable(); model.is_activation_checkpointing",
    "model.enable_input_require_grads()",
    "model.can_generate()",
    "model.name_or_path",
    "model.main_input_name",
    "model.base_model_prefix",
    "model.vocab_size",
    "model.config.hidden_size",
    "model.generation_config.eos_token_id",
    "model.half().dtype",
    "model.bfloat16().dtype",
    "model.to('cpu').device",
    "model.to(torch.bfloat16).dtype",
    "model.to(dtype=torch.float16).dtype",
    "model.requires_grad_(False).num_parameters(only_trainable=True)",
    "isinstance(model, torch.nn.Module)",
)


@cache
def folder(tied: bool = True) -> Path:
    from tempfile import mkdtemp

    path = Path(mkdtemp(prefix="pellucid-lines-"))
    config = FAMILIES["llama"].config(tiny_hf("llama") | {"tie_word_embeddings": tied, "dtype": "float32"})
    model = CausalLM(config)
    model.initialize(torch.Generator().manual_seed(3))
    save_checkpoint(str(path), config, dict(weights_of(model)))
    return path


def result(known: dict[str, Any], code: str) -> Any:
    *before, last = code.split("; ")
    names = known | {"torch": torch, "copy": copy, "ids": IDS, "folder": folder()}
    with torch.no_grad():
        exec("\n".join(before), names)
        return eval(last, names)


def agree(mine: Any, other: Any) -> None:
    if isinstance(other, torch.Tensor):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    else:
        assert mine == other


@pytest.mark.habits("config", "{}", "works", table="tests/test_home_lines.py:CONFIG")
@pytest.mark.parametrize("code", CONFIG)
def test_a_line_about_a_config_gives_what_transformers_gives(code: str) -> None:
    mine, other = (
        result({"config": whose.AutoConfig.from_pretrained(folder())}, code) for whose in (pellucid, transformers)
    )
    agree(mine, other)


@pytest.mark.habits("forward", "{}", "works", table="tests/test_home_lines.py:FORWARD")
@pytest.mark.habits("model", "{}", "works", table="tests/test_home_lines.py:MODEL")
@pytest.mark.parametrize("code", [*FORWARD, *MODEL])
def test_a_line_about_a_model_gives_what_transformers_gives(code: str) -> None:
    mine, other = (
        result({"model": whose.AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32)}, code)
        for whose in (pellucid, transformers)
    )
    agree(mine, other)


@pytest.mark.habit("config", "AutoConfig.from_pretrained(name, num_hidden_layers=1)", "works")
@pytest.mark.habit("config", "AutoConfig.from_pretrained(name, return_unused_kwargs=True, …)", "works")
@pytest.mark.habit("config", "AutoConfig.from_pretrained(name, unknown=1)", "pointer", "the nearest key it has")
@pytest.mark.habit("config", "AutoConfig.for_model('llama', hidden_size=64, …)", "works")
def test_a_config_is_opened_with_keys_set() -> None:
    for key, value in (("num_hidden_layers", 1), ("use_cache", False), ("pad_token_id", 3), ("dtype", "bfloat16")):
        mine, other = (whose.AutoConfig.from_pretrained(folder(), **{key: value}) for whose in (pellucid, transformers))
        assert getattr(mine, key) == value or str(getattr(other, key)) == f"torch.{value}"
    assert AutoConfig.from_pretrained(folder(), return_unused_kwargs=True, nothing=1)[1] == {"nothing": 1}
    with pytest.raises(TypeError, match="did you mean 'hidden_size'"):
        AutoConfig.from_pretrained(folder(), hiden_size=1)
    config = AutoConfig.for_model(
        "llama", **{key: value for key, value in tiny_hf("llama").items() if key != "model_type"}
    )
    assert config == AutoConfig.from_pretrained(folder())


@pytest.mark.habits("config", "config.{}", "pointer", table="src/pellucid/families/hf_config.py:ELSEWHERE")
@pytest.mark.habit(
    "config",
    "config.rope_theta",
    "differs",
    "the number, as files have had it; transformers 5 has it in rope_parameters alone",
)
@pytest.mark.habit("config", "config.attention_dropout = 0.1", "pointer", "`pellucid finetune --attention-dropout`")
@pytest.mark.habit(
    "config", "config.dtype", "differs", 'a name, "float32", that every dtype= takes; config.torch_dtype is torch\'s'
)
def test_a_config_says_what_it_has_not() -> None:
    config = AutoConfig.from_pretrained(folder())
    for name, elsewhere in hf_config.ELSEWHERE.items():
        with pytest.raises(AttributeError) as error:
            getattr(config, name)
        assert elsewhere in str(error.value)
    assert config.rope_theta == transformers.AutoConfig.from_pretrained(folder()).rope_parameters["rope_theta"]
    assert config.dtype == "float32"
    with pytest.raises(ConfigError, match="--attention-dropout"):
        config.attention_dropout = 0.1


@pytest.mark.habits("model", "model.{}(…)", "pointer", table="src/pellucid/causal_lm/names.py:ELSEWHERE")
@pytest.mark.parametrize("name", names.ELSEWHERE)
def test_a_method_that_is_not_here_says_what_is(name: str) -> None:
    model = CausalLM(tiny("llama").config)
    with pytest.raises(AttributeError) as error:
        getattr(model, name)
    assert names.ELSEWHERE[name] in str(error.value)
    assert not hasattr(model, name)


@pytest.mark.habit("model", "model.lm_head of a model with a head of its own", "works")
@pytest.mark.habit("model", "model.transformer.h[0].ln_1 (GPT-2)", "works")
@pytest.mark.habit(
    "model",
    "model.transformer.h[0].attn.c_attn.weight",
    "pointer",
    "layers.0.attention.q_proj.weight, k_proj, v_proj: it is three maps in one, transposed",
)
@pytest.mark.habit(
    "model", "model.model.layers = model.model.layers[:4]", "pointer", "config.num_hidden_layers, and from_config"
)
def test_parts_are_known_by_their_files_names() -> None:
    untied = AutoModelForCausalLM.from_pretrained(folder(tied=False))
    assert untied.lm_head is untied.get_output_embeddings()
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight
    gpt2 = CausalLM(tiny("gpt2").config)
    assert gpt2.transformer.wte.weight is gpt2.embed.weight
    assert gpt2.transformer.h[1].ln_2 is gpt2.layers[1].mlp_norm
    assert gpt2.transformer(IDS).last_hidden_state.shape == (2, 6, gpt2.config.d_model)
    with pytest.raises(AttributeError, match=r"→ layers\.0\.attention\.q_proj\.weight"):
        _ = gpt2.transformer.h[0].attn.c_attn.weight
    with pytest.raises(AttributeError, match=r"has no 'transformer\.nothing'"):
        _ = gpt2.transformer.nothing
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        untied.model.layers = untied.model.layers[:1]


@pytest.mark.habit(
    "model",
    "model.state_dict()['model.layers.0.self_attn.q_proj.weight']",
    "differs",
    "by our names, layers.0.attention.q_proj.weight; files keep theirs",
)
@pytest.mark.habit(
    "model",
    "model.load_state_dict(theirs.state_dict())",
    "pointer",
    "from_pretrained(None, state_dict=…, config=model.config)",
)
def test_tensors_of_theirs_are_loaded_by_another_way() -> None:
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder())
    model = AutoModelForCausalLM.from_pretrained(folder())
    with pytest.raises(RuntimeError, match=r"state_dict=…, config=model\.config"):
        model.load_state_dict(theirs.state_dict())
    again = AutoModelForCausalLM.from_pretrained(None, state_dict=theirs.state_dict(), config=model.config)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


@pytest.mark.habit(
    "model",
    "model.set_attn_implementation('eager')",
    "differs",
    "torch's fused kernel attends in any case, and it says so",
)
def test_attention_is_not_chosen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_told", set())
    CausalLM(tiny("llama").config).set_attn_implementation("eager")
    assert "fused kernel attends in any case" in capsys.readouterr().err


@pytest.mark.habit(
    "generate", "model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)", "works"
)
@pytest.mark.habit(
    "generate",
    "model.compute_transition_scores(…, beam_indices)",
    "pointer",
    "num_beams=1; sequences_scores has each beam's",
)
def test_transition_scores_are_transformers() -> None:
    made = []
    for whose in (pellucid, transformers):
        model: Any = whose.AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32)
        call = {"max_new_tokens": 5, "return_dict_in_generate": True, "output_scores": True, "pad_token_id": 0}
        out = model.generate(IDS, do_sample=False, eos_token_id=None, **call)
        made.append(
            [model.compute_transition_scores(out.sequences, out.scores, normalize_logits=n) for n in (False, True)]
        )
    for mine, other in zip(*made, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    ours = AutoModelForCausalLM.from_pretrained(folder())
    with pytest.raises(RequestError, match="sequences_scores"):
        ours.compute_transition_scores(IDS, (), torch.zeros(2))
