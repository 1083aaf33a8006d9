"""``Models``: what a server can answer with; loaded when asked for, and given back when nobody has asked for long."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pellucid.serve.http.errors import ApiError, busy
from pellucid.serve.work.worker import Loaded, Worker

if TYPE_CHECKING:
    from pellucid.serve.settings import Settings


@dataclass
class Model:
    """One model that is served: its names, how it is opened, and its worker while it is loaded.

    ``keep_alive``: seconds that it stays loaded after its last answer; None: for good.
    """

    name: str
    open: Callable[[], Loaded]
    max_batch: int = 16
    keep_alive: float | None = None
    aliases: tuple[str, ...] = ()
    source: str = ""  # a path or name, for people
    created: int = field(default_factory=lambda: int(time.time()))
    worker: Worker | None = None
    users: int = 0
    idle_since: float = 0.0  # by the loop's clock
    stays: float | None = None  # what the last request asked for, in place of keep_alive
    timer: asyncio.TimerHandle | None = None

    @property
    def loaded(self) -> Loaded | None:
        return None if self.worker is None else self.worker.loaded

    @property
    def expires(self) -> float | None:
        """The Unix time at which it is given back, if nobody asks; None: it stays."""
        if self.timer is None:
            return None
        return time.time() + self.timer.when() - asyncio.get_running_loop().time()


class Models:
    """The models of one server, by name. Methods are the event loop's."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = list(models)
        self._by_name: dict[str, Model] = {}
        for model in self.models:
            for name in (model.name, *model.aliases):
                if self._by_name.setdefault(name, model) is not model:
                    raise ValueError(f"two models have the name {name!r}; give them others: --served-model-name")
        self._stopping: set[asyncio.Task[None]] = set()

    def find(self, name: str | None) -> Model:
        """The model of that name; the first one where none is named. Raises: ApiError 404 that names those there are.

        Ollama's clients write ``name:latest``.
        """
        if not name:
            return self.models[0]
        model = self._by_name.get(name) or self._by_name.get(name.removesuffix(":latest"))
        if model is None:
            there = ", ".join(repr(one.name) for one in self.models)
            raise ApiError(
                404, f"The model {name[:200]!r} does not exist; here: {there}", code="model_not_found", param="model"
            )
        return model

    async def worker(self, model: Model, settings: Settings) -> Worker:
        """The model's worker, loaded if it was not. Raises: what loading it raises."""
        if model.worker is not None and model.worker.ready.done() and model.worker.loaded is None:
            model.worker = None  # it failed: perhaps it does not any more
        if model.worker is None:
            model.worker = Worker(model.name, model.open, model.max_batch, settings.max_queue)
        worker = model.worker
        await asyncio.shield(worker.ready)
        return worker

    @contextlib.asynccontextmanager
    async def use(
        self, name: str | None, settings: Settings, keep_alive: float | None = None
    ) -> AsyncGenerator[tuple[Model, Worker]]:
        """The model, which stays loaded meanwhile. ``keep_alive``: seconds that it stays afterwards; below 0: for good.

        Raises: ApiError 404, and what loading raises.
        """
        model = self.find(name)
        model.users += 1
        if model.timer is not None:
            model.timer.cancel()
            model.timer = None
        try:
            if keep_alive is not None:
                model.stays = keep_alive
            yield model, await self.worker(model, settings)
        finally:
            model.users -= 1
            if not model.users:
                self._idle(model)

    def _idle(self, model: Model) -> None:
        loop = asyncio.get_running_loop()
        model.idle_since = loop.time()
        seconds = model.keep_alive if model.stays is None else model.stays
        if seconds is not None and seconds >= 0 and model.worker is not None:
            model.timer = loop.call_later(seconds, self.unload, model)

    def unload(self, model: Model) -> None:
        """Give a model back that nobody uses."""
        model.timer = None
        if model.users or model.worker is None:
            return
        worker, model.worker = model.worker, None
        task = asyncio.ensure_future(worker.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def end_answers(self) -> None:
        """Tell all who wait for an answer that none will come."""
        for model in self.models:
            if model.worker is not None:
                model.worker.fail_all(busy("the server is ending", 5, status=503))

    async def stop(self) -> None:
        """End all of them."""
        for model in self.models:
            if model.timer is not None:
                model.timer.cancel()
        workers = [model.worker for model in self.models if model.worker is not None]
        await asyncio.gather(*(worker.stop() for worker in workers), *self._stopping, return_exceptions=True)
