"""The one-call form, and the shapes Hugging Face users expect of it."""

from __future__ import annotations

import numpy as np
import pytest
from hash_executor import HashExecutor, LetterTokenizer, letters
from transformers import TextStreamer

from pellucid.base.errors import RequestError
from pellucid.generate import append_new_tokens, generate
from pellucid.sampling import SamplingParams


class Collected:
    def __init__(self) -> None:
        self.values: list[list[int]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.ended = False

    def put(self, value: np.ndarray) -> None:
        self.values.append(value.flatten().tolist())
        self.shapes.append(value.shape)

    def end(self) -> None:
        self.ended = True


def test_rows_are_the_prompt_as_given_then_new_ids_then_padding() -> None:
    results = generate(HashExecutor(), [[3, 1], [4]], max_new_tokens=6, stop_token_ids=())
    short = results[1].token_ids[2]
    results = generate(HashExecutor(), [[3, 1], [4]], max_new_tokens=6, stop_token_ids=[short])
    assert len(results[1].token_ids) <= 3
    input_ids = np.array([[3, 1], [28, 4]])
    rows = append_new_tokens(input_ids, results, pad_token_id=27)
    assert rows.dtype == input_ids.dtype
    longest = max(len(result.token_ids) for result in results)
    for row, given, result in zip(rows.tolist(), input_ids.tolist(), results, strict=True):
        assert row == given + list(result.token_ids) + [27] * (longest - len(result.token_ids))


def test_several_answers_are_rows_one_after_the_other() -> None:
    results = generate(
        HashExecutor(), [[3], [4]], max_new_tokens=3, n=2, sampling=SamplingParams(seed=1), stop_token_ids=()
    )
    rows = append_new_tokens(np.array([[3], [4]]), results, 0)
    assert rows[:, 0].tolist() == [3, 3, 4, 4]
    assert [tuple(row[1:]) for row in rows.tolist()] == [
        answer.token_ids for result in results for answer in result.answers
    ]


def test_a_streamer_gets_the_prompt_then_each_token_then_the_end() -> None:
    streamer = Collected()
    (result,) = generate(HashExecutor(), [[3, 1]], max_new_tokens=5, streamer=streamer)
    assert streamer.values == [[3, 1], *([token] for token in result.token_ids)]
    assert streamer.shapes[:2] == [(1, 2), (1,)]
    assert streamer.ended
    with pytest.raises(RequestError, match="2 prompts"):
        generate(HashExecutor(), [[3], [4]], streamer=streamer)


def test_transformers_own_streamer_understands_ours(capsys: pytest.CaptureFixture[str]) -> None:
    class Decoder:
        def decode(self, token_ids: list[int], **options: object) -> str:
            return letters(token_ids)

    (result,) = generate(HashExecutor(), [[3, 1]], max_new_tokens=5, streamer=TextStreamer(Decoder(), skip_prompt=True))  # type: ignore[arg-type]
    assert capsys.readouterr().out == letters(result.token_ids) + "\n"


def test_an_answer_that_failed_is_raised() -> None:
    with pytest.raises(MemoryError):
        generate(HashExecutor(max_slots=0), [[3]])


def test_no_prompts_no_results_and_text_where_there_is_a_tokenizer() -> None:
    assert generate(HashExecutor(), []) == []
    (result,) = generate(HashExecutor(), [[3]], max_new_tokens=4, tokenizer=LetterTokenizer(), stop_token_ids=())  # type: ignore[arg-type]
    assert result.text == letters(result.token_ids)
