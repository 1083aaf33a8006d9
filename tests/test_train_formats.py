"""The files that people have: their formats, columns, encodings; system messages, empty answers, order and roles."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pellucid import AutoModelForCausalLM, AutoTokenizer
from pellucid.base.errors import PellucidError, RequestError
from pellucid.cli.app import app
from pellucid.families import FAMILIES
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.data.errors import DataError
from pellucid.train.data.example_store import Examples, Making, describe, tokenize_examples
from pellucid.train.data.examples import Completion, Conversation, Example, Exchange, Instruction, Pair, Text
from pellucid.train.data.fields import Fields
from pellucid.train.data.masks import Masking
from pellucid.train.data.records import read_examples
from pellucid.train.data.sources import documents

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def mini(shared: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(shared / "minimind_tokenizer")


@pytest.fixture(scope="module")
def model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny = {**FAMILIES["qwen2"].TINY, "vocab_size": 6400}
    AutoModelForCausalLM.from_config(tiny, seed=0, device="cpu").save_pretrained(folder)
    AutoTokenizer.from_pretrained(shared / "minimind_tokenizer").save_pretrained(folder)
    return folder


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read(path: Path, text: str | bytes, fields: str | None = None) -> list[Example | None]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [one.example for one in read_examples(path, fields=None if fields is None else Fields.parse(fields))]


def made(path: Path, tokenizer: Tokenizer, *records: Any, template: str | None = PLAIN, **making: Any) -> Examples:
    file = path / "data.jsonl"
    file.write_text(lines(*records))
    masking = Masking(tokenizer, chat_template=template)
    return tokenize_examples(path / "made", [file], masking, Making(**{"context_len": 128, **making}))


def said(tokenizer: Tokenizer, examples: Examples) -> list[str]:
    return [tokenizer.decode(ids[mask].tolist()) for ids, mask in (examples[n] for n in range(len(examples)))]


def whole(tokenizer: Tokenizer, examples: Examples) -> list[str]:
    return [tokenizer.decode(examples[n][0].tolist(), skip_special_tokens=True) for n in range(len(examples))]


def finetune(model: Path, file: Path, out: Path, *words: object) -> Any:
    base = ["finetune", "-m", model, "-d", file, "-o", out, "--preview", "--val-fraction", 0]
    return CliRunner().invoke(app, list(map(str, [*base, *words])))


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "example"),
    [
        ({"prompt": "你好", "response": "您好"}, Exchange("你好", "您好")),
        ({"question": "你好", "answer": "您好"}, Exchange("你好", "您好")),
        ({"input": "你好", "output": "您好"}, Exchange("你好", "您好")),
        ({"query": "Hi", "response": "Hello"}, Exchange("Hi", "Hello")),
        ({"inputs": "Hi", "targets": "Hello"}, Exchange("Hi", "Hello")),
        ({"system_prompt": "Be kind.", "question": "Hi", "response": "Yo"}, Exchange("Hi", "Yo", system="Be kind.")),
        ({"instruction": "Say", "input": "it", "output": "It."}, Instruction("Say", "it", "It.")),
        ({"instruction": "Say", "context": "it", "response": "It."}, Instruction("Say", "it", "It.")),
        ({"conversation": [user("Hi"), answer("Yo")]}, Conversation([user("Hi"), answer("Yo")])),
        ({"conversation": [{"input": "Hi", "output": "Yo"}]}, Conversation([user("Hi"), answer("Yo")])),
        ({"messages": json.dumps([user("Hi"), answer("Yo")])}, Conversation([user("Hi"), answer("Yo")])),
        (
            {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "bot", "value": "Yo"}]},
            Conversation([user("Hi"), answer("Yo")]),
        ),
        (
            {"messages": [user("Hi"), {"role": "assistant", "content": [{"type": "output_text", "text": "Yo"}]}]},
            Conversation([user("Hi"), answer("Yo")]),
        ),
        ({"prompt": [user("Hi")], "response": "Yo"}, Conversation([user("Hi"), answer("Yo")], num_before=1)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.habit("data", "finetune -d: `prompt`/`response`", "works")
@pytest.mark.habit("data", "finetune -d: `question`/`answer`", "works")
@pytest.mark.habit("data", "finetune -d: `input`/`output`", "works")
@pytest.mark.habit("data", "finetune -d: `query`/`response`, `inputs`/`targets`", "works")
@pytest.mark.habit("data", "finetune -d: OpenOrca's `system_prompt`, `question`, `response`", "works")
@pytest.mark.habit("data", "finetune -d: Dolly's `instruction`, `context`, `response`", "works")
@pytest.mark.habit("data", "finetune -d: `conversation` of `input`/`output` turns", "works")
@pytest.mark.habit("data", "finetune -d: messages as JSON in a text", "works")
def test_each_format_that_people_have_is_told_by_its_keys(record: Any, example: Example, tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", lines(record)) == [example]


@pytest.mark.habit("data", "a question and its answer, in the model's chat format", "works")
def test_a_question_is_the_users_and_its_answer_is_learned(tmp_path: Path, mini: Tokenizer) -> None:
    examples = made(tmp_path, mini, {"question": "天空是什么颜色？", "answer": "蓝色。"})
    assert said(mini, examples) == ["蓝色。<|im_end|>"]
    assert "天空是什么颜色？" in whole(mini, examples)[0]


@pytest.mark.habit("data", "a question and its answer, for a base model", "works")
def test_for_a_model_without_a_chat_format_the_answer_stands_on_the_next_line(tmp_path: Path, stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    assert tokenizer.chat_template is None
    examples = made(tmp_path, tokenizer, {"question": "Who?", "answer": "Me."}, template=None)
    assert [text.strip() for text in whole(tokenizer, examples)] == ["Who?\nMe."]


@pytest.mark.habit("data", 'finetune -d: a JSON list in any file (`.jsonl`, `.txt`, `{"data": […]}`)', "works")
def test_json_lists_are_read_from_any_file(tmp_path: Path) -> None:
    records = [{"text": "一"}, {"text": "二"}]
    for name in ("a.json", "a.jsonl", "a.txt", "a.ndjson", "a"):
        for text in (json.dumps(records), lines(*records), "\ufeff" + json.dumps(records, indent=1)):
            assert read(tmp_path / name, text) == [Text("一"), Text("二")], (name, text)
    assert read(tmp_path / "a.json", json.dumps({"data": records}, indent=1)) == [Text("一"), Text("二")]
    assert read(tmp_path / "a.json", json.dumps(records[0], indent=1)) == [Text("一")]
    with pytest.raises(DataError, match="pretrain"):
        read(tmp_path / "a.txt", "Once upon a time.")


# --- tables ----------------------------------------------------------------------------------------------------------

ROWS = [{"question": "你好，\n世界?", "answer": 'a "quoted", text; with all'}, {"question": "q", "answer": "a"}]


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("tsv", "\t"), ("csv", "\t")])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte-order mark"])
@pytest.mark.habit("data", "finetune -d table.csv (commas, Excel's semicolons, a byte-order mark)", "works")
@pytest.mark.habit("data", "finetune -d table.tsv", "works")
def test_a_table_that_python_writes_is_read_as_json_lines_are(
    suffix: str, delimiter: str, mark: str, tmp_path: Path
) -> None:
    expected = read(tmp_path / "a.jsonl", lines(*ROWS))
    assert read(tmp_path / f"a.{suffix}", mark + as_csv(ROWS, delimiter)) == expected


@pytest.mark.habit("data", "finetune -d data.parquet", "works")
@pytest.mark.habit("data", "finetune -d what `DataFrame.to_csv` wrote", "works")
def test_pandas_and_parquet_are_read_as_json_lines_are(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    messages = [{"messages": [user("你好"), answer("您好")]}, {"messages": [user("q"), answer("a")]}]
    for rows in (ROWS, messages):
        pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
        expected = read(tmp_path / "a.jsonl", lines(*rows))
        assert [one.example for one in read_examples(tmp_path / "a.parquet")] == expected
    pandas.DataFrame(ROWS).to_csv(tmp_path / "b.csv", index=False)
    assert [one.example for one in read_examples(tmp_path / "b.csv")] == read(tmp_path / "a.jsonl", lines(*ROWS))


@pytest.mark.habit("data", "finetune -d data.parquet without pyarrow", "pointer", "pip install pyarrow")
def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PellucidError, match=r"a\.parquet: .*needs pyarrow(.|\n)*pip install pyarrow"):
        read(tmp_path / "a.parquet", b"PAR1")


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    with pytest.raises(DataError, match=r"a\.parquet: this Parquet file cannot be read"):
        read(tmp_path / "a.parquet", b"PAR1 and no more")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\nq,a\nq\n", r"row 2 \(line 3\): .*another number of cells.*expected 2, received 1"),
        ('question,answer\nq,"a\n', r"a\.csv, near line \d: not valid CSV"),
        ("question,question\nq,a\n", r"the first line must name the columns"),
        ("heading,body\nq,a\n", r"row 1: the record is in no format(.|\n)*received heading, body(.|\n)*--fields"),
    ],
)
@pytest.mark.habit(
    "data", "a CSV row with a cell too few", "pointer", "row and line are named; quotes around what holds the separator"
)
def test_a_table_that_is_none_says_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv", text)


def test_a_tables_labels_are_texts_and_count_all_the_same(tmp_path: Path) -> None:
    rows = "prompt,completion,label\nq, a,1\nq, b,0\nq, c,False\n"
    assert read(tmp_path / "a.csv", rows) == [Completion("q", " a"), None, None]


@pytest.mark.habit("data", "pretrain, evaluate -d table.csv", "works")
def test_pretraining_and_evaluation_read_tables_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,text\none,first\ntwo,second\n")
    assert ["".join(one) for one in documents(tmp_path / "a.csv")] == ["first", "second"]
    assert ["".join(one) for one in documents(tmp_path / "a.csv", ("title", "text"))] == ["one\nfirst", "two\nsecond"]


# --- columns of other names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "record", "example"),
    [
        ("user=ask,assistant=reply", {"ask": "q", "reply": "a"}, Conversation([user("q"), answer("a")])),
        (
            "system=role,user=ask,assistant=reply",
            {"role": "s", "ask": "q", "reply": "a", "other": 1},
            Conversation([system("s"), user("q"), answer("a")]),
        ),
        ("text=标题+正文", {"标题": "红楼梦", "正文": "话说"}, Text("红楼梦\n话说")),
        (
            "user=q,assistant=answers.text.0",
            {"q": "q", "answers": {"text": ["a"]}},
            Conversation([user("q"), answer("a")]),
        ),
        ("prompt=q,completion=a", {"q": "q", "a": " a"}, Completion("q", " a")),
        (
            "user=q,chosen=good,rejected=bad",
            {"q": "q", "good": "a", "bad": "b"},
            Pair(Conversation([user("q"), answer("a")], None, 1), Conversation([user("q"), answer("b")], None, 1)),
        ),
    ],
)
@pytest.mark.habit("data", "finetune --fields user=question,assistant=answer", "works")
@pytest.mark.habit("data", "finetune --fields text=title+body", "works")
@pytest.mark.habit("data", "finetune --fields with a path, answers.text.0", "works")
@pytest.mark.habit("data", "finetune --fields user=…,chosen=…,rejected=…", "works")
def test_fields_say_which_column_is_what(fields: str, record: Any, example: Example, tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", lines(record), fields) == [example]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("user", "expected user=question,assistant=answer, received user"),
        ("user=q,user=r", "received user=r"),
        ("human=q,assistant=a", "no record has 'human'"),
        ("user=q", "nothing that is to be learned"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(fields: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Fields.parse(fields)


@pytest.mark.habit(
    "data", "finetune --fields with a column that is not there", "pointer", "the columns that are there are named"
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the record has no 'reply' \(received ask, answer\)"):
        read(tmp_path / "a.jsonl", lines({"ask": "q", "answer": "a"}), "user=ask,assistant=reply")


# --- what is no data -------------------------------------------------------------------------------------------------


def read_whole(path: Path) -> list[Any]:
    """As pretraining reads a plain text, and fine-tuning anything else."""
    return [list(one) for one in documents(path)] if path.suffix == ".txt" else list(read_examples(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.habit("data", "a file in GBK", "pointer", "iconv -f GB18030 -t UTF-8")
def test_gbk_is_named_with_its_cure(name: str, tmp_path: Path) -> None:
    record = {"question": "天空是什么颜色？", "answer": "蓝色。"}
    text = {"a.json": json.dumps([record], ensure_ascii=False), "a.csv": as_csv([record]), "a.txt": "话说天下大势"}
    (tmp_path / name).write_bytes(text.get(name, lines(record)).encode("gbk"))
    with pytest.raises(DataError, match=rf"seems to be GBK(.|\n)*iconv -f GB18030 -t UTF-8 {name} > utf8-{name}"):
        read_whole(tmp_path / name)


def test_latin_and_utf16_are_not_taken_for_gbk(tmp_path: Path) -> None:
    for data, name in (("Ça été où".encode("latin-1"), None), ("Hi there".encode("utf-16"), "UTF-16")):
        with pytest.raises(DataError, match="not UTF-8") as error:
            read(tmp_path / "a.jsonl", data)
        assert "GBK" not in str(error.value)
        assert name is None or name in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv", "a.txt"])
@pytest.mark.habit("data", "a git-lfs pointer in place of the data", "pointer", "git lfs pull")
def test_a_git_lfs_pointer_is_named_with_its_cure(name: str, tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(DataError, match=r"git-lfs pointer(.|\n)*expected 123456 bytes(.|\n)*git lfs pull"):
        _ = [list(one) for one in documents(tmp_path / name)]
    if name != "a.txt":
        with pytest.raises(DataError, match="git lfs pull"):
            list(read_examples(tmp_path / name))


# --- order, roles ----------------------------------------------------------------------------------------------------


@pytest.mark.habit(
    "data", "a role that nobody knows", "pointer", "the nearest known one is named; a template's own roles are taken"
)
def test_a_role_that_nobody_knows_is_named_unless_the_template_knows_it(tmp_path: Path, mini: Tokenizer) -> None:
    bad = {"messages": [user("q"), {"role": "asistant", "content": "a"}, user("q"), answer("a")]}
    with pytest.raises(DataError, match=r"line 1, message 2: .*role 'asistant'(.|\n)*did you mean 'assistant'\?"):
        made(tmp_path, mini, bad)
    critic = {"messages": [user("q"), {"role": "critic", "content": "hm"}, answer("a")]}
    with pytest.raises(DataError, match=r"message 2: .*'critic'.*\n.*rename it"):
        made(tmp_path, mini, critic)
    knowing = PLAIN.replace("{{ m.role }}", "{{ 'thought' if m.role == 'critic' else m.role }}")
    assert said(mini, made(tmp_path, mini, critic, template=knowing)) == ["a<|im_end|>"]


@pytest.mark.habit(
    "data",
    "a conversation that the assistant begins",
    "differs",
    "that message is not learned, since nobody asked for it, and it is counted",
)
def test_an_answer_before_any_question_is_named(tmp_path: Path, mini: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"that it was asked for(.|\n)*received assistant, user(.|\n)*in the order"):
        made(tmp_path, mini, {"messages": [answer("a"), user("q")]})
    examples = made(tmp_path, mini, {"messages": [answer("Welcome!"), user("q"), answer("a")]})
    assert said(mini, examples) == ["a<|im_end|>"]
    assert "1 that the assistant begins: that message is not learned" in describe(examples.counts)


@pytest.mark.habit("data", "messages in an order that the template refuses", "pointer", "the message is named")
def test_where_a_template_refuses_the_order_the_message_is_named(tmp_path: Path, mini: Tokenizer) -> None:
    strict = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + PLAIN
    )
    with pytest.raises(DataError, match=r"must alternate.*received message 2 of 3: user after user"):
        made(tmp_path, mini, {"messages": [user("q"), user("q"), answer("a")]}, template=strict)


# --- system messages, empty answers, the last answer alone -----------------------------------------------------------


@pytest.mark.habit(
    "data",
    "finetune -sys beside a record's own system message",
    "differs",
    "the record's own stays; how many of either is said",
)
def test_a_records_own_system_message_stays_and_it_is_said(tmp_path: Path, mini: Tokenizer) -> None:
    own = {"messages": [system("我的"), user("q"), answer("a")]}
    records = [own, {"messages": [user("q"), answer("b")]}, {"question": "q", "answer": "c"}, {"text": "plain"}]
    examples = made(tmp_path, mini, *records, system="给定的")
    texts = whole(mini, examples)
    assert ["我的" in text for text in texts] == [True, False, False, False]
    assert ["给定的" in text for text in texts] == [False, True, True, False]
    assert "2 given the system message of -sys" in describe(examples.counts)
    assert "1 with a system message of their own, which stays in place of that of -sys" in describe(examples.counts)
    with pytest.raises(DataError, match="-sys has no effect"):
        made(tmp_path, mini, own, system="给定的")


def test_weights_and_pairs_keep_their_places_behind_a_system_message(tmp_path: Path, mini: Tokenizer) -> None:
    record = {"messages": [user("q"), {**answer("WRONG"), "weight": 0}, user("r"), {**answer("right"), "weight": 1}]}
    assert said(mini, made(tmp_path, mini, record, system="s")) == ["right<|im_end|>"]
    pair = {"prompt": [user("q")], "chosen": [answer("good")], "rejected": [answer("bad")]}
    examples = made(tmp_path, mini, pair, system="s", paired=True)
    assert said(mini, examples) == ["good<|im_end|>", "bad<|im_end|>"]
    assert all("system\ns" in text for text in whole(mini, examples))


@pytest.mark.parametrize(
    "record",
    [
        {"question": "q", "answer": ""},
        {"instruction": "q", "output": ""},
        {"prompt": "q", "completion": ""},
        {"messages": [user("q"), answer("")]},
    ],
    ids="+".join,
)
@pytest.mark.habit("data", "finetune --keep-empty", "works")
@pytest.mark.habit("data", "empty answers", "differs", "left out and counted, unless --keep-empty")
def test_an_empty_answer_is_left_out_unless_it_is_asked_for(record: Any, tmp_path: Path, mini: Tokenizer) -> None:
    good = {"question": "q", "answer": "a"}
    examples = made(tmp_path, mini, good, record)
    assert said(mini, examples) == ["a<|im_end|>"]
    assert "1 left out, since their answer is empty" in describe(examples.counts)
    assert said(mini, made(tmp_path, mini, good, record, keep_empty=True)) == ["a<|im_end|>", "<|im_end|>"]


@pytest.mark.habit("training", "loss on the last turn alone: --learn last", "works")
def test_of_a_conversation_the_last_answer_can_be_learned_alone(tmp_path: Path, mini: Tokenizer) -> None:
    record = {"messages": [user("一"), answer("甲"), user("二"), answer("乙")]}
    assert said(mini, made(tmp_path, mini, record)) == ["甲<|im_end|>乙<|im_end|>"]
    assert said(mini, made(tmp_path, mini, record, last_alone=True)) == ["乙<|im_end|>"]
    alpaca = {"instruction": "二", "output": "乙", "history": [["一", "甲"]]}
    assert said(mini, made(tmp_path, mini, alpaca)) == ["甲<|im_end|>乙<|im_end|>"]
    assert said(mini, made(tmp_path, mini, alpaca, last_alone=True)) == ["乙<|im_end|>"]
    with pytest.raises(DataError, match="--learn last has no effect"):
        made(tmp_path, mini, {"question": "q", "answer": "a"}, last_alone=True)


# --- as it is typed --------------------------------------------------------------------------------------------------


def test_finetune_takes_a_table_with_its_columns_and_a_system_message(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "faq.csv"
    file.write_text("问,答\n你好,您好\n再见,\n")
    words = ["--fields", "user=问,assistant=答", "-sys", "你是助手", "--keep-empty"]
    result = finetune(model, file, tmp_path / "run", *words)
    assert result.exit_code == 0, result.output
    assert "2 messages: 2 sequences" in result.stderr
    assert "2 given the system message of -sys" in result.stderr


@pytest.mark.habit("data", "finetune --on-too-long truncate, stop (older spellings)", "works")
def test_old_spellings_of_too_long_are_understood(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines({"prompt": "word " * 99, "completion": "a"}, {"prompt": "q", "completion": "a"}))
    for word, cut in (("truncate", "too long and left out"), ("cut", "too long and left out"), ("skip", "left out")):
        result = finetune(model, file, tmp_path / word, "--context-len", 16, "--on-too-long", word)
        assert result.exit_code == 0, result.output
        assert cut in result.stderr
    for word in ("stop", "error"):
        assert finetune(model, file, tmp_path / word, "--context-len", 16, "--on-too-long", word).exit_code != 0
