"""Watching a model learn: the page says what the run's files and tensors say, follows a run that goes on, and names
what is damaged.
"""

from __future__ import annotations

import http.client
import json
import math
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from chromium import chromium
from click.testing import CliRunner
from test_explain_page_browser import listen, near, said
from test_train_record import lines, recorded_run
from train_worker import STEPS

from pellucid.auto import open_model, tokenizer_of
from pellucid.base.errors import CheckpointError, PellucidError
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.cli.app import app
from pellucid.cli.runs.explain_run import is_run, latest_model
from pellucid.explain.show.html import write_training_page
from pellucid.explain.show.mathml import mathml
from pellucid.explain.show.server import PageServer
from pellucid.explain.show.view import View
from pellucid.explain.subject import Subject
from pellucid.explain.training.formulas import FORMULAS
from pellucid.explain.training.run_folder import MEMORY, RunFolder
from pellucid.explain.training.view import Training, TrainingOnly, by_distance, watch_run
from pellucid.model.load import load_decoder, to_array
from pellucid.train.runs.record import ABOUT, BATCH, METRICS, SAMPLES, SNAPSHOTS, WEIGHTS

TEXT = "To be, or not to be: that is the question.\n" * 60
SIZES = {
    "tokenizer": "char",
    "depth": 2,
    "d-model": 16,
    "num-heads": 2,
    "context-len": 16,
    "batch-size": 4,
    "warmup-steps": 2,
    "threads": 1,
}
TIMES = {
    "steps": 12,
    "save-every": 4,
    "sample-every": 6,
    "eval-every": 6,
    "record-every": 3,
    "lr": 1e-2,
    "prompt": "To",
}


def pellucid(*arguments: object) -> None:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, tiny run, as a person starts it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "book.txt").write_text(TEXT)
    flags = [word for name, value in {**SIZES, **TIMES}.items() for word in (f"--{name}", value)]
    pellucid("pretrain", "-d", folder / "book.txt", *flags, "-o", folder / "book", "-q")
    return folder / "book"


@pytest.fixture(scope="module")
def training(run: Path) -> Training:
    return Training(RunFolder(run))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def opened(browser: Any, url: str, **settings: Any) -> tuple[Any, list[str]]:
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", "locale": "en-GB", **settings}
    )
    page = context.new_page()
    complaints = listen(page)
    page.goto(url)
    page.wait_for_selector("#training [data-snapshot]")
    return page, complaints


# --- answers
# ------------------------------------------------------------------------------------------------------------


def test_curves_are_the_metrics(run: Path, training: Training) -> None:
    metrics, curves = lines(run / METRICS), training.answer("curves", {})
    assert curves["step"] == [its["step"] for its in metrics]
    for name, key in (("loss", "loss"), ("low", "loss"), ("high", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm")):
        assert curves[name] == pytest.approx([its[key] for its in metrics])
    assert curves["tokens_per_second"] == pytest.approx([its["tokens"] / its["seconds"] for its in metrics])
    assert curves["validation"] == [[its["step"], its["val_loss"]] for its in metrics if "val_loss" in its]
    mean = 0.0
    for t, its in enumerate(metrics, 1):  # the formula beneath the picture
        mean += max(1 / MEMORY, 5 / (t + 4)) * (its["loss"] - mean)
    assert curves["smooth"][-1] == pytest.approx(mean)
    assert training.answer("state", {})["step"] == 12
    assert training.answer("state", {})["finished"]


def test_a_long_run_comes_as_means_of_buckets_with_their_extremes(tmp_path: Path) -> None:
    loss = [5 / (1 + step / 100) + 0.1 * math.sin(step) for step in range(1, 30_001)]
    made = [
        {"step": step, "loss": its, "lr": 1e-3, "grad_norm": 1.0, "tokens": 10, "seconds": 0.5}
        for step, its in enumerate(loss, 1)
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(its) + "\n" for its in made))
    curves = Training(RunFolder(tmp_path)).answer("curves", {})
    assert len(curves["step"]) < 1500
    assert curves["step"][:20] == list(range(1, 21)), "the beginning step by step, for the logarithmic axis"
    assert curves["step"][-1] == 30_000
    first = 0
    for last, mean, low, high in zip(curves["step"], curves["loss"], curves["low"], curves["high"], strict=True):
        part = loss[first:last]
        assert (mean, low, high) == pytest.approx((sum(part) / len(part), min(part), max(part)))
        first = last


def test_parts_of_layers_are_the_lengths_of_their_matrices(run: Path, training: Training) -> None:
    names = json.loads((run / ABOUT).read_text())["weights"]
    line, its = lines(run / WEIGHTS)[2], training.answer("weights", {})
    assert its["steps"] == [1, 3, 6, 9, 12]
    row = its["rows"].index("layers.1.mlp")
    mine = [
        i for i, weight in enumerate(names) if weight["name"].startswith("layers.1.mlp.") and len(weight["shape"]) == 2
    ]
    assert len(mine) >= 2
    assert its["grad"][row][2] == pytest.approx(math.hypot(*(line["grad"][i] for i in mine)))
    assert its["ratio"][row][2] == pytest.approx(
        math.hypot(*(line["update"][i] for i in mine)) / math.hypot(*(line["weight"][i] for i in mine))
    )
    each = training.answer("weights", {"each": "1"})
    assert each["rows"] == [weight["name"] for weight in names]
    assert each["weight"][mine[0]][2] == pytest.approx(line["weight"][mine[0]])


def test_embeddings_are_seen_from_one_side_that_of_the_last_snapshot(run: Path, training: Training) -> None:
    its = training.answer("embedding", {})
    rows = {
        step: SafetensorsFile(run / SNAPSHOTS / f"step-{step:08d}.safetensors")["embedding"].data.astype(np.float64)
        for step in its["steps"]
    }
    last = rows[12] - rows[12].mean(0)
    values, vectors = np.linalg.eigh(last.T @ last)
    assert its["share"] == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-3)
    for step, points in zip(its["steps"], its["points"], strict=True):
        expected = (rows[step] - rows[step].mean(0)) @ vectors[:, [-1, -2]]
        for axis in (0, 1):
            assert np.abs(np.abs(np.array(points)[:, axis]) - np.abs(expected[:, axis])).max() < 1e-3


def test_a_snapshot_tells_losses_guesses_and_how_far_heads_look(run: Path, training: Training) -> None:
    found, its = SafetensorsFile(run / SNAPSHOTS / "step-00000012.safetensors"), training.answer("snapshot/12", {})
    assert its["nll"] == pytest.approx(found["nll"].data.tolist())
    pattern = found["attention.1"].data.astype(np.float32)
    assert training.tile("attention.12.1", {}).data.reshape(pattern.shape) == pytest.approx(pattern)
    size = pattern.shape[-1]
    mean = sum(pattern[0, i, i - 2] for i in range(2, size)) / (size - 2)
    assert its["distance"][1][0][2] == pytest.approx(mean, rel=1e-3)
    assert by_distance(np.tril(np.ones((1, 4, 4)))).tolist() == [[1.0] * 4]
    table = found["embedding"].data.astype(np.float32)
    cosine = table @ table[3] / np.linalg.norm(table, axis=1) / np.linalg.norm(table[3])
    assert its["near"][3] == [i for i in np.argsort(-cosine, kind="stable").tolist() if i != 3][:4]


def test_texts_and_batch_are_those_of_the_run(run: Path, training: Training) -> None:
    assert training.answer("samples", {}) == lines(run / SAMPLES)
    its, kept = training.answer("batch", {}), json.loads((run / BATCH).read_text())
    assert [[token["loss"] for token in row] for row in its["rows"]] == kept["loss"]
    text = "".join(token["text"] for token in its["rows"][0])
    assert text in TEXT * 2


def test_every_picture_has_a_formula_that_can_be_set_and_words_in_both_languages() -> None:
    from pellucid.explain.show.page import page_files

    for latex in FORMULAS.values():
        mathml(latex)
    code = "".join(page_files()[f"sections/{name}.js"].decode() for name in ("training", "snapshots"))
    names = [part.split('"')[0] for part in code.split('picture(app, info, "')[1:]]
    assert len(names) >= 7
    for language in ("en", "zh"):
        words = page_files()[f"words.{language}.js"].decode()
        assert all(
            f"{name}_name:" in words and f"{name}_says:" in words
            for name in [*names, "ratio", "grad", "weight", "samples", "margin", "accuracy"]
        )


def test_the_size_of_the_stream_is_each_snapshot_s(training: Training) -> None:
    its, steps = training.answer("stream", {}), training.answer("state", {})["snapshots"]
    assert its["steps"] == steps
    assert [len(row) for row in its["rms"]] == [len(steps)] * 3, "before the first of two layers, and after each"
    for place, step in enumerate(steps):
        assert [row[place] for row in its["rms"]] == pytest.approx(training.answer(f"snapshot/{step}", {})["stream"])


# --- a folder that grows, is resumed, or is damaged -------------------------------------------------------------------


def test_a_growing_file_is_read_on_and_one_written_anew_is_read_anew(tmp_path: Path) -> None:
    path, folder = tmp_path / METRICS, RunFolder(tmp_path)
    line = '{"step": %d, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 4, "seconds": 1.0}\n'
    path.write_text(line % 1 + line % 2 + (line % 3)[:20])
    folder.refresh()
    assert folder.step == 2, "half a line is still on its way"
    with open(path, "a") as file:
        file.write((line % 3)[20:] + line % 4)
    folder.refresh()
    assert list(folder.metrics["step"]) == [1, 2, 3, 4]
    path.with_suffix(".new").write_text(line % 1 + line % 2)
    path.with_suffix(".new").replace(path)  # as resuming does
    folder.refresh()
    assert list(folder.metrics["step"]) == [1, 2]


def test_a_loss_that_is_no_number_is_shown_as_none(tmp_path: Path) -> None:
    line = (
        '{"step": 1, "loss": NaN, "lr": 0.1, "grad_norm": Infinity, '
        '"tokens": 4, "seconds": 1.0, "skipped": "the loss is nan"}\n'
    )
    (tmp_path / METRICS).write_text(line)
    curves = Training(RunFolder(tmp_path)).answer("curves", {})
    assert curves["loss"] == curves["grad_norm"] == [None]
    assert curves["skipped"] == [[1, "the loss is nan"]]


@pytest.mark.parametrize(
    ("name", "content", "question", "message"),
    [
        (METRICS, '{"step": 1}\n', "state", r"metrics.jsonl, line 1"),
        (METRICS, "[1, 2]\n", "state", r"line 1.*expected a JSON object"),
        (
            METRICS,
            '{"step": "x", "loss": 1, "lr": 1, "grad_norm": 1, "tokens": 1, "seconds": 1}\n',
            "curves",
            "expected numbers",
        ),
        (METRICS, "\0\0\0\n", "curves", "line 1"),
        (METRICS, "[" * 100_000 + "\n", "curves", "line 1"),
        (
            WEIGHTS,
            '{"step": 1, "grad": [1], "update": [1], "weight": [1, 2], "seconds": 0}\n',
            "weights",
            "different numbers of weights",
        ),
        (
            WEIGHTS,
            '{"step": 1, "grad": [1], "update": [1], "weight": [1], "seconds": 0}\n',
            "weights",
            "other weights than it holds",
        ),
        (SAMPLES, '{"step": 1, "text": 5}\n', "samples", "text is absent or no str"),
        (BATCH, '{"step": 1, "shape": [1, 2], "ids": [[1]]}', "batch", "pieces is absent"),
        (BATCH, '{"step": 1', "batch", "not valid JSON"),
        (ABOUT, '{"num_steps": 10}', "", "model is absent"),
        (ABOUT, "[]", "", "expected a JSON object"),
    ],
)
def test_a_damaged_record_is_named(
    tmp_path: Path, run: Path, name: str, content: str, question: str, message: str
) -> None:
    for path in (METRICS, ABOUT, WEIGHTS, SAMPLES, BATCH):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((run / path).read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        Training(RunFolder(tmp_path)).answer(question, {})


def test_a_damaged_snapshot_is_named_and_no_path_leads_out(run: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / SNAPSHOTS
    snapshots.mkdir(parents=True)
    whole = (run / SNAPSHOTS / "step-00000012.safetensors").read_bytes()
    (snapshots / "step-00000001.safetensors").write_bytes(whole[:-50])
    (snapshots / "step-00000002.safetensors").write_bytes(b"\xff" * 8 + whole[8:])
    save_safetensors(snapshots / "step-00000003.safetensors", {"nll": to_array(torch.zeros(2, 2))})
    with open(snapshots / "step-00000004.safetensors", "wb") as file:
        file.truncate(2**30)
    (snapshots / "step-x.safetensors").write_bytes(b"")
    training = Training(RunFolder(tmp_path))
    assert training.answer("state", {})["snapshots"] == [1, 2, 3, 4]
    for step in (1, 2, 3, 4, 5):
        with pytest.raises(PellucidError):
            training.answer(f"snapshot/{step}", {})
    for name in ("../12", "12/..", "-1", "1e3", ""):
        with pytest.raises(PellucidError, match="by its step"):
            training.answer(f"snapshot/{name}", {})
    with pytest.raises(PellucidError, match="no such picture"):
        Training(RunFolder(run)).tile("nll.12", {})


def test_damage_is_one_clear_line_of_the_command(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / METRICS).write_text('{"step": tru\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 1"):
        pellucid("explain", tmp_path / "run", "--html", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# --- the command
# --------------------------------------------------------------------------------------------------------


def test_a_run_opens_with_its_model_its_latest_checkpoint_or_alone(run: Path, tmp_path: Path) -> None:
    assert is_run(str(run))
    assert not is_run("To be, or not to be")
    assert latest_model(run) == run
    unfinished = tmp_path / "run"
    (unfinished / "checkpoints").mkdir(parents=True)
    (unfinished / METRICS).write_bytes((run / METRICS).read_bytes())
    assert latest_model(unfinished) is None
    pellucid("explain", unfinished, "--html", tmp_path / "alone.html")
    (unfinished / "checkpoints/step-00000008").symlink_to(run / "checkpoints/step-00000008")
    latest = latest_model(unfinished)
    assert latest is not None
    assert latest.name == "step-00000008"
    pellucid("explain", unfinished, "--html", tmp_path / "with.html")
    assert (tmp_path / "with.html").stat().st_size > (tmp_path / "alone.html").stat().st_size


# --- the page
# -----------------------------------------------------------------------------------------------------------


def test_the_offline_page_tells_the_run_and_explains_its_model(
    run: Path, browser: Any, tmp_path: Path, training: Training
) -> None:
    pellucid("explain", run, "--html", tmp_path / "page.html")
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", locale="en-GB")
    page = context.new_page()
    complaints = listen(page)
    page.goto((tmp_path / "page.html").as_uri())
    page.click('#map-nav a[data-goto="training"]')
    page.wait_for_selector("#training [data-snapshot]")
    assert page.locator('#training [data-state="step"]').text_content().split() == ["12", "/", "12"]
    assert page.locator("h1").text_content() == "What book does with your sentence"
    scrub(page, 0)
    assert page.locator("#training [data-snapshot]").get_attribute("data-snapshot") == "0"
    assert page.locator("#training .texts article").all_text_contents()[-1].endswith(lines(run / SAMPLES)[-1]["text"])
    context.close()
    assert complaints == []


def test_a_small_file_keeps_the_ends_of_the_run(training: Training, tmp_path: Path, browser: Any) -> None:
    write_training_page(training, tmp_path / "whole.html")
    size = (tmp_path / "whole.html").stat().st_size
    write_training_page(training, tmp_path / "small.html", max_bytes=size - 20_000)
    assert (tmp_path / "small.html").stat().st_size <= size - 20_000
    page, complaints = opened(browser, (tmp_path / "small.html").as_uri())
    last = page.locator("#training [data-snapshot]").get_attribute("data-snapshot")
    ends = page.evaluate(
        "[...document.querySelectorAll('.scrub-ticks span')].map(its => its.textContent).filter(Boolean)"
    )
    assert (ends[0], last) == ("0", "12")
    assert (
        int(page.locator(".scrubber input").get_attribute("max")) < len(training.answer("state", {})["snapshots"]) - 1
    )
    page.context.close()
    assert complaints == []


def scrub(page: Any, to: int) -> None:
    before = page.locator("#training [data-snapshot]").get_attribute("data-snapshot")
    page.locator(".scrubber input").evaluate(
        "(its, to) => { its.value = to; its.dispatchEvent(new Event('input')); }", to
    )
    page.wait_for_function(
        "was => document.querySelector('#training [data-snapshot]').dataset.snapshot !== was", arg=before
    )
    page.wait_for_timeout(100)


@pytest.fixture(scope="module")
def watched(run: Path) -> Iterator[str]:
    with watch_run(run) as url:
        yield url


def test_the_pages_numbers_are_those_of_the_files(watched: str, browser: Any, run: Path, training: Training) -> None:
    page, complaints = opened(browser, watched)
    metrics, curves = lines(run / METRICS), training.answer("curves", {})
    chart = page.locator('[data-picture="loss"] .curves')
    chart.focus()
    chart.press("Home")
    chart.press("ArrowRight")  # step 2, on every curve
    told = page.locator('[data-picture="loss"] output').text_content()
    assert told.startswith("step 2: loss ")
    assert near(told.split("loss ")[1].split(",")[0], metrics[1]["loss"])
    assert near(told.split("smoothed ")[1], curves["smooth"][1])
    assert near(page.locator('[data-picture="lr"] output').text_content().removeprefix("step 2: "), metrics[1]["lr"])
    assert near(
        page.locator('[data-picture="grad_norm"] output').text_content().removeprefix("step 2: "),
        metrics[1]["grad_norm"],
    )
    cells = page.locator(".reading [data-cell]").evaluate_all(
        "all => all.map(one => [one.textContent, +one.dataset.loss])"
    )
    kept = json.loads((run / BATCH).read_text())
    assert [loss for _, loss in cells] == pytest.approx([loss for row in kept["loss"] for loss in row])
    assert "".join(text for text, _ in cells[:15]).replace("␣", " ").replace("↵", "\n") == "".join(
        kept["pieces"][0][1:]
    )
    for index, step in ((0, 0), (5, training.answer("state", {})["snapshots"][5])):
        scrub(page, index)
        its = training.answer(f"snapshot/{step}", {})
        shown = page.locator(".guesses [data-p]").evaluate_all("all => all.slice(1).map(one => +one.dataset.p)")
        assert shown == pytest.approx([math.exp(-nats) for nats in its["nll"]], rel=1e-5)
    page.context.close()
    assert complaints == []


def test_a_run_of_preferences_shows_how_held_back_pairs_are_judged(run: Path, browser: Any, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "dpo")
    written = lines(run / METRICS)
    for line, margin, accuracy in ((written[5], 0.25, 0.75), (written[11], -0.125, 0.5)):
        line |= {"val_margin": margin, "val_accuracy": accuracy}
    (tmp_path / "dpo" / METRICS).write_text("".join(json.dumps(line) + "\n" for line in written))
    assert Training(RunFolder(tmp_path / "dpo")).answer("curves", {})["preferences"] == [
        [6, 0.25, 0.75],
        [12, -0.125, 0.5],
    ]
    with watch_run(tmp_path / "dpo") as url:
        page, complaints = opened(browser, url)
        assert page.locator('[data-picture="margin"] output').text_content() == "step 12: −0.125"
        assert page.locator('[data-picture="accuracy"] output').text_content() == "step 12: 50.0 %"
        chart = page.locator('[data-picture="margin"] .curves')
        chart.focus()
        chart.press("Home")
        assert page.locator('[data-picture="margin"] output').text_content() == "step 6: 0.250"
        assert page.locator('[data-picture="accuracy"] output').text_content() == "step 6: 75.0 %", "one cursor for all"
        page.context.close()
    assert complaints == []


def test_keys_and_pointer_ask_the_heat_map_the_batch_and_the_tokens(
    watched: str, browser: Any, training: Training
) -> None:
    page, complaints = opened(browser, watched)
    heat = page.locator('[data-picture="ratio"] .matrix')
    heat.focus()
    heat.press("ArrowDown")
    heat.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('.tip-head').textContent.includes('step 3')")
    its = training.answer("weights", {})  # the first key chose the first cell, the second went one to the right
    assert said(page.locator(".tip-value").text_content()) == pytest.approx(its["ratio"][0][1], rel=0.06), "two figures"
    page.keyboard.press("Tab")
    page.locator('.switch button:text-is("gradient")').click()
    page.wait_for_selector('[data-picture="grad"] .matrix')
    reading = page.locator(".reading")
    reading.focus()
    reading.press("ArrowRight")
    assert "−log p" in page.locator('[data-picture="batch"] output').text_content()
    scatter = page.locator(".scatter")
    scatter.focus()
    scatter.press("ArrowRight")
    tokens = training.answer("", {})["about"]["tokens"]
    near_ids = training.answer("snapshot/12", {})["near"][1]
    named = page.locator('[data-picture="embedding"] output').text_content()
    assert all(tokens[i]["text"].replace(" ", "␣").replace("\n", "↵") in named for i in near_ids)
    page.locator(".attention-then .heads button").nth(1).click()
    page.wait_for_function(
        "() => document.querySelectorAll('.attention-then .heads button')[1].getAttribute('aria-pressed') === 'true'"
    )
    page.locator('.switch button:text-is("log steps")').click()
    page.locator(".scrubber button").click()  # plays from the start
    page.wait_for_function("() => +document.querySelector('#training [data-snapshot]').dataset.snapshot < 12")
    page.context.close()
    assert complaints == []


@pytest.mark.parametrize("width", [360, 2560])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_nothing_is_wider_than_the_screen(watched: str, browser: Any, width: int, locale: str) -> None:
    page, complaints = opened(
        browser, watched, viewport={"width": width, "height": 800}, locale=locale, color_scheme="dark"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#training-title").text_content() == (
        "训练：这些数从哪里来" if locale == "zh-CN" else "Training: where the numbers come from"
    )
    page.context.close()
    assert complaints == []


def test_a_run_is_watched_while_it_goes_on(browser: Any, tmp_path: Path) -> None:
    """The page opens before the first step, grows with the run, and ends with it."""
    gate, paused = threading.Event(), threading.Event()
    run = recorded_run(tmp_path, every=2)

    def on_step(step: Any) -> None:
        if step.step == 8:
            paused.set()
            assert gate.wait(60)

    with watch_run(tmp_path) as url:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", locale="en-GB")
        page = context.new_page()
        complaints = listen(page)
        page.goto(url)
        page.wait_for_selector('#training [data-state="step"]')
        assert page.locator(".lamp").text_content() == "learning"
        thread = threading.Thread(target=lambda: run.run(on_step), daemon=True)
        thread.start()
        assert paused.wait(60)
        page.wait_for_function(
            "() => document.querySelector('[data-state=step]').textContent.startsWith('8 ')", timeout=15_000
        )
        page.wait_for_selector("#training [data-snapshot]")
        assert page.locator(".lamp").text_content() == "learning"
        gate.set()
        thread.join(60)
        page.wait_for_function("() => document.querySelector('.lamp').textContent === 'finished'", timeout=15_000)
        page.wait_for_function(
            "last => document.querySelector('#training [data-snapshot]').dataset.snapshot === last", arg=str(STEPS)
        )
        page.wait_for_function(
            "step => document.querySelector('[data-picture=loss] output').textContent.startsWith(`step ${step}:`)",
            arg=STEPS,
        )
        context.close()
    assert complaints == []


def test_the_watching_server_answers_its_own_page_alone(watched: str) -> None:
    address = urlsplit(watched)
    port, page = address.port, address.path.rstrip("/")
    for headers, path, status in (
        ({"Host": "evil.example"}, "/api/training/state", 403),
        ({"Host": f"127.0.0.1:{port}", "Origin": "http://evil.example"}, "/api/training/state", 403),
        ({"Host": f"127.0.0.1:{port}"}, "/api/training/state", 200),
        ({"Host": f"127.0.0.1:{port}"}, "/api/cell/logits", 404),
        ({"Host": f"127.0.0.1:{port}"}, "/api/training/snapshot/..%2f..%2fabout", 400),
        ({"Host": f"127.0.0.1:{port}"}, "/api/tile/training.attention.12.0", 200),
        ({"Host": f"127.0.0.1:{port}"}, "/api/tile/layers.0.pattern", 400),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("GET", page + path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == status, path
        connection.close()


def test_a_model_is_explained_beside_its_training(run: Path, training: Training) -> None:
    checkpoint = open_model(run)
    subject = Subject.of(
        checkpoint, load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu"), tokenizer_of(checkpoint)
    )
    view = View(subject, "To be", training=training)
    assert view.answer("training/state", {})["step"] == 12
    assert view.tile("training.attention.12.0", {}).data.shape[1] == view.answer("training/snapshot/12", {})["length"]
    assert view.answer("run", {})["text"] == "To be"
    assert View(subject, "To be").answer("training", {}) is None


def test_only_training_has_no_model_to_ask(training: Training) -> None:
    view = TrainingOnly(training)
    assert view.answer("model", {}) is None
    with pytest.raises(PellucidError, match="no model"):
        view.order("trace", {"text": "a"})
    with PageServer(view) as server:
        assert server.url.startswith("http://127.0.0.1:")
