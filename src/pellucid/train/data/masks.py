"""Which tokens are learned: of a conversation what the assistant says, of a prompt and its completion the completion.

In a conversation the assistant's tokens are those that the template marks with ``{% generation %}``; where it marks
none, they are found by writing the conversation up to each answer, as it is written when the model is asked, and up to
the answer's end: what the second has more than the first is what the model will have to say, up to and with the token
that stops it.

Some templates write an answer differently once another follows (thinking is left out, an end-of-text comes once). Then
no single text holds all answers as the model will have to give them, and each answer becomes an example of its own.

Some leave thinking out of every answer, and open it themselves where they ask (DeepSeek-R1's distills: ``<think>``).
What they write of an answer is then not what the model will have to say: that is the thinking, its end, and the answer,
after the text that asks (``train.data.thinking``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from pellucid.base.errors import PellucidError
from pellucid.text.chat import ChatOptions, NativeChat, RenderedChat, choose_template, encode_chat, render_chats
from pellucid.text.tokenizer import Tokenizer, check_text
from pellucid.train.data import thinking
from pellucid.train.data.errors import DataError
from pellucid.train.data.examples import (
    Completion,
    Conversation,
    Example,
    Exchange,
    Instruction,
    Message,
    Pair,
    Text,
    says,
)
from pellucid.train.data.written import CUT, Written, cut_quotations, texts_in, uncut

# As transformers looks for it (utils/chat_template_utils.py).
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Masked:
    """Tokens, and for each whether the model learns to say it; ``good``: whether it was judged a good one (KTO)."""

    ids: list[int]
    learned: list[bool]
    good: bool = True

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        return zip(self.ids, self.learned, strict=True)


class Masking:
    """How a model's examples become tokens: with its tokenizer and its chat format, until one of its stop tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        chat_template: str | None = None,
        stop_token_ids: Collection[int] = (),
        template_kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.tokenizer, self.chat_template, self.template_kwargs = tokenizer, chat_template, template_kwargs
        self.stop_token_ids = {*stop_token_ids, *tokenizer.stop_token_ids}
        texts = (tokenizer.decode([stop]).strip() for stop in self.stop_token_ids if stop < len(tokenizer))
        self._stop_texts = sorted({text for text in texts if len(text) > 1}, key=len, reverse=True)

    @property
    def has_chat_format(self) -> bool:
        return (
            self.chat_template is not None
            or self.tokenizer.chat_template is not None
            or isinstance(self.tokenizer, NativeChat)
        )

    def tokens(self, example: Example, where: str) -> list[Masked]:
        """An example's tokens; several sequences where each answer of a conversation needs one of its own.

        Raises: DataError naming ``where``, for a conversation that the template refuses or in which the assistant says
        nothing, and for a pair.
        """
        match example:
            case Text(text):
                ids = self._ended(
                    self.tokenizer.encode_texts(
                        [self._checked(text, where)], None, add_special_tokens=True, details=False
                    )[0].ids
                )
                return [Masked(ids, [True] * len(ids))]
            case Completion(prompt, completion):
                return [self._completion(prompt, completion, where)]
            case Instruction() | Exchange():
                if not self.has_chat_format:
                    return self.tokens(example.completion(), where)
                chat = example.conversation()  # one whose answer is empty comes here only where it is wanted
                return self.tokens(chat if chat.answers else replace(chat, keeps_empty=True), where)
            case Conversation():
                try:
                    return self._conversation(example, where)
                except DataError:
                    raise
                except PellucidError as error:
                    raise DataError(
                        f"the chat format cannot write this conversation: {error.what}",
                        where=where,
                        received=disorder(example.messages),
                        remedy=error.remedy,
                    ) from None
            case Pair():
                raise DataError(
                    "a preferred and a rejected answer are no single example",
                    where=where,
                    remedy="--method dpo learns from such pairs",
                )

    def pair(self, pair: Pair, where: str) -> tuple[Masked, Masked]:
        """The tokens of both endings. Raises: DataError as ``tokens`` does, and where an ending is not one answer."""
        chosen, rejected = (self.tokens(ending, where) for ending in (pair.chosen, pair.rejected))
        if len(chosen) > 1 or len(rejected) > 1:
            raise DataError(
                "the chat template writes these answers differently once another follows, so they cannot be compared as"
                " one ending",
                where=where,
                remedy="end the prompt before the last answer",
            )
        return chosen[0], rejected[0]

    # --- plain texts -------------------------------------------------------------------------------------------------

    def _completion(self, prompt: str, completion: str, where: str) -> Masked:
        """Both as one text, so that no token is split where they meet; one that holds characters of both is learned."""
        text = self._checked(prompt, where) + self._checked(completion, where)
        encoded = self.tokenizer.encode_texts([text], None, add_special_tokens=True, details=True)[0]
        learned = [end > max(start, len(prompt)) for start, end in encoded.offsets or []]
        ids = self._ended(encoded.ids)
        learned += [False] * (len(ids) - len(learned))
        if ids[-1] == self.tokenizer.eos_token_id:
            learned[-1] = True
        return Masked(ids, learned)

    def _ended(self, ids: Sequence[int]) -> list[int]:
        """With the end-of-sequence token, where the tokenizer has one and has not put it there."""
        eos = self.tokenizer.eos_token_id
        return list(ids) if eos is None or (ids and ids[-1] == eos) else [*ids, eos]

    @staticmethod
    def _checked(text: str, where: str) -> str:
        try:
            check_text(text)
        except PellucidError as error:
            raise DataError(error.what, where=where) from None
        return text

    # --- conversations -----------------------------------------------------------------------------------------------

    def _conversation(self, chat: Conversation, where: str) -> list[Masked]:
        if not chat.assistant:
            raise DataError(
                "the assistant says nothing in this conversation that it was asked for",
                where=where,
                expected='a message whose role is "assistant", after one of the user',
                received=", ".join(message["role"] for message in chat.messages)[:200] or "no messages",
                remedy="put the messages in the order in which they were said"
                if any(message["role"] == "assistant" for message in chat.messages)
                else None,
            )
        template = choose_template(self.tokenizer, self.chat_template, bool(chat.tools))
        if template is not None:
            check_roles(chat.messages, template, where)
        chat = chat if template is None else self._with_quotations_cut(chat, where)
        if template is not None and _MARKS.search(template):
            sequences = [self._marked(chat)]
        else:
            sequences = self._by_prefixes(chat, where)
        self._check_said(sequences, chat, where)
        return sequences

    def _by_prefixes(self, chat: Conversation, where: str) -> list[Masked]:
        whole = self._write(chat.messages, chat.tools)
        together = Masked(whole.ids, [False] * len(whole.ids))
        for place in chat.answers:
            span = self._span_in(whole, chat, place)
            if span is None:
                break
            together.learned[slice(*span)] = [True] * (span[1] - span[0])
        else:
            return [self._stopped(together)]
        return [self._alone(chat, place, where) for place in chat.answers]

    def _marked(self, chat: Conversation) -> Masked:
        """By ``{% generation %}``: the tokens that share a character with what its blocks wrote."""
        whole = self._render(chat.messages, chat.tools, assistant_mask=True)
        spans = list(whole.assistant_spans)
        every = [place for place, message in enumerate(chat.messages) if message["role"] == "assistant"]
        for place in sorted({*every} - {*chat.answers}, reverse=True):  # the blocks of what is not learned
            first, end = (
                len(self._render(chat.messages[:stop], chat.tools, assistant_mask=True).assistant_spans)
                for stop in (place, place + 1)
            )
            del spans[first:end]
        whole, cuts = uncut(replace(whole, assistant_spans=spans))
        written = Written(self.tokenizer, whole, cuts)
        mask = encode_chat(self.tokenizer, replace(whole, encoded=written.encoded), with_mask=True)[1]
        return Masked(written.ids, [bool(one) for one in mask])

    def _with_quotations_cut(self, chat: Conversation, where: str) -> Conversation:
        """The answers that are learned, with a cut in each stop token's text that they quote: an answer that speaks of
        ``<|im_end|>`` would else be learned up to there. At an answer's end it is what it says, an end.
        """
        messages = list(chat.messages)
        for place in chat.answers:
            message = messages[place]
            content = message["content"]
            if CUT in content:
                raise DataError(f"the character U+{ord(CUT):X} has no place in a text", where=where)
            messages[place] = {**message, "content": cut_quotations(content, self._stop_texts)}
            for name, text in texts_in(message, but=("role", "content")):
                if stop := next((stop for stop in self._stop_texts if stop in text), None):
                    raise DataError(
                        f"{name} quotes {stop}, which ends an answer: it would be learned up to there",
                        where=f"{where}, message {place + 1}",
                        remedy="leave the record out, or write the token otherwise",
                    )
        return replace(chat, messages=messages)

    def _check_said(self, sequences: Sequence[Masked], chat: Conversation, where: str) -> None:
        """Raises: DataError where the template leaves out what an answer says, or the tools that it calls."""
        says_nothing = chat.keeps_empty and not any(says(chat.messages[place]) for place in chat.answers)
        for one in sequences if not says_nothing else ():
            if any(one.learned) and {id for id, learned in one if learned} <= self.stop_token_ids:
                raise DataError(
                    "of what the assistant says here only its end is learned: the chat template does not write it",
                    where=where,
                    remedy="--chat-template FILE with one that does",
                )
        calls = [call["function"] for place in chat.answers for call in chat.messages[place].get("tool_calls", ())]
        if not calls:
            return
        learned = self.tokenizer.decode([id for one in sequences for id, is_learned in one if is_learned])
        for place in chat.answers:  # what is said beside a call may have its words by chance
            learned = learned.replace(chat.messages[place]["content"].replace(CUT, "").strip() or "\0", "")
        for call in calls:
            arguments = call["arguments"] if isinstance(call["arguments"], Mapping) else {}
            for name in (call["name"], *map(str, arguments)):
                if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", learned) is None:
                    raise DataError(
                        f"the assistant calls {call['name']} here, and the chat template does not write the call",
                        where=where,
                        expected=f"{name!r} in what is learned",
                        received=repr(learned[:80]),
                        remedy="--chat-template FILE with one that writes tool_calls, or leave such records out",
                    )

    def _span_in(self, whole: Written, chat: Conversation, place: int) -> tuple[int, int] | None:
        """The tokens of the answer at ``place`` in the whole conversation; None where it is not written there as it
        will be asked for.
        """
        asked = self._write(chat.messages[:place], chat.tools, ask=True)
        start = whole.after(asked)
        if start is None:
            return None
        answered = whole if place == len(chat.messages) - 1 else self._write(chat.messages[: place + 1], chat.tools)
        if thinking.is_left_out(chat.messages[place], asked.chat.text, answered.chat.text):
            return None
        stop = self._stop_in(answered.ids, start)
        if stop is not None:
            return (start, stop) if whole.ids[:stop] == answered.ids[:stop] else None
        end = whole.after(answered)
        if end is None:
            return None
        # Where the next speaker's token is what stops the model (GLM's <|user|>), it is learned, too.
        return start, end + int(end < len(whole.ids) and whole.ids[end] in self.stop_token_ids)

    def _alone(self, chat: Conversation, place: int, where: str) -> Masked:
        """The conversation up to the end of the answer at ``place``, and that answer learned."""
        asked, answered = (
            self._write(chat.messages[:place], chat.tools, ask=True),
            self._write(chat.messages[: place + 1], chat.tools),
        )
        start = answered.after(asked)
        message = chat.messages[place]
        if asked.chat.encoded is None and (
            start is None or thinking.is_left_out(message, asked.chat.text, answered.chat.text)
        ):
            said = thinking.said(message, asked.chat.text, answered.chat.text)
            if said is not None:
                answered = self._written_as(asked, said, message)
                start = answered.after(asked)
        if start is None:
            raise DataError(
                "the chat template writes this conversation differently when it asks for an answer and when it has it,"
                " so the answer's tokens cannot be told from the question's",
                where=f"{where}, message {place + 1}",
                remedy="--chat-template FILE with a template that marks answers with {% generation %};"
                " or leave out the system message or tools",
            )
        stop = self._stop_in(answered.ids, start) or len(answered.ids)
        return self._stopped(Masked(answered.ids[:stop], [start <= index for index in range(stop)]))

    def _written_as(self, asked: Written, said: str, message: Message) -> Written:
        """The text that asks, and after it what is said; a stop token's text that the answer quotes is cut as ever."""
        chat, cuts = uncut(replace(asked.chat, text=asked.chat.text + said))
        return Written(self.tokenizer, chat, [*asked.cuts, *(cut for cut in cuts if cut not in asked.cuts)])

    def _stop_in(self, ids: Sequence[int], start: int) -> int | None:
        """One past the first stop token at or after ``start``."""
        return next((index + 1 for index in range(start, len(ids)) if ids[index] in self.stop_token_ids), None)

    def _stopped(self, masked: Masked) -> Masked:
        """With an end-of-sequence token to be learned, where the conversation ends in an answer that nothing stops."""
        eos = self.tokenizer.eos_token_id
        if eos is None or not masked.ids or not masked.learned[-1] or masked.ids[-1] in self.stop_token_ids:
            return masked
        return Masked([*masked.ids, eos], [*masked.learned, True])

    def _write(self, messages: Sequence[Message], tools: list[Any] | None, *, ask: bool = False) -> Written:
        return Written(self.tokenizer, *uncut(self._render(messages, tools, ask=ask)))

    def _render(
        self, messages: Sequence[Message], tools: list[Any] | None, *, ask: bool = False, assistant_mask: bool = False
    ) -> RenderedChat:
        options = ChatOptions(
            tools,
            chat_template=self.chat_template,
            add_generation_prompt=ask,
            assistant_mask=assistant_mask,
            template_kwargs=self.template_kwargs,
        )
        return render_chats(self.tokenizer, messages, options)[0][0]


def check_roles(messages: Sequence[Message], template: str, where: str) -> None:
    """Raises: DataError for a role that nobody knows: a template writes it down like any other, or leaves it out."""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in ROLES and not re.search(rf"(['\"]){re.escape(role)}\1", template):
            close = get_close_matches(role.casefold(), ROLES, 1)
            raise DataError(
                f"nobody knows the role {role[:40]!r}, and the chat template does not name it",
                where=f"{where}, message {number}",
                expected=", ".join(ROLES),
                remedy=f"did you mean {close[0]!r}?" if close else "rename it in the data, or leave such messages out",
            )


def disorder(messages: Sequence[Message]) -> str | None:
    """Where a conversation leaves the order of most: a system message first, then user and assistant in turn."""
    roles = [message["role"] for message in messages]
    for number, (before, role) in enumerate(zip(["", *roles], roles, strict=False), 1):
        if role == before and role != "tool":
            return f"message {number} of {len(roles)}: {role} after {before}"
        if role == "system" and number > 1:
            return f"message {number} of {len(roles)}: a system message that is not the first"
        if role == "assistant" and before in ("", "system"):
            return f"message {number} of {len(roles)}: the assistant, before a user said anything"
    return None
