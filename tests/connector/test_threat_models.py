"""What protocols assume is said in Chinese too, and an explanation has the same labels in both languages."""

from __future__ import annotations

import re

import pytest

from compute.protocols import PROTOCOLS
from connector import threat_models
from connector.cli.explained import _WORDS


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_protocol_says_in_both_languages_what_it_assumes(protocol) -> None:
    english, chinese = (threat_models.threat_model(protocol, language) for language in ("en", "zh"))
    assert english == protocol.threat_model
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > 20
    assert chinese.count("。") == len(re.findall(r"[.](?: |$)", english))  # none was added to one alone


def test_no_protocol_that_is_gone_is_described() -> None:
    assert threat_models._CHINESE.keys() == {protocol.name for protocol in PROTOCOLS}


@pytest.mark.parametrize("label", _WORDS["en"])
def test_labels_take_the_same_values_in_both_languages(label: str) -> None:
    places = [re.findall(r"{[^}]*}", _WORDS[language][label]) for language in ("en", "zh")]
    assert places[0] == places[1]
    separators = [words[label].count("; ") for words in _WORDS.values()]
    assert not label.startswith("of ") or separators[0] == separators[1]  # headings of tables
