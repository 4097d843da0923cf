"""What a protocol reveals, to whom: the one vocabulary of planner, explain, policy, evidence and tests.

An event that is not listed here does not happen; a protocol that reveals anything else is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Level(IntEnum):
    """How much about the join keys a protocol discloses; larger is looser."""

    HIDDEN = 0
    CARDINALITY = 1
    RECEIVER = 2
    ROWS = 3

    @classmethod
    def parse(cls, word: str) -> Level:
        """Return the level a policy names; `KeyError` when it is no such word."""
        return {level.word: level for level in cls}[word]

    @property
    def word(self) -> str:
        """The policy language's word for this level."""
        return self.name.lower()


class Party(StrEnum):
    """The two ends of an exchange: the receiver asks, the sender owns the data asked about."""

    RECEIVER = "receiver"
    SENDER = "sender"


class Fact(StrEnum):
    """A kind of thing a party's connector can learn."""

    RELEASED_CELLS = "released-cells"  # cells of the result that passed the owner's gate
    SUPPRESSED_CELLS = "suppressed-cells"  # how many cells did not pass
    TOTAL_COUNTS = (
        "total-counts"  # identities and participants behind every cell of a federation, before any gate
    )
    STEP_TOTALS = "step-totals"  # sums over all participants at each step of a fit, and the coefficients then
    OWN_MATCHES = "own-matches"  # which of the learner's own keys matched, before any gate
    CELL_MATCH_COUNTS = "cell-match-counts"  # exact matches per cell, before any gate
    GROUP_COUNT = "group-count"  # how many groups the other side has
    GROUP_SIZES = "group-sizes"  # sizes of the other side's groups, without their labels
    PADDED_SIZE = "padded-size"  # the other side's padded number of keys
    MATCHED_ROWS = "matched-rows"  # agreed columns of the matched rows
    WEIGHT_FIGURES = "weight-figures"  # signed figures about the weights: how many, the largest share


@dataclass(frozen=True, slots=True, order=True)
class Disclosure:
    """One event: `to` learns `fact` about the other side's data.

    `gated` says whether the owner's release gate stands before it.
    """

    to: Party
    fact: Fact
    gated: bool = False

    def as_json(self) -> dict[str, str | bool]:
        """The form that plan digests and evidence carry."""
        return {"to": self.to.value, "fact": self.fact.value, "gated": self.gated}
