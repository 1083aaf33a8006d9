"""docs/fine-tuning.md says what there is: every flag that it names, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from option_walk import commands

ROOT = Path(__file__).parents[1]
PAGES = ("docs/fine-tuning.md", "docs/fine-tuning.zh.md")


def flags_in(page: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", (ROOT / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES)
def test_the_page_names_flags_that_there_are(page: str) -> None:
    of_commands = [commands()[name].params for name in ("finetune", "pretrain", "evaluate")]
    known = {flag for params in of_commands for one in params for flag in (*one.opts, *one.secondary_opts)}
    assert flags_in(page) - known <= {"--help"}


def test_both_languages_name_the_same_flags() -> None:
    english, chinese = map(flags_in, PAGES)
    assert english == chinese


def test_the_page_names_what_is_particular_to_finetune() -> None:
    """Flags of a run are in the README and --help; what a fine-tuning learns from, and how, is here."""
    headings = ("Data", "Method")
    own = {one.opts[-1] for one in commands()["finetune"].params if getattr(one, "heading", "") in headings}
    assert own - flags_in(PAGES[0]) <= {"--data", "--fill", "--chat-template", "--val-fraction", "--epochs", "--system"}
