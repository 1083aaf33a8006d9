"""Stop strings: the text before the first of them comes out whole, and no part of one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pellucid.generate.stop import StopStrings


def fed(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    strings = StopStrings(stops)
    out = [strings.push(piece) for piece in pieces]
    return [*out, strings.flush()], strings.found


def test_text_that_may_become_a_stop_string_is_held_back_until_it_is_certain() -> None:
    assert fed(["END"], ["a E", "N", "d E", "ND", "more"]) == (["a ", "", "ENd ", "", "", ""], "END")
    assert fed(["END"], ["a EN"]) == (["a ", "EN"], None)
    assert fed([], ["a", "b"]) == (["a", "b", ""], None)


def test_the_first_to_be_complete_ends_the_answer_and_the_longer_of_two() -> None:
    assert fed(["abcd", "bc"], ["xabcd"]) == (["xa", ""], "bc")
    assert fed(["cd", "bcd"], ["abcd"]) == (["a", ""], "bcd")


def test_a_stop_string_that_repeats_itself_is_found_behind_a_false_start() -> None:
    assert fed(["aab"], ["a", "a", "a", "b"]) == (["", "", "a", "", ""], "aab")


texts = st.text("ab.", max_size=30)


@given(st.lists(st.text("ab.", min_size=1, max_size=5), max_size=4), st.lists(texts, max_size=8))
def test_the_pieces_make_no_difference_and_nothing_is_shown_that_must_be_taken_back(
    stops: list[str], pieces: list[str]
) -> None:
    whole = "".join(pieces)
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(stop) for stop in stops)]
    found = max((stop for stop in stops if whole[: ends[0]].endswith(stop)), key=len) if ends else None
    expected = whole[: ends[0] - len(found)] if found else whole
    out, its_found = fed(stops, pieces)
    assert ("".join(out), its_found) == (expected, found)
    for count in range(len(pieces)):
        shown, seen = "".join(out[: count + 1]), "".join(pieces[: count + 1])
        held = seen[len(shown) :]
        if its_found is None:
            assert not held or any(stop.startswith(held) for stop in stops), "held back without need"
