"""Two logs that cosign each other: Shenzhen's and Hong Kong's, and connectors that demand both.

Starts two witnesses and two connectors on this machine, as processes. A question is answered and its receipt
names who cosigned; with Hong Kong's witness down nothing that a policy wants witnessed starts; once it is
back the same question is answered. Then the receipts are verified offline, and one without its cosignatures
is not. Ends with a non-zero exit code at the first thing that is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from compute.errors import Unavailable
from connector.api import Answer, Space
from connector.demo_data import write_demo_data
from connector.loopback import Loopback
from connector.receipts import trust_file
from witness import bundle, note, tlog_proof
from witness.checks import VerificationFailed
from witness.verify import Verified, verify_files

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SHENZHEN, HONG_KONG = "witness-sz", "witness-hk"
SQL = "SELECT quarter, count(*) AS invoices, sum(amount) AS total FROM sz-trade.invoices GROUP BY quarter"
PATIENCE = 60.0  # seconds until cosigning has begun again


class NotAsItMustBe(Exception):
    """Something was accepted that must not be, or refused that must be answered."""


def prepared(folder: Path, rows: int) -> Loopback:
    """A data space with two cities' witnesses, and one offer whose policy demands a witness."""
    net = Loopback(
        folder / "space",
        "gba",
        {OWNER: "CN-SZ", ASKER: "HK"},
        {SHENZHEN: "CN-SZ", HONG_KONG: "HK"},
    )
    ours = files("connector") / "demo_files"
    description = (ours / "datasets" / "invoices.yaml").read_text("utf-8")
    policies = {
        file.name: file.read_text("utf-8")
        for file in (ours / "policies").iterdir()
        if file.name.startswith("invoices")
    }
    net.publish(OWNER, "invoices", write_demo_data(folder / "data", rows).invoices, description, policies)
    return net


def ask(asker: Space) -> Answer:
    """Ask, again and again until the logs are cosigned: right after a start they are not yet."""
    late = time.monotonic() + PATIENCE
    while True:
        try:
            return asker.query(SQL, PURPOSE)
        except Unavailable as error:
            if not error.code.startswith("witness.") or time.monotonic() > late:
                raise
            time.sleep(1)


def refused(asker: Space) -> str:
    """The code with which the question is refused. Raises `NotAsItMustBe` when it is answered."""
    try:
        asker.query(SQL, PURPOSE)
    except Unavailable as error:
        return error.code
    raise NotAsItMustBe("a question was answered that nobody but the log's own operator witnessed")


def cosigners(verified: Verified) -> str:
    """Which witnesses cosigned, by record."""
    said = []
    for item in verified.items:
        log = item.included.checkpoint.origin
        if not item.included.cosigners:
            raise NotAsItMustBe("a record counts that nobody cosigned")
        said.append(f"{item.record.event} in {log}, cosigned by {', '.join(sorted(item.included.cosigners))}")
    return "\n    ".join(said)


def without_cosignatures(receipt: bytes) -> bytes:
    """The same receipt with the log's own signatures alone: what its operator could make by itself."""
    found, _ = bundle.parse(receipt)
    items = []
    for item in found.items:
        proof = tlog_proof.parse(item.proof)
        origin = proof.checkpoint.text.partition("\n")[0]
        own = tuple(line for line in proof.checkpoint.signatures if line.name == origin)
        head = note.Note(proof.checkpoint.text, own)
        alone = tlog_proof.TlogProof(proof.index, proof.path, head, proof.extra)
        items.append(bundle.Item(item.envelope, str(alone), item.disclosures, item.openings, item.receipt))
    return bundle.build(items, found.members)


def run(folder: Path, rows: int) -> None:
    """The whole example. Raises `NotAsItMustBe`."""
    net = prepared(folder, rows)
    with net.running():
        net.agree(ASKER, OWNER, "invoices")
        with net.connect(ASKER) as asker:
            print("both witnesses run")
            first = ask(asker)
            print(f"  answered: {first.table.num_rows} rows")
            net.stop(HONG_KONG)
            print(f"{HONG_KONG} is down: nobody else cosigns Shenzhen's log")
            print(f"  refused: {refused(asker)}")
            net.start(HONG_KONG)
            net.await_ready(HONG_KONG)
            print(f"{HONG_KONG} is back")
            second = ask(asker)
            print(f"  answered: {second.table.num_rows} rows")
    trust = trust_file(net.settings(ASKER))
    print("nothing runs any more; receipts, offline")
    for answer in (first, second):
        if not answer.receipt.bundle:
            raise NotAsItMustBe("a receipt was not complete in time")
        print(f"  verified:\n    {cosigners(verify_files(answer.receipt.bundle, trust))}")
    try:
        verify_files(without_cosignatures(first.receipt.bundle), trust)
    except VerificationFailed as failure:
        print(f"  without the cosignatures: {json.dumps(failure.code)} {failure.sentence}")
        return
    raise NotAsItMustBe("a receipt without cosignatures was accepted")


def main() -> int:
    """Run it on this machine."""
    parser = argparse.ArgumentParser(description="Two logs that cosign each other")
    parser.add_argument("--rows", type=int, default=2000, help="invoices")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bayspace-cosigning-") as folder:
        try:
            run(Path(folder), options.rows)
        except (NotAsItMustBe, Unavailable) as failure:
            sys.exit(f"not as it must be: {failure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
