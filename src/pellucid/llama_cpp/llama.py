"""``Llama``: a model and an engine behind the calls of llama-cpp-python, so that only an import changes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pellucid.auto import open_executor, open_model, tokenizer_of
from pellucid.base.arguments import refuse_unknown
from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.base.notice import notice
from pellucid.checkpoint.sources.hub import USUAL, Access
from pellucid.generate.engine import Engine
from pellucid.generate.request import Request
from pellucid.llama_cpp import asked
from pellucid.llama_cpp.replies import Reply

KV_CACHES = {None: None, 0: "f32", 1: "f16", 8: "int8"}  # ggml's numbers of the types
OPENING = (
    *("model_path", "n_ctx", "n_threads", "n_gpu_layers", "seed", "verbose", "chat_format", "type_k", "type_v"),
    *asked.OPENING_WITHOUT_EFFECT,
)


class LlamaGrammar:
    """What an answer may be: GBNF, or a JSON schema."""

    def __init__(self, grammar: Any) -> None:
        self.grammar = grammar

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        from pellucid.grammar.source import grammar_of

        return cls(grammar_of(grammar))

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], verbose: bool = True) -> LlamaGrammar:
        with open(file, encoding="utf-8") as source:
            return cls.from_string(source.read())

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        import json

        from pellucid.grammar.source import schema_grammar

        try:
            schema = json.loads(json_schema)
        except ValueError as error:
            raise RequestError(f"the schema is no JSON: {error}") from None
        return cls(schema_grammar(schema))


class Llama:
    """A model that is asked as llama-cpp-python's is. ``model_path``: a .gguf file, or any name that is known here.

    ``n_ctx`` tokens of context (512, as there; 0: the model's own). ``n_gpu_layers``: 0 runs on the CPU, anything else
    on a GPU where there is one, whole. Draws go by temperature, then top-k, top-p, min-p (llama.cpp: temperature last),
    so the same seed draws other tokens than there; greedy answers (``temperature=0``) are the model's. ``engine`` is
    the engine itself. Raises: TypeError for an argument that is not here, with what is.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        n_gpu_layers: int = 0,
        seed: int = 2**32 - 1,
        n_ctx: int = 512,
        n_threads: int | None = None,
        chat_format: str | None = None,
        type_k: int | None = None,
        type_v: int | None = None,
        verbose: bool = True,
        _access: Access = USUAL,
        **more: Any,
    ) -> None:
        unknown = {name: value for name, value in more.items() if name not in asked.OPENING_WITHOUT_EFFECT}
        refuse_unknown("Llama", unknown, OPENING, asked.OPENING_ELSEWHERE)
        if type_k != type_v or type_k not in KV_CACHES:
            raise RequestError(
                "keys and values are kept alike", expected="type_k = type_v, 0 (f32), 1 (f16) or 8 (int8)",
                received=f"type_k {type_k}, type_v {type_v}",
            )  # fmt: skip
        self.model_path = os.fspath(model_path)
        checkpoint = open_model(model_path, access=_access)
        self.metadata = {name: str(value) for name, value in checkpoint.metadata.items() if not name.endswith("tokens")}
        executor = open_executor(
            checkpoint,
            device="cpu" if n_gpu_layers == 0 else "auto",
            threads=n_threads,
            kv_cache=KV_CACHES[type_k],
        )
        self._tokenizer = tokenizer_of(checkpoint)
        self._plain: Any = None
        self.engine = Engine(executor, self._tokenizer, context_len=n_ctx or None, max_batch=4)
        self.verbose, self.chat_format, self._seeds = verbose, chat_format, asked.seeds(seed)
        if chat_format is not None and self._tokenizer.chat_template is not None:
            notice(f"Llama: the model's own chat template is used, not chat_format={chat_format!r}")

    @classmethod
    def from_pretrained(
        cls, repo_id: str, filename: str | None = None, *, cache_dir: Any = None, token: Any = None, **more: Any
    ) -> Llama:
        """A model of the hub; ``filename`` a file of it, ``*`` for any letters at its ends (``"*q8_0.gguf"``)."""
        for name in ("local_dir", "local_dir_use_symlinks", "additional_files"):
            if more.pop(name, "auto" if "symlinks" in name else None) not in (None, "auto"):
                raise TypeError(f"Llama.from_pretrained takes no {name!r} here → cache_dir=…")
        pick = (filename or "").strip("*")
        pick = pick.removesuffix(".gguf").strip("-._") if "*" in (filename or "") else pick
        name = f"{repo_id}:{pick}" if pick else repo_id
        return cls(name, _access=Access(cache_dir=cache_dir, token=token), **more)

    # --- answers -----------------------------------------------------------------------------------------------------

    def __call__(self, prompt: str | Sequence[int], **call: Any) -> Any:
        """``create_completion``."""
        return self.create_completion(prompt, **call)

    def create_completion(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        top_k: int = 40,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = (),
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        stream: bool = False,
        seed: int | None = None,
        model: str | None = None,
        grammar: LlamaGrammar | None = None,
        logit_bias: Mapping[Any, float] | None = None,
        **unknown: Any,
    ) -> Any:
        """What follows a text, as a dict; with ``stream`` an iterator over pieces. ``max_tokens`` None, or below 1: to
        the end of the context.
        """
        asked.refuse_settings("Llama(…)", unknown)
        ids = list(prompt) if isinstance(prompt, (list, tuple)) else self._tokenizer.encode(asked.text_of(prompt))
        sampling = asked.sampling_of(
            temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty, repeat_penalty=repeat_penalty, seed=seed, logit_bias=logit_bias,
            drawn=self._seeds,
        )  # fmt: skip
        before = self._tokenizer.decode(ids, skip_special_tokens=True) if echo else ""
        return self._answer(ids, sampling, max_tokens, stop, grammar, logprobs, stream, model, False, before)

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        stream: bool = False,
        stop: str | Sequence[str] | None = (),
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        model: str | None = None,
        grammar: LlamaGrammar | None = None,
        logit_bias: Mapping[Any, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        **unknown: Any,
    ) -> Any:
        """The assistant's answer to a conversation, as a dict; with ``stream`` an iterator over pieces.

        Raises: TemplateError where the model has no chat template.
        """
        asked.refuse_settings("create_chat_completion", unknown)
        ids = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], chat_template=self._template(), add_generation_prompt=True,
            return_dict=False,
        )  # fmt: skip
        sampling = asked.sampling_of(
            temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty, repeat_penalty=repeat_penalty, seed=seed, logit_bias=logit_bias,
            drawn=self._seeds,
        )  # fmt: skip
        grammar = grammar or _format(response_format)
        most = (top_logprobs or 0) if logprobs else None
        return self._answer(ids, sampling, max_tokens, stop, grammar, most, stream, model, True, "")

    def generate(self, tokens: Sequence[int], **call: Any) -> Iterator[int]:
        """The ids that follow ids, one by one, until the model ends or whoever asks has enough."""
        names = ("top_k", "top_p", "min_p", "temp", "repeat_penalty", "frequency_penalty", "presence_penalty")
        refuse_unknown(
            "Llama.generate", {name: value for name, value in call.items() if name not in (*names, "reset")},
            names, asked.ELSEWHERE,
        )  # fmt: skip
        chosen = {"temperature": call.get("temp", 0.8), "top_k": 40, "top_p": 0.95, "min_p": 0.05}
        chosen |= {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
        chosen |= {name: value for name, value in call.items() if name in names and name != "temp"}
        sampling = asked.sampling_of(**chosen, seed=None, logit_bias=None, drawn=self._seeds)
        request = Request(prompt_ids=list(tokens), sampling=sampling, max_new_tokens=self._room(len(tokens), None))
        for event in self.engine.stream(request):
            if event.token_id is not None:
                yield event.token_id
            if event.answer is not None and event.answer.error is not None:
                raise event.answer.error

    def _answer(
        self, ids: list[int], sampling: Any, max_tokens: int | None, stop: Any, grammar: LlamaGrammar | None,
        logprobs: int | None, stream: bool, model: str | None, chat: bool, before: str,
    ) -> Any:  # fmt: skip
        if self.verbose and not sampling.greedy:
            notice("Llama: temperature goes before top_k, top_p and min_p: other tokens are drawn than in llama.cpp")
        request = Request(
            prompt_ids=ids,
            sampling=sampling,
            stop=asked.strings(stop),
            max_new_tokens=self._room(len(ids), max_tokens),
            logprobs=logprobs,
            constraint=self._constraint(grammar),
        )
        reply = Reply(model or self.model_path, chat, max(len(ids), 1), self._spelled, before)
        if stream:
            return reply.pieces(self.engine.stream(request))
        (answer,) = self.engine.run([request])[0].answers
        if answer.error is not None:
            raise answer.error
        return reply.whole(answer)

    def _room(self, prompt: int, max_tokens: int | None) -> int:
        """New tokens that fit: as many as are asked for, or to the end of the context."""
        room = self.engine.context_len - max(prompt, 1)
        if room < 1:
            raise ContextLengthError(
                "the prompt leaves no room for an answer in the context",
                expected=f"at most {self.engine.context_len - 1} tokens",
                received=f"{prompt} tokens",
                remedy="Llama(…, n_ctx=0) takes the model's whole context",
            )
        return room if max_tokens is None or max_tokens < 1 else min(max_tokens, room)

    def _constraint(self, grammar: LlamaGrammar | None) -> Any:
        if grammar is None:
            return None
        from pellucid.grammar.matcher import constrain

        if not isinstance(grammar, LlamaGrammar):
            raise RequestError(
                "grammar is another library's", received=type(grammar).__name__,
                remedy="from pellucid import LlamaGrammar; LlamaGrammar.from_string(text)",
            )  # fmt: skip
        size = self.engine.executor.config.vocab_size
        return constrain(grammar.grammar, self._tokenizer, size, self.engine.defaults.stop_token_ids)

    def _template(self) -> str | None:
        if self._tokenizer.chat_template is not None or self.chat_format is None:
            return None
        if self.chat_format == "chatml":
            return CHATML
        raise RequestError(
            f"chat_format={self.chat_format!r}: there are no templates here but the models' own, and ChatML",
            remedy="llama.create_completion(…) with the prompt written out",
        )

    def _spelled(self, token: int) -> str:
        return self._tokenizer.decode([token])

    # --- tokens ------------------------------------------------------------------------------------------------------

    def tokenize(self, text: bytes | str, add_bos: bool = True, special: bool = False) -> list[int]:
        """The ids of a text; ``add_bos``: with what the model wants around it."""
        tokenizer = self._tokenizer
        if not special:
            if self._plain is None:  # reads the names of special tokens as text
                self._plain = copy.deepcopy(tokenizer)
                self._plain.split_special_tokens = True
            tokenizer = self._plain
        return tokenizer.encode(asked.text_of(text), add_special_tokens=add_bos)

    def detokenize(self, tokens: Sequence[int], prev_tokens: Any = None, special: bool = False) -> bytes:
        """The text of ids, as bytes."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=not special).encode()

    def tokenizer(self) -> Any:
        return self._tokenizer

    def n_ctx(self) -> int:
        return self.engine.context_len

    def n_vocab(self) -> int:
        return self.engine.executor.config.vocab_size

    def n_embd(self) -> int:
        return self.engine.executor.config.d_model

    def token_bos(self) -> int:
        return _id(self._tokenizer.bos_token_id)

    def token_eos(self) -> int:
        return _id(self._tokenizer.eos_token_id)

    # --- the rest ----------------------------------------------------------------------------------------------------

    def set_seed(self, seed: int) -> None:
        self._seeds = asked.seeds(seed)

    def reset(self) -> None:
        """Forget what was computed for earlier prompts."""
        self.engine.forget()

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        asked.method(name)


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _format(response_format: Mapping[str, Any] | None) -> LlamaGrammar | None:
    """``{"type": "json_object"}``, with a ``schema`` where there is one."""
    if response_format is None or response_format.get("type") == "text":
        return None
    from pellucid.grammar.source import schema_grammar

    if response_format.get("type") != "json_object":
        raise RequestError(
            "response_format is unknown",
            expected='{"type": "json_object", "schema": {…}}',
            received=repr(response_format),
        )
    return LlamaGrammar(schema_grammar(response_format.get("schema") or {"type": "object"}))


def _id(token: int | None) -> int:
    return -1 if token is None else token


__all__ = ["Llama", "LlamaGrammar"]
