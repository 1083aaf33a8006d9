"""What is scored after what: the same log-likelihoods as transformers gives by the harness's convention; numbers that
are not finite are named.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
import tokenizers
import torch
import transformers
from click.testing import CliRunner, Result
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from pellucid.auto import load_model, open_model
from pellucid.base.errors import ConfigError, NotFiniteError, PellucidError, RequestError
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.cli.app import app
from pellucid.harness import as_harness_model, generation
from pellucid.model.load import load_decoder
from pellucid.train.measure.choices import encode_pair, prefix_ids, score
from pellucid.train.measure.compare import compare
from pellucid.train.measure.evaluate import evaluate
from pellucid.train.measure.finite import check_weights

WORDS = "The sky is blue. The grass is green. Is the sky green? No, the sky is blue and so is the sea."
# Contexts and continuations: ends in a space, empty, white space alone, begins with BOS's own text.
ROWS = [
    ("The sky is", " blue."),
    ("The grass is ", "green."),
    ("", "The sea"),
    ("  ", "The sea"),
    ("<s>The sky", " is green? No, the sea is blue."),
    ("Is the sky green?\n\n", "No"),
]


def save(folder: Path, *, adds_bos: bool) -> Path:
    """A tiny model whose tokenizer names a BOS, and puts it before a text or does not."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    made.train_from_iterator([WORDS] * 3, trainer)
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,  # so that rows differ by nats, not by thousandths
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    root = tmp_path_factory.mktemp("models")
    return {adds: save(root / f"bos-{adds}", adds_bos=adds) for adds in (True, False)}


class Reference:
    """The harness's HFLM in a few lines: transformers' tokenizer called as it is, transformers' float32 logits."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=not text.startswith("<s>"))

    @torch.no_grad()
    def total(self, before: list[int], after: list[int]) -> tuple[float, bool]:
        ids = torch.tensor([before + after])
        log_p = self.model(ids[:, :-1]).logits.float().log_softmax(-1)[0, len(before) - 1 :]
        greedy = bool((log_p.argmax(-1) == ids[0, len(before) :]).all())
        return log_p.gather(1, ids[0, len(before) :, None]).sum().item(), greedy

    def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        if context == "":
            return self.total(
                [self.tokenizer.bos_token_id], self.tokenizer.encode(continuation, add_special_tokens=False)
            )
        kept = context.rstrip()
        before = self.encode(kept)
        after = self.encode(context + continuation)[len(before) :]
        return self.total(before or [self.tokenizer.bos_token_id], after)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_every_row_scores_what_transformers_gives_by_the_harness_convention(
    folders: dict[bool, Path], adds_bos: bool
) -> None:
    model, tokenizer = load_model(str(folders[adds_bos]), device="cpu")
    reference = Reference(folders[adds_bos])
    scores = score(model, [encode_pair(tokenizer, *row) for row in ROWS])
    for row, one in zip(ROWS, scores, strict=True):
        log_p, greedy = reference.loglikelihood(*row)
        assert one.log_p == pytest.approx(log_p, abs=1e-4), row
        assert one.is_greedy == greedy


def test_a_bos_where_the_tokenizer_puts_none_would_be_seen_in_the_numbers(folders: dict[bool, Path]) -> None:
    model, tokenizer = load_model(str(folders[False]), device="cpu")
    context, continuation = encode_pair(tokenizer, "The sky is", " blue.")
    plain, with_bos = score(model, [(context, continuation), ([0, *context], continuation)])
    assert abs(plain.log_p - with_bos.log_p) > 0.1


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_prefix_is_what_the_tokenizer_itself_puts_before_a_text(folders: dict[bool, Path], adds_bos: bool) -> None:
    tokenizer = load_model(str(folders[adds_bos]), device="cpu")[1]
    assert prefix_ids(tokenizer, "The sky") == ([0] if adds_bos else [])
    assert prefix_ids(tokenizer, "<s>The sky") == []


def pellucid(*words: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_text_is_scored_as_its_tokens_stand_and_bytes_of_tokens_unscored_do_not_count(
    folders: dict[bool, Path], adds_bos: bool, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("The sea is blue.")
    words = ["evaluate", "-m", folders[adds_bos], "-d", tmp_path / "text.txt", "--json", "-t", 1, "--device", "cpu"]
    figures = json.loads(pellucid(*words).stdout)
    reference = Reference(folders[adds_bos])
    ids = reference.encode("The sea is blue.")
    log_p, _ = reference.total(ids[:1], ids[1:])
    assert figures["nll"] == pytest.approx(-log_p, abs=1e-4)
    assert figures["num_scored"] == len(ids) - 1
    skipped = 0 if adds_bos else len(reference.tokenizer.decode(ids[:1]))
    assert figures["num_bytes"] == len("The sea is blue.") - skipped


def test_what_cannot_be_conditioned_on_or_does_not_fit_is_refused(folders: dict[bool, Path]) -> None:
    model, tokenizer = load_model(str(folders[False]), device="cpu")
    with pytest.raises(RequestError, match="empty continuation"):
        encode_pair(tokenizer, "The sky", "")
    with pytest.raises(RequestError, match=r"longer than the model's context(.|\n)*32"):
        score(model, [([1], list(range(33)))])


# --- numbers that are not finite --------------------------------------------------------------------------------------


def broken(folder: Path, to: Path, name: str, value: float) -> Path:
    """A copy of the model with one number replaced."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    file = SafetensorsFile(to / "model.safetensors")
    array = file[name]
    array.data[3, 2] = value
    header = 8 + int.from_bytes((to / "model.safetensors").read_bytes()[:8], "little")
    entry = json.loads((to / "model.safetensors").read_bytes()[8:header])[name]
    with open(to / "model.safetensors", "r+b") as out:
        out.seek(header + entry["data_offsets"][0])
        out.write(array.data.tobytes())
    return to


@pytest.mark.parametrize("matrix", ["k_proj", "o_proj"])
def test_a_weight_that_is_nan_is_named_by_every_measurement(
    folders: dict[bool, Path], tmp_path: Path, matrix: str
) -> None:
    """k's is hidden by torch's kernel: the logits are finite."""
    name = f"model.layers.1.self_attn.{matrix}.weight"
    model = broken(folders[True], tmp_path / "broken", name, math.nan)
    (tmp_path / "text.txt").write_text(WORDS)
    (tmp_path / "quiz.jsonl").write_text('{"question": "The sky is", "choices": ["blue", "green"], "answer": 0}')
    for what in (["-d", tmp_path / "text.txt"], ["--choices", tmp_path / "quiz.jsonl"]):
        with pytest.raises(NotFiniteError, match=rf"layers\.1\.attention\.{matrix}\.weight: nan at \(3, 2\)"):
            pellucid("evaluate", "-m", model, *what, "-t", 1, "--device", "cpu", "-q")


def test_a_value_that_overflows_is_named_with_its_layer(folders: dict[bool, Path]) -> None:
    model, _ = load_model(str(folders[True]), device="cpu")
    with torch.no_grad():
        model.get_parameter("layers.1.mlp.down_proj.weight").mul_(1e38)
    check_weights(model)
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp_out"):
        evaluate(model, [5, 6, 7, 8], 4)
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp_out"):
        score(model, [([5, 6], [7])])
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp_out"):
        compare(model, model, [5, 6, 7, 8], 4, context_len=32, stride=32)


# --- options ----------------------------------------------------------------------------------------------------------


def save_q8(folder: Path, to: Path) -> Path:
    """The model as llama.cpp writes it, its matrices in blocks of q8_0."""
    to.mkdir()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, names = model.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    writer = gguf.GGUFWriter(to / "q8.gguf", "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        for matrix, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if f".{matrix}." in name:  # as convert_hf_to_gguf.py permutes them
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        wanted = names.get_name(name, try_suffixes=(".weight",))
        if "_proj" in name and values.shape[1] % 32 == 0:
            blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{wanted}", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(f"{wanted}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def test_quantizing_what_is_in_blocks_already_is_refused_and_so_is_a_model_against_itself(
    folders: dict[bool, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(WORDS)
    quantized = save_q8(folders[True], tmp_path / "q8")
    words = ["evaluate", "-d", tmp_path / "text.txt", "--device", "cpu", "-t", 1, "-q"]
    for more in (["--quantize", "q4"], ["--against", "q4"], ["--quantize", "q8", "--against", "float32"]):
        with pytest.raises(RequestError, match=r"in blocks already \(q8_0\)"):
            pellucid(*words, "-m", quantized, *more)
    with pytest.raises(RequestError, match="exactly 0"):
        pellucid(*words, "-m", folders[True], "--against", "float32")
    models = []
    for path in (quantized, folders[True]):
        checkpoint = open_model(path)
        models.append(load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu"))
    ids = list(range(2, 32))
    assert 0 < compare(models[0], models[1], ids, 30, context_len=32, stride=32).mean_kl < 0.01, (
        "what blocks cost, beside the file"
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--choices", "QUIZ", "--stride", "4"], "--stride has no effect on --choices"),
        (["--choices", "QUIZ", "-c", "16"], "-c has no effect on --choices"),
        (["--choices", "QUIZ", "--task-folder", "x"], "--task-folder has no effect on --choices"),
        (["-d", "TEXT", "--limit", "3"], "--limit has no effect on -d"),
        (["-d", "TEXT", "-c", "64"], "-c is longer than the model's context"),
        (["-d", "TEXT", "--device", "abacus"], "the device 'abacus' cannot be used"),
    ],
)
def test_an_option_without_effect_is_refused(
    folders: dict[bool, Path], tmp_path: Path, words: list[str], named: str
) -> None:
    (tmp_path / "text.txt").write_text(WORDS)
    (tmp_path / "quiz.jsonl").write_text('{"question": "The sky is", "choices": ["blue", "green"], "answer": 0}')
    files = {"TEXT": tmp_path / "text.txt", "QUIZ": tmp_path / "quiz.jsonl"}
    with pytest.raises((RequestError, ConfigError), match=named):
        pellucid("evaluate", "-m", folders[True], "-t", 1, "-q", *(files.get(word, word) for word in words))


def test_every_option_of_evaluate_reaches_what_it_names(folders: dict[bool, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(f"{WORDS}\n--\n{WORDS[:40]}")
    (tmp_path / "text.jsonl").write_text(json.dumps({"body": WORDS}))
    lines = [{"question": "The sky is", "choices": ["blue", "green"], "answer": number} for number in (0, 1)]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def figures(*words: object, data: str = "text.txt") -> dict[str, Any]:
        shared = ["evaluate", "-m", folders[True], "--json", "-t", 1, "--device", "cpu"]
        return json.loads(pellucid(*shared, "-d", tmp_path / data, *words).stdout)

    usual = figures()
    assert figures("--dtype", "bfloat16")["nll"] != usual["nll"]
    assert figures("--quantize", "q4")["nll"] != usual["nll"]
    assert figures("--max-bytes", 20)["num_bytes"] == 20
    assert figures("-c", 8)["context_len"] == 8
    assert figures("--stride", 4)["stride"] == 4
    assert figures("--separator", "--")["num_bytes"] == usual["num_bytes"] - 3, "the line between is no text"
    assert figures("--text-field", "body", data="text.jsonl")["num_bytes"] == len(WORDS)
    shared = ["evaluate", "-m", folders[True], "--json", "--choices", tmp_path / "quiz.jsonl"]
    assert json.loads(pellucid(*shared, "--limit", 1).stdout)["num_questions"] == 1


# --- the harness: generation -----------------------------------------------------------------------------------------


def test_generation_settings_are_read_as_the_harness_reads_them() -> None:
    greedy = generation({"until": "\n"}, 100)
    assert greedy.until == ("\n",)
    assert greedy.sampling.greedy
    assert generation({"do_sample": False, "temperature": 0.7}, 100).sampling.greedy
    assert generation({"do_sample": True, "temperature": 0.0}, 100).sampling.greedy, "temperature 0 is greedy"
    assert generation({"temperature": 0}, 100).sampling.greedy
    drawn = generation({"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1}, 100, seed=3).sampling
    assert (drawn.greedy, drawn.temperature, drawn.top_k, drawn.top_p, drawn.min_p) == (False, 0.7, 5, 0.9, 0.1)
    assert drawn.seed == 3
    for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"):
        assert generation({name: 7}, 100).max_new_tokens == 7
    assert generation({"max_gen_toks": 5, "max_new_tokens": 7}, 100).max_new_tokens == 5
    assert generation({"num_beams": 1, "until": ["a", "b"]}, 100).until == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"max_gen_toks": 100}, "1 to 99"),
        ({"max_gen_toks": "7"}, "'7'"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"until": 5}, "until"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_a_generation_setting_that_is_not_understood_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(PellucidError, match=named):
        generation(settings, 100)


@pytest.fixture
def harness(folders: dict[bool, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adapter over a stand-in for lm-eval's base class, which holds no behaviour that is used."""
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", SimpleNamespace(LM=object))
    return as_harness_model(*load_model(str(folders[True]), device="cpu"))


def asked(*arguments: object) -> Any:
    return SimpleNamespace(args=arguments)


def test_repeats_of_a_sampled_task_differ_and_are_the_same_the_next_time(harness: Any) -> None:
    settings = {"temperature": 1.0, "max_gen_toks": 12}
    requests = [asked("The sky is", settings)] * 4
    answers = harness.generate_until(requests)
    assert len(set(answers)) > 1
    assert harness.generate_until(requests) == answers
    assert len(set(harness.generate_until([asked("The sky is", {"temperature": 0, "max_gen_toks": 12})] * 4))) == 1
    assert len(set(harness.generate_until([asked("The sky is", {**settings, "top_k": 1})] * 4))) == 1


def test_an_answer_ends_before_the_text_that_it_is_to_stop_at(harness: Any) -> None:
    (whole,) = harness.generate_until([asked("The sky is", {"max_gen_toks": 12})])
    (shorter,) = harness.generate_until([asked("The sky is", {"max_gen_toks": 12, "until": [whole[3]]})])
    assert shorter == whole[: whole.index(whole[3])]


def test_the_adapter_scores_rows_as_transformers_does(harness: Any, folders: dict[bool, Path]) -> None:
    reference = Reference(folders[True])
    for row, (log_p, greedy) in zip(ROWS, harness.loglikelihood([asked(*row) for row in ROWS]), strict=True):
        assert (log_p, greedy) == (pytest.approx(reference.loglikelihood(*row)[0], abs=1e-4), greedy)
    (rolling,) = harness.loglikelihood_rolling([asked("The sky is blue.")])
    ids = reference.tokenizer.encode("The sky is blue.")
    assert rolling == pytest.approx(reference.total([0], ids)[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_adapter_equals_the_harness_own_model(folders: dict[bool, Path], adds_bos: bool) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="make setup-long installs what this needs")
    theirs = huggingface.HFLM(pretrained=str(folders[adds_bos]), dtype="float32", device="cpu", batch_size=1)
    ours = as_harness_model(*load_model(str(folders[adds_bos]), device="cpu"))
    rows = [row for row in ROWS if row[0].strip() or not row[0]]  # HFLM asserts for white space alone
    pairs = zip(
        ours.loglikelihood([asked(*row) for row in rows]),
        theirs.loglikelihood([asked(*row) for row in rows]),
        strict=True,
    )
    for mine, their in pairs:
        assert mine == (pytest.approx(their[0], abs=1e-4), their[1])
    texts = [asked(WORDS), asked("The sea")]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-3)


def test_load_decoder_refuses_a_device_that_is_not_there(folders: dict[bool, Path]) -> None:
    checkpoint = open_model(str(folders[True]))
    with pytest.raises(ConfigError, match="cannot be used"):
        load_decoder(
            checkpoint.config, checkpoint.weights, device="cuda" if not torch.cuda.is_available() else "abacus"
        )
