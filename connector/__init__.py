"""Connector: everything is assembled here (command line, network, identity, storage, telemetry).

`from connector import connect` is the Python API; it is imported on first use, so that the command line
starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connector.api import Answer, Offer, Receipt, Space, connect

__all__ = ["Answer", "Offer", "Receipt", "Space", "connect"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'connector' has no attribute {name!r}")
    from connector import api

    return getattr(api, name)
