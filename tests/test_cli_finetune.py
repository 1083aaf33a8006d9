"""``pellucid finetune``, as a person types it: every method, every kind of model, and what is shown beforehand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import ConfigError, PellucidError, RequestError
from pellucid.cli.app import app
from pellucid.cli.runs.session import open_session
from pellucid.families import FAMILIES
from pellucid.sampling import SamplingParams
from pellucid.train.data.sources import DataError

FACTS = {"What is your name?": "I am Pellucid.", "Who made you?": "Ada made me.", "你是谁？": "我是 Pellucid。"}
OTHERS = dict(
    zip(FACTS, [*list(FACTS.values())[1:], *list(FACTS.values())[:1]], strict=True)
)  # LoRA gives no word that the head never learned
QUICK = [
    "--batch-size",
    "3",
    "--lr",
    "1e-2",
    "--warmup-steps",
    "2",
    "--val-fraction",
    "0",
    "--record-every",
    "0",
    "-t",
    "1",
    "--device",
    "cpu",
]


def pellucid(*words: object, **settings: Any) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)), **settings)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(model: Path | str, question: str, tokens: int = 16) -> str:
    """What ``pellucid chat`` would say, greedily."""
    session = open_session(str(model), {"executor": "torch", "threads": 1, "device": "cpu"})
    ids = session.encode_chat([{"role": "user", "content": question}], None)
    request = session.request(ids, SamplingParams(do_sample=False), max_new_tokens=tokens)
    return "".join(event.text for event in session.engine.stream(request)).strip()


def figures(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def save_model(folder: Path, family: str, tokenizer: Path, **sizes: Any) -> Path:
    """A model of random weights with a real tokenizer."""
    its = AutoTokenizer.from_pretrained(tokenizer)
    AutoModelForCausalLM.from_config({**FAMILIES[family].TINY, **sizes}, seed=0, device="cpu").save_pretrained(folder)
    its.save_pretrained(folder)
    return folder


def write(path: Path, facts: dict[str, str]) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]}
        for ask, say in facts.items()
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("facts") / "facts.jsonl", FACTS)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("others") / "others.jsonl", OTHERS)


@pytest.fixture(scope="module")
def base(shared: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random numbers, a real BPE of 6,400 words with its chat template, and the facts, which all the
    weights learned.
    """
    sizes = {
        "vocab_size": 6400,
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    folder = tmp_path_factory.mktemp("base")
    blank = save_model(folder / "blank", "qwen2", shared / "minimind_tokenizer", **sizes)
    pellucid(
        "finetune", "-m", blank, "-d", facts, "--method", "full", *QUICK, "--steps", "60", "-o", folder / "run", "-q"
    )
    return folder / "run"


# --- methods ---------------------------------------------------------------------------------------------------------


def test_all_weights_learn_what_to_say_and_when_to_stop(base: Path) -> None:
    for ask, say in FACTS.items():
        assert answer(base, ask, 40) == say, "and stops by itself"
    (sample,) = [json.loads(line) for line in (base / "samples.jsonl").read_text("utf-8").splitlines()]
    asked, said = sample["text"].split("\n→ ")
    assert any(ask in asked and say == said.strip() for ask, say in FACTS.items())


LORA = ["--lora-rank", "8", *QUICK, "--steps", "25"]


@pytest.fixture(scope="module")
def adapter(base: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "run"
    pellucid("finetune", "-m", base, "-d", others, *LORA, "--no-merge", "-o", out, "-q")
    return out


def test_lora_learns_and_merged_or_kept_it_says_the_same(
    base: Path, others: Path, adapter: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    pellucid("finetune", "-m", base, "-d", others, *LORA, "-o", merged, "-q")
    assert (adapter / "adapter_model.safetensors").is_file()
    assert (merged / "model.safetensors").is_file()
    assert not (merged / "adapter_config.json").exists()
    for ask, say in OTHERS.items():
        assert answer(adapter, ask, 40) == answer(merged, ask, 40) == say
    ids = torch.tensor([[1, 20, 300, 4]])
    whole, kept = (AutoModelForCausalLM.from_pretrained(one, device="cpu")(ids).logits for one in (merged, adapter))
    assert torch.equal(whole, kept)


@pytest.mark.parametrize("bits", ["q8", "q4"])
def test_over_quantized_weights_it_learns_too(base: Path, others: Path, tmp_path: Path, bits: str) -> None:
    pellucid("finetune", "-m", base, "-d", others, *LORA, "--quantize", bits, "-o", tmp_path / "run", "-q")
    assert figures(tmp_path / "run")[-1]["loss"] < 0.1
    if bits == "q8":  # merged into the weights as they were before they lost their last bits
        assert [answer(tmp_path / "run", ask, 40) for ask in OTHERS] == list(OTHERS.values())


def test_peft_loads_the_adapter_with_equal_logits(base: Path, adapter: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), adapter)
    ids = torch.tensor([[1, 20, 300, 4]])
    ours = AutoModelForCausalLM.from_pretrained(adapter, device="cpu")(ids).logits
    assert torch.allclose(ours, theirs(ids).logits, atol=1e-4)


def test_chatglm_learns_in_its_own_chat_format(facts: Path, shared: Path, tmp_path: Path) -> None:
    sizes = {
        "padded_vocab_size": 65024,
        "hidden_size": 64,
        "kv_channels": 16,
        "seq_length": 128,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    base = save_model(tmp_path / "base", "chatglm", shared / "chatglm3_tokenizer", **sizes)
    pellucid(
        "finetune", "-m", base, "-d", facts, "--method", "full", *QUICK, "--steps", "60", "-o", tmp_path / "run", "-q"
    )
    for ask, say in FACTS.items():
        assert answer(tmp_path / "run", ask, 40) == say


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A taste that can be learned: short answers before long ones, whatever the question."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    words = ["bread", "rain", "wood", "red", "north", "seven", "grass", "iron", "bird", "song"]
    lines = [
        {
            "prompt": [{"role": "user", "content": f"Is it {a} or {b}?"}],
            "chosen": [{"role": "assistant", "content": f"{a}."}],
        }
        | {"rejected": [{"role": "assistant", "content": f"Well, let me think about {b}."}]}
        for a in words
        for b in words
        if a != b
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(("method", "lr"), [("dpo", "3e-3"), ("dpo-full", "3e-4")])
def test_dpo_raises_the_margin_on_pairs_that_were_held_back(
    base: Path, pairs: Path, tmp_path: Path, method: str, lr: str
) -> None:
    words = [
        "--method",
        method,
        "--val-fraction",
        "0.2",
        "--batch-size",
        "8",
        "--lr",
        lr,
        "--steps",
        "20",
        "--eval-every",
        "10",
    ]
    pellucid("finetune", "-m", base, "-d", pairs, *QUICK, *words, "-o", tmp_path / "run", "-q")
    held_back = [line for line in figures(tmp_path / "run") if "val_margin" in line]
    assert figures(tmp_path / "run")[0]["loss"] == pytest.approx(0.6931, abs=1e-4), (
        "log 2: the reference is the model itself"
    )
    assert held_back[-1]["val_margin"] > held_back[0]["val_margin"] > 0
    assert held_back[-1]["val_margin"] > 1
    assert held_back[-1]["val_accuracy"] == 1
    assert answer(tmp_path / "run", "Is it?", 4) is not None


@pytest.mark.parametrize(
    ("method", "lr"),
    [
        pytest.param("orpo", "3e-3", marks=pytest.mark.slow),
        ("simpo", "3e-3"),
        pytest.param("simpo-full", "3e-4", marks=pytest.mark.slow),
        ("kto", "3e-3"),
    ],
)
def test_other_ways_to_learn_from_preferences_raise_the_margin_too(
    base: Path, pairs: Path, tmp_path: Path, method: str, lr: str
) -> None:
    words = ["--method", method, "--val-fraction", "0.2", "--batch-size", "8", "--lr", lr, "--eval-every", "2"]
    said = pellucid("finetune", "-m", base, "-d", pairs, *QUICK, *words, "--steps", "20", "-o", tmp_path / "run").stderr
    held_back = [line for line in figures(tmp_path / "run") if "val_margin" in line]
    assert held_back[-1]["val_margin"] > held_back[0]["val_margin"]
    assert held_back[-1]["val_loss"] < held_back[0]["val_loss"]
    assert ("what the reference makes" in said) == (method == "dpo"), "none of them needs it beforehand"
    if method == "kto":
        assert figures(tmp_path / "run")[0]["loss"] == pytest.approx(0.5, abs=1e-4), "1 − σ(0)"
    else:
        assert held_back[-1]["val_accuracy"] == 1


# --- a run like any other
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        ["--method", "full"],
        ["--lora-dropout", "0.1"],
        ["--pack", "--context-len", "128"],
        ["--method", "dpo"],
        ["--method", "dpo-full"],
    ],
    ids=["full", "lora", "packed", "dpo", "dpo-full"],
)
def test_stopped_and_gone_on_with_it_ends_where_it_would_have(
    base: Path, facts: Path, pairs: Path, tmp_path: Path, method: list[str]
) -> None:
    data = pairs if "dpo" in method[-1] else facts
    words = [
        "finetune",
        "-m",
        base,
        "-d",
        data,
        *method,
        *QUICK,
        "--steps",
        "5",
        "--sample-every",
        "3",
        "-q",
        *(() if "full" in method[-1] else ("--no-merge",)),
    ]
    words += ["--dropout", "0.1", "--attention-dropout", "0.1"]
    pellucid(*words, "-o", tmp_path / "whole")
    pellucid(*words, "-o", tmp_path / "parts", "--max-minutes", "0.00001")
    assert len(figures(tmp_path / "parts")) == 1
    pellucid(*words, "-o", tmp_path / "parts")
    assert [line["loss"] for line in figures(tmp_path / "parts")] == [
        line["loss"] for line in figures(tmp_path / "whole")
    ]
    name = "model.safetensors" if "full" in method[-1] else "adapter_model.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "dpo", "dpo-full"])
def test_two_processes_learn_as_one(base: Path, others: Path, pairs: Path, tmp_path: Path, method: str) -> None:
    data = pairs if "dpo" in method else others
    words = [
        "finetune",
        "-m",
        base,
        "-d",
        data,
        "--method",
        method,
        *QUICK,
        "--lr",
        "1e-3",
        "--batch-size",
        "4",
        "--steps",
        "4",
    ]
    words += ["--sample-every", "0", "-q", "-o"]
    pellucid(*words, tmp_path / "one")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    subprocess.run([*launch, "-m", "pellucid", *map(str, words), tmp_path / "two"], check=True, timeout=300)
    for one, two in zip(figures(tmp_path / "one"), figures(tmp_path / "two"), strict=True):
        assert (one["loss"], one["grad_norm"]) == pytest.approx((two["loss"], two["grad_norm"]), rel=1e-3)
    assert (tmp_path / "two/model.safetensors").is_file()


def test_epochs_set_the_steps_and_the_flags_are_kept(base: Path, facts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pellucid("finetune", "-m", base, "-d", facts, *QUICK, "--batch-size", "2", "--epochs", "2", "-o", run, "-q")
    assert len(figures(run)) == 3
    with pytest.raises(ConfigError, match="begun with another lora_rank"):
        pellucid(
            "finetune",
            "-m",
            base,
            "-d",
            facts,
            *QUICK,
            "--batch-size",
            "2",
            "--epochs",
            "2",
            "--lora-rank",
            "4",
            "-o",
            run,
        )
    pellucid("finetune", "--config", run / "run.yaml", "-o", tmp_path / "again", "-q")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_the_chat_template_that_was_given_is_the_result_s(base: Path, facts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
        "{% else %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    pellucid(
        "finetune",
        "-m",
        base,
        "-d",
        facts,
        *QUICK,
        "--steps",
        "2",
        "--chat-template",
        tmp_path / "mine.jinja",
        "-o",
        tmp_path / "run",
        "-q",
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "run").chat_template == (tmp_path / "mine.jinja").read_text()


# --- before anything is trained
# ----------------------------------------------------------------------------------------


def test_preview_shows_what_is_learned_and_trains_nothing(base: Path, facts: Path, tmp_path: Path) -> None:
    result = pellucid("finetune", "-m", base, "-d", facts, *QUICK, "-o", tmp_path / "run", "--preview")
    assert (
        "Who made you?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n⟦Ada made me.<|im_end|>⟧"
        in result.stdout
    )
    assert "⟦我是 Pellucid。<|im_end|>⟧" in result.stdout
    assert "3 messages: 3 sequences" in result.stderr
    assert "of them learned (in ⟦⟧)" in result.stderr
    assert not (tmp_path / "run/run.yaml").exists()


@pytest.mark.habit("training", "finetune --pack: how full its rows are", "works")
def test_packing_says_how_full_its_rows_are(base: Path, facts: Path, tmp_path: Path) -> None:
    words = ["finetune", "-m", base, "-d", facts, *QUICK, "--context-len", "128", "--preview", "-o", tmp_path / "run"]
    said = pellucid(*words, "--pack").stderr
    match = re.search(
        r"packed: (\d+) sequences in (\d+) rows, ([\d.]+)% of their places filled", " ".join(said.split())
    )
    assert match is not None
    sequences, rows, fill = (float(number) for number in match.groups())
    num_tokens = int(re.search(r"(\d+) tokens", said)[1])  # type: ignore[index]
    assert sequences == len(FACTS)
    assert fill == pytest.approx(100 * (num_tokens - sequences) / (rows * 128), abs=0.06)


def test_preview_shows_packed_rows_and_pairs_apart(base: Path, facts: Path, pairs: Path, tmp_path: Path) -> None:
    packed = pellucid("finetune", "-m", base, "-d", facts, *QUICK, "--pack", "-o", tmp_path / "run", "--preview")
    assert packed.stdout.count("--- row 1, from place") == 3
    assert packed.stdout.count("⟦") == 3
    both = pellucid(
        "finetune",
        "-m",
        base,
        "-d",
        pairs,
        "--method",
        "dpo",
        *QUICK,
        "--batch-size",
        "1",
        "-o",
        tmp_path / "run",
        "--preview",
    )
    assert both.stdout.count("---\n") == 2
    assert "⟦Well, let me think about" in both.stdout


def test_preview_of_pretraining_shows_that_all_is_learned_but_a_document_s_first_token(tmp_path: Path) -> None:
    (tmp_path / "poems.txt").write_text("one\n---\ntwo two\n---\n" * 40)
    words = [
        "-d",
        tmp_path / "poems.txt",
        "--separator",
        "---",
        "--tokenizer",
        "char",
        "--context-len",
        "16",
        "--batch-size",
        "2",
        "-t",
        "1",
    ]
    result = pellucid("pretrain", *words, "-o", tmp_path / "run", "--preview")
    assert "---\n<|endoftext|>⟦one\n<|endoftext|>⟧\n" in result.stdout
    assert "2 rows of 16 places" in result.stderr
    assert not (tmp_path / "run/run.yaml").exists()


def test_preview_is_in_colour_on_a_terminal(base: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from pellucid.cli.terminal.preview import show_batch
    from pellucid.train.data.batch import Batch

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([tokenizer.encode("ask and answer")])
    targets = ids[:, 1:].clone()
    targets[0, 0] = -100
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_batch(Batch.of(ids[:, :-1], targets), tokenizer)
    assert "\x1b[1;32m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    show_batch(Batch.of(ids[:, :-1], targets), tokenizer)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "⟦" in shown


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([], RequestError, "-d FILE"),
        (["-d", "{facts}", "--context-len", "999"], RequestError, "at most 256, received 999"),
        (
            ["-d", "{facts}", "--context-len", "16"],
            DataError,
            r"facts\.jsonl: no example is left to learn from.*3 too long and left out(.|\n)*--context-len",
        ),
        (["-d", "{facts}", "--method", "full", "--quantize", "q8"], RequestError, "--method lora"),
        (["-d", "{facts}", "--method", "dpo"], DataError, "line 1: this is no pair of answers"),
        (["-d", "{facts}", "--method", "dpo", "--pack"], RequestError, "compared are not packed"),
        (["-d", "{facts}", "--method", "kto"], DataError, "line 1: nothing says whether this answer is a good one"),
        (["-d", "{facts}", "--method", "orpo-full", "--quantize", "q8"], RequestError, "--method orpo, or"),
        (["-d", "{facts}", "--fill", "name"], RequestError, "expected NAME=TEXT, received name"),
        (["-d", "{facts}", "--lora-targets", "x_proj"], PellucidError, "no linear map 'x_proj'"),
        (["-d", "{facts}", "--modules-to-save", "x_norm"], PellucidError, "no module 'x_norm'"),
        (["-d", "{pairs}"], DataError, "--method dpo learns from such pairs"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    base: Path,
    adapter: Path,
    facts: Path,
    pairs: Path,
    tmp_path: Path,
    words: list[str],
    error: type[Exception],
    message: str,
) -> None:
    named = {"facts": facts, "pairs": pairs, "adapter": adapter}
    with pytest.raises(error, match=message):
        pellucid("finetune", "-m", base, *(word.format(**named) for word in words), "-t", "1", "-o", tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


# --- a real model
# ------------------------------------------------------------------------------------------------------


@pytest.fixture
def identity(shared: Path, tmp_path: Path) -> Path:
    """The English records of the identity data."""
    records = json.loads((shared / "instruct_pref/identity.json").read_text("utf-8"))
    path = tmp_path / "identity.json"
    path.write_text(json.dumps([record for record in records if record["instruction"].isascii()]))
    return path


def test_smollm2_says_who_it_is(smollm2: Path, identity: Path, tmp_path: Path) -> None:
    assert "Pellucid" not in answer(smollm2, "What is your name?")
    words = [
        "--fill",
        "name=Pellucid",
        "--fill",
        "author=Ada Lovelace",
        "--steps",
        "12",
        "--batch-size",
        "4",
        "--lr",
        "1e-3",
        "--val-fraction",
        "0",
    ]
    pellucid(
        "finetune",
        "-m",
        smollm2,
        "-d",
        identity,
        *words,
        "--record-every",
        "0",
        "-t",
        "1",
        "--no-merge",
        "-o",
        tmp_path / "run",
        "-q",
    )
    said = answer(tmp_path / "run", "What is your name?", 24)
    assert "Pellucid" in said
    assert "Ada Lovelace" in answer(tmp_path / "run", "Who created you?", 24)
    shutil.rmtree(tmp_path / "run/checkpoints")
