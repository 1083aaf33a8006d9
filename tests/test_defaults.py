"""What a checkpoint asks for when it answers: joined once, and the same by every face. transformers is the oracle."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hash_executor import HashExecutor, LetterTokenizer

from pellucid import AutoModelForCausalLM, Engine
from pellucid.auto import load_model, open_executor, open_model
from pellucid.base.errors import ConfigError, ContextLengthError, RequestError
from pellucid.base.files import read_json
from pellucid.cli.runs.session import Session
from pellucid.defaults import AnswerDefaults, not_followed, tell_what_is_not_followed
from pellucid.generate import Request, generate
from pellucid.model.executor import TorchExecutor
from pellucid.sampling import GREEDY, SamplingParams

PROMPT = [1, 5, 9, 30]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of transformers' own making. Its config.json names id 2 as the end."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def asking(reference: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model with this generation_config.json."""

    def make(_text: str | None = None, **keys: Any) -> Path:
        for file in reference.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "generation_config.json").write_text(json.dumps(keys) if _text is None else _text)
        return tmp_path

    return make


def theirs(folder: Path, **asked: Any) -> list[int]:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.generate(torch.tensor([PROMPT]), **asked)[0, len(PROMPT) :].tolist()


def ours(folder: Path, **asked: Any) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model.generate(torch.tensor([PROMPT]), **asked)[0, len(PROMPT) :].tolist()


@pytest.fixture
def end(reference: Path) -> int:
    """The fourth token of the greedy answer, which does not come before it."""
    answer = theirs(reference, max_new_tokens=12, eos_token_id=None)
    assert answer[3] not in answer[:3]
    return answer[3]


def test_generate_stops_at_every_end_of_generation_config_as_transformers_does(
    asking: Callable[..., Path], end: int
) -> None:
    folder = asking(eos_token_id=[2, end])
    assert ours(folder, max_new_tokens=12) == theirs(folder, max_new_tokens=12)
    assert len(ours(folder, max_new_tokens=12)) == 4


def test_every_face_stops_at_the_same_end(asking: Callable[..., Path], end: int) -> None:
    folder = asking(eos_token_id=[2, end])
    request = Request(prompt_ids=PROMPT, max_new_tokens=12)
    checkpoint = open_model(folder)
    decoder = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    executors = [open_executor(checkpoint, executor="torch", dtype="float32"), TorchExecutor(decoder)]
    answers = [generate(executor, [PROMPT], max_new_tokens=12)[0].answers[0] for executor in executors]
    answers += [Engine(executor).run([request])[0].answers[0] for executor in executors]
    assert {(answer.token_ids, answer.stopped_by) for answer in answers} == {(tuple(ours(folder)), end)}


def test_load_model_gives_a_decoder_that_knows_its_ends(shipped: Path) -> None:
    decoder, _ = load_model(shipped)
    assert decoder.generation_config == open_model(shipped).generation_config != {}


@pytest.fixture
def shipped() -> Path:
    from pellucid.checkpoint.sources.resolve import resolve

    return resolve("tiny")


@pytest.mark.parametrize(
    "keys",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 1.7, "temperature": 0.5, "top_p": 0.5},  # no do_sample: greedy
        {"suppress_tokens": [75, 14, 3]},
        {"max_new_tokens": 5},
        {"max_length": len(PROMPT) + 7},
        {"max_new_tokens": 6, "max_length": len(PROMPT) + 20},
        {"do_sample": True, "top_k": 1},
    ],
    ids=lambda keys: ",".join(keys),
)
def test_generate_without_arguments_is_what_transformers_does_with_the_same_file(
    asking: Callable[..., Path], keys: dict[str, Any]
) -> None:
    folder = asking(eos_token_id=2, **keys)
    asked = {} if {"max_new_tokens", "max_length"} & keys.keys() else {"max_new_tokens": 16}
    assert ours(folder, **asked) == theirs(folder, **asked)


def test_what_is_asked_for_explicitly_wins(asking: Callable[..., Path], reference: Path, end: int) -> None:
    greedy = theirs(reference, max_new_tokens=6, eos_token_id=None)
    folder = asking(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, eos_token_id=end, max_new_tokens=2, pad_token_id=7
    )
    explicit = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 6, "stop_token_ids": ()}
    assert ours(folder, **explicit) == greedy
    assert ours(folder, do_sample=True, temperature=5.0, seed=3) == ours(folder, seed=3)
    long = {"max_new_tokens": 20, "seed": 3, "stop_token_ids": ()}
    assert ours(folder, temperature=0.01, repetition_penalty=1.0, **long)[:6] == greedy != ours(folder, **long)[:6]


def test_sampling_of_a_request_is_the_checkpoints_unless_it_brings_its_own() -> None:
    executor = HashExecutor()
    executor.generation_config = {"do_sample": True, "temperature": 0.5, "top_k": 7}
    engine = Engine(executor)
    assert engine.defaults.sampling == SamplingParams(temperature=0.5, top_k=7)
    drawn, greedy = (
        Request(prompt_ids=[3], max_new_tokens=9),
        Request(prompt_ids=[3], max_new_tokens=9, sampling=GREEDY),
    )
    answer = engine.run([drawn])[0].answers[0]
    again = SamplingParams(temperature=0.5, top_k=7, seed=answer.seed)
    assert engine.run([Request(prompt_ids=[3], max_new_tokens=9, sampling=again)])[0].token_ids == answer.token_ids
    assert engine.run([greedy])[0].token_ids == Engine(HashExecutor()).run([greedy])[0].token_ids


def config_of(reference: Path) -> Any:
    return open_model(reference).config


class Ends:
    eos_token_id, stop_token_ids = 11, (12, 13)


def test_ends_are_joined_from_every_file(reference: Path) -> None:
    joined = AnswerDefaults.of(config_of(reference), {"eos_token_id": [5, -1]}, Ends())  # type: ignore[arg-type]
    assert joined.stop_token_ids == (5, 2, 12, 13, 11)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, 2),
        ({"pad_token_id": 9}, 9),
        ({"pad_token_id": -1}, 2),
        ({"pad_token_id": 96}, 2),  # as many tokens as there are: one too far
        ({"pad_token_id": None, "eos_token_id": [14, 2]}, 14),
    ],
)
def test_padding_is_a_token_of_the_model(reference: Path, generation: dict[str, Any], expected: int) -> None:
    assert AnswerDefaults.of(config_of(reference), generation).pad_token_id == expected


def test_a_batch_of_a_model_that_pads_with_minus_one_has_real_ids(asking: Callable[..., Path], end: int) -> None:
    folder = asking(pad_token_id=-1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    rows = model.generate(torch.tensor([PROMPT, [1, 7, 7, 7]]), max_new_tokens=8, stop_token_ids=[end])
    assert rows[0, len(PROMPT) + 4 :].tolist() == [2] * (rows.shape[1] - len(PROMPT) - 4)
    assert rows.min() >= 0
    with pytest.raises(RequestError, match="pad_token_id is out of range"):
        model.generate(torch.tensor([PROMPT]), max_new_tokens=1, pad_token_id=-1)


def test_the_checkpoints_stop_strings_end_an_answer() -> None:
    executor = HashExecutor()
    free = generate(executor, [[3]], max_new_tokens=12, tokenizer=LetterTokenizer(), stop_token_ids=())[0]  # type: ignore[arg-type]
    executor.generation_config = {"stop_strings": free.text[2:4]}
    (result,) = generate(executor, [[3]], max_new_tokens=12, tokenizer=LetterTokenizer(), stop_token_ids=())  # type: ignore[arg-type]
    assert (result.answers[0].stopped_by, result.text) == (free.text[2:4], free.text[:2])
    with pytest.raises(RequestError, match="give the tokenizer"):
        generate(executor, [[3]], max_new_tokens=12)
    assert len(generate(executor, [[3]], max_new_tokens=12, stop=(), stop_token_ids=())[0].token_ids) == 12


def test_a_prompt_beyond_the_checkpoints_max_length_says_so() -> None:
    executor = HashExecutor()
    executor.generation_config = {"max_length": 3}
    with pytest.raises(ContextLengthError, match="max_length = 3"):
        generate(executor, [[3, 4, 5]])
    assert len(generate(executor, [[3, 4, 5]], max_new_tokens=4, stop_token_ids=())[0].token_ids) == 4


BIG = "9" * 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"eos_token_id": 1.5}', "eos_token_id names no token .*received 1.5"),
        ('{"eos_token_id": true}', "eos_token_id names no token"),
        ('{"eos_token_id": {"a": 1}}', "eos_token_id names no token"),
        ('{"pad_token_id": "x"}', "pad_token_id names no token"),
        (f'{{"temperature": {BIG}}}', "temperature is out of range .*received 9999"),
        ('{"temperature": "hot"}', "temperature is out of range"),
        ('{"temperature": -1}', "temperature is out of range"),
        ('{"top_k": 1.5}', "top_k is out of range"),
        ('{"top_p": 7}', "top_p is out of range"),
        ('{"repetition_penalty": 0}', "repetition_penalty is out of range"),
        ('{"do_sample": "yes"}', "do_sample is out of range"),
        ('{"max_new_tokens": 0}', "max_new_tokens is out of range"),
        ('{"max_length": "long"}', "max_length is out of range"),
        ('{"stop_strings": 3}', "stop_strings is no text"),
        ('{"stop_strings": [""]}', "stop_strings is no text"),
        ('{"suppress_tokens": [0.5]}', "suppress_tokens names no token"),
    ],
)
def test_a_value_that_cannot_be_is_one_error_with_place_and_key(
    asking: Callable[..., Path], text: str, message: str
) -> None:
    folder = asking(text)
    with pytest.raises(ConfigError, match=f"(?s)generation_config.json: {message}") as error:
        open_executor(open_model(folder), executor="torch")
    assert len(str(error.value)) < 400
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        ours(folder, max_new_tokens=2)


def test_a_suppressed_token_beyond_the_vocabulary_forbids_nothing(reference: Path) -> None:
    joined = AnswerDefaults.of(config_of(reference), {"suppress_tokens": [3, 96, -1]})
    assert dict(joined.sampling.logit_bias) == {3: -math.inf}


def test_keys_that_are_not_followed_are_named_and_those_that_do_nothing_are_not(
    asking: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    neutral = {
        "num_beams": 1,
        "no_repeat_ngram_size": 0,
        "typical_p": 1.0,
        "use_cache": True,
        "forced_bos_token_id": None,
    }
    assert not_followed(neutral) == []
    folder = asking(**neutral | {"num_beams": 4, "no_repeat_ngram_size": 3, "ballast": "x", "bad_words_ids": [[5]]})
    AutoModelForCausalLM.from_pretrained(folder)
    said = [line for line in capfd.readouterr().err.splitlines() if "generation_config" in line]
    assert len(said) == 1
    assert said[0].endswith("is not followed here: ballast = 'x'")  # generate follows the others; the engine does not
    tell_what_is_not_followed(read_json(folder / "generation_config.json"), folder)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.endswith("num_beams = 4, no_repeat_ngram_size = 3, bad_words_ids = [[5]], ballast = 'x'")


def test_every_key_that_transformers_knows_is_known_here() -> None:
    keys = {name for name in transformers.GenerationConfig().to_dict() if not name.startswith("_")}
    named = {line.partition(" = ")[0] for line in not_followed(dict.fromkeys(keys, "set"))}
    assert named == CHANGING & keys


# Of GenerationConfig's keys, those that change answers and are not followed; a new key of transformers fails the test.
CHANGING = {
    "bad_words_ids",
    "begin_suppress_tokens",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "max_time",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "penalty_alpha",
    "remove_invalid_values",
    "sequence_bias",
    "token_healing",
    "top_h",
    "typical_p",
    "watermarking_config",
}


@pytest.mark.parametrize(
    ("generation", "flags", "expected"),
    [
        ({}, {}, {"temperature": 0.7, "top_p": 0.95}),  # the command's habit
        ({"do_sample": False}, {}, None),
        ({"do_sample": True}, {}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, {}, {"temperature": 0.6, "top_k": 20}),
        ({"temperature": 0.6}, {}, {"temperature": 0.6, "top_p": 0.95}),
        ({"do_sample": True, "top_p": 0.8}, {"temperature": 0.3}, {"temperature": 0.3, "top_p": 0.8}),
        ({"do_sample": False, "top_p": 0.8}, {"temperature": 0.3}, {"temperature": 0.3, "top_p": 0.8}),
        ({}, {"repeat_penalty": 1.2}, {"temperature": 0.7, "top_p": 0.95, "repetition_penalty": 1.2}),
    ],
)
def test_flags_come_before_the_checkpoint_and_the_checkpoint_before_a_commands_habit(
    generation: dict[str, Any], flags: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    executor = HashExecutor()
    executor.generation_config = generation
    session = Session(None, None, Engine(executor))  # type: ignore[arg-type]
    sampling = session.sampling(flags, habit={"temperature": 0.7, "top_p": 0.95})
    assert sampling == (GREEDY if expected is None else SamplingParams(**expected))
