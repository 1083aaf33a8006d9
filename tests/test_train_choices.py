"""Choices by likelihood, two models beside each other, and EleutherAI's harness over a model of ours."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from pellucid import AutoTokenizer
from pellucid.auto import load_model
from pellucid.base.errors import ConfigError, RequestError
from pellucid.cli.app import app
from pellucid.families import FAMILIES
from pellucid.harness import HarnessError, as_harness_model, run_tasks
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.sources import DataError
from pellucid.train.data.tokenizer import save_tokenizer, train_bpe
from pellucid.train.measure.choices import answer, encode_pair, read_questions, score
from pellucid.train.measure.compare import compare
from pellucid.train.measure.evaluate import evaluate

CONFIG = FAMILIES["llama"].config(FAMILIES["llama"].TINY)


def decoder(seed: int) -> Decoder:
    return Decoder(CONFIG).initialize(torch.Generator().manual_seed(seed))


MODEL = decoder(0)


def spread(*parts: list[int]) -> torch.Tensor:
    """log p of each next token of a row that stands alone."""
    ids = torch.tensor([[token for part in parts for token in part]])
    logits = MODEL(ids[:, :-1], Context(torch.arange(ids.shape[1] - 1)[None]))[0]
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]


def test_a_continuation_scores_what_its_tokens_do_whatever_is_beside_it() -> None:
    pairs = [([1, 2, 3], [4, 5]), ([9], [8, 7, 6, 5, 4]), ([3, 3, 3, 3, 3, 3], [1])]
    for (context, continuation), its in zip(pairs, score(MODEL, pairs, rows=2), strict=True):
        assert its.log_p == pytest.approx(spread(context, continuation)[-len(continuation) :].sum().item(), rel=1e-4)


def test_a_likeliest_continuation_is_called_greedy() -> None:
    likeliest = int(MODEL(torch.tensor([[1, 2, 3]]), Context(torch.arange(3)[None]))[0, -1].argmax())
    assert [its.is_greedy for its in score(MODEL, [([1, 2, 3], [likeliest]), ([1, 2, 3], [(likeliest + 1) % 96])])] == [
        True,
        False,
    ]


@pytest.mark.parametrize("variant", ["longrope", "dynamic"])
def test_where_rotation_goes_by_length_a_score_goes_by_that_of_its_own_row(variant: str) -> None:
    llama = FAMILIES["llama"]
    config = llama.config({**llama.TINY, **llama.VARIANTS[variant]})
    model = Decoder(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4, generator=torch.Generator().manual_seed(weight.numel()))
    pairs = [(list(range(3, 23)), [4, 5]), (list(range(3, 60)), [9])]  # beyond longrope's original 32, and not
    for pair, beside in zip(pairs, score(model, pairs), strict=True):
        assert beside.log_p == pytest.approx(score(model, [pair])[0].log_p, rel=1e-4)


def test_what_exceeds_the_context_is_left_out_at_the_front(capsys: pytest.CaptureFixture[str]) -> None:
    long = [index % 90 for index in range(CONFIG.context_len + 50)]
    score(MODEL, [(long[: CONFIG.context_len], [5])])
    assert capsys.readouterr().err == ""
    (its,) = score(MODEL, [(long, [5, 6])])
    assert "left out at the front" in capsys.readouterr().err
    assert its.log_p == pytest.approx(spread(long[-CONFIG.context_len + 1 :], [5, 6])[-2:].sum().item(), rel=1e-4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("The sky is blue. The grass is green. Is the sky green? " * 20)
    save_tokenizer(train_bpe([folder / "text.txt"], 280), folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def test_spaces_between_question_and_choice_belong_to_the_choice(tokenizer: Tokenizer) -> None:
    context, continuation = encode_pair(tokenizer, "The sky is ", "blue")
    assert tokenizer.decode(continuation) == " blue"
    assert tokenizer.decode(context) == "The sky is", "this tokenizer has a BOS and puts none before a text"
    assert encode_pair(tokenizer, "", "blue")[0] == [tokenizer.bos_token_id]


def test_questions_name_their_answer_in_three_ways(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    lines = [{"question": "The sky is", "choices": ["green", "blue"], "answer": its} for its in (1, "B", "blue")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [its.answer for its in read_questions(path)] == [1, 1, 1]
    for wrong in (2, -1, "C", "red", None, True):
        path.write_text(json.dumps({**lines[0], "answer": wrong}))
        with pytest.raises(DataError, match=r"quiz\.jsonl, line 1.*0 to 1"):
            read_questions(path)
    path.write_text('{"question": "x", "choices": ["one"], "answer": 0}')
    with pytest.raises(DataError, match="two texts"):
        read_questions(path)


def test_a_model_compared_with_itself_is_no_distance_away() -> None:
    ids = torch.randint(96, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    its = compare(MODEL, MODEL, ids, 100, context_len=32, stride=16)
    assert its.mean_kl == pytest.approx(0, abs=1e-6)
    assert its.top1_agreement == 1
    assert its.model.nll == pytest.approx(evaluate(MODEL, ids, 100, context_len=32, stride=16).nll, rel=1e-5)


def test_two_models_are_as_far_apart_as_their_distributions() -> None:
    other, ids = decoder(1), torch.randint(96, (20,), generator=torch.Generator().manual_seed(1))
    its = compare(MODEL, other, ids.tolist(), 20, context_len=32, stride=32)
    p, q = (model(ids[None, :-1], Context(torch.arange(19)[None]))[0].log_softmax(-1) for model in (MODEL, other))
    assert its.mean_kl == pytest.approx((q.exp() * (q - p)).sum(-1).mean().item(), rel=1e-4)
    assert its.num_agreeing == int((p.argmax(-1) == q.argmax(-1)).sum())
    assert its.reference.perplexity == pytest.approx(math.exp(-q.gather(1, ids[1:, None]).mean().item()), rel=1e-4)
    smaller = Decoder(replace(CONFIG, vocab_size=50))
    with pytest.raises(ConfigError, match="one vocabulary"):
        compare(MODEL, smaller, ids.tolist(), 20, context_len=32, stride=32)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one sentence."""
    folder = tmp_path_factory.mktemp("learned")
    (folder / "text.txt").write_text("The sky is blue. The grass is green. " * 100)
    words = [
        "--depth",
        1,
        "--d-model",
        32,
        "--num-heads",
        2,
        "--context-len",
        32,
        "--batch-size",
        8,
        "--steps",
        60,
        "--lr",
        "2e-2",
        "-t",
        1,
    ]
    words += ["--tokenizer", "char", "-q", "--sample-every", 0]
    assert (
        CliRunner()
        .invoke(app, list(map(str, ["pretrain", "-d", folder / "text.txt", *words, "-o", folder / "run"])))
        .exit_code
        == 0
    )
    (folder / "quiz.jsonl").write_text(
        '{"question": "The sky is", "choices": ["green", "blue"], "answer": "B"}\n'
        '{"question": "The grass is", "choices": ["green", "blue"], "answer": 0}\n'
    )
    return folder


def evaluated(*words: object) -> dict[str, float]:
    result = CliRunner().invoke(app, list(map(str, ["evaluate", *words, "--json", "-t", 1])))
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_a_model_that_learned_the_answers_chooses_them(learned: Path) -> None:
    assert evaluated("-m", learned / "run", "--choices", learned / "quiz.jsonl") == {
        "acc": 1.0,
        "acc_norm": 1.0,
        "num_questions": 2,
    }
    model, tokenizer = load_model(str(learned / "run"), device="cpu")
    questions = read_questions(learned / "quiz.jsonl")
    assert [answer(model, tokenizer, question) for question in questions] == [(1, 1), (0, 0)]


def test_what_a_dtype_or_quantization_costs_is_measured(learned: Path) -> None:
    its = evaluated(
        "-m",
        learned / "run",
        "-d",
        learned / "text.txt",
        "--max-bytes",
        400,
        "--quantize",
        "q8",
        "--against",
        "float32",
    )
    assert 0 <= its["mean_kl"] < 0.05
    assert its["top1_agreement"] > 0.9
    assert its["perplexity"] == pytest.approx(its["reference_perplexity"], rel=0.05)
    coarse = evaluated("-m", learned / "run", "-d", learned / "text.txt", "--max-bytes", 400, "--against", "q4")
    assert coarse["mean_kl"] > its["mean_kl"]


def test_evaluate_asks_for_one_thing(learned: Path) -> None:
    with pytest.raises(RequestError, match="one thing"):
        evaluated("-m", learned / "run")
    with pytest.raises(RequestError, match="no text to compare"):
        evaluated("-m", learned / "run", "--choices", learned / "quiz.jsonl", "--against", "float32")


TASK = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def test_without_lm_eval_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(HarnessError, match=r"pip install 'pellucid\[lm-eval\]'"):
        as_harness_model(MODEL, tokenizer)


@pytest.mark.slow
def test_the_harness_runs_over_a_model_of_ours(learned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="make setup-long installs what this test needs")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    lines = [
        {"question": "The sky is", "choices": ["green", "blue"], "gold": 1},
        {"question": "The grass is", "choices": ["green", "blue"], "gold": 1},
    ]
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/colours.yaml").write_text(TASK.replace("DATA", str(tmp_path / "colours.jsonl")))
    model, tokenizer = load_model(str(learned / "run"), device="cpu")
    figures = run_tasks(model, tokenizer, ["colours"], folder=str(tmp_path / "tasks"))["colours"]
    assert figures["acc,none"] == figures["acc_norm,none"] == 0.5, "the second gold answer is wrong on purpose"

    class Asked:
        def __init__(self, *args: object) -> None:
            self.args = args

    its = as_harness_model(model, tokenizer)
    assert its.generate_until([Asked("The sky is", {"until": ["."], "max_gen_toks": 8})]) == [" blue"]
    (rolling,) = its.loglikelihood_rolling([Asked("The sky is blue.")])
    ids = tokenizer.encode("<|endoftext|>The sky is blue.", add_special_tokens=False)
    assert rolling == pytest.approx(-evaluate(model, ids, 1).nll)
    assert its.loglikelihood_rolling([Asked("")]) == [0.0]


FEWSHOT = (
    TASK.replace("{test: DATA}", "{test: DATA, train: DATA}")
    + "training_split: train\nfewshot_split: train\nfewshot_config: {sampler: first_n}\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"num_fewshot": 0},
        {"num_fewshot": 2, "apply_chat_template": True},
        {"num_fewshot": 2, "apply_chat_template": True, "fewshot_as_multiturn": False, "system": "简短地回答。"},
        {"num_fewshot": 1, "system": "Be brief."},
    ],
    ids=str,
)
@pytest.mark.habit("evaluate", "evaluate --tasks … --num-fewshot N", "works")
@pytest.mark.habit("evaluate", "evaluate --tasks … --apply-chat-template", "works")
@pytest.mark.habit("evaluate", "evaluate --tasks … --fewshot-as-multiturn", "works")
@pytest.mark.habit("evaluate", "evaluate --tasks … --system (system_instruction)", "works")
@pytest.mark.habit("evaluate", "evaluate --tasks … --batch-size N", "works")
def test_with_chat_template_and_examples_it_is_asked_and_scored_as_the_harness_own_model(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same prompts reach both, and their log-likelihoods agree."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="make setup-long installs what this needs")
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    from option_walk import make_model

    from pellucid import harness

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    lines = [
        {"question": f"{name} is", "choices": ["green", "蓝色"], "gold": 1} for name in ("Sky", "Sea", "草", "Ink")
    ]
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/colours.yaml").write_text(FEWSHOT.replace("DATA", str(tmp_path / "colours.jsonl")))
    folder = make_model(tmp_path / "model", 0)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = huggingface.HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
    told: dict[str, list[Any]] = {"ours": [], "theirs": []}

    def keeping(name: str, lm: Any) -> Any:
        answer = lm.loglikelihood

        def loglikelihood(requests: Any, **more: Any) -> Any:
            scores = answer(requests, **more)
            told[name] += [(request.args, score) for request, score in zip(requests, scores, strict=True)]
            return scores

        lm.loglikelihood = loglikelihood
        return lm

    as_model = harness.as_harness_model
    monkeypatch.setattr(harness, "as_harness_model", lambda *a, **s: keeping("ours", as_model(*a, **s)))
    model, tokenizer = load_model(str(folder), device="cpu")
    figures = run_tasks(
        model, tokenizer, ["colours"], folder=str(tmp_path / "tasks"), asking=harness.Asking(batch_size=3, **settings)
    )
    words = {"system_instruction" if key == "system" else key: value for key, value in settings.items()}
    expected = simple_evaluate(
        model=keeping("theirs", theirs),
        tasks=["colours"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
        bootstrap_iters=0,
        **words,
    )
    assert expected is not None
    ours, reference = (sorted(told[name], key=lambda one: one[0]) for name in ("ours", "theirs"))
    assert [args for args, _ in ours] == [args for args, _ in reference]
    assert len(ours) == 8
    assert ("<|user|>" in ours[0][0][0]) == settings.get("apply_chat_template", False)
    for (_, mine), (_, their) in zip(ours, reference, strict=True):
        assert mine == (pytest.approx(their[0], abs=1e-3), their[1])
    assert figures["colours"]["acc,none"] == expected["results"]["colours"]["acc,none"]


@pytest.mark.habit("evaluate", "--apply-chat-template for a base model", "pointer", "leave it out")
def test_a_model_without_a_chat_format_cannot_be_asked_with_one(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.harness import Asking

    model, tokenizer = load_model(str(learned / "run"), device="cpu")
    assert tokenizer.chat_template is None
    with pytest.raises(RequestError, match="no chat template to ask with"):
        run_tasks(model, tokenizer, ["colours"], asking=Asking(apply_chat_template=True))


def test_a_question_may_hold_unicodes_line_separators(tmp_path: Path) -> None:
    question = {"question": "one\u2028two\x85three", "choices": ["a", "b"], "answer": 1}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(question, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert read_questions(tmp_path / "quiz.jsonl")[0].question == question["question"]
