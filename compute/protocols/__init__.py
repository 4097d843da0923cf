"""Joint protocols: one file each, one entry in `PROTOCOLS`."""
