"""transformers' pipeline and Trainer, PEFT, TRL and accelerate take our model: the real ones, a step each."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pellucid
from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import RequestError, UnsupportedError
from pellucid.causal_lm import CausalLM, pipeline

TEXT = "Once upon a time there was a girl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model that is shipped, with its tokenizer, as transformers reads it."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    AutoModelForCausalLM.from_pretrained("tiny", device="cpu", dtype="float32").save_pretrained(path)
    return path


@pytest.fixture
def model(folder: Path) -> CausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, device="cpu", dtype="float32")


@pytest.fixture
def theirs(folder: Path) -> Any:
    """transformers' tokenizer of the same folder."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def batch(tokenizer: Any) -> dict[str, torch.Tensor]:
    ids = torch.tensor([tokenizer.encode(TEXT)])
    return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.mark.habit("tools", "transformers.pipeline('text-generation', model=model, tokenizer=tokenizer)", "works")
def test_transformers_pipeline_answers_as_with_its_own_model(folder: Path, model: CausalLM, theirs: Any) -> None:
    own: Any = transformers.pipeline("text-generation", model=str(folder), device="cpu", dtype=torch.float32)
    ours: Any = transformers.pipeline("text-generation", model=model, tokenizer=theirs)  # type: ignore[call-overload]
    call: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    assert ours(TEXT, **call) == own(TEXT, **call)


@pytest.mark.habit("pipeline", "pipeline('text-generation', model=name)", "works")
@pytest.mark.habit("pipeline", "pipe([text, text])", "works")
@pytest.mark.habit("pipeline", "pipe(text, return_full_text=False)", "works")
@pytest.mark.habit("pipeline", "pipe(text, num_return_sequences=2, num_beams=2)", "works")
def test_our_pipeline_answers_as_transformers_does(folder: Path) -> None:
    theirs = transformers.pipeline("text-generation", model=str(folder), device="cpu", dtype=torch.float32)
    ours = pellucid.pipeline("text-generation", model=str(folder), device="cpu", dtype="float32")
    call: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    assert ours(TEXT, **call) == theirs(TEXT, **call)
    assert ours([TEXT, "The"], **call) == theirs([TEXT, "The"], **call)
    assert ours(TEXT, return_full_text=False, **call) == theirs(TEXT, return_full_text=False, **call)
    call |= {"num_beams": 2, "num_return_sequences": 2}
    assert ours(TEXT, **call) == theirs(TEXT, **call)


@pytest.mark.habit("pipeline", "pipeline(model=model)", "works")
@pytest.mark.habit(
    "pipeline", "pipeline('fill-mask')", "pointer", "pipeline('text-generation'): models here continue texts"
)
def test_our_pipeline_takes_a_model_and_refuses_other_tasks(model: CausalLM) -> None:
    pipe = pellucid.pipeline(model=model)
    assert pipe(TEXT, max_new_tokens=2, do_sample=False)[0]["generated_text"].startswith(TEXT)
    with pytest.raises(UnsupportedError, match="continue texts"):
        pellucid.pipeline("fill-mask")
    with pytest.raises(RequestError, match="no tokenizer"):
        pellucid.pipeline(model=AutoModelForCausalLM.from_config(model.config))


@pytest.mark.habit("tools", "transformers.Trainer(model=model, …).train()", "works")
def test_transformers_trainer_takes_two_steps(model: CausalLM, theirs: Any, tmp_path: Path) -> None:
    row = {name: value[0].tolist() for name, value in batch(theirs).items()}
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no", learning_rate=1e-3
    )
    before = model(**batch(theirs)).loss.item()
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=[row] * 4)  # type: ignore[arg-type]
    trainer.train()
    assert model(**batch(theirs)).loss.item() < before


# --- pipelines -------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PIPES = (
    "pipe('Once', max_new_tokens=4)",
    "pipe('Once', max_length=8)",
    "pipe(['Once', 'The old'], batch_size=2, max_new_tokens=4)",
    "pipe('Once', return_tensors=True, max_new_tokens=4)",
    "pipe(messages, max_new_tokens=4)",
    "pipe([messages, messages], max_new_tokens=4)",
    "pipe(messages, return_full_text=False, max_new_tokens=4)",
    "pipe(prefilled, max_new_tokens=4)",
    "pipe(prefilled, continue_final_message=False, max_new_tokens=4)",
    "pipe(text_inputs='Once', max_new_tokens=4)",
    "pipe('Once', prefix='A ', max_new_tokens=4)",
    "pipe('Once', stop_sequence='\\n', max_new_tokens=4)",
    "pipe('Once upon a time', truncation=True, max_length=8)",
    "pipe('Once', tokenizer_encode_kwargs={'add_special_tokens': False}, max_new_tokens=4)",
    "pipe('Once', eos_token_id=5, pad_token_id=0, max_new_tokens=4)",
    "pipe('Once', generation_config=GenerationConfig(max_new_tokens=3, do_sample=False))",
    "pipe.task",
    "pipe.device",
    "pipe.dtype",
    "pipe.model.config.vocab_size",
    "pipe.tokenizer.vocab_size",
)
MADE = (
    "device='cpu'",
    "device=-1",
    "device_map='cpu'",
    "torch_dtype=torch.bfloat16",
    "model_kwargs={'dtype': torch.bfloat16}",
    "dtype='auto'",
    "trust_remote_code=True",
    "use_fast=True",
    "batch_size=2",
    "max_new_tokens=3",
    "return_full_text=False",
)


@pytest.fixture(scope="module")
def pipes(folder: Path) -> list[Any]:
    """Ours and theirs, of the same model."""
    made: list[Any] = []
    for whose in (pellucid, transformers):
        made.append(whose.pipeline("text-generation", model=str(folder), device="cpu", dtype=torch.float32))
        made[-1].tokenizer.chat_template = TEMPLATE
        made[-1].model.generation_config.do_sample = False
    return made


@pytest.mark.habits("pipeline", "{}", "works", table="tests/test_home_tools.py:PIPES")
@pytest.mark.parametrize("call", PIPES)
def test_a_pipeline_called_alike_answers_alike(pipes: list[Any], call: str) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    known: dict[str, Any] = {"messages": messages, "prefilled": [*messages, {"role": "assistant", "content": "He"}]}
    known["GenerationConfig"] = transformers.GenerationConfig
    mine, other = (eval(call, {**known, "pipe": pipe}) for pipe in pipes)
    assert mine == other


@pytest.mark.habits(
    "pipeline", "pipeline('text-generation', model=name, {})", "works", table="tests/test_home_tools.py:MADE"
)
@pytest.mark.parametrize("words", MADE)
def test_a_pipeline_made_alike_answers_alike(folder: Path, words: str) -> None:
    call = {} if "max_new_tokens" in words else {"max_new_tokens": 2}
    made = []
    for whose in (pellucid, transformers):
        pipe = eval(
            f"make('text-generation', model=name, {words})",
            {"make": whose.pipeline, "name": str(folder), "torch": torch},
        )
        made.append((pipe("Once", do_sample=False, **call), pipe.dtype))
    assert made[0] == made[1]


@pytest.mark.habit("pipeline", "pipe.save_pretrained(folder)", "works")
@pytest.mark.habit("pipeline", "for answer in pipe(iterator)", "works")
@pytest.mark.habit("pipeline", "pipe(5)", "pointer", "a text, or a list of messages")
@pytest.mark.habits(
    "pipeline", "pipe(text, {}=…)", "pointer", table="src/pellucid/causal_lm/pipeline.py:CALL_ELSEWHERE"
)
@pytest.mark.habits("pipeline", "pipeline(…, {}=…)", "pointer", table="src/pellucid/causal_lm/pipeline.py:ELSEWHERE")
def test_a_pipeline_says_what_it_has_not(pipes: list[Any], tmp_path: Path) -> None:
    pipe = pipes[0]
    for name, where in pipeline.CALL_ELSEWHERE.items():
        with pytest.raises(TypeError) as error:
            pipe("Once", **{name: "x"})
        assert where in str(error.value)
    for name, where in pipeline.ELSEWHERE.items():
        with pytest.raises(TypeError) as error:
            pellucid.pipeline(model=pipe.model, **{name: "x"})
        assert where in str(error.value)
    for wrong in (5, None, [5], {"role": "user"}):
        with pytest.raises(RequestError, match="a text, or a list of messages"):
            pipe(wrong)
    with pytest.raises(TypeError, match="did you mean 'return_full_text'"):
        pipe("Once", return_fulltext=True)
    assert list(pipe(iter(["Once", "The"]), max_new_tokens=2)) == pipe(["Once", "The"], max_new_tokens=2)
    pipe.save_pretrained(tmp_path)
    assert pellucid.pipeline(model=str(tmp_path))("Once", max_new_tokens=2, do_sample=False)


# --- PEFT ------------------------------------------------------------------------------------------------------------


@pytest.mark.habit("tools", "peft.get_peft_model(model, LoraConfig(…))", "works")
@pytest.mark.habit("tools", "adapted.save_pretrained(folder); AutoModelForCausalLM.from_pretrained(folder)", "works")
@pytest.mark.habit("tools", "adapted.merge_and_unload()", "works")
@pytest.mark.habit("tools", "adapted.generate(input_ids=ids)", "works")
def test_peft_trains_an_adapter_that_we_read_and_that_merges(model: CausalLM, theirs: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(model, settings)
    assert all(("lora_" in name) == value.requires_grad for name, value in adapted.named_parameters())
    optimizer = torch.optim.SGD([value for value in adapted.parameters() if value.requires_grad], 10.0)
    adapted.train()
    for _ in range(2):  # B begins at zero: A learns from the second step on
        adapted(**batch(theirs)).loss.backward()
        optimizer.step()
    adapted.eval()
    ids = batch(theirs)["input_ids"]
    expected = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, device="cpu", dtype="float32")
    torch.testing.assert_close(read(ids).logits, expected, rtol=0, atol=1e-4)
    assert adapted.generate(input_ids=ids, max_new_tokens=3).shape == (1, ids.shape[1] + 3)
    torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, expected, rtol=0, atol=1e-4)


# --- accelerate and TRL ----------------------------------------------------------------------------------------------


@pytest.mark.habit("tools", "accelerator.prepare(model, optimizer); accelerator.backward(loss)", "works")
def test_accelerate_prepares_and_steps(model: CausalLM, theirs: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    before = prepared(**batch(theirs)).loss
    accelerator.backward(before)
    optimizer.step()
    assert prepared(**batch(theirs)).loss.item() < before.item()
    assert accelerator.unwrap_model(prepared) is model


@pytest.mark.habit("tools", "trl.SFTTrainer(model=model, …).train()", "works", "the same loss as with theirs")
@pytest.mark.habit("tools", "trl.SFTTrainer(…, peft_config=LoraConfig(…)).train()", "works")
@pytest.mark.parametrize("lora", [False, True])
def test_trl_fine_tunes(model: CausalLM, theirs: Any, tmp_path: Path, lora: bool) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    peft = pytest.importorskip("peft")
    settings = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, bf16=False, max_length=32, learning_rate=1e-3
    )
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]) if lora else None
    data = datasets.Dataset.from_list([{"text": TEXT}] * 8)
    losses = []
    for one in (model, transformers.AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = trl.SFTTrainer(
                model=one, args=settings, train_dataset=data, processing_class=theirs, peft_config=adapter
            )
            losses.append(trainer.train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with torch.no_grad():
        assert trainer.model(**batch(theirs)).loss.item() != losses[0]


# --- streamers and seeds ---------------------------------------------------------------------------------------------


@pytest.mark.habit("pipeline", "TextIteratorStreamer(tokenizer, skip_prompt=True)", "works")
@pytest.mark.habit("pipeline", "TextStreamer(tokenizer, skip_prompt=True)", "works")
@pytest.mark.habit("pipeline", "transformers' streamers, with our model", "works")
@pytest.mark.parametrize("whose", [pellucid, transformers], ids=["ours", "transformers"])
def test_a_text_arrives_in_pieces(model: CausalLM, theirs: Any, whose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ids = batch(theirs)["input_ids"]
    whole = theirs.decode(model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :])
    streamer = whose.TextIteratorStreamer(theirs, skip_prompt=True)
    call = {"input_ids": ids, "max_new_tokens": 6, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs=call)
    thread.start()
    assert "".join(streamer) == whole
    thread.join()
    model.generate(ids, max_new_tokens=6, do_sample=False, streamer=whose.TextStreamer(theirs, skip_prompt=True))
    assert capsys.readouterr().out == whole + "\n"


def test_our_streamer_waits_for_whole_characters() -> None:
    tokenizer = AutoTokenizer.from_pretrained("tiny")
    ids = tokenizer.encode("水と火", add_special_tokens=False)
    streamer = pellucid.TextIteratorStreamer(tokenizer)
    for token in ids:
        streamer.put([token])
    streamer.end()
    pieces = list(streamer)
    assert "".join(pieces) == "水と火"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.habit("pipeline", "set_seed(5)", "works")
def test_a_seed_for_all() -> None:
    def draws() -> tuple[float, float, float]:
        import random

        import numpy as np

        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    pellucid.set_seed(5)
    first = draws()
    pellucid.set_seed(5)
    assert draws() == first != draws()
