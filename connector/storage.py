"""Everything of a connector that must survive: offers, contracts, uses, running queries, evidence, outbox.

One store, one schema, the same SQL on SQLite (default) and PostgreSQL (by URL); its parts are in `state/`.
A state change and the evidence that proves it are written together: `with store.atomic():`.
"""

from __future__ import annotations

from connector.state.contracts import Contracts
from connector.state.exchanges import Exchanges
from connector.state.ledger import Ledger
from connector.state.published import Published


class Store(Published, Contracts, Ledger, Exchanges):
    """A connector's state. Safe to share between threads; close it when done."""
