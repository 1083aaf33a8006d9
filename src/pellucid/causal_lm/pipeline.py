"""``pipeline("text-generation")``: a prompt, or a conversation, in; a text out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pellucid.auto import AutoTokenizer
from pellucid.base.arguments import refuse_unknown
from pellucid.base.errors import RequestError, UnsupportedError
from pellucid.causal_lm.auto import AutoModelForCausalLM
from pellucid.causal_lm.settings import OURS, SETTINGS
from pellucid.causal_lm.settings import WITHOUT_EFFECT as IDLE_SETTINGS

TASKS = ("text-generation",)
DEFAULT = "smollm2"  # of the catalogue
# Of the constructor: what is so in any case, or changes nothing.
WITHOUT_EFFECT = ("framework", "use_fast", "num_workers", "binary_output", "feature_extractor", "batch_size")
ELSEWHERE = {
    "image_processor": "images are not read here: the text part of the model answers",
    "processor": "images are not read here: the text part of the model answers",
    "pipeline_class": "a function of your own over pipe.model and pipe.tokenizer",
}
CALL_ELSEWHERE = {
    "handle_long_generation": "truncation=True with max_length, or a shorter prompt",
    "return_text": "leave it out: texts come unless return_tensors=True",
    "images": "images are not read here: the text part of the model answers",
}
CALL = (
    *("text_inputs", "return_full_text", "return_tensors", "clean_up_tokenization_spaces", "add_special_tokens"),
    *("prefix", "stop_sequence", "truncation", "continue_final_message", "tokenizer_encode_kwargs"),
)


def pipeline(
    task: str = "text-generation", model: Any = None, config: Any = None, tokenizer: Any = None, **loading: Any
) -> TextGeneration:
    """A model and its tokenizer as one function; ``model`` is a name or a model. ``loading``: arguments of
    ``from_pretrained``, and settings of ``generate`` that hold for every call.

    Raises: UnsupportedError for another task.
    """
    if task not in TASKS:
        raise UnsupportedError(
            "models here continue texts", expected=TASKS[0], received=repr(task), remedy=f'pipeline("{TASKS[0]}")'
        )
    loading = {name: value for name, value in loading.items() if name not in WITHOUT_EFFECT}
    refuse_unknown("pipeline", {name: loading[name] for name in ELSEWHERE if name in loading}, (), ELSEWHERE)
    usual = {name: loading.pop(name) for name in (*SETTINGS, *OURS, *CALL) if name in loading}
    if isinstance(place := loading.get("device"), int):  # as transformers counts them: −1 is the CPU
        loading["device"] = "cpu" if place < 0 else f"cuda:{place}"
    name = DEFAULT if model is None else model
    if isinstance(name, (str, os.PathLike)):
        more = {} if config is None else {"config": config}
        loaded = AutoModelForCausalLM.from_pretrained(
            name, **loading.pop("model_kwargs", None) or {}, **loading, **more
        )
    else:
        loaded = name
    if tokenizer is None or isinstance(tokenizer, (str, os.PathLike)):
        source = tokenizer if tokenizer is not None else name if loaded is not name else loaded.origin
        if source is None:
            raise RequestError("this model came with no tokenizer", remedy="pipeline(…, tokenizer=…)")
        where = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "offline")
        tokenizer = AutoTokenizer.from_pretrained(
            source, **{name: loading[name] for name in where if name in loading and loaded is not name}
        )
    return TextGeneration(loaded, tokenizer, **usual)


class TextGeneration:
    """``pipe("Once upon a time")`` → ``[{"generated_text": "Once upon a time …"}]``."""

    task = TASKS[0]

    def __init__(self, model: Any, tokenizer: Any, **usual: Any) -> None:
        """``usual``: what every call is asked for, where it says nothing else."""
        self.model, self.tokenizer, self.usual = model, tokenizer, usual

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    torch_dtype = dtype

    def save_pretrained(self, folder: str | os.PathLike[str], **saving: Any) -> None:
        """Model and tokenizer, into one folder."""
        self.model.save_pretrained(folder, **saving)
        self.tokenizer.save_pretrained(folder)

    def __call__(self, inputs: Any = None, *, text_inputs: Any = None, **settings: Any) -> Any:
        """For a text or a conversation (a list of messages), a list of answers, ``num_return_sequences`` of them; for
        several, a list of such lists; an iterator's are made as they are asked for.

        ``return_full_text=False``: without the prompt. ``prefix``: a text before the prompt that is not given back.
        ``stop_sequence``: the answer ends with the first token of it. ``continue_final_message``: the assistant's last
        message goes on; None: where the last message is the assistant's. Other ``settings`` as ``generate``'s.
        Raises: RequestError for what is no text and no conversation; TypeError for an argument that nobody knows.
        """
        inputs = text_inputs if inputs is None else inputs
        asked = {**self.usual, **settings}
        for idle in ("batch_size", "num_workers"):
            asked.pop(idle, None)
        refuse_unknown("pipe(…)", {name: asked[name] for name in CALL_ELSEWHERE if name in asked}, (), CALL_ELSEWHERE)
        asked = {name: value for name, value in asked.items() if name not in CALL_ELSEWHERE}
        if isinstance(inputs, Iterator):
            return (self._answers(one, dict(asked)) for one in inputs)
        several = isinstance(inputs, (list, tuple)) and not (inputs and isinstance(inputs[0], Mapping))
        made = [self._answers(one, dict(asked)) for one in (inputs if several else [inputs])]
        return made if several else made[0]

    def _answers(self, prompt: Any, settings: dict[str, Any]) -> list[dict[str, Any]]:
        full, tensors = settings.pop("return_full_text", None), settings.pop("return_tensors", False)
        clean = settings.pop("clean_up_tokenization_spaces", None)
        going_on = settings.pop("continue_final_message", None)
        chat = _is_conversation(prompt)
        if chat:
            going_on = prompt[-1].get("role") == "assistant" if going_on is None else going_on
            for idle in ("prefix", "add_special_tokens", "truncation", "tokenizer_encode_kwargs"):
                settings.pop(idle, None)
            ids = self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=not going_on, continue_final_message=going_on, return_dict=False
            )
        else:
            ids = self._ids(prompt, settings)
        if (ending := settings.pop("stop_sequence", None)) is not None:
            settings["eos_token_id"] = self.tokenizer.encode(ending, add_special_tokens=False)[0]
        _known(settings)
        out = self.model.generate(torch.tensor([ids], device=self.model.device), tokenizer=self.tokenizer, **settings)
        answers = []
        for row in out.tolist():
            if tensors:
                answers.append({"generated_token_ids": row})
                continue
            new = self.tokenizer.decode(row[len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=clean)
            answers.append({"generated_text": new if full is False else _whole(prompt, new, bool(chat and going_on))})
        return answers

    def _ids(self, prompt: str, settings: dict[str, Any]) -> list[int]:
        more = dict(settings.pop("tokenizer_encode_kwargs", None) or {})
        if (special := settings.pop("add_special_tokens", None)) is not None:
            more["add_special_tokens"] = special
        if settings.pop("truncation", None):
            more |= {"truncation": True, "max_length": settings.get("max_length")}
        return self.tokenizer.encode((settings.pop("prefix", None) or "") + prompt, **more)


def _is_conversation(prompt: Any) -> bool:
    """Raises: RequestError for what is neither a text nor a conversation."""
    if isinstance(prompt, str):
        return False
    if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(message, Mapping) for message in prompt):
        return True
    raise RequestError(
        "a prompt is a text, or a list of messages", received=type(prompt).__name__,
        remedy='[{"role": "user", "content": text}]',
    )  # fmt: skip


def _known(settings: Mapping[str, Any]) -> None:
    """Raises: TypeError for a setting whose nearest is one of the pipeline's own."""
    from difflib import get_close_matches

    for name in settings:
        known = name in (*SETTINGS, *OURS, *IDLE_SETTINGS)
        if not known and (near := get_close_matches(name, CALL, 1, 0.8)):
            raise TypeError(f"pipe(…) has no argument {name!r} → did you mean {near[0]!r}?")


def _whole(prompt: Any, new: str, going_on: bool) -> Any:
    """The prompt, with the answer behind it; a conversation, with a message more, or with its last one whole."""
    if isinstance(prompt, str):
        return prompt + new
    if going_on:
        return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + new}]
    return [*prompt, {"role": "assistant", "content": new}]
