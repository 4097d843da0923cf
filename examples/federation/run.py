"""Seven banks, one answer: `bayspace demo --federation` as a program of its own.

What it does stands in connector/federation_demo.py. Ends with a non-zero exit code at the first difference.
"""

from __future__ import annotations

import argparse
import sys

from connector.demo import DemoFailed
from connector.federation_demo import LOANS, run


def main() -> int:
    """Run it on this machine."""
    parser = argparse.ArgumentParser(description="Seven banks, one answer")
    parser.add_argument("--rows", type=int, default=LOANS, help="loans of each bank")
    try:
        run(parser.parse_args().rows)
    except DemoFailed as failure:
        sys.exit(f"mismatch: {failure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
