"""What transformers' tokenizers have beside calls: properties, older names, and where what is not here lives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.base.errors import TokenizerError
from pellucid.text.backend import Backend
from pellucid.text.chat import choose_template
from pellucid.text.encoding import Encoded

# Arguments of a call that are not here.
CALL_ELSEWHERE = {
    "is_split_into_words": "join the words: tokenizer(' '.join(words))",
    "stride": "cut the ids: ids[i : i + length] for each i",
    "return_overflowing_tokens": "cut the ids: ids[i : i + length] for each i",
    "text_pair_target": "tokenize it by a call of its own",
    "boxes": "texts are what is read here",
}
# Attributes and methods that are not here.
ELSEWHERE = {
    "backend_tokenizer": "tokenizer.pieces(text) shows each token's bytes and characters",
    "_tokenizer": "tokenizer.pieces(text) shows each token's bytes and characters",
    "sp_model": "tokenizer.pieces(text) shows each token's bytes and characters",
    "save_vocabulary": "tokenizer.save_pretrained(folder)",
    "prepare_for_model": "tokenizer(text), or tokenizer.build_inputs_with_special_tokens(ids)",
    "create_token_type_ids_from_sequences": "tokenizer(text, return_token_type_ids=True)",
    "train_new_from_iterator": "`pellucid tokenizer train FILE… -o FOLDER`",
    "special_tokens_map_extended": "tokenizer.special_tokens_map, and tokenizer.added_tokens_decoder",
    "sanitize_special_tokens": "tokenizer.add_special_tokens({…}) adds those that the vocabulary lacks",
    "encode_message_with_chat_template": "tokenizer.apply_chat_template(messages)",
    "as_target_tokenizer": "tokenizer(text, text_target=…)",
    "prepare_seq2seq_batch": "tokenizer(text, text_target=…)",
}


class Familiar(Backend):
    """Names by which transformers' users look for things."""

    is_fast = True
    verbose = False

    @property
    def name_or_path(self) -> str:
        """What it was opened by."""
        return getattr(self, "_name_or_path", "") or str(self.where)

    @name_or_path.setter
    def name_or_path(self, name: str) -> None:
        self._name_or_path = str(name)

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """What tokenizer_config.json says."""
        return self.config

    @property
    def extra_special_tokens(self) -> list[str]:
        return list(self._additional)

    @property
    def max_len_single_sentence(self) -> int:
        return self.model_max_length - self.num_special_tokens_to_add()

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each id that is a special token's. Raises: TokenizerError for ids that have none added yet."""
        if not already_has_special_tokens or token_ids_1 is not None:
            raise TokenizerError(
                "get_special_tokens_mask looks at ids as they are",
                expected="already_has_special_tokens=True",
                remedy="tokenizer(text, return_special_tokens_mask=True)",
            )
        return [int(token in self.special_ids) for token in token_ids_0]

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Ids with those around them that ``encode`` puts there. Raises: TokenizerError for a pair."""
        if token_ids_1 is not None:
            raise TokenizerError("a pair is made from its texts", remedy="tokenizer(text, text_pair)")
        before, after = self.around()
        return [*before, *token_ids_0, *after]

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The template that a conversation is written by. Raises: TemplateError where there is none."""
        chosen = choose_template(self, chat_template, bool(tools))
        if chosen is None:
            raise TokenizerError("this model's chat format is written in ids, not in a template", where=self.where)
        return chosen

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **_: Any) -> str:
        """The tokenizer's files into a repository of the hub; its address."""
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)  # pyright: ignore[reportAttributeAccessIssue]  # the face's
            api.upload_folder(repo_id=repo.repo_id, folder_path=Path(folder))
        return str(repo)

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise AttributeError(f"a tokenizer has no {name!r} here → {ELSEWHERE[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def beside(encoded: Sequence[Encoded], special: bool | None, types: bool | None) -> dict[str, list[list[int]]]:
    """Columns that transformers' callers may ask for beside ids: which tokens were added, and of which text each is."""
    more: dict[str, list[list[int]]] = {}
    if types:
        if any(1 in (one.sequence or ()) for one in encoded):
            raise TokenizerError("token_type_ids of pairs are not here", remedy="leave return_token_type_ids out")
        more["token_type_ids"] = [[0] * len(one.ids) for one in encoded]
    if special:
        more["special_tokens_mask"] = [[int(of is None) for of in one.sequence or ()] for one in encoded]
    return more
