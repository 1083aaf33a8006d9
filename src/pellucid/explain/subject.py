"""What is explained: a model that runs, by either executor, and lies in files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.auto import open_model
from pellucid.base.errors import NotFiniteError, PellucidError, RequestError
from pellucid.checkpoint.open import Checkpoint
from pellucid.config import weight_shapes
from pellucid.explain.decoding import Decoding, Generation, NativeDecoding
from pellucid.explain.edits import Edit, SwapToken
from pellucid.explain.native import Native
from pellucid.explain.record import Record
from pellucid.explain.run import record
from pellucid.model.attend import explicit
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.finite import first_not_finite


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be explained: it runs in memory, and (where it came from one) it lies in files.

    ``files``: what it lies in, with their sizes; none where it is known from memory alone. ``description``: the one of
    them that holds the description, where that is a file of its own. ``stored``: our weight name → the dtype and bytes
    that the file holds it in; by default, as it is in memory.
    ``native``: the compiled program, where that is what is explained; ``decoder`` is then its twin in torch.
    """

    decoder: Decoder
    tokenizer: Any
    name: str
    native: Native | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    description: str | None = None
    stored: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        decoder: Decoder,
        tokenizer: Any,
        name: str | None = None,
        native: Native | None = None,
    ) -> Subject:
        """The subject of an opened checkpoint and the decoder that was loaded from it."""
        stored = {weight: checkpoint.weights[weight] for weight in weight_shapes(checkpoint.config)}
        files = {path.name: size for path, size in checkpoint.files.items()}
        config = checkpoint.path / "config.json"
        description = config.name if config.is_file() and config.name not in files else None
        if description is not None:
            files[description] = config.stat().st_size
        return cls(
            decoder=decoder,
            tokenizer=tokenizer,
            name=name or Path(checkpoint.path).stem,
            native=native,
            files=files,
            description=description,
            stored={weight: (array.dtype, array.nbytes) for weight, array in stored.items()},
        )

    @classmethod
    def loaded(cls, decoder: Decoder, tokenizer: Any) -> Subject:
        """The subject of a model in memory; where it says what it was loaded from, with the name and files of that."""
        origin = getattr(decoder, "name_or_path", "") or ""
        if origin:
            try:
                checkpoint = open_model(origin, offline=True)
            except PellucidError:
                pass  # it has gone or changed since: the model in memory is what there is
            else:
                if weight_shapes(checkpoint.config) == weight_shapes(decoder.config):
                    return cls.of(checkpoint, decoder, tokenizer)
        return cls(decoder=decoder, tokenizer=tokenizer, name=Path(origin).name or decoder.config.model_type)

    def record(self, text: Any, edits: Sequence[Edit | SwapToken] = (), **options: Any) -> Record:
        """A run of it, every step recorded, by the executor that is explained; ``options`` are torch's ``record``'s.

        Raises: RequestError for edits of a native run; NotFiniteError, naming the weight or step, where a number is
        NaN or infinite.
        """
        run = self._run(text, edits, **options)
        if (path := run.first_not_finite()) is not None:
            place = (
                None if edits else first_not_finite(self.decoder, run.token_ids, run.prompt.context(attend=explicit))
            )
            raise NotFiniteError("this step's numbers are not finite", where=path) if place is None else place.error()
        return run

    def _run(self, text: Any, edits: Sequence[Edit | SwapToken], **options: Any) -> Record:
        if self.native is None:
            return record(self.decoder, self.tokenizer, text, edits=edits, **options)
        if edits:
            raise RequestError(
                "the native executor takes no edits: its program has no place for them",
                remedy="explain it with --executor torch",
            )
        return self.native.record(self.tokenizer, text)

    @torch.no_grad()
    def logits(self, ids: Sequence[int], first: int = 0) -> tuple[Tensor, float]:
        """(T − first, V) logits of a run in which nothing is recorded, and the milliseconds it took."""
        if self.native is not None:
            return self.native.logits(ids, first)
        start, device = time.perf_counter(), self.decoder.device
        row = torch.tensor([list(ids)], device=device)
        ctx = Context(torch.arange(row.shape[1], device=device)[None])
        logits = self.decoder.logits(self.decoder.hidden(row, ctx)[0, first:], ctx)
        return logits, (time.perf_counter() - start) * 1000

    def decoding(self, prompt: Sequence[int]) -> Generation:
        """Its answer to a prompt, a token at a time."""
        return Decoding(self.decoder, prompt) if self.native is None else NativeDecoding(self.native, prompt)
