"""Stop strings: the text before the first of them comes out whole, and no part of one."""

from __future__ import annotations

import re
from itertools import product

import pytest
import tokenizers
from hash_executor import HashExecutor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from pellucid import AutoTokenizer
from pellucid.generate import generate
from pellucid.generate.stop import StopStrings
from pellucid.sampling import SamplingParams
from pellucid.text.detokenizer import Run
from pellucid.text.tokenizer import Tokenizer


def fed(stops: list[str], pieces: list[str | Run]) -> tuple[list[str], str | None]:
    strings = StopStrings(stops)
    out = [strings.push([piece if isinstance(piece, Run) else Run(piece, shown=True)]) for piece in pieces]
    return [*out, strings.flush()], strings.match


def special(text: str) -> Run:
    return Run(text, shown=False)


def test_a_stop_string_may_be_a_special_token_begin_in_one_end_in_one_or_lie_on_both_sides_of_one() -> None:
    turn = special("<|turn|>")
    assert fed(["<|turn|>"], ["Bye", turn, "x"]) == (["Bye", "", "", ""], "<|turn|>")
    assert fed(["Bye<|turn|>"], ["Good", "Bye", turn, "x"]) == (["Good", "", "", "", ""], "Bye<|turn|>")
    assert fed(["<|turn|>\nUser"], ["Bye", turn, "\nUse", "r"]) == (["Bye", "", "", "", ""], "<|turn|>\nUser")
    assert fed(["<|turn|>\nUser"], ["Bye", turn, "\nUseful"]) == (["Bye", "", "\nUseful", ""], None)
    assert fed(["a<|turn|><|turn|>b"], ["xa", turn, turn, "bc"])[0] == ["x", "", "", "", ""]
    assert fed(["By"], ["xB", turn, "ye"]) == (["x", "", "", ""], "By"), "as the reader sees it"
    assert fed(["Be"], ["B", turn, "ye"]) == (["", "", "Bye", ""], None)


def test_text_that_may_become_a_stop_string_is_held_back_until_it_is_certain() -> None:
    assert fed(["END"], ["a E", "N", "d E", "ND", "more"]) == (["a ", "", "ENd ", "", "", ""], "END")
    assert fed(["END"], ["a EN"]) == (["a ", "EN"], None)
    assert fed([], ["a", "b"]) == (["a", "b", ""], None)


def test_the_first_to_be_complete_ends_the_answer_and_the_longer_of_two() -> None:
    assert fed(["abcd", "bc"], ["xabcd"]) == (["xa", ""], "bc")
    assert fed(["cd", "bcd"], ["abcd"]) == (["a", ""], "bcd")


def test_a_stop_string_that_repeats_itself_is_found_behind_a_false_start() -> None:
    assert fed(["aab"], ["a", "a", "a", "b"]) == (["", "", "a", "", ""], "aab")


runs = st.builds(Run, st.text("ab.", max_size=8), st.booleans())


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.text("ab.", min_size=1, max_size=5), max_size=4), st.lists(runs, max_size=8))
def test_the_pieces_make_no_difference_and_nothing_is_shown_that_must_be_taken_back(
    stops: list[str], pieces: list[Run]
) -> None:
    marked = [(character, run.shown) for run in pieces for character in run.text]

    def readings(end: int) -> list[list[int]]:
        """The places of the first characters: as written, and as shown."""
        return [list(range(end)), [place for place in range(end) if marked[place][1]]]

    def complete(end: int) -> list[tuple[int, str]]:
        """(begin, stop string) of those that the character before ``end`` completes."""
        matches = []
        for places in readings(end):
            text = "".join(marked[place][0] for place in places)
            for stop in stops:
                if places and places[-1] == end - 1 and text.endswith(stop):
                    matches.append((places[len(places) - len(stop)], stop))
        return matches

    end = next((end for end in range(len(marked) + 1) if complete(end)), None)
    begin, match = (len(marked), None) if end is None else min(complete(end))
    expected = "".join(character for character, shown in marked[:begin] if shown)
    out, stop = fed(stops, list(pieces))
    assert ("".join(out), stop) == (expected, match)
    by_character = [Run(character, shown) for character, shown in marked]
    assert ("".join(fed(stops, list(by_character))[0]), fed(stops, list(by_character))[1]) == (expected, match)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.text("ab.", min_size=1, max_size=5), max_size=4), st.lists(st.text("ab.", max_size=30), max_size=8))
def test_nothing_is_held_back_without_need(stops: list[str], pieces: list[str]) -> None:
    out, stop = fed(stops, list(pieces))
    for count in range(len(pieces)):
        shown, seen = "".join(out[: count + 1]), "".join(pieces[: count + 1])
        held = seen[len(shown) :]
        if stop is None:
            assert not held or any(one.startswith(held) for one in stops)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Ids 0–25 are letters, 26 is <|turn|>, 27 is </s>; 28 is beyond the vocabulary. The library's own decoder."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={chr(97 + i): i for i in range(26)}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["<|turn|>", "</s>"])
    folder = tmp_path_factory.mktemp("letters")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return AutoTokenizer.from_pretrained(folder)


def test_any_stop_string_over_special_and_ordinary_tokens_ends_an_answer_where_its_last_character_is_written(
    tokenizer: Tokenizer,
) -> None:
    settings = {"max_new_tokens": 30, "stop_token_ids": (), "tokenizer": tokenizer}
    sampling = SamplingParams(logit_bias={26: 4.0}, seed=5)
    free = generate(HashExecutor(), [[3, 4]], sampling=sampling, **settings)[0]  # type: ignore[arg-type]
    assert 3 < free.token_ids.count(26) < 20

    def written(count: int, special: bool = True) -> str:
        return tokenizer.decode(list(free.token_ids[:count]), skip_special_tokens=not special)

    whole, places = written(30), range(len(written(30)))
    for begin, size in product(places[::3], (1, 4, 9, 12)):
        stop = whole[begin : begin + size]
        (result,) = generate(HashExecutor(), [[3, 4]], sampling=sampling, stop=stop, **settings)  # type: ignore[arg-type]
        counts = [n for n in range(31) if stop in written(n) or stop in written(n, special=False)]
        assert result.token_ids == free.token_ids[: counts[0]], stop
        assert result.answers[0].stopped_by == stop
        before, after, _ = written(counts[0]).partition(stop)
        if after:  # what is shown is what was written before it, less special tokens: a part of one at the end, too
            assert result.text == re.sub(r"<(\|turn\|>|[|turn]*$)", "", before)


def test_a_stop_string_that_the_end_of_text_completes_is_not_shown(tokenizer: Tokenizer) -> None:
    sampling = SamplingParams(logit_bias={27: 2.0}, seed=1)
    settings = {"max_new_tokens": 30, "tokenizer": tokenizer, "sampling": sampling}
    free = generate(HashExecutor(), [[3, 4]], stop_token_ids=[27], **settings)[0]  # type: ignore[arg-type]
    assert free.token_ids[-1] == 27
    assert len(free.text) > 2
    stop = f"{free.text[-2:]}</s>"
    (result,) = generate(HashExecutor(), [[3, 4]], stop_token_ids=[27], stop=stop, **settings)  # type: ignore[arg-type]
    assert (result.token_ids, result.text) == (free.token_ids, free.text[:-2])
    assert result.answers[0].stopped_by == stop
