"""A training run's folder named as a model: a run that was stopped has its newest step to show, a finished one its
model.
"""

from __future__ import annotations

from pathlib import Path

from pellucid.base.notice import notice
from pellucid.checkpoint.adapters.adapter import CONFIG
from pellucid.checkpoint.find import NAMES

CHECKPOINTS, STATE = "checkpoints", "training.json"  # as train.runs.checkpoint writes them


def newest_step(folder: Path) -> Path | None:
    """The folder of a run's newest checkpoint; None for a folder that is no run, or holds a model itself."""
    if not (folder / CHECKPOINTS).is_dir() or any((folder / name).is_file() for name in (*NAMES, CONFIG)):
        return None
    # What a save that was killed left has a hidden name; the state is the last file that a save writes.
    steps = sorted(path.parent for path in (folder / CHECKPOINTS).glob(f"step-*/{STATE}"))
    if not steps:
        return None
    notice(f"{folder}: a run that is not done: its newest step, {int(steps[-1].name.removeprefix('step-')):,}")
    return steps[-1]
