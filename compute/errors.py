"""Errors that say whose fault it is.

Every message here may cross the border: none may hold a cell value, a key or a library's own message.
"""

from __future__ import annotations

from policy_enforcer.facts import Decision


class BayspaceError(Exception):
    """Something bayspace itself refuses or reports; `code` is stable, the sentence is for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{sentence} [{code}]")
        self.code = code
        self.sentence = sentence


class QueryError(BayspaceError):
    """The question cannot be asked like this: the analyst's SQL, not the data, is at fault."""


class ConfigError(BayspaceError):
    """A setting, file or key of this participant is wrong or missing."""


class DataError(BayspaceError):
    """This participant's own data does not fit what its catalogue declares. Names columns, never values."""


class PeerViolation(BayspaceError):
    """The peer sent something malformed, out of order, replayed or oversized. Nothing is released."""


class Unavailable(BayspaceError):
    """A peer or a required witness does not answer."""


class PolicyRefusal(BayspaceError):
    """A policy does not allow this; the decision names the rules and what would be allowed instead."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.because[0].code, decision.because[0].sentence)
        self.decision = decision
