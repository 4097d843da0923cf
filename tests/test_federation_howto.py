"""The page about federations: its commands are run in an empty folder, and answer what the page shows."""

from __future__ import annotations

import re

import pytest

from tests.pages import ROOT, blocks, printed_by

pytestmark = pytest.mark.deep

PAGE = ROOT / "docs" / "how-to" / "ask-a-federation.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that the page's commands print."""
    folder = tmp_path_factory.mktemp("federation-howto")
    return printed_by(folder, blocks(PAGE.read_text("utf-8"), "bash"))


def test_the_page_shows_what_is_printed(ran: str) -> None:
    shown = _lines("".join(blocks(PAGE.read_text("utf-8"), "text")))
    said = _lines(ran)
    assert len(shown) >= 15
    assert [line for line in shown if line not in said and line != "…"] == []


def test_what_is_answered_refused_and_verified(ran: str) -> None:
    assert ran.count("[federation.participant-failed]") == 1
    assert "[federation.participants-changed]" in ran
    assert ran.count("VERIFIED") == 1
    assert ran.count("query.release: done") == 3  # one receipt, each bank's record


def _lines(text: str) -> list[str]:
    """Lines without their indents. Two banks refuse a round with others: whichever is first is named."""
    return [
        re.sub(r"^bayspace: (hk|sz)-bank: this dataset was", "bayspace: a bank: …", line.strip())
        for line in text.splitlines()
    ]
