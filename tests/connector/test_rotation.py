"""A rotation is a log entry, once; and what was recorded before it verifies as before."""

from __future__ import annotations

import hashlib

import pytest

from connector import config, documents, enrolment, rotation, space
from connector.node import Node
from connector.receipts import receipt, trust_file
from connector.service import Server
from tests.connector.conftest import ASKER, build
from witness.verify import verify_files


@pytest.fixture(scope="module")
def rotated(tmp_path_factory):
    """A connector before and after its rotation: the receipt of a document from before, old ids, the node."""
    made = build(tmp_path_factory.mktemp("space"), start=False)
    made.start_witness()
    node = Node(config.load(made.folder / ASKER))
    assert rotation.record(node) is None  # nothing was rotated yet
    before, old = documents.commit(node, hashlib.sha256(b"document").digest()), node.key.public.ids
    kept = receipt(node.store, before.exchange)
    node.close()
    enrolment.rotate(node.config.seat)
    space.enrol_local(made.folder / "space", node.config.seat)
    node = Node(node.config)
    server = Server(node)
    server.start()
    yield kept, old, node
    server.stop(0)
    node.close()
    made.stop_witness()


def test_the_log_has_an_entry_of_it_that_names_old_and_new_keys(rotated):
    _, old, node = rotated
    (exchange,) = [e.id for e in node.store.exchanges() if e.kind == rotation.KIND]
    node.evidence.witnessed(exchange, 0, 1)
    (item,) = verify_files(receipt(node.store, exchange), trust_file(node.config)).items
    assert item.record.event == "key.rotation"
    assert sorted(item.record.data.digests.values()) == sorted(old)
    assert item.record.parties[0].keys == node.key.public.ids
    assert set(node.key.public.ids).isdisjoint(old)


def test_it_is_recorded_once(rotated):
    *_, node = rotated
    assert rotation.record(node) is None
    assert len([e for e in node.store.exchanges() if e.kind == rotation.KIND]) == 1


def test_a_receipt_from_before_verifies_with_the_keys_gone(rotated):
    kept, old, node = rotated
    (item,) = verify_files(kept, trust_file(node.config)).items
    assert item.record.parties[0].keys == old
    assert set(node.key.public.ids).isdisjoint(old)
