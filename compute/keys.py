"""Canonical join keys: agreed bytes, never guessed.

A key is a type tag followed by the length-prefixed parts, each normalised in the declared order. NULL
in any part never matches: such rows are dropped before hashing.
"""

from __future__ import annotations

from typing import Literal

Normaliser = Literal["trim", "nfkc", "casefold", "digits", "e164", "date", "t2s"]
