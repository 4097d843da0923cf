"""Connector: everything is assembled here (command line, network, identity, storage, telemetry)."""
