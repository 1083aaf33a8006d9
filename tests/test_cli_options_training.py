"""Every option of the commands that train and measure reaches what it names: short runs, looked at from outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from option_walk import Probe, Walk, cases, commands, differ, has, make_model, offline, options_of, same

PROBES: dict[str, dict[str, Probe]] = {}
TEXT = (
    "\n---\n".join(f"the {one} sat on the {two}" for one in ("cat", "dog", "hen") for two in ("mat", "log", "bed"))
    + "\n"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_model(folder / "model", 1), make_model(folder / "other", 2)


@pytest.fixture
def walk(models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text(TEXT * 3)
    return Walk(tmp_path, *models, monkeypatch)


def test_no_option_is_without_a_probe_and_no_probe_without_an_option() -> None:
    for name in ("pretrain", "finetune", "evaluate"):
        assert set(PROBES[name]) == set(options_of(commands()[name])), name


@dataclass
class Run:
    """A finished run's folder, and what it said."""

    folder: Path
    outcome: Any

    @property
    def metrics(self) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    @property
    def weights(self) -> str:
        return hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()

    @property
    def checkpoints(self) -> list[int]:
        return sorted(int(path.name.rpartition("-")[2]) for path in (self.folder / "checkpoints").iterdir())

    @property
    def samples(self) -> list[dict[str, Any]]:
        path = self.folder / "samples.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Training:
    """``pretrain`` or ``finetune`` in its smallest form: three steps of two rows."""

    def __init__(self, command: str, *base: str) -> None:
        self.command, self.base = command, base

    def __call__(self, walk: Walk, *words: object, fails: bool = False) -> Run:
        number = sum(path.name.startswith("run") for path in walk.folder.iterdir())
        folder = walk.folder / f"run{number}"
        folder.mkdir()
        if not (walk.folder / "d.jsonl").exists():
            write_conversations(walk.folder / "d.jsonl")
        base = [
            *self.base,
            "--steps",
            "3",
            "--batch-size",
            "2",
            "--record-every",
            "0",
            "--sample-every",
            "0",
        ]
        model = ["-m", walk.model] if self.command == "finetune" else []
        outcome = walk(self.command, *model, *base, "-o", folder, *words, fails=fails)
        return Run(folder, outcome)

    def weights_differ(self, *words: object, than: tuple[object, ...] = ()) -> Probe:
        return lambda walk: differ(self(walk, *than).weights, self(walk, *than, *words).weights)

    def probes(self) -> dict[str, Probe]:
        go = self
        return {
            "--val-fraction": lambda walk: same(
                [("val_loss" in go(walk, "--val-fraction", x).metrics[-1]) for x in ("0", "0.3")], [False, True]
            ),
            "--steps": lambda walk: same(len(go(walk, "--steps", "2").metrics), 2),
            "--batch-size": lambda walk: same(
                len({go(walk, "--batch-size", n).metrics[0]["tokens"] for n in ("1", "2")}), 2
            ),
            "--micro-batch-size": self.micro_batch_size,
            "--optimizer": self.weights_differ("--optimizer", "muon"),
            "--lr": lambda walk: same(go(walk, "--lr", "0.125", "--schedule", "constant").metrics[0]["lr"], 0.125),
            "--schedule": lambda walk: differ(
                *([m["lr"] for m in go(walk, "--schedule", s).metrics] for s in ("cosine", "constant"))
            ),
            "--warmup-steps": lambda walk: differ(
                *(go(walk, "--warmup-steps", n).metrics[0]["lr"] for n in ("0", "2"))
            ),
            "--final-fraction": lambda walk: differ(
                *(go(walk, "--final-fraction", x).metrics[-1]["lr"] for x in ("0.1", "0.5"))
            ),
            "--weight-decay": self.weights_differ("--weight-decay", "0.9"),
            "--beta1": self.weights_differ("--beta1", "0.5"),
            "--beta2": self.weights_differ("--beta2", "0.5"),
            "--max-grad-norm": self.weights_differ("--max-grad-norm", "0.001"),
            "--z-loss": self.weights_differ("--z-loss", "1"),
            "--dropout": self.weights_differ("--dropout", "0.5"),
            "--attention-dropout": self.weights_differ("--attention-dropout", "0.5"),
            "--bf16": self.weights_differ("--bf16"),
            "--compile": self.compiled,
            "--checkpoint-activations": self.checkpoint_activations,
            "--deterministic": self.deterministic,
            "--seed": self.weights_differ("--seed", "7"),
            "--on-trouble": self.on_trouble,
            "--max-minutes": lambda walk: same(len(go(walk, "--max-minutes", "0.000001").metrics) < 3, True),
            "--out": lambda walk: same(
                (go(walk, "-o", walk.folder / "there"), (walk.folder / "there" / "config.json").is_file())[1], True
            ),
            "--eval-every": lambda walk: same(
                [
                    sum("val_loss" in m for m in go(walk, "--val-fraction", "0.3", "--eval-every", n).metrics)
                    for n in ("0", "1")
                ],
                [1, 3],
            ),
            "--eval-rows": lambda walk: differ(
                *(go(walk, "--val-fraction", "0.5", "--eval-rows", n).metrics[-1]["val_loss"] for n in ("1", "4"))
            ),
            "--save-every": lambda walk: same(go(walk, "--save-every", "1", "--keep", "0").checkpoints[-3:], [1, 2, 3]),
            "--keep": lambda walk: same(go(walk, "--save-every", "1", "--keep", "1").checkpoints, [3]),
            "--keep-best": lambda walk: same(
                [self.best(walk, *more).weights == self.best(walk).weights for more in ((), ("--keep-best",))],
                [True, False],
            ),
            "--patience": lambda walk: same(
                [len(self.best(walk, "--patience", n).metrics) == 8 for n in ("0", "1")], [True, False]
            ),
            "--out-dtype": lambda walk: same(
                [go(walk, "--out-dtype", dtype).config["torch_dtype"] for dtype in ("float32", "float16")],
                ["float32", "float16"],
            ),
            "--sample-every": lambda walk: same(
                [sample["step"] for sample in go(walk, "--sample-every", "1").samples], [1, 2, 3]
            ),
            "--record-every": lambda walk: same(
                [(go(walk, "--record-every", n).folder / "record").is_dir() for n in ("0", "1")], [False, True]
            ),
            "--watch": self.watch,
            "--tensorboard": lambda walk: same(
                any("events" in path.name for path in go(walk, "--tensorboard").folder.rglob("*")), True
            ),
            "--wandb": self.tracker("WandbRun", "--wandb"),
            "--mlflow": self.tracker("MlflowRun", "--mlflow"),
            "--prompt": lambda walk: same(
                go(walk, "--sample-every", "3", "-p", "the hen").samples[-1]["text"].startswith("the hen"), True
            ),
            "--device": lambda walk: has(go(walk, "--device", "cuda:99", fails=True).outcome, "cuda"),
            "--threads": self.threads,
            "--overwrite": self.overwrite,
            "--preview": lambda walk: has(go(walk, "--preview").outcome, "⟦"),
            "--config": self.config,
            "--quiet": lambda walk: (differ(go(walk).outcome.stderr, ""), same(go(walk, "-q").outcome.stderr, "")),
        }

    def best(self, walk: Walk, *words: object) -> Run:
        """At such a rate the validation loss soon rises."""
        wild = ("--lr", "0.5", "--schedule", "constant", "--warmup-steps", "0", "--on-trouble", "skip")
        wild += ("--method", "full") if self.command == "finetune" else ()
        return self(walk, *wild, "--val-fraction", "0.3", "--eval-every", "1", "--steps", "8", *words)

    def micro_batch_size(self, walk: Walk) -> None:
        from pellucid.model.decoder import Decoder

        rows: list[int] = []
        hidden = Decoder.hidden

        def seen(self: Decoder, token_ids: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
            rows.append(len(token_ids))
            return hidden(self, token_ids, *rest, **settings)

        walk.patch.setattr(Decoder, "hidden", seen)
        self(walk, "--micro-batch-size", "1", "--val-fraction", "0")
        assert set(rows) == {1}
        rows.clear()
        self(walk, "--val-fraction", "0")
        assert 2 in rows

    def compiled(self, walk: Walk) -> None:
        """torch's compiler takes a minute; that it is asked is all there is to see here."""
        from pellucid.train.runs import compile as compiling

        calls = count(walk, compiling, "compiled_forward", lambda model: model.hidden)
        self(walk, "--compile")
        assert calls
        calls.clear()
        self(walk)
        assert not calls

    def checkpoint_activations(self, walk: Walk) -> None:
        from pellucid.train.runs import loop

        calls = count(walk, loop, "checkpoint_activations", loop.checkpoint_activations)
        self(walk, "--checkpoint-activations")
        assert len(calls) == 1
        self(walk)
        assert len(calls) == 1

    def deterministic(self, walk: Walk) -> None:
        calls: list[bool] = []
        walk.patch.setattr(torch, "use_deterministic_algorithms", lambda wanted, **_: calls.append(bool(wanted)))
        self(walk, "--deterministic")
        assert True in calls

    def on_trouble(self, walk: Walk) -> None:
        wild = ("--lr", "1e30", "--schedule", "constant", "--warmup-steps", "0", "--max-grad-norm", "0")
        has(self(walk, *wild, "--on-trouble", "stop", fails=True).outcome, "not finite")
        has(self(walk, *wild, "--on-trouble", "skip").outcome, "left out")

    def watch(self, walk: Walk) -> None:
        from pellucid.explain.training import view

        ports: list[int] = []

        @contextlib.contextmanager
        def watch_run(folder: Path, port: int = 0, **_: Any) -> Iterator[str]:
            ports.append(port)
            yield "http://here"

        walk.patch.setattr(view, "watch_run", watch_run)
        has(self(walk, "--watch", "4321", "--record-every", "1").outcome, "http://here")
        assert ports == [4321]

    def tracker(self, name: str, option: str) -> Probe:
        """What it tells: test_train_trackers."""

        def probe(walk: Walk) -> None:
            from pellucid.train.runs import trackers

            told: list[Any] = []

            class Told:
                where = "there"

                def __init__(self, folder: Path, title: str, settings: Any) -> None:
                    told.append(title)

                def write(self, step: Any) -> None:
                    told.append(step.step)

                def close(self) -> None:
                    told.append("end")

            walk.patch.setattr(trackers, name, Told)
            self(walk, option, "books")
            assert told == ["books", 1, 2, 3, "end"]

        return probe

    def threads(self, walk: Walk) -> None:
        counts: list[int] = []
        walk.patch.setattr(torch, "set_num_threads", counts.append)
        self(walk, "-t", "1")
        assert 1 in counts

    def overwrite(self, walk: Walk) -> None:
        same_folder = ("-o", walk.folder / "same")
        first = self(walk, *same_folder)
        has(self(walk, *same_folder, "--seed", "9", fails=True).outcome, "--overwrite to begin anew")
        assert len(self(walk, *same_folder, "--seed", "9", "--overwrite").outcome.stderr) > 0
        assert first is not None

    def config(self, walk: Walk) -> None:
        (walk.folder / "c.yaml").write_text(yaml.safe_dump({"seed": 7}))
        differ(self(walk).weights, self(walk, "--config", walk.folder / "c.yaml").weights)


def count(walk: Walk, module: Any, name: str, instead: Any) -> list[Any]:
    """Calls of a module's function, which does ``instead``."""
    calls: list[Any] = []

    def called(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        return instead(*arguments, **settings)

    walk.patch.setattr(module, name, called)
    return calls


# --- pretrain -------------------------------------------------------------------------------------------------------

_SMALL = ("--depth", "1", "--d-model", "16", "--num-heads", "2", "--d-ff", "32", "--context-len", "16")
_pretrain = Training("pretrain", "-d", "t.txt", "--tokenizer", "char", *_SMALL)
_MIXTRAL = ("--model-type", "mixtral", "--num-experts", "4", "--experts-per-token", "2")


def _key(name: str, expected: object, *words: str) -> Probe:
    """The finished model's config.json says so."""
    return lambda walk: same(_pretrain(walk, *words).config[name], expected)


def _records(walk: Walk) -> None:
    (walk.folder / "r.jsonl").write_text(
        "\n".join(json.dumps({"text": "abab " * 30, "body": "xyz " * 40}) for _ in range(4))
    )
    sizes = [_pretrain(walk, "-d", "r.jsonl", *more).config["vocab_size"] for more in ((), ("--text-field", "body"))]
    assert sizes[0] != sizes[1]


def _other_text(walk: Walk) -> None:
    (walk.folder / "u.txt").write_text(TEXT.replace("cat", "cow") * 3)
    trained = Training("pretrain", "--tokenizer", "char", *_SMALL)
    differ(*(trained(walk, "-d", name).weights for name in ("t.txt", "u.txt")))


def _mixed(walk: Walk) -> None:
    (walk.folder / "u.txt").write_text(TEXT.replace("cat", "cow") * 3)
    trained = Training("pretrain", "-d", "t.txt", "-d", "u.txt", "--tokenizer", "char", *_SMALL)
    differ(*(trained(walk, *more).weights for more in ((), ("--mix", "1,9"))))


def _streamed(walk: Walk) -> None:
    run = _pretrain(walk, "--tokenizer", walk.model, "--stream", "--eval-rows", "2")
    assert len(run.metrics) == 3
    assert not (run.folder / "data").exists(), "nothing is tokenized beforehand"


def _documents(walk: Walk) -> None:
    counts = [
        len((_pretrain(walk, *more).folder / "data" / "00000.documents.npy").read_bytes())
        for more in ((), ("--separator", "---"))
    ]
    assert counts[1] > counts[0]


PROBES["pretrain"] = _pretrain.probes() | {
    "--data": _other_text,
    "--tokenizer": lambda walk: same(_pretrain(walk, "--tokenizer", walk.model).config["vocab_size"], 260),
    "--vocab-size": _key("vocab_size", 265, "--tokenizer", "bpe", "--vocab-size", "265"),
    "--text-field": _records,
    "--separator": _documents,
    "--mix": _mixed,
    "--stream": _streamed,
    "--mask-documents": _pretrain.weights_differ("--mix-documents", than=("--separator", "---")),
    "--depth": _key("num_hidden_layers", 2, "--depth", "2"),
    "--model-type": _key("model_type", "qwen2", "--model-type", "qwen2"),
    "--d-model": _key("hidden_size", 24, "--d-model", "24"),
    "--num-heads": _key("num_attention_heads", 4, "--num-heads", "4"),
    "--num-kv-heads": _key("num_key_value_heads", 1, "--num-kv-heads", "1"),
    "--d-ff": _key("intermediate_size", 48, "--d-ff", "48"),
    "--num-experts": _key("num_local_experts", 4, *_MIXTRAL),
    "--experts-per-token": _key("num_experts_per_tok", 3, *_MIXTRAL, "--experts-per-token", "3"),
    "--balance": _pretrain.weights_differ("--balance", "5", than=_MIXTRAL),
    "--context-len": _key("max_position_embeddings", 8, "--context-len", "8"),
    "--tie": _key("tie_word_embeddings", False, "--untie"),
}


# --- finetune -------------------------------------------------------------------------------------------------------


def write_conversations(path: Path, name: str = "{{NAME}}") -> None:
    rows = [
        [{"role": "user", "content": f"who sat on {i}?"}, {"role": "assistant", "content": f"{name} sat {'on ' * i}"}]
        for i in range(8)
    ]
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))


def write_pairs(path: Path) -> None:
    rows = [{"prompt": f"say {i} ", "chosen": f"yes {i}", "rejected": f"no {'o' * i}"} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))


_finetune = Training("finetune", "-d", "d.jsonl", "--context-len", "64", "--fill", "NAME=Ann")


def _adapter(*words: str, key: str, expected: object) -> Probe:
    """What the adapter's own description says."""

    def probe(walk: Walk) -> None:
        folder = _finetune(walk, "--no-merge", *words).folder
        assert json.loads((folder / "adapter_config.json").read_text())[key] == expected

    return probe


def _preview(walk: Walk, *words: object) -> str:
    return _finetune(walk, "--preview", *words).outcome.stdout


def _more_data(walk: Walk) -> None:
    write_conversations(walk.folder / "e.jsonl", "Eve")
    trained = Training("finetune", "--lora-rank", "2")
    has(trained(walk, "-d", "e.jsonl", "--preview").outcome, "Eve")


def _rows(walk: Walk, *rows: Any) -> Training:
    (walk.folder / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Training("finetune", "-d", "r.jsonl", "--context-len", "64", "--val-fraction", "0", "--preview")


def _columns(walk: Walk) -> None:
    trained = _rows(walk, *[{"ask": "q", "reply": "the reply"}] * 2)
    has(trained(walk, fails=True).outcome, "no format")
    assert "the reply" in trained(walk, "--fields", "user=ask,assistant=reply").outcome.stdout


def _last_answers(walk: Walk) -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "one")) * 2]
    trained = _rows(walk, *[{"messages": turns}] * 2)
    learned = [trained(walk, "--learn", what).outcome.stdout.count("⟦") for what in ("all", "last")]
    assert learned[0] > learned[1] > 0


def _empty_answers(walk: Walk) -> None:
    trained = _rows(walk, {"question": "q", "answer": "a"}, {"question": "q", "answer": ""})
    has(trained(walk).outcome, "1 left out, since their answer is empty")
    has(trained(walk, "--keep-empty").outcome, "2 question and answer: 2 sequences")


def _template(walk: Walk) -> None:
    (walk.folder / "t.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>{% endfor %}")
    assert "[user] who sat" in _preview(walk, "--chat-template", walk.folder / "t.jinja")


def _too_long(walk: Walk) -> None:
    short = ("--context-len", "24")
    has(_finetune(walk, *short, "--on-too-long", "error", fails=True).outcome, "context")
    texts = [_finetune(walk, *short, "--preview", "--on-too-long", how).outcome.stderr for how in ("cut", "skip")]
    assert texts[0] != texts[1]


def _compared(method: str, option: str, *values: str) -> Probe:
    """The option changes what is learned from preferences."""

    def probe(walk: Walk) -> None:
        write_pairs(walk.folder / "p.jsonl")
        trained = Training("finetune", "-d", "p.jsonl", "--lora-rank", "2", "--method", method, "--context-len", "64")
        differ(*(trained(walk, option, value).weights for value in values))

    return probe


def _epochs(walk: Walk) -> None:
    words = (
        "finetune",
        "-m",
        walk.model,
        "-d",
        "d.jsonl",
        "--fill",
        "NAME=Ann",
        "--batch-size",
        "2",
        "--record-every",
        "0",
    )
    write_conversations(walk.folder / "d.jsonl")
    for epochs, steps in (("1", 4), ("0.5", 2)):
        walk(*words, "--epochs", epochs, "--val-fraction", "0", "-o", walk.folder / f"e{epochs}")
        assert len(Run(walk.folder / f"e{epochs}", None).metrics) == steps


PROBES["finetune"] = _finetune.probes() | {
    "--model": lambda walk: differ(_finetune(walk).weights, _finetune(walk, "-m", walk.other).weights),
    "--offline": lambda walk: (
        write_conversations(walk.folder / "d.jsonl"),
        offline(walk, "finetune", "-d", "d.jsonl"),
    ),
    "--data": _more_data,
    "--fill": lambda walk: same("Bob sat" in _preview(walk, "--fill", "NAME=Bob"), True),
    "--chat-template": _template,
    "--fields": _columns,
    "--system": lambda walk: same("Be brief." in _preview(walk, "-sys", "Be brief."), True),
    "--learn": _last_answers,
    "--keep-empty": _empty_answers,
    "--context-len": lambda walk: has(_finetune(walk, "--context-len", "300", fails=True).outcome, "at most 256"),
    "--on-too-long": _too_long,
    "--pack": lambda walk: differ(_preview(walk), _preview(walk, "--pack", "--context-len", "128")),
    "--method": _finetune.weights_differ("--method", "full"),
    "--lora-rank": _adapter("--lora-rank", "3", key="r", expected=3),
    "--lora-alpha": _adapter("--lora-alpha", "5", key="lora_alpha", expected=5),
    "--lora-targets": _finetune.weights_differ("--lora-targets", "q_proj"),
    "--lora-dropout": _finetune.weights_differ("--lora-dropout", "0.5"),
    "--dora": _adapter("--dora", key="use_dora", expected=True),
    "--rslora": _adapter("--rslora", key="use_rslora", expected=True),
    "--modules-to-save": _adapter("--modules-to-save", "norm", key="modules_to_save", expected=["model.norm"]),
    "--merge": lambda walk: same(
        [(_finetune(walk, *more).folder / "adapter_config.json").is_file() for more in ((), ("--no-merge",))],
        [False, True],
    ),
    "--quantize": _finetune.weights_differ("--quantize", "q8"),
    "--beta": _compared("dpo", "--beta", "0.1", "5"),
    "--gamma": _compared("simpo", "--gamma", "0.5", "3"),
    "--good-weight": _compared("kto", "--good-weight", "1", "3"),
    "--bad-weight": _compared("kto", "--bad-weight", "1", "3"),
    "--epochs": _epochs,
}


# --- evaluate -------------------------------------------------------------------------------------------------------


def _evaluate(walk: Walk, *words: object, **settings: Any) -> Any:
    data = () if {"-d", "--choices", "--tasks"} & set(words) else ("-d", "t.txt")
    return walk("evaluate", "-m", walk.model, *data, *words, **settings)


def _measured(walk: Walk, *words: object) -> dict[str, Any]:
    return _evaluate(walk, "--json", *words).json


def _choices(walk: Walk) -> Any:
    rows = [{"question": f"say {i}", "choices": ["yes", "no"], "answer": 0} for i in range(3)]
    (walk.folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    same(_measured(walk, "--choices", "q.jsonl")["num_questions"], 3)


def _tasks(walk: Walk) -> None:
    from pellucid import harness

    calls: list[dict[str, Any]] = []

    def run_tasks(model: object, tokenizer: object, tasks: Any, **settings: Any) -> dict[str, dict[str, float]]:
        calls.append({"tasks": list(tasks), **settings})
        return {"arc_easy": {"acc": 0.5}}

    walk.patch.setattr(harness, "run_tasks", run_tasks)
    (walk.folder / "tasks").mkdir()
    more = ("--num-fewshot", "3", "--apply-chat-template", "--fewshot-in-one-turn", "-sys", "Hm.", "--batch-size", "2")
    _evaluate(walk, "--tasks", "arc_easy,piqa", "--task-folder", walk.folder / "tasks", "--limit", "5", *more)
    (call,) = calls
    assert call["tasks"] == ["arc_easy", "piqa"]
    assert (str(call["folder"]), call["limit"]) == (str(walk.folder / "tasks"), 5)
    asking = harness.Asking(
        num_fewshot=3, apply_chat_template=True, fewshot_as_multiturn=False, system="Hm.", batch_size=2
    )
    assert call["asking"] == asking
    for idle in (more[:2], more[2:3], more[4:6], more[6:]):
        has(_evaluate(walk, *idle, fails=True), "has no effect on -d TEXT")
    has(_evaluate(walk, "--tasks", "piqa", "--fewshot-in-one-turn", fails=True), "has no effect without turns")


def _fields(walk: Walk) -> None:
    (walk.folder / "r.jsonl").write_text(json.dumps({"text": "abcd", "body": "xyz" * 9}))
    differ(*(_measured(walk, "-d", "r.jsonl", *more)["num_bytes"] for more in ((), ("--text-field", "body"))))


def _config(walk: Walk) -> None:
    (walk.folder / "c.yaml").write_text("max_bytes: 20\n")
    same(_measured(walk, "--config", walk.folder / "c.yaml")["num_bytes"] <= 20, True)


def _threads(walk: Walk) -> None:
    counts: list[int] = []
    walk.patch.setattr(torch, "set_num_threads", counts.append)
    _evaluate(walk, "-t", "1")
    assert 1 in counts


PROBES["evaluate"] = {
    "--model": lambda walk: differ(_measured(walk), _measured(walk, "-m", walk.other)),
    "--data": lambda walk: differ(_measured(walk)["num_bytes"], _measured(walk, "-d", Path(__file__))["num_bytes"]),
    "--against": lambda walk: same(_measured(walk, "--against", walk.other)["mean_kl"] > 0.01, True),
    "--choices": _choices,
    "--tasks": _tasks,
    "--task-folder": _tasks,
    "--limit": _tasks,
    "--num-fewshot": _tasks,
    "--apply-chat-template": _tasks,
    "--fewshot-as-multiturn": _tasks,
    "--system": _tasks,
    "--batch-size": _tasks,
    "--text-field": _fields,
    "--separator": lambda walk: differ(
        _measured(walk)["num_scored"], _measured(walk, "--separator", "---")["num_scored"]
    ),
    "--max-bytes": lambda walk: same(_measured(walk, "--max-bytes", "20")["num_bytes"] <= 20, True),
    "--stride": lambda walk: same(_measured(walk, "--stride", "7")["stride"], 7),
    "--ctx-size": lambda walk: same(_measured(walk, "-c", "33")["context_len"], 33),
    "--dtype": lambda walk: differ(
        *(_measured(walk, "--dtype", dtype)["perplexity"] for dtype in ("float32", "bfloat16"))
    ),
    "--quantize": lambda walk: differ(*(_measured(walk, *more)["perplexity"] for more in ((), ("--quantize", "q4")))),
    "--device": lambda walk: has(_evaluate(walk, "--device", "cuda:99", fails=True), "cuda"),
    "--threads": _threads,
    "--offline": lambda walk: offline(walk, "evaluate", "-d", "t.txt"),
    "--config": _config,
    "--json": lambda walk: same("perplexity" in _measured(walk), True),
    "--quiet": lambda walk: (differ(_evaluate(walk).stderr, ""), same(_evaluate(walk, "-q").stderr, "")),
}


def shared_with_pretrain() -> set[str]:
    """Finetune's options that reach a run by the same code as pretrain's: they walk in `make test-all`."""
    return {f"finetune {option}" for option in _finetune.probes()}


@pytest.mark.parametrize("probe", cases(PROBES, slow=shared_with_pretrain()))
def test_the_option_reaches_what_it_names(probe: Probe, walk: Walk) -> None:
    probe(walk)
