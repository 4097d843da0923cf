"""The one benchmark runner: `python -m benchmarks.run NAME [--rows N] [--json] ...`, from the project's root.

    kernel                    hashing to the curve and masking on all cores, beside OpenSSL
    psi                       the matching keys as a list, between two real connectors
    psi_list                  the same with two columns of the owner's
    psi_aggregate             10 receiver-side groups, SUM, COUNT and AVG of two measures
    private_join_and_compute  the same at disclosure level `cardinality`
    selection_sum             one group, one measure, in memory, flooding included
    masked_sum, he_sum        federated sums of --parties (rows: cells), in memory, all parties in turn
    federation                the same between real connectors, by --protocol
    local_aggregate           a single-domain query over Parquet, against DuckDB itself
    catalogue                 unary calls under 64 clients
    overhead                  what policy and evidence add to a joint query
    witness                   records per second, 64 a call and one a call (rows: records); a single one until
                              it is published and proved, and until three witnesses cosigned; proofs of a log
                              of --entries (a log of a million takes two minutes to fill)
    import                    the command line, imported by a fresh interpreter
    all                       every one at its goal's size, into RESULTS.md

`psi`, `psi_aggregate`, `private_join_and_compute`, `overhead` and `catalogue` run two connector processes and
a witness over mutual TLS with policy and evidence; `--in-memory` runs the bare protocol instead, in one
process. Its stages say how much of the time is the kernel; `--profile` is another word for it.

Software of others that does the same work is measured in the same run, where it is installed beside us or in
the interpreter that `--peers` names: `spu` and `openmined-psi` with `psi`, `phe` with `selection_sum`, `phe`
and TenSEAL with `he_sum`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from benchmarks import federated, figures, joint, measure, rounds, single
from benchmarks.measure import Result

BENCHMARKS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "kernel": single.kernel,
    "psi": joint.psi,
    "psi_list": joint.psi_list,
    "psi_aggregate": joint.psi_aggregate,
    "private_join_and_compute": joint.private_join_and_compute,
    "selection_sum": single.selection_sum,
    "masked_sum": federated.masked_sum,
    "he_sum": federated.he_sum,
    "federation": rounds.federation,
    "local_aggregate": joint.local_aggregate,
    "catalogue": joint.catalogue,
    "overhead": joint.overhead,
    "witness": single.witness,
    "import": single.imported,
}


def main() -> int:
    """Run one benchmark, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[*BENCHMARKS, "sums", "rounds", "all"])
    parser.add_argument("--rows", type=int, default=None, help="keys a side, values, records or cells")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--parties", type=int, default=16, help="masked_sum, he_sum, federation: participants"
    )
    parser.add_argument("--bound", type=int, default=2**19 - 1, help="selection_sum: largest |value|")
    parser.add_argument("--weight", type=int, default=0, help="selection_sum: largest |weight|, if any")
    parser.add_argument("--side", choices=("receiver", "sender"), default="receiver", help="whose groups")
    parser.add_argument(
        "--protocol", help="psi, psi_aggregate, private_join_and_compute, federation: by which one"
    )
    parser.add_argument("--entries", type=int, default=0, help="witness: prove from a log of so many, too")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has the peers installed")
    parser.add_argument("--largest", type=int, default=2**22, help="all: largest number of keys in the plot")
    parser.add_argument(
        "--in-memory", "--profile", action="store_true", help="the bare protocol, here; its profile"
    )
    parser.add_argument("--kernel", help="the instruction set, as BAYSPACE_KERNEL names it")
    parser.add_argument("--threads", help="of the kernel in each process; default: one a core")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    forced = {"BAYSPACE_KERNEL": options.kernel, "RAYON_NUM_THREADS": options.threads}
    os.environ.update({name: value for name, value in forced.items() if value})
    if options.name == "all":
        return figures.write_results(options)
    if options.name in ("sums", "rounds"):
        table = figures.sums if options.name == "sums" else figures.rounds
        print(table(options), end="")
        return 0
    result = BENCHMARKS[options.name](options)
    print(measure.as_json(result) if options.json else measure.printed(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
