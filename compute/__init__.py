"""Compute: SQL to plan to protocol to Arrow."""
