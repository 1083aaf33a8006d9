"""``pellucid explain``: the walk, a step, a cell, as text and as JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pellucid.cli.explain import command
from pellucid.cli.runs.explain_print import _plain_formula

PROMPT = "Once upon a time, there was a little girl named"


@pytest.fixture(scope="module")
def model(stories: Path) -> str:
    return str(stories / "stories260K.bin")


def run(model: str, *arguments: str, **given) -> Result:
    result = CliRunner().invoke(command, ["-m", model, *arguments], env={"COLUMNS": "80", "NO_COLOR": "1"}, **given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_walk_fits_80_columns_and_ends_with_the_checks(model: str) -> None:
    output = run(model, PROMPT).stdout
    assert all(len(line) <= 80 for line in output.splitlines())
    for expected in ("5 layers", '" named"', "would say", "looks most at", "What comes next", "all hold"):
        assert expected in output


def test_a_prompt_that_looks_like_a_folder_is_said_to_be_taken_as_text(model: str) -> None:
    assert "runs/shakespear is no folder" in run(model, "runs/shakespear").stderr
    assert "no folder" not in run(model, "and/or not").stderr


def test_the_walk_as_json_is_the_walk(model: str) -> None:
    walk = json.loads(run(model, PROMPT, "--json").stdout)
    assert walk["ok"] is True
    assert [layer["layer"] for layer in walk["layers"]] == [None, 0, 1, 2, 3, 4]
    assert walk["distribution"][0]["probability"] >= walk["distribution"][1]["probability"]
    assert walk["layers"][-1]["guesses"][0]["token"] == walk["distribution"][0]["token"]
    for layer in walk["layers"][1:]:
        assert 0 < layer["looks"][0]["share"] <= 1


@pytest.mark.parametrize(
    "step", ["embed", "q", "k_rot", "scores", "pattern", "mlp_act", "resid_post", "final", "logits"]
)
def test_a_step_is_shown_with_its_equation_and_numbers(model: str, step: str) -> None:
    path = step if step in ("embed", "final", "logits") else f"layers.2.{step}"
    output = run(model, PROMPT, "--step", path).stdout
    assert path in output
    assert "pellucid/model/" in output
    assert "\\" not in output
    shown = json.loads(run(model, PROMPT, "--step", path, "--json").stdout)
    assert shown["name"] == path
    assert shown["values"]


def test_a_cell_shows_its_operands(model: str) -> None:
    output = run(model, PROMPT, "--step", "layers.2.mlp_out", "--cell", "3,5").stdout
    assert "mlp_act[3," in output
    assert "down_proj[5," in output
    cell = json.loads(run(model, PROMPT, "--step", "layers.2.mlp_out", "--cell", "3,5", "--json").stdout)
    assert cell["recomputed"] == pytest.approx(cell["value"], abs=1e-5)


def test_a_layer_lists_its_steps_and_where_its_heads_look(model: str) -> None:
    output = run(model, PROMPT, "--layer", "-1").stdout
    assert "Layer 4" in output
    assert "mlp_act" in output
    assert json.loads(run(model, PROMPT, "--layer", "1", "--json").stdout)["heads"][0]["looks"]


def test_the_prompt_can_be_piped_in(model: str) -> None:
    assert '" named"' in run(model, input=PROMPT).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--step", "layers.9.z"), "layers are 0 to 4"),
        (("--step", "layers.0.z", "--cell", "0,x"), "whole numbers"),
        (("--cell", "0,1"), "--step"),
        (("--layer", "7"), "no step"),
        (("--position", "99"), "no such position"),
    ],
)
def test_what_is_not_there_is_said(model: str, arguments: tuple[str, ...], message: str) -> None:
    from pellucid.base.errors import PellucidError

    with pytest.raises(PellucidError, match=message):
        run(model, PROMPT, *arguments)


def test_nothing_in_a_prompt_is_markup_or_a_terminal_command(model: str) -> None:
    output = run(model, "[red]x[/] \x1b[2J", "--layer", "0").stdout + run(model, "[bold]y \x1b[31m").stdout
    assert "\x1b" not in output
    assert "[" in output


def test_formulas_are_readable_without_latex() -> None:
    assert (
        _plain_formula(r"n = \gamma \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta")
        == "n = γ ⊙ (x - μ) / (√(σ^2 + ε)) + β"
    )


def test_the_page_is_written_in_one_file(model: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run(model, PROMPT, "--html", str(page), "--max-size", "3", "--step", "layers.1.z", "--cell", "4,2,1")
    assert str(page) in result.stderr
    assert page.read_text().startswith("<!doctype html>")
    assert 100_000 < page.stat().st_size <= 3_000_000


def test_ones_own_target_is_scored(model: str) -> None:
    walk = json.loads(run(model, PROMPT, "--target", "T", "--json").stdout)
    assert walk["target"]["piece"] == " T"
    assert walk["target_rank"] > 1
    assert "your own target" in run(model, PROMPT, "--target", "T").stdout


def test_the_walk_says_why_the_first_token_and_not_the_second(model: str) -> None:
    walk = json.loads(run(model, PROMPT, "--json").stdout)
    first, second = (guess["probability"] for guess in walk["distribution"][:2])
    assert walk["why"]["difference"] == pytest.approx(math.log(first / second), abs=1e-4)
    assert walk["why"]["parts"]


def test_a_run_too_large_to_keep_is_kept_at_the_position_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(run(model, PROMPT, "--json").stdout)
    module = sys.modules["pellucid.explain.run"]
    check = module._check_memory

    def small(decoder, taps, shape, positions, max_bytes) -> None:
        check(decoder, taps, shape, positions, 300_000)

    monkeypatch.setattr(module, "_check_memory", small)
    part = json.loads(run(model, PROMPT, "--json").stdout)
    assert [layer["looks"][0]["position"] for layer in part["layers"][1:]] == [
        layer["looks"][0]["position"] for layer in whole["layers"][1:]
    ]
    assert [guess["token"] for guess in part["distribution"]] == [guess["token"] for guess in whole["distribution"]]
    assert part["why"] is None
    assert part["ok"]


def test_a_long_prompt_lists_its_beginning_and_its_end(model: str) -> None:
    output = run(model, " ".join([PROMPT] * 12)).stdout
    assert "more" in output
    assert all(len(line) <= 80 for line in output.splitlines())


def test_a_page_that_cannot_be_written_is_said_before_the_run(stories: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pellucid",
        "explain",
        "-m",
        str(stories / "stories260K.bin"),
        "Once",
        "--html",
        "/dev/null/page.html",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "cannot be written there" in result.stderr
    assert "Traceback" not in result.stderr
