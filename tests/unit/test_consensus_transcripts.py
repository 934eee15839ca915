"""The transcripts in ``tests/transcripts`` say what consensus does, word for word.

``python -m tests.testkit.raft_transcript --rewrite`` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testkit.raft_transcript import FOLDER, replay

PATHS = sorted(FOLDER.glob("*.txt"))


def test_there_are_transcripts() -> None:
    assert len(PATHS) >= 9


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_run_is_word_for_word_what_its_transcript_says(path: Path) -> None:
    text = path.read_text()
    assert replay(text) == text


def test_what_a_transcript_says_does_not_matter_to_its_run() -> None:
    text = PATHS[0].read_text()
    command = text.index("----")
    assert replay(text[: command + 5] + "something else\n" + text[command + 5 :]) == text
