"""``pellucid explain RUN_FOLDER``: the page of a training run, with the model it has come to, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import PellucidError

if TYPE_CHECKING:
    from pellucid.explain.subject import Subject
    from pellucid.explain.training.view import Training

SHOWN_TOKENS = 24  # of the text that snapshots look at: what the page opens with


def is_run(text: str | None) -> bool:
    """Whether this names a training run's folder, rather than being a prompt."""
    try:
        if not text or not Path(text).is_dir():
            return False
    except (OSError, ValueError):  # too long for a path, or no name that a file could have
        return False
    from pellucid.explain.training.run_folder import RunFolder

    return RunFolder.is_run(text)


def training_of(model: str) -> Training | None:
    """The record of the run that made a model, where its folder is a run's."""
    if not is_run(model):
        return None
    from pellucid.explain.training.run_folder import RunFolder
    from pellucid.explain.training.view import Training

    return Training(RunFolder(model))


def looks_like_a_folder(text: str) -> bool:
    """Whether somebody who wrote this may have meant a path: one word with a slash in it."""
    return "/" in text and len(text.split()) == 1


def explain_run(
    folder: Path,
    prompt: str | None,
    load: Callable[[str], Subject],
    *,
    html: str | None,
    max_size: float,
    port: int,
    say: Callable[[str], Any],
) -> None:
    """Write the page, or serve it until interrupted. ``load`` gives the model of a folder. Raises: CheckpointError for
    a damaged record.
    """
    training = training_of(str(folder))
    assert training is not None
    training.answer("state", {})  # a damaged record is said before anything is loaded
    subject = _subject(folder, load, say)
    if subject is None:
        _training_alone(training, html, max_size, port)
    else:
        _with_model(training, subject, prompt, html, max_size, port)


def latest_model(folder: Path) -> Path | None:
    """The finished model of a run, else its latest checkpoint, else nothing."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return folder
    from pellucid.train.runs.checkpoint import Checkpoints

    return next(reversed(Checkpoints(folder / "checkpoints").steps()), None)


def _subject(folder: Path, load: Callable[[str], Subject], say: Callable[[str], Any]) -> Subject | None:
    model = latest_model(folder)
    if model is None:
        return None
    try:
        return load(str(model))
    except PellucidError as error:  # a checkpoint may be pruned under our hands; what was recorded still is there
        say(f"the model cannot be shown, its training can: {error}")
        return None


def _training_alone(training: Training, html: str | None, max_size: float, port: int) -> None:
    if html is not None:
        from pellucid.explain.show.html import write_training_page

        write_training_page(training, html, max_bytes=int(max_size * 1e6))
    else:
        from pellucid.explain.show.server import serve_page
        from pellucid.explain.training.view import TrainingOnly

        serve_page(TrainingOnly(training), port, open_browser=True)


def _with_model(
    training: Training, subject: Subject, prompt: str | None, html: str | None, max_size: float, port: int
) -> None:
    about = training.answer("", {})["about"]
    text: Any = prompt or (None if about is None else [token["id"] for token in about["text"][:SHOWN_TOKENS]])
    record = subject.record(text or "Once upon a time")
    if html is not None:
        from pellucid.explain.show.html import write_page

        write_page(record, html, max_bytes=int(max_size * 1e6), subject=subject, training=training)
    else:
        from pellucid.explain.show.server import serve_page
        from pellucid.explain.show.view import View

        serve_page(View(subject, first=record, training=training), port, open_browser=True)
