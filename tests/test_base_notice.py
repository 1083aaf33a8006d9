"""Notices: one line, once, on stderr, and never a reason to fail."""

from __future__ import annotations

import io
import sys

import pytest

from pellucid.base.notice import notice


def test_a_notice_is_one_line_on_stderr_and_comes_once(capsys: pytest.CaptureFixture[str]):
    for _ in range(3):
        notice("config.json: rope_foo is\n not known")
    notice("config.json: rope_bar is not known")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "pellucid: config.json: rope_foo is not known",
        "pellucid: config.json: rope_bar is not known",
    ]


def test_a_closed_or_absent_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    notice("said into a closed stream")
    monkeypatch.setattr(sys, "stderr", None)
    notice("said to nobody")
