"""Fine-tuning data: which records are read, which tokens are learned, in which rows they come."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer as Theirs

from pellucid import AutoTokenizer
from pellucid.families import FAMILIES
from pellucid.model.decoder import Decoder
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.batch import IGNORED
from pellucid.train.data.example_batches import ExampleBatches, rows_of, split_records
from pellucid.train.data.example_store import Counts, Examples, Making, describe, tokenize_examples
from pellucid.train.data.examples import Completion, Conversation, Example, Instruction, Pair, Text
from pellucid.train.data.masks import Masked, Masking
from pellucid.train.data.records import read_examples
from pellucid.train.data.sources import DataError, find_sources
from pellucid.train.objectives.loss import language_loss

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
CHAT = [USER, ANSWER, {"role": "user", "content": "再见"}, {"role": "assistant", "content": "Bye, 你好."}]
TOOL = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}
CALLS = [
    USER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}, "id": "call00001"}],
    },
    {"role": "tool", "content": "2", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "Two."},
]


def read(path: Path, *records: Any, lines: bool = True) -> list[Example | None]:
    file = path / ("data.jsonl" if lines else "data.json")
    file.write_text(
        "".join(json.dumps(record) + "\n" for record in records) if lines else json.dumps(list(records)), "utf-8"
    )
    return [one.example for one in read_examples(file)]


# --- records ---------------------------------------------------------------------------------------------------------

SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
PAIR = Pair(
    Conversation([USER, ANSWER], num_before=1),
    Conversation([USER, {"role": "assistant", "content": "What?"}], num_before=1),
)
BAD = {"role": "assistant", "content": "What?"}


@pytest.mark.parametrize(
    ("record", "example"),
    [
        ({"text": "Once"}, Text("Once")),
        ({"prompt": "2+2=", "completion": "4"}, Completion("2+2=", "4")),
        ({"prompt": [USER], "completion": [ANSWER]}, Conversation([USER, ANSWER], num_before=1)),
        ({"messages": [USER, ANSWER]}, Conversation([USER, ANSWER])),
        (
            {"messages": [USER, ANSWER], "tools": [TOOL]},
            Conversation([USER, ANSWER], [{"type": "function", "function": TOOL}]),
        ),
        ({"messages": [USER, ANSWER], "label": False}, None),
        ({"conversations": SHAREGPT, "tools": ""}, Conversation([USER, ANSWER])),
        (
            {"conversations": SHAREGPT, "system": "Be."},
            Conversation([{"role": "system", "content": "Be."}, USER, ANSWER]),
        ),
        ({"conversations": [USER, ANSWER]}, Conversation([USER, ANSWER])),
        (
            {
                "conversations": [
                    SHAREGPT[0],
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "Two."},
                ]
            },
            Conversation(CALLS),
        ),
        ({"instruction": "Say", "input": "it", "output": "It."}, Instruction("Say", "it", "It.")),
        (
            {"instruction": "Say", "output": "It.", "history": [["a", "b"]]},
            Instruction("Say", "", "It.", history=(("a", "b"),)),
        ),
        ({"instruction": "Say", "instances": [{"input": "it", "output": "It."}]}, Instruction("Say", "it", "It.")),
        ({"prompt": "Q", "chosen": "a", "rejected": "b"}, Pair(Completion("Q", "a"), Completion("Q", "b"))),
        (
            {"chosen": "H: Q\nA: yes", "rejected": "H: Q\nA: yo"},
            Pair(Completion("H: Q\n", "A: yes"), Completion("H: Q\n", "A: yo")),
        ),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]}, PAIR),
        ({"chosen": [USER, ANSWER], "rejected": [USER, BAD]}, PAIR),
        ({"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, PAIR),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "What?"}}, PAIR),
        ({"instruction": "Hi", "chosen": "Hello!", "rejected": "What?"}, PAIR),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else type(value).__name__,
)
@pytest.mark.habit("data", "finetune -d: OpenAI's `messages`", "works")
@pytest.mark.habit("data", "finetune -d: ShareGPT's `conversations`", "works")
@pytest.mark.habit("data", "finetune -d: Alpaca's `instruction`, `input`, `output`", "works")
@pytest.mark.habit("data", "finetune -d: `chosen`, `rejected`", "works")
def test_each_format_is_told_by_its_keys(record: dict[str, Any], example: Example | None, tmp_path: Path) -> None:
    assert read(tmp_path, record) == [example]


def test_a_json_list_and_json_lines_under_either_name_read_alike(tmp_path: Path) -> None:
    records = [{"text": "a"}, {"text": "b"}]
    assert read(tmp_path, *records) == read(tmp_path, *records, lines=False) == [Text("a"), Text("b")]
    (tmp_path / "data.json").write_text((tmp_path / "data.jsonl").read_text())
    assert [one.example for one in read_examples(tmp_path / "data.json")] == [Text("a"), Text("b")]


def test_every_record_of_the_real_data_is_read(shared: Path) -> None:
    files = find_sources([str(shared / "instruct_pref")], (".json", ".jsonl"))
    read = {path.name: list(read_examples(path)) for path in files}
    kinds = {name: Counter(one.format for one in its) for name, its in read.items()}
    assert kinds["identity.json"] == {"alpaca": 91}
    assert kinds["alpaca_zh_demo.json"] == {"alpaca": 1000}
    assert kinds["glaive_toolcall_en_demo.json"] == {"ShareGPT conversations": 300}
    assert kinds["dpo_en_demo.json"] == {"preference": 300}
    assert kinds["seed_tasks.jsonl"] == {"seed task": 175}
    assert sum(one.example is None for one in read["kto_en_demo.json"]) == 150, "KTO's bad answers are not learned from"
    assert (
        sum(
            bool(one.example.tools)
            for one in read["glaive_toolcall_en_demo.json"]
            if isinstance(one.example, Conversation)
        )
        > 100
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"title": "a", "body": "b"}, r"line 2: .*in no format.*messages.*received title, body"),
        (["a"], r"line 2: a record must be an object.*received list"),
        ({"text": 3}, r"line 2: text has the wrong type \(expected str, received int 3"),
        ({"messages": "Hi"}, r"line 2: the list of messages has the wrong type"),
        ({"messages": [{"role": "user"}]}, r"line 2: a message lacks its role or content.*received \{'role': 'user'\}"),
        ({"conversations": [{"from": "function_call", "value": "add(1)"}]}, r"line 2: a function_call must be JSON"),
        ({"messages": [USER], "tools": "add"}, r"line 2: tools must be JSON"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, r"line 2: history has the wrong form"),
        (
            {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "another question"}, ANSWER]},
            r"line 2: the preferred and the rejected answer are to different questions.*another question",
        ),
    ],
)
def test_a_bad_record_is_named_with_what_is_wrong(record: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, {"text": "a good one"}, record)


def test_a_line_that_is_no_json_and_a_plain_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not valid JSON"):
        list(read_examples(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="pretrain"):
        list(read_examples(tmp_path / "a.txt"))


def test_placeholders_are_filled(shared: Path) -> None:
    its = [
        one.example
        for one in read_examples(shared / "instruct_pref/identity.json", {"name": "Pellucid", "author": "Ada"})
    ]
    assert its[2] == Instruction(
        "Who are you?", "", "I am Pellucid, an AI assistant developed by Ada. How can I assist you today?"
    )


def test_a_name_that_nothing_asks_for_is_an_error(tmp_path: Path, mini: Tokenizer) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Who?", "completion": "{{name}}"}) + "\n")
    assert len(tokenized(tmp_path / "a.jsonl", mini, fill={"name": "Ada"})) == 1
    with pytest.raises(DataError, match=r"to be filled(.|\n)*\{\{NAME\}\}"):
        tokenized(tmp_path / "a.jsonl", mini, fill={"NAME": "Ada"})


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(shared: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(shared / "qwen3_tokenizer")


@pytest.fixture(scope="module")
def mini(shared: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")


def template(shared: Path, name: str) -> str:
    return next(iter((shared / "chat_templates").glob(f"*{name}*"))).read_text("utf-8")


def learned(tokenizer: Tokenizer, one: Masked) -> list[str]:
    """The stretches of text that are learned."""
    stretches: list[list[int]] = []
    for place, (token, counts) in enumerate(zip(one.ids, one.learned, strict=True)):
        if counts and not one.learned[place - 1]:
            stretches.append([])
        if counts:
            stretches[-1].append(token)
    return [tokenizer.decode(ids) for ids in stretches]


def with_marks(qwen25: str) -> str:
    """Qwen2.5's own template with {% generation %} around what the assistant says, its end of turn included."""
    said = "'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n'"
    assert said in qwen25
    body = (
        "message.role == \"assistant\" and not message.tool_calls %}{{- '<|im_start|>assistant\\n' }}"
        "{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}{%- elif "
    )
    start = qwen25.index('(message.role == "user") or')
    marked = qwen25[:start] + body + qwen25[start:]
    calls = "{{- '<|im_start|>' + message.role }}"
    assert marked.count(calls) == 1
    marked = marked.replace(calls, "{{- '<|im_start|>' + message.role + '\\n' }}{% generation %}")
    marked = marked.replace('{{- \'\\n<tool_call>\\n{"name": "\' }}', '{{- \'<tool_call>\\n{"name": "\' }}')
    return marked.replace(
        "{{- '<|im_end|>\\n' }}\n    {%- elif", "{{- '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}\n    {%- elif", 1
    )


@pytest.mark.parametrize(
    "chat", [CHAT, CALLS, [{"role": "system", "content": "Be brief."}, *CHAT]], ids=["chat", "tools", "system"]
)
def test_marks_are_transformers_marks_and_prefix_rendering_finds_the_same(
    qwen: Tokenizer, shared: Path, chat: list[dict[str, Any]]
) -> None:
    plain = template(shared, "Qwen2.5")
    marked = with_marks(plain)
    tools = [{"type": "function", "function": TOOL}] if chat is CALLS else None
    theirs = Theirs.from_pretrained(shared / "qwen3_tokenizer").apply_chat_template(
        chat, tools=tools, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    by_marks = Masking(qwen, chat_template=marked).tokens(Conversation(chat, tools), "here")
    assert by_marks == [Masked(theirs["input_ids"], [bool(one) for one in theirs["assistant_masks"]])]
    assert Masking(qwen, chat_template=plain).tokens(Conversation(chat, tools), "here") == by_marks


# What is learned of CHAT, by template: one list a sequence. Qwen's tokenizer has its own <|im_end|> for an end, and no
# other's.
LEARNED = {
    "Qwen2.5": [["Hello!<|im_end|>", "Bye, 你好.<|im_end|>"]],
    "SmolLM3": [["Hello!<|im_end|>", "Bye, 你好.<|im_end|>"]],
    # The last answer alone begins with thinking, so each answer is asked for as it will be.
    "Qwen3": [["<think>\n\n</think>\n\nHello!<|im_end|>"], ["<think>\n\n</think>\n\nBye, 你好.<|im_end|>"]],
    "Mistral": [["Hello!<|im_end|>", "Bye, 你好.<|im_end|>"]],
    "gemma": [["Hello!<end_of_turn>\n", "Bye, 你好.<end_of_turn>\n<|im_end|>"]],
    "Phi": [["Hello!<|end|>\n<|im_end|>"], ["Bye, 你好.<|end|>\n<|im_end|>"]],
    "gpt-oss": [
        ["<|channel|>final<|message|>Hello!<|return|><|im_end|>"],
        ["<|channel|>final<|message|>Bye, 你好.<|return|><|im_end|>"],
    ],
}


@pytest.mark.parametrize("name", LEARNED)
def test_every_answer_with_what_ends_it_is_learned_and_nothing_else(qwen: Tokenizer, shared: Path, name: str) -> None:
    sequences = Masking(qwen, chat_template=template(shared, name)).tokens(Conversation(CHAT), "here")
    assert [learned(qwen, one) for one in sequences] == LEARNED[name]


def test_thinking_is_learned_where_it_will_be_asked_for(qwen: Tokenizer) -> None:
    chat = [
        USER,
        {**ANSWER, "reasoning_content": "A greeting."},
        CHAT[2],
        {**CHAT[3], "reasoning_content": "A farewell."},
    ]
    first, second = Masking(qwen).tokens(Conversation(chat), "here")
    assert learned(qwen, first) == ["<think>\nA greeting.\n</think>\n\nHello!<|im_end|>"]
    assert learned(qwen, second) == ["<think>\nA farewell.\n</think>\n\nBye, 你好.<|im_end|>"]
    assert "A greeting." not in qwen.decode(second.ids), "earlier thinking is gone when the second answer is asked for"
    asked = qwen.apply_chat_template(chat[:3], add_generation_prompt=True, return_dict=False)
    assert second.ids[: len(asked)] == asked


def test_messages_that_are_given_are_not_learned(qwen: Tokenizer, shared: Path) -> None:
    plain = template(shared, "Qwen2.5")
    for its in (plain, with_marks(plain)):
        (one,) = Masking(qwen, chat_template=its).tokens(Conversation(CHAT, num_before=3), "here")
        assert learned(qwen, one) == ["Bye, 你好.<|im_end|>"]


def test_chatglm_learns_what_follows_its_role_token_up_to_the_next(shared: Path) -> None:
    """As ChatGLM3's own finetune_demo: the loss counts on every token after <|assistant|>, the next role's token or
    </s> included.
    """
    tokenizer = AutoTokenizer.from_pretrained(shared / "chatglm3_tokenizer")
    (one,) = Masking(tokenizer).tokens(Conversation(CHAT), "here")
    assert learned(tokenizer, one) == ["\n Hello! <|user|>", "\n Bye, 你好. </s>"]
    assert one.ids[:-1] == tokenizer.apply_chat_template(CHAT, return_dict=False)


def test_a_completion_is_learned_up_to_its_end_and_a_text_whole(qwen: Tokenizer, shared: Path) -> None:
    masking = Masking(qwen)
    (one,) = masking.tokens(Completion("2+2=", "4, 四"), "here")
    assert learned(qwen, one) == ["4, 四<|im_end|>"]
    (text,) = masking.tokens(Text("Once."), "here")
    assert all(text.learned)
    assert qwen.decode(text.ids) == "Once.<|im_end|>"
    llama = AutoTokenizer.from_pretrained(shared / "llama2_tokenizer")
    (alpaca,) = Masking(llama).tokens(Instruction("Add.", "1 1", "2"), "here")
    assert (llama.decode(alpaca.ids[:1]), learned(llama, alpaca)[0][-5:]) == ("<s>", "2</s>")
    assert "### Input:\n1 1\n\n### Response:" in llama.decode(alpaca.ids), "with no chat template, in Alpaca's words"


@pytest.mark.parametrize(
    ("example", "name", "message"),
    [
        (Conversation([USER]), "Qwen3", "here: the assistant says nothing"),
        (
            Conversation([{"role": "system", "content": "Be."}, *CHAT]),
            "gemma",
            "here: the chat format cannot write.*System role not supported",
        ),
        (
            Conversation([{"role": "system", "content": "Be."}, *CHAT]),
            "Mistral",
            r"here, message 3: .*(.|\n)*leave out the system message",
        ),
        (PAIR, "Qwen3", "--method dpo"),
    ],
    ids=["no answer", "refused by the template", "not where it is asked for", "a pair"],
)
def test_what_cannot_be_masked_is_an_error_that_names_the_record(
    qwen: Tokenizer, shared: Path, example: Example, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Masking(qwen, chat_template=template(shared, name)).tokens(example, "here")


def test_every_conversation_of_the_real_data_has_its_answers_and_only_them(qwen: Tokenizer, shared: Path) -> None:
    masking, ends = Masking(qwen, chat_template=template(shared, "Qwen2.5")), qwen.convert_tokens_to_ids("<|im_end|>")
    for name in ("glaive_toolcall_zh_demo", "dpo_en_demo", "kto_en_demo", "identity"):
        for one in list(read_examples(shared / f"instruct_pref/{name}.json"))[:60]:
            if one.example is None:
                continue
            if isinstance(one.example, Pair):
                made, chat = [masking.pair(one.example, one.where)[0]], one.example.chosen
            else:
                made, chat = masking.tokens(one.example, one.where), one.example
            chat = chat.conversation() if isinstance(chat, Instruction) else chat
            assert isinstance(chat, Conversation)
            said = [stretch for its in made for stretch in learned(qwen, its)]
            answers = [message for message in chat.messages[chat.num_before :] if message["role"] == "assistant"]
            assert len(said) == len(answers)
            for text, answer in zip(said, answers, strict=True):
                assert text.endswith("<|im_end|>")
                assert answer["content"] in text
            assert all(
                its.learned[place]
                for its in made
                for place, token in enumerate(its.ids)
                if token == ends and its.learned[place - 1]
            )


# --- tokenized -------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Twelve records of growing length."""
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps({"prompt": "count:", "completion": " 1" * n}) + "\n" for n in range(1, 13)))
    return path


def tokenized(path: Path, tokenizer: Tokenizer, **settings: Any) -> Examples:
    return tokenize_examples(
        path.parent / "data", [path], Masking(tokenizer), Making(**{"context_len": 64, **settings})
    )


def test_examples_come_back_as_they_were_made(numbers: Path, mini: Tokenizer) -> None:
    examples = tokenized(numbers, mini)
    assert len(examples) == 12
    ids, mask = examples[2]
    assert mini.decode(ids.tolist()) == "count: 1 1 1<|im_end|>"
    assert mini.decode(ids[mask].tolist()) == " 1 1 1<|im_end|>"
    assert describe(examples.counts).startswith("12 prompt and completion: 12 sequences")


def test_examples_are_made_once_and_anew_when_something_changes(numbers: Path, mini: Tokenizer) -> None:
    tokenized(numbers, mini)
    written = (numbers.parent / "data/tokens.bin").stat().st_ino
    again = tokenized(numbers, mini)
    assert (numbers.parent / "data/tokens.bin").stat().st_ino == written
    assert again.counts.num_records == 12
    tokenized(numbers, mini, context_len=32)
    assert (numbers.parent / "data/tokens.bin").stat().st_ino != written


def test_too_long_ones_are_cut_left_out_or_refused_and_said(numbers: Path, mini: Tokenizer) -> None:
    whole = tokenized(numbers, mini).lengths
    limit = int(whole[5])  # the first six fit
    cut = tokenized(numbers, mini, context_len=limit - 1)
    assert (len(cut), cut.counts.num_truncated, max(cut.lengths)) == (12, 6, limit)
    assert "6 cut at the context's end" in describe(cut.counts)
    left = tokenized(numbers, mini, context_len=limit - 1, on_too_long="skip")
    assert (len(left), left.counts.num_too_long) == (6, 6)
    with pytest.raises(
        DataError, match=rf"line 7: .*longer than the context \(expected at most {limit} tokens, received {whole[6]}\)"
    ):
        tokenized(numbers, mini, context_len=limit - 1, on_too_long="error")


@pytest.mark.habit("data", "finetune --on-too-long cut, skip, error", "works")
def test_one_record_of_which_nothing_would_be_left_stops_no_run(numbers: Path, mini: Tokenizer) -> None:
    few = tokenized(numbers, mini, context_len=4)
    numbers.write_text(json.dumps({"prompt": "a b c d e f g h", "completion": " i"}) + "\n" + numbers.read_text())
    cut = tokenized(numbers, mini, context_len=4)
    assert (len(cut), cut.counts.num_too_long) == (len(few), few.counts.num_too_long + 1)
    assert "too long and left out" in describe(cut.counts)
    assert tokenized(numbers, mini, context_len=4, on_too_long="skip").counts.num_too_long > 1
    with pytest.raises(DataError, match=r"line 1: .*longer than the context(.|\n)*--on-too-long cut or skip"):
        tokenized(numbers, mini, context_len=4, on_too_long="error")


def test_an_example_that_teaches_nothing_is_an_error_that_names_it(numbers: Path, mini: Tokenizer) -> None:
    marked = Masking(
        mini, chat_template="{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}"
    )
    numbers.write_text(json.dumps({"messages": CHAT}) + "\n")
    with pytest.raises(DataError, match="line 1: nothing of this example is learned"):
        tokenize_examples(numbers.parent / "data", [numbers], marked, Making(context_len=64))


# --- batches ---------------------------------------------------------------------------------------------------------


def batches(examples: Examples, **settings: Any) -> ExampleBatches:
    pack_into = settings.pop("pack_into", None)
    return ExampleBatches(examples, rows_of(range(len(examples)), examples, pack_into=pack_into), 0, **settings)


def test_a_row_holds_an_example_its_targets_and_padding(numbers: Path, mini: Tokenizer) -> None:
    examples = tokenized(numbers, mini)
    batch = next(batches(examples).spread(2, 2))
    ids, mask = examples[0]
    length = len(ids) - 1
    assert batch.token_ids[0, :length].tolist() == ids[:-1].tolist()
    assert batch.targets[0, :length].tolist() == np.where(mask[1:], ids[1:], IGNORED).tolist()
    assert (batch.targets[0, length:] == IGNORED).all()
    assert batch.num_targets == sum(examples[n][1].sum() for n in (0, 11))


@pytest.mark.parametrize("pack_into", [None, 32])
def test_each_example_comes_once_an_epoch_and_a_sample_is_always_the_same(
    numbers: Path, mini: Tokenizer, pack_into: int | None
) -> None:
    examples = tokenized(numbers, mini)
    its = batches(examples, seed=3, pack_into=pack_into)
    rows = len(its)
    epochs = [[tuple(its.shuffled(e * rows + n, 1).token_ids[0].tolist()) for n in range(rows)] for e in (0, 1)]
    assert len(set(epochs[0])) == rows
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    again = batches(examples, seed=3, pack_into=pack_into)
    assert torch.equal(again.shuffled(rows + 1, rows).targets, its.shuffled(rows + 1, rows).targets), (
        "whatever was asked for before"
    )


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(2, 33), min_size=1, max_size=40))
def test_packing_keeps_every_example_within_the_row(lengths: list[int]) -> None:
    class Lengths:
        paired = False

        def __init__(self) -> None:
            self.lengths = np.array(lengths)

    rows = [row for sample in rows_of(range(len(lengths)), Lengths(), pack_into=32) for row in sample]  # type: ignore[arg-type]
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] - 1 for number in row) <= 32 for row in rows)
    needed = sum(length - 1 for length in lengths)
    assert sum(32 - sum(lengths[number] - 1 for number in row) >= 16 for row in rows) <= 1 or needed > 16 * (
        len(rows) - 1
    ), "rows are filled"


@pytest.mark.parametrize("by_length", [False, True])
def test_packed_rows_have_the_loss_and_gradients_of_single_ones(
    numbers: Path, mini: Tokenizer, by_length: bool
) -> None:
    examples = tokenized(numbers, mini)
    tiny = {**FAMILIES["qwen2"].TINY, "vocab_size": len(mini)}
    if by_length:  # where rotation goes by a text's length, that of its neighbours or of padding is none of it
        factors = {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 9.0]}
        middle = int(np.median(examples.lengths)) - 1
        tiny["rope_scaling"] = {"rope_type": "longrope", "original_max_position_embeddings": middle, **factors}
    model = Decoder(FAMILIES["qwen2"].config(tiny)).initialize(torch.Generator().manual_seed(0))
    found = []
    for its in (batches(examples), batches(examples, pack_into=40)):
        model.zero_grad()
        loss = language_loss(model, its.shuffled(0, len(its)))
        loss.total.backward()
        found.append(
            (
                loss.total.item(),
                loss.num_targets,
                [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None],
            )
        )
    assert found[0][1] == found[1][1]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for a, b in zip(found[0][2], found[1][2], strict=True):  # float32 sums in another order
        assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()) + 1e-9)


def test_pairs_stay_together(tmp_path: Path, mini: Tokenizer) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"{n}:", "chosen": " yes", "rejected": " no, no"}) + "\n" for n in range(5))
    )
    its = batches(tokenized(path, mini, paired=True))
    assert len(its) == 5
    batch = its.shuffled(0, 3)
    assert batch.token_ids.shape[0] == 6
    for first in range(0, 6, 2):
        chosen, rejected = (
            mini.decode([one for one in batch.targets[row].tolist() if one != IGNORED]) for row in (first, first + 1)
        )
        assert (chosen, rejected) == (" yes<|im_end|>", " no, no<|im_end|>")
        assert batch.token_ids[first, 0] == batch.token_ids[first + 1, 0]
    path.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=r"no pair of answers(.|\n)*--method lora"):
        tokenized(path, mini, paired=True)


def test_all_sequences_of_a_record_are_held_back_together_or_not_at_all() -> None:
    records = np.repeat(np.arange(20), 3)
    train, held = split_records(records, 0.1)
    assert len(train) == 54
    assert sorted([*train, *held]) == list(range(60))
    assert not set(records[train]) & set(records[held])
    assert len(split_records(records, 0)[1]) == 0
    assert len(split_records(np.arange(5), 0.05)[1]) == 0, "of very few, none can be spared"
    with pytest.raises(DataError, match="--val-fraction 0"):
        split_records(np.arange(2), 0.9)


def test_counts_say_what_was_left_out() -> None:
    counts = Counts(
        formats={"alpaca": 3}, num_examples=1, num_tokens=1000, num_learned=10, num_too_long=1, num_marked_bad=1
    )
    said = describe(counts)
    assert (
        said == "3 alpaca: 1 sequences, 1,000 tokens, 10 of them learned; 1 too long and left out; "
        "1 left out, since their label says they are bad"
    )
