"""``generate`` as transformers' users call it: the same arguments give the same texts, on the same weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from reference import reference_model, tiny
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from pellucid import AutoModelForCausalLM, GenerationConfig
from pellucid.base import notice
from pellucid.base.errors import RequestError
from pellucid.causal_lm import settings
from pellucid.families import FAMILIES

IDS = torch.tensor([[5, 17, 3, 88, 41, 7], [9, 9, 12, 60, 2, 30]])
PADDED = torch.tensor([[0, 0, 17, 3, 88, 41], [9, 9, 12, 60, 33, 30]])
MASK = (PADDED != 0).long()


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_told", set())


@cache
def pair() -> tuple[Any, Any]:
    """Ours and theirs, of the same weights."""
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"].config(FAMILIES["llama"].TINY))
    model.load_state_dict(tiny("llama").state_dict())
    model.eval()
    return model, reference_model(model)


class Halved(LogitsProcessor):
    """Even tokens are half as likely to be taken."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, ::2] -= float(input_ids[0, -1] % 7)
        return scores


class Until(StoppingCriteria):
    """Stops where a text's tokens sum to more than so much."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids.sum(1) > self.most


CALLS: dict[str, dict[str, Any]] = {
    "max_new_tokens=9": {"max_new_tokens": 9},
    "max_length=14": {"max_length": 14},
    "generation_config=None": {"generation_config": None},
    "min_new_tokens=8": {"max_new_tokens": 12, "min_new_tokens": 8, "eos_token_id": [48, 30, 63, 9, 11]},
    "min_length=15": {"max_length": 18, "min_length": 15, "eos_token_id": [48, 30, 63, 9, 11]},
    "eos_token_id=63": {"max_new_tokens": 20, "eos_token_id": 63},
    "eos_token_id=[63, 11, 30]": {"max_new_tokens": 20, "eos_token_id": [63, 11, 30]},
    "no_repeat_ngram_size=2": {"max_new_tokens": 24, "no_repeat_ngram_size": 2},
    "no_repeat_ngram_size=3": {"max_new_tokens": 24, "no_repeat_ngram_size": 3},
    "bad_words_ids=[[63], [11, 48]]": {"max_new_tokens": 12, "bad_words_ids": [[63], [11, 48], [30]]},
    "repetition_penalty=1.7": {"max_new_tokens": 16, "repetition_penalty": 1.7},
    "suppress_tokens=[63, 30]": {"max_new_tokens": 12, "suppress_tokens": [63, 30]},
    "logits_processor=LogitsProcessorList([…])": {
        "max_new_tokens": 12,
        "logits_processor": LogitsProcessorList([Halved()]),
    },
    "logits_processor=[…], repetition_penalty=1.5": {
        "max_new_tokens": 12,
        "logits_processor": LogitsProcessorList([Halved()]),
        "repetition_penalty": 1.5,
    },
    "stopping_criteria=StoppingCriteriaList([…])": {
        "max_new_tokens": 20,
        "eos_token_id": 95,  # without an end, transformers lets rows that are stopped grow on
        "stopping_criteria": StoppingCriteriaList([Until(600)]),
    },
    "prefix_allowed_tokens_fn=…": {
        "max_new_tokens": 8,
        "prefix_allowed_tokens_fn": lambda row, ids: [10 + row, 20 + row, int(ids[-1]) // 2],
    },
    "num_beams=2": {"max_new_tokens": 10, "num_beams": 2},
    "num_beams=4, eos_token_id=[…]": {"max_new_tokens": 14, "num_beams": 4, "eos_token_id": [63, 30, 11]},
    "num_beams=3, length_penalty=-1.0": {
        "max_new_tokens": 14,
        "num_beams": 3,
        "eos_token_id": [63, 30, 11],
        "length_penalty": -1.0,
    },
    "num_beams=3, length_penalty=2.0": {
        "max_new_tokens": 14,
        "num_beams": 3,
        "eos_token_id": [63, 30, 11],
        "length_penalty": 2.0,
    },
    "num_beams=3, early_stopping=True": {
        "max_new_tokens": 14,
        "num_beams": 3,
        "eos_token_id": [63, 30],
        "early_stopping": True,
    },
    "num_beams=3, early_stopping='never'": {
        "max_new_tokens": 14,
        "num_beams": 3,
        "eos_token_id": [63, 30],
        "early_stopping": "never",
    },
    "num_beams=4, num_return_sequences=3": {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3},
    "num_beams=3, no_repeat_ngram_size=2": {"max_new_tokens": 12, "num_beams": 3, "no_repeat_ngram_size": 2},
    "num_beams=3, logits_processor=[…]": {
        "max_new_tokens": 8,
        "num_beams": 3,
        "logits_processor": LogitsProcessorList([Halved()]),
    },
    "use_cache=True": {"max_new_tokens": 6, "use_cache": True},
    "generation_config=GenerationConfig(…)": {
        "generation_config": transformers.GenerationConfig(max_new_tokens=7, eos_token_id=63)
    },
    "generation_config=GenerationConfig(…), repetition_penalty=1.3": {
        "generation_config": transformers.GenerationConfig(max_new_tokens=7),
        "repetition_penalty": 1.3,
    },
}


def both(ids: torch.Tensor, **call: Any) -> tuple[list[list[int]], list[list[int]]]:
    ours, theirs = pair()
    more = {} if "eos_token_id" in call or call.get("generation_config") else {"eos_token_id": None}
    expected = theirs.generate(ids, pad_token_id=0, **{"do_sample": False, **more, **call})
    return ours.generate(ids, pad_token_id=0, **more, **call).tolist(), expected.tolist()


@pytest.mark.habits("generate", "model.generate(ids, {})", "works", table="tests/test_home_generate.py:CALLS")
@pytest.mark.parametrize("call", CALLS)
def test_the_same_call_gives_the_same_texts(call: str) -> None:
    ours, theirs = both(IDS, **CALLS[call])
    assert ours == theirs


@pytest.mark.habit("generate", "model.generate(ids, attention_mask=mask)", "works")
@pytest.mark.parametrize(
    "call", ["max_new_tokens=9", "eos_token_id=[63, 11, 30]", "num_beams=2", "num_beams=4, eos_token_id=[…]"]
)
def test_the_same_with_prompts_that_are_padded(call: str) -> None:
    ours, theirs = both(PADDED, attention_mask=MASK, **CALLS[call])
    assert ours == theirs


@pytest.mark.habit("generate", "model.generate(padded_ids) without a mask", "works")
def test_padding_without_a_mask_is_known_by_its_id() -> None:
    ours, _ = pair()
    with_mask = ours.generate(PADDED, attention_mask=MASK, max_new_tokens=6, pad_token_id=0, eos_token_id=None)
    assert ours.generate(PADDED, max_new_tokens=6, pad_token_id=0, eos_token_id=None).tolist() == with_mask.tolist()


@pytest.mark.habit(
    "generate",
    "tokenizer.pad_token = tokenizer.eos_token; model.generate(ids) without a mask",
    "works",
    "warned of, as in transformers",
)
def test_padding_that_is_also_an_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = pair()
    ours.generate(PADDED, max_new_tokens=2, pad_token_id=0, eos_token_id=0)
    assert "may be padded" in capsys.readouterr().err


@pytest.mark.habit("generate", "model.generate(ids, return_dict_in_generate=True, output_scores=True)", "works")
@pytest.mark.habit("generate", "model.generate(…, num_beams=3, return_dict_in_generate=True).sequences_scores", "works")
@pytest.mark.parametrize("beams", [1, 3])
def test_a_dict_holds_what_transformers_holds(beams: int) -> None:
    ours, theirs = pair()
    call: dict[str, Any] = {
        "max_new_tokens": 5,
        "num_beams": beams,
        "eos_token_id": None,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    mine, other = ours.generate(IDS, pad_token_id=0, **call), theirs.generate(IDS, pad_token_id=0, **call)
    assert mine.sequences.tolist() == other.sequences.tolist()
    assert mine["sequences"] is mine.sequences
    if beams > 1:
        torch.testing.assert_close(mine.sequences_scores, other.sequences_scores, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(torch.stack(mine.scores), torch.stack(other.scores), rtol=0, atol=1e-4)


@pytest.mark.habit("generate", "model.generate(ids, output_logits=True)", "works")
@pytest.mark.habit("generate", "model.generate(ids, output_hidden_states=True)", "works")
@pytest.mark.habit("generate", "model.generate(ids, output_attentions=True)", "works")
def test_logits_states_and_patterns_of_each_step() -> None:
    ours, theirs = pair()
    call: dict[str, Any] = {
        "max_new_tokens": 4,
        "eos_token_id": None,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    theirs.set_attn_implementation("eager")
    mine, other = ours.generate(IDS, **call), theirs.generate(IDS, **call)
    theirs.set_attn_implementation("sdpa")
    torch.testing.assert_close(torch.stack(mine.logits), torch.stack(other.logits), rtol=0, atol=1e-4)
    for what in ("hidden_states", "attentions"):
        for step, expected in zip(mine[what], other[what], strict=True):
            for layer, value in zip(step, expected, strict=True):
                torch.testing.assert_close(layer, value, rtol=0, atol=1e-4)


@pytest.mark.habit("generate", "model.generate(ids, do_sample=True, top_k=7, temperature=0.7)", "works")
def test_scores_of_a_draw_are_filtered_as_the_draw_is() -> None:
    ours, theirs = pair()
    call: dict[str, Any] = {"do_sample": True, "top_k": 7, "temperature": 0.7, "max_new_tokens": 1}
    call |= {"eos_token_id": None, "return_dict_in_generate": True, "output_scores": True, "pad_token_id": 0}
    mine, other = ours.generate(IDS, **call).scores[0], theirs.generate(IDS, **call).scores[0]
    assert torch.equal(mine.isinf(), other.isinf())
    torch.testing.assert_close(mine[~mine.isinf()], other[~other.isinf()], rtol=0, atol=1e-4)


@pytest.mark.habit("generate", "model.generate(ids, do_sample=True)", "works", "among the 50 likeliest")
def test_a_draw_is_among_the_fifty_likeliest_where_nobody_says_otherwise() -> None:
    ours, _ = pair()
    drawn = {int(ours.generate(IDS[:1], do_sample=True, temperature=8.0, max_new_tokens=1)[0, -1]) for _ in range(80)}
    with torch.no_grad():
        likeliest = ours(IDS[:1]).logits[0, -1].topk(50).indices.tolist()
    assert drawn <= set(likeliest)
    more = {
        int(ours.generate(IDS[:1], do_sample=True, temperature=8.0, max_new_tokens=1, top_k=0)[0, -1])
        for _ in range(200)
    }
    assert not more <= set(likeliest)


@pytest.mark.habit("generate", "torch.manual_seed(0); model.generate(ids, do_sample=True)", "works")
@pytest.mark.parametrize("seed", [torch.manual_seed, transformers.set_seed], ids=["torch", "transformers"])
def test_a_seed_of_torchs_generator_counts(seed: Any) -> None:
    ours, _ = pair()

    def answer(number: int) -> list[int]:
        seed(number)
        return ours.generate(IDS[:1], do_sample=True, temperature=3.0, max_new_tokens=12)[0].tolist()

    assert answer(1) == answer(1) != answer(2)


@pytest.mark.habit("generate", "model.generate(ids, temperature=0.7)", "works", "greedy, and says that no draw is made")
def test_temperature_without_a_draw_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = pair()
    ours.generate(IDS, temperature=0.7, max_new_tokens=1)
    assert "temperature without do_sample=True" in capsys.readouterr().err


@pytest.mark.habit("generate", "model.generate(ids) without a length", "works", "20 new tokens, and says so")
def test_a_length_that_nobody_says_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = pair()
    assert ours.generate(IDS, eos_token_id=None).shape[1] == 26
    assert "20 new tokens" in capsys.readouterr().err


@pytest.mark.habit("generate", "model.generation_config.max_new_tokens = 3", "works")
@pytest.mark.habit("generate", "model.generation_config = GenerationConfig(…)", "works")
def test_the_models_own_config_counts_and_is_an_object() -> None:
    ours = AutoModelForCausalLM.from_config(FAMILIES["llama"].config(FAMILIES["llama"].TINY), seed=1)
    ours.generation_config.max_new_tokens = 3
    ours.generation_config.eos_token_id = None
    assert ours.generate(IDS, eos_token_id=None).shape[1] == 9
    ours.generation_config = transformers.GenerationConfig(max_new_tokens=5)
    assert ours.generation_config.max_new_tokens == 5
    assert ours.generate(IDS, eos_token_id=None).shape[1] == 11
    ours.generation_config = GenerationConfig(max_new_tokens=2)
    assert ours.generate(IDS, eos_token_id=None).shape[1] == 8


@pytest.mark.habit("generate", "model.generate(ids, past_key_values=out.past_key_values)", "works")
def test_going_on_from_states_gives_what_going_on_from_the_text_does() -> None:
    ours, _ = pair()
    with torch.no_grad():
        out = ours(IDS[:1], use_cache=True)
    whole = torch.cat((IDS[:1], torch.tensor([[4, 8]])), 1)
    plain = ours.generate(whole, max_new_tokens=8, eos_token_id=None)
    again = ours.generate(
        whole, past_key_values=out.past_key_values, max_new_tokens=8, eos_token_id=None, return_dict_in_generate=True
    )
    assert again.sequences.tolist() == plain.tolist()
    assert again.past_key_values.get_seq_length() == plain.shape[1] - 1


@pytest.mark.habit("generate", "model.generate(inputs_embeds=…)", "works")
def test_embeddings_in_place_of_ids() -> None:
    ours, theirs = pair()
    mine = ours.generate(inputs_embeds=ours.get_input_embeddings()(IDS), max_new_tokens=6, eos_token_id=None)
    other = theirs.generate(
        inputs_embeds=theirs.get_input_embeddings()(IDS), max_new_tokens=6, eos_token_id=None, pad_token_id=0
    )
    assert mine.tolist() == other.tolist()


@pytest.mark.habit("generate", "model.generate(**tokenizer(text, return_tensors='pt'))", "works")
@pytest.mark.habit("generate", "model.generate(tokenizer(text, return_tensors='pt'))", "works")
@pytest.mark.habit("generate", "model.generate(inputs=ids)", "works")
def test_what_a_tokenizer_gave_is_a_prompt() -> None:
    ours, _ = pair()
    plain = ours.generate(PADDED, attention_mask=MASK, max_new_tokens=4)
    given = transformers.BatchEncoding({"input_ids": PADDED, "attention_mask": MASK})
    assert ours.generate(given, max_new_tokens=4).tolist() == plain.tolist()
    assert ours.generate(**given, max_new_tokens=4).tolist() == plain.tolist()
    assert ours.generate(inputs=PADDED, attention_mask=MASK, max_new_tokens=4).tolist() == plain.tolist()


@pytest.mark.habit("generate", "model.generate(ids, streamer=…)", "works")
def test_a_streamer_sees_what_a_rule_leaves() -> None:
    ours, _ = pair()
    seen: list[int] = []

    class Collect:
        def put(self, value: np.ndarray) -> None:
            seen.extend(np.asarray(value).flatten().tolist())

        def end(self) -> None:
            seen.append(-1)

    out = ours.generate(IDS[:1], max_new_tokens=5, no_repeat_ngram_size=2, eos_token_id=None, streamer=Collect())
    assert seen == [*out[0].tolist(), -1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({"penalty_alpha": 0.6}, "contrastive search is not here"),
        ({"typical_p": 0.5}, "top_p or min_p"),
        ({"num_beam_groups": 2}, "num_beams without groups"),
        ({"num_beams": 2, "repetition_penalty": 1.5, "renormalize_logits": True}, "ends with log_softmax"),
        ({"custom_generate": "folder"}, "a loop of your own"),
    ],
)
def test_an_argument_that_is_not_here_says_what_is(call: dict[str, Any], words: str) -> None:
    ours, _ = pair()
    with pytest.raises(TypeError, match=words):
        ours.generate(IDS, **call)


def test_what_is_switched_off_needs_nothing_here() -> None:
    ours, _ = pair()
    call: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": None}
    assert ours.generate(IDS, renormalize_logits=False, **call).tolist() == ours.generate(IDS, **call).tolist()


@pytest.mark.habit(
    "generate",
    "model.generate(ids, num_beams=2, output_scores=True).scores",
    "differs",
    "None, and says so; sequences_scores has each answer's",
)
def test_beams_say_that_they_keep_no_scores_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = pair()
    ours.generate(IDS, max_new_tokens=3, num_beams=2, return_dict_in_generate=True, output_scores=True)
    assert "scores, logits and beam_indices are None" in capsys.readouterr().err


@pytest.mark.habit(
    "generate", "model.generate(ids, num_beams=2, do_sample=True)", "pointer", "do_sample=False, or num_beams=1"
)
def test_what_cannot_be_together_is_refused() -> None:
    ours, _ = pair()
    calls: list[dict[str, Any]] = [{"num_beams": 2, "do_sample": True}, {"num_beams": 2, "num_return_sequences": 3}]
    for call in (*calls, {"max_length": 4}):
        with pytest.raises(RequestError):
            ours.generate(IDS, **call)


@pytest.mark.habits(
    "generate", "model.generate(ids, {}=…)", "pointer", table="src/pellucid/causal_lm/settings.py:ELSEWHERE"
)
@pytest.mark.parametrize("name", settings.ELSEWHERE)
def test_a_setting_that_is_not_here_says_what_to_write_instead(name: str) -> None:
    ours, _ = pair()
    with pytest.raises(TypeError) as error:
        ours.generate(IDS, **{name: 7})
    assert settings.ELSEWHERE[name] in str(error.value)
    ours.generate(IDS, max_new_tokens=1, **{name: None})


def test_every_field_of_transformers_config_is_known() -> None:
    fields = {name for name in transformers.GenerationConfig().to_dict() if not name.startswith("_")}
    assert fields <= {*settings.SETTINGS, *settings.WITHOUT_EFFECT, *settings.ELSEWHERE}


@pytest.mark.habit(
    "generate", "model.generate(ids, generation_config=GenerationConfig(typical_p=0.5))", "pointer", "top_p or min_p"
)
@pytest.mark.habit(
    "generate",
    "model.generation_config.typical_p = 0.5; model.generate(ids)",
    "differs",
    "not followed, and a line says so",
)
def test_a_config_that_asks_for_what_is_not_here_is_not_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    ours = AutoModelForCausalLM.from_config(FAMILIES["llama"].config(FAMILIES["llama"].TINY), seed=1)
    with pytest.raises(TypeError, match="top_p or min_p"):
        ours.generate(IDS, generation_config=transformers.GenerationConfig(typical_p=0.5))
    ours.generation_config.typical_p = 0.5
    ours.generate(IDS, max_new_tokens=1)
    assert "typical_p = 0.5" in capsys.readouterr().err


@pytest.mark.habit(
    "generate",
    "model.generate(ids, num_return_sequences=2)",
    "works",
    "an error, as in transformers: do_sample=True, or num_beams=2",
)
def test_several_greedy_answers_are_refused_as_in_transformers() -> None:
    ours, theirs = pair()
    for model in (ours, theirs):
        with pytest.raises(ValueError, match="num_return_sequences"):
            model.generate(IDS, num_return_sequences=2, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert ours.generate(IDS, num_return_sequences=2, max_new_tokens=2, do_sample=True).shape == (4, 8)


@pytest.mark.habit(
    "generate",
    "model.generate(ids, do_sample=True, temperature=0.0)",
    "differs",
    "the likeliest token, and it says so; transformers refuses it",
)
@pytest.mark.habit("generate", "model.generate(ids, max_new_tokens=0)", "works", "an error, as in transformers")
@pytest.mark.habit("generate", "model.generate([1, 2, 3])", "works", "transformers takes tensors alone")
def test_edges_of_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = pair()
    call: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": None}
    greedy = ours.generate(IDS, **call).tolist()
    assert ours.generate(IDS, do_sample=True, temperature=0.0, **call).tolist() == greedy
    assert "no draw is made" in capsys.readouterr().err
    assert ours.generate(IDS.tolist(), **call).tolist() == greedy
    assert ours.generate(IDS[0].tolist(), **call).tolist() == greedy[:1]
    with pytest.raises(RequestError, match="max_new_tokens"):
        ours.generate(IDS, max_new_tokens=0)


@pytest.mark.habit("generate", "model.generate(ids, assistant_model=small)", "works")
@pytest.mark.habit("generate", "model.generate(ids, assistant_model=small, num_assistant_tokens=3)", "works")
@pytest.mark.habit("generate", "model.generate(ids, prompt_lookup_num_tokens=3)", "works")
def test_guessing_ahead_gives_the_same_texts() -> None:
    ours, _ = pair()
    call: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": None}
    plain = ours.generate(IDS, **call).tolist()
    assert ours.generate(IDS, prompt_lookup_num_tokens=3, **call).tolist() == plain
    assert ours.generate(IDS, assistant_model=ours, **call).tolist() == plain
    assert ours.generate(IDS, assistant_model=ours, num_assistant_tokens=3, **call).tolist() == plain
