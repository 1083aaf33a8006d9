"""Five tutorials as people follow them, on small models: with their own import, and with ours in its place.

Each is a program in a few lines, run twice; what it prints is the same, for the weights are.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid import AutoModelForCausalLM
from pellucid.base.errors import ModelNotFoundError

QUICK_TOUR = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline, set_seed

model = AutoModelForCausalLM.from_pretrained(NAME, dtype="auto", device_map="cpu")
tokenizer = AutoTokenizer.from_pretrained(NAME)
model_inputs = tokenizer(["The old man by the sea"], return_tensors="pt").to(model.device)
generated_ids = model.generate(**model_inputs, max_length=30, do_sample=False)
print(tokenizer.batch_decode(generated_ids)[0])

pipe = pipeline("text-generation", model=NAME, device_map="cpu")
print(pipe("The old man by the sea", max_length=20, do_sample=False))

with torch.no_grad():
    outputs = model(**model_inputs)
print([round(float(x), 3) for x in outputs.logits.softmax(-1)[0, -1].topk(3).values])

model.save_pretrained(FOLDER)
tokenizer.save_pretrained(FOLDER)
again = AutoModelForCausalLM.from_pretrained(FOLDER)
print(torch.equal(again(**model_inputs).logits, model(**model_inputs).logits))

set_seed(42)
config = model.config
config.num_hidden_layers = config.num_hidden_layers
print(type(model.config).from_pretrained(NAME).num_hidden_layers, model.config.vocab_size)
"""

TEXT_GENERATION = """
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TextStreamer

model = AutoModelForCausalLM.from_pretrained(NAME, device_map="cpu", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(NAME, padding_side="left")
print(model.generation_config.max_new_tokens, model.config.is_encoder_decoder)
model.generation_config.do_sample = False

inputs = tokenizer(["A list of colors: red, blue"], return_tensors="pt").to(model.device)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])
print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=12), skip_special_tokens=True)[0])
print(tokenizer.batch_decode(model.generate(**inputs, num_beams=4, max_new_tokens=8), skip_special_tokens=True)[0])

tokenizer.pad_token = tokenizer.eos_token
inputs = tokenizer(["1, 2, 3", "A, B, C, D, E"], padding=True, return_tensors="pt").to(model.device)
print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=6), skip_special_tokens=True))

settings = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=model.config.eos_token_id)
settings.save_pretrained(FOLDER)
settings = GenerationConfig.from_pretrained(FOLDER)
print(tokenizer.batch_decode(model.generate(**inputs, generation_config=settings), skip_special_tokens=True))

streamer = TextStreamer(tokenizer, skip_prompt=True)
inputs = tokenizer(["An increasing sequence: one,"], return_tensors="pt").to(model.device)
_ = model.generate(**inputs, streamer=streamer, max_new_tokens=10)

tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}assistant:"
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many helicopters?"}]
chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**chat, max_new_tokens=6)
print(tokenizer.batch_decode(out[:, chat["input_ids"].shape[1]:], skip_special_tokens=True)[0])
out = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True, output_scores=True)
scores = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
print([round(float(x), 3) for x in scores[0]])
"""

LORA = """
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(NAME, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(NAME)
peft_config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=32, lora_dropout=0.0,
                         target_modules=["q_proj", "v_proj"])
model = get_peft_model(model, peft_config)
model.print_trainable_parameters()
batch = tokenizer(["Once upon a time there was a girl"], return_tensors="pt")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
model.train()
for _ in range(3):
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(float(loss) < 6, [name for name, p in model.named_parameters() if p.requires_grad][0].endswith("weight"))
model.save_pretrained(FOLDER)

base = AutoModelForCausalLM.from_pretrained(NAME, dtype=torch.float32)
tuned = PeftModel.from_pretrained(base, FOLDER)
tuned.eval(), model.eval()
with torch.no_grad():
    print(torch.allclose(tuned(**batch).logits, model(**batch).logits, atol=1e-4))
    merged = tuned.merge_and_unload()
    print(torch.allclose(merged(**batch).logits, model(**batch).logits, atol=1e-3))
print(merged.generate(**batch, max_new_tokens=3, do_sample=False).shape)
"""

SFT = """
import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained(NAME, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(NAME)
data = datasets.Dataset.from_list([{"text": "Once upon a time there was a king."}] * 8)
args = SFTConfig(output_dir=FOLDER, max_steps=2, report_to=[], use_cpu=True, bf16=False, max_length=32,
                 learning_rate=1e-3, seed=1)
trainer = SFTTrainer(model=model, train_dataset=data, args=args, processing_class=PROCESSING)
print(round(trainer.train().training_loss, 3))
trainer.model.save_pretrained(FOLDER)
print(AutoModelForCausalLM.from_pretrained(FOLDER).config.hidden_size)
"""

LLAMA_CPP = """
from llama_cpp import Llama

llm = Llama(model_path=GGUF, n_ctx=256, n_threads=1, verbose=False)
output = llm("Q: What is the capital of France? A: ", max_tokens=8, stop=["Q:", "\\n"], echo=True, temperature=0)
print(output["choices"][0]["text"].startswith("Q: What is the capital of France? A:"), output["object"])
chat = llm.create_chat_completion(
    messages=[{"role": "system", "content": "You are an assistant."},
              {"role": "user", "content": "Name the planets."}], max_tokens=4, temperature=0)
print(chat["choices"][0]["message"]["role"], chat["usage"]["completion_tokens"])
for piece in llm.create_chat_completion(messages=[{"role": "user", "content": "Hi"}], max_tokens=2, stream=True):
    delta = piece["choices"][0]["delta"]
    print(sorted(delta))
print(llm.detokenize(llm.tokenize(b"Hello, world!")).decode())
"""


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny"
    AutoModelForCausalLM.from_pretrained("tiny", device="cpu", dtype="float32").save_pretrained(path)
    return str(path)


def ours(program: str) -> str:
    """The program with its import changed, and nothing else."""
    return re.sub(r"from (transformers|llama_cpp) import", "from pellucid import", program)


def printed(program: str, **names: Any) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        exec(compile(program, "tutorial", "exec"), names)
    return re.sub(r"^\{'(train_runtime|loss)'.*\n", "", out.getvalue(), flags=re.MULTILINE)  # how long it took


@pytest.mark.habit("tutorials", "transformers: quick tour", "works")
def test_the_quick_tour_prints_the_same(name: str, tmp_path: Path) -> None:
    made = [printed(program, NAME=name, FOLDER=str(tmp_path / who)) for who, program in _both(QUICK_TOUR)]
    assert made[0] == made[1] != ""


@pytest.mark.habit("tutorials", "transformers: text generation", "works")
def test_text_generation_prints_the_same(name: str, tmp_path: Path) -> None:
    made = [printed(program, NAME=name, FOLDER=str(tmp_path / who)) for who, program in _both(TEXT_GENERATION)]
    assert made[0] == made[1] != ""


@pytest.mark.habit("tutorials", "PEFT: LoRA", "works")
def test_lora_prints_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    made = [printed(program, NAME=name, FOLDER=str(tmp_path / who)) for who, program in _both(LORA)]
    assert made[0] == made[1] != ""


@pytest.mark.habit(
    "tutorials", "TRL: supervised fine-tuning", "works", "with transformers' tokenizer as processing_class"
)
def test_supervised_fine_tuning_prints_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    made = [
        printed(program, NAME=name, FOLDER=str(tmp_path / who), PROCESSING=tokenizer) for who, program in _both(SFT)
    ]
    assert made[0] == made[1] != ""


@pytest.mark.habit(
    "tools",
    "trainer.save_model(folder)",
    "pointer",
    "trainer.model.save_pretrained(folder): Trainer writes weights alone of models that are not transformers' own",
)
def test_what_trainer_saves_by_itself_says_what_to_write(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = AutoModelForCausalLM.from_pretrained(name)
    settings = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    transformers.Trainer(model=model, args=settings).save_model(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"trainer\.model\.save_pretrained"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.habit("tutorials", "llama-cpp-python: first steps", "works")
def test_llama_cpp_prints_what_its_users_expect(smollm2: Path) -> None:
    assert printed(ours(LLAMA_CPP), GGUF=str(smollm2)).splitlines() == [
        "True text_completion",
        "assistant 4",
        "['role']",
        "['content']",
        "['content']",
        "[]",
        "Hello, world!",
    ]


def _both(program: str) -> list[tuple[str, str]]:
    assert ours(program) != program
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return [("ours", ours(program)), ("theirs", program)]
