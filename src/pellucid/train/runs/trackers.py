"""Where people watch their runs: Weights & Biases and MLflow, through their own libraries where these are installed.

Both stay on this machine unless they were told of a server: ``WANDB_MODE=online`` (or a ``WANDB_API_KEY``), and
``MLFLOW_TRACKING_URI``. A run that goes on goes on there, too: ``RUN/trackers.json`` keeps what it is called.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pellucid.base.errors import UnsupportedError
from pellucid.base.files import read_json, write_json
from pellucid.train.runs.tensorboard import figures

if TYPE_CHECKING:
    from pellucid.train.runs.run import Step

IDS = "trackers.json"


class Tracker(Protocol):
    """What is told of each step, and of samples of text."""

    def write(self, step: Step) -> None: ...

    def write_text(self, step: int, text: str) -> None: ...

    def close(self) -> None: ...


class WandbRun:
    """A run of Weights & Biases. Raises: UnsupportedError where wandb is not installed."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise UnsupportedError(
                "Weights & Biases is not installed", where="--wandb", remedy="pip install wandb"
            ) from None
        usual = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self.mode = os.environ.get("WANDB_MODE", usual)
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=project or "pellucid",
            name=folder.name,
            id=_id(folder, "wandb") or _keep(folder, "wandb", uuid.uuid4().hex[:12]),
            resume="allow" if self.mode == "online" else None,
            dir=str(folder),
            config=dict(settings),
            mode=self.mode,
            settings=wandb.Settings(silent=True, console="off"),
        )

    @property
    def where(self) -> str:
        directory = Path(self._run.dir).parent
        return f"W&B, {self.mode}: " + (self._run.url or f"{directory} (wandb sync {directory})")

    def write(self, step: Step) -> None:
        self._run.log(figures(step), step=step.step)

    def write_text(self, step: int, text: str) -> None:
        self._run.log({"sample": self._wandb.Html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def close(self) -> None:
        self._run.finish()


class MlflowRun:
    """A run of MLflow. Raises: UnsupportedError where mlflow is not installed."""

    def __init__(self, folder: Path, experiment: str, settings: Mapping[str, Any]) -> None:
        try:
            from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]
        except ImportError:
            raise UnsupportedError("MLflow is not installed", where="--mlflow", remedy="pip install mlflow") from None
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self.uri:  # a folder, as it was for years; later versions want to be told that it is wanted
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            self.uri = (folder.resolve() / "mlruns").as_uri()
        self._client: Any = MlflowClient(tracking_uri=self.uri)
        name = experiment or "pellucid"
        found = self._client.get_experiment_by_name(name)
        owner = self._client.create_experiment(name) if found is None else found.experiment_id
        self._id = _id(folder, "mlflow") or ""
        if not self._id or not self._knows(self._id):
            self._id = self._client.create_run(owner, run_name=folder.name).info.run_id
            _keep(folder, "mlflow", self._id)
            for key, value in settings.items():
                self._client.log_param(self._id, key, str(value)[:500])

    def _knows(self, run: str) -> bool:
        try:
            self._client.get_run(run)
        except Exception:  # whatever the store raises: MLflow has a class for each kind, and skinny builds others
            return False
        return True

    @property
    def where(self) -> str:
        return f"MLflow: {self.uri}, run {self._id}"

    def write(self, step: Step) -> None:
        for name, value in figures(step).items():
            self._client.log_metric(self._id, name.replace("/", "."), value, step=step.step)

    def write_text(self, step: int, text: str) -> None:
        self._client.log_text(self._id, text, f"samples/step-{step:08d}.txt")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _id(folder: Path, tracker: str) -> str | None:
    path = folder / IDS
    value = read_json(path).get(tracker) if path.is_file() else None
    return value if isinstance(value, str) else None


def _keep(folder: Path, tracker: str, name: str) -> str:
    path = folder / IDS
    write_json(path, {**(read_json(path) if path.is_file() else {}), tracker: name})
    return name


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
