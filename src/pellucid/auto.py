"""The front door, without torch: a name becomes a checkpoint, a tokenizer, a config, or an executor.

A model is named by a folder, a file (``.gguf``, ``.safetensors``, ``.bin``), a catalogue alias, or a hub id
(``org/name[@revision]``). An adapter's folder names the model that it adapts, and opens as that model with the adapter
merged in.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, TokenizerError
from pellucid.checkpoint.adapters.adapted import is_adapter, open_adapted, root_of
from pellucid.checkpoint.files.gguf import read_metadata
from pellucid.checkpoint.files.lazy import Lazy
from pellucid.checkpoint.find import find
from pellucid.checkpoint.identity import identity
from pellucid.checkpoint.open import Checkpoint, open_checkpoint, open_config
from pellucid.checkpoint.sources.asked import Asked
from pellucid.checkpoint.sources.hub import USUAL, Access
from pellucid.checkpoint.sources.resolve import resolve
from pellucid.defaults import AnswerDefaults, tell_what_is_not_followed
from pellucid.families.hf_config import HFConfig
from pellucid.text.configured import configured
from pellucid.text.load import TOKENIZER_FILES, load_tokenizer

if TYPE_CHECKING:
    from pellucid.executor import Executor
    from pellucid.model.decoder import Decoder
    from pellucid.text.tokenizer import Tokenizer

Name = str | os.PathLike[str]
NATIVE_DTYPES = ("float32", "bfloat16", "float16")  # that the native executor multiplies, beside block formats


def open_model(name: Name, *, revision: str | None = None, offline: bool = False, access: Access = USUAL) -> Checkpoint:
    """The checkpoint behind a name: headers read, weights mapped, nothing computed yet. ``access``: how to go to the
    hub.
    """
    path = locate(name, revision=revision, offline=offline, access=access)
    return open_adapted(path, offline=offline, access=access) if is_adapter(path) else open_checkpoint(path)


def locate(
    name: Name,
    *,
    revision: str | None = None,
    offline: bool = False,
    weights: bool = True,
    access: Access = USUAL,
) -> Path:
    """The folder or file behind a name, fetched if need be; without ``weights``, a hub model's config and tokenizer
    alone.
    """
    if revision:
        repo, colon, pick = os.fspath(name).partition(":")
        name = f"{repo}@{revision}{colon}{pick}"
    return resolve(name, offline=offline, weights=weights, access=access)


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that belongs to a checkpoint: beside its weights, or inside its GGUF.

    Raises: TokenizerError where there is none.
    """
    if checkpoint.tokenizer_path is None and "tokenizer.ggml.model" in checkpoint.metadata:
        from pellucid.text.readers.gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(checkpoint.metadata)
    if checkpoint.tokenizer_path is None:
        raise TokenizerError(
            "there is no tokenizer here",
            where=checkpoint.path,
            expected="tokenizer.json, tokenizer.model, or tok*.bin",
            remedy="put the tokenizer's files beside the weights",
        )
    return load_tokenizer(checkpoint.tokenizer_path)


def load_model(
    name: Name, *, offline: bool = False, dtype: str = "auto", device: str = "auto", quantize: str | None = None
) -> tuple[Decoder, Tokenizer]:
    """The torch decoder behind a name, and its tokenizer."""
    from pellucid.model.load import load_decoder

    checkpoint = open_model(name, offline=offline)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, dtype, device, quantize)
    decoder.generation_config = checkpoint.generation_config
    return decoder, tokenizer_of(checkpoint)


class AutoTokenizer:
    """``from_pretrained`` as Hugging Face users know it."""

    @staticmethod
    def from_pretrained(
        name: Name, *, revision: str | None = None, offline: bool = False, **settings: Any
    ) -> Tokenizer:
        """The tokenizer of a model, or of a folder that holds only a tokenizer.

        ``settings``: transformers' words for where it is (``cache_dir``, ``token``, ``subfolder``, …), and what is set
        on the tokenizer, such as ``padding_side="left"``. ``trust_remote_code`` is accepted and never needed: no code
        from a model folder is executed. Raises: TypeError for a setting that a tokenizer has not.
        """
        asked = Asked.of(name, revision, offline, settings)
        path = _at(asked, weights=False)
        if is_adapter(path):
            tokenizer = tokenizer_of(open_adapted(path, offline=asked.offline, access=asked.access))
        else:
            tokenizer = tokenizer_at(path)
        return configured(tokenizer, settings, str(name))


def _at(asked: Asked, *, weights: bool) -> Path:
    return locate(asked.name, revision=asked.revision, offline=asked.offline, access=asked.access, weights=weights)


def tokenizer_at(path: Path) -> Tokenizer:
    """A tokenizer needs neither its model's weights nor a family that this version knows."""
    if path.name in TOKENIZER_FILES or (path.suffix == ".bin" and path.name.startswith("tok")):
        return load_tokenizer(path)
    if path.is_dir() and not any(path.glob("*.gguf")):
        return load_tokenizer(path)
    model = find(path)
    if model.kind == "gguf":
        from pellucid.text.readers.gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(read_metadata(model.weights))
    return tokenizer_of(open_checkpoint(path)) if model.kind == "llama2c" else load_tokenizer(model.weights.parent)


class AutoConfig:
    """A model's description from its name, or from a Hugging Face config as a dict."""

    @staticmethod
    def from_pretrained(name: Name, *, revision: str | None = None, offline: bool = False, **more: Any) -> Any:
        """The description of a model. ``more``: transformers' words for where it is, and keys of config.json that are
        set on it. With ``return_unused_kwargs`` also those that it has not; without, they are a TypeError.
        """
        asked = Asked.of(name, revision, offline, more)
        path = _at(asked, weights=False)
        described = open_config(
            root_of(path, offline=asked.offline, weights=False, access=asked.access) if is_adapter(path) else path
        )
        return HFConfig.of(described, where=name).with_keys(more)

    @staticmethod
    def for_model(model_type: str, **keys: Any) -> HFConfig:
        """``AutoConfig.for_model("llama", vocab_size=512, hidden_size=64, …)``: config.json's keys of that family."""
        from pellucid.families import family_of

        return HFConfig.of(
            family_of(model_type, "AutoConfig.for_model", keys).config({"model_type": model_type, **keys})
        )


def open_executor(
    checkpoint: Checkpoint,
    *,
    executor: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    kv_cache: str | None = None,
) -> Executor:
    """What runs the checkpoint: ``native`` (compiled for this CPU), ``torch``, or the better one.

    ``auto`` is native where the machine has no GPU, a C compiler is there, native has the model's mechanisms, and
    neither a dtype nor a device is asked for; else torch. Where only the compiler is missing, one line on stderr says
    what is missed. ``dtype`` is the weights' while they run; "auto": as they are stored, or what the device computes in
    at speed. ``kv_cache`` is native's: "f16" or "int8" (half the memory of a long context), "f32"; None: as exact as
    the weights are. The executor carries what the checkpoint asks for when it answers (``generation_config``), and what
    is not followed of that is named on stderr. Raises: ConfigError for an executor there is not, a ``kv_cache`` with
    torch, a ``device`` other than the CPU with native.
    """
    if executor not in ("auto", "torch", "native"):
        raise ConfigError(f"there is no executor {executor!r}", expected="auto, torch or native")
    if executor == "native" and device not in ("auto", "cpu"):
        raise ConfigError(
            "the native executor runs on the CPU", received=f"device {device!r}", remedy="--executor torch"
        )
    if executor == "native" and dtype not in ("auto", *NATIVE_DTYPES):
        raise ConfigError(
            f"the native executor does not run in {dtype!r}", expected=", ".join(("auto", *NATIVE_DTYPES))
        )
    AnswerDefaults.of(checkpoint.config, checkpoint.generation_config)  # what cannot be is said before the work
    tell_what_is_not_followed(checkpoint.generation_config, checkpoint.path)
    if executor == "native" or (
        executor == "auto" and dtype == "auto" and device in ("auto", "cpu") and not (device == "auto" and _has_gpu())
    ):
        from pellucid.native.cache import NativeError
        from pellucid.native.claims import supports
        from pellucid.native.executor import NativeExecutor

        try:
            if executor == "native" or not supports(checkpoint.config):
                return NativeExecutor(
                    checkpoint.config,
                    checkpoint.weights if dtype == "auto" else weights_in(checkpoint.weights, dtype),
                    threads=threads,
                    source_id=f"{state_of(checkpoint)}, {dtype}",
                    kv_cache=kv_cache,
                    generation_config=checkpoint.generation_config,
                )
        except NativeError as error:
            if executor == "native":
                raise
            print(f"running with torch, which is slower here: {error}", file=sys.stderr)
    if kv_cache is not None:
        raise ConfigError(
            "the torch executor keeps keys and values as it computes them, and it is what runs here",
            received=f"kv_cache {kv_cache!r}",
            remedy="--executor native",
        )
    import torch

    from pellucid.model.batched.executor import executor_for
    from pellucid.model.load import load_decoder

    if threads is not None:
        torch.set_num_threads(threads)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, dtype, device)
    decoder.generation_config = checkpoint.generation_config
    return executor_for(decoder)


def weights_in(weights: Mapping[str, Array], dtype: str) -> Mapping[str, Array]:
    """The same weights in another dtype, each converted when it is asked for."""
    from pellucid.quant import convert

    return Lazy({name: lambda name=name: convert(weights[name], dtype) for name in weights})


def _has_gpu() -> bool:
    """Whether torch would find a GPU, told without importing it (which takes seconds)."""
    return sys.platform == "darwin" or shutil.which("nvidia-smi") is not None or Path("/dev/kfd").exists()


def state_of(checkpoint: Checkpoint) -> str:
    """Changes when a file of the checkpoint does, a config or an adapter's among them."""
    return identity(checkpoint)
