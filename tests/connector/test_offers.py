"""What was offered, and each change of a policy, is on record before anybody asks about it."""

from __future__ import annotations

import hashlib
import json

import pytest

from compute.errors import ConfigError, PeerViolation, Unavailable
from connector import config, offers
from connector.receipts import receipt, trust_file
from tests.connector.conftest import ASKER, OWNER
from tests.connector.test_documents import run
from witness.verify import verify_files


def recorded(node) -> list[str]:
    return [e.id for e in node.store.exchanges() if e.kind == offers.KIND]


def item_of(node, exchange, show=()):
    assert node.evidence.settle(exchange, 20)
    verified = verify_files(receipt(node.store, exchange, show), trust_file(node.config))
    return verified.items[0], verified.policies


def test_every_offer_is_on_record_with_what_peers_see_of_it(shared) -> None:
    node = shared.nodes[OWNER]
    assert offers.record(node) == []  # its start has done it
    assert len(recorded(node)) == 3
    entries = {offer.policy_digest: offer for offer in node.store.offers()}
    for exchange in recorded(node):
        item, policies = item_of(node, exchange, ("offer", "policy"))
        (digest,) = policies
        assert (item.record.event, item.record.contract.policy) == ("offer", digest)
        assert item.opened["offer"] == entries[digest].entry
        assert json.loads(policies[digest]) == json.loads(entries[digest].policy)
        assert item.record.contract.version.endswith("-v1")
        assert [d.holder for d in item.record.data.datasets] == [OWNER]


def test_a_change_of_policy_names_the_one_before(shared, capsys) -> None:
    node = shared.nodes[OWNER]
    before = node.store.offer("open")
    known = set(recorded(node))
    # an exchange of a peer's own choice, under the id that was made of name and version once
    foretold = hashlib.sha256(b"bayspace offer v1\nopen\n2").hexdigest()[:32]
    node.store.open_exchange(foretold, None, ASKER, "provider", "query", "", b"k" * 32)
    node.store.close_exchange(foretold, "failed")
    settings = config.load(shared.folder / OWNER)
    file = settings.policies_folder / "open.yaml"
    file.write_text(
        file.read_text()
        .replace("open-v1", "open-v2")
        .replace("minimum_identities: 3", "minimum_identities: 5")
    )
    code, said, _ = run(capsys, "dataset", "add", "invoices", "-c", settings.folder)
    (exchange,) = set(recorded(node)) - known
    assert (code, f"on record as exchange {exchange}" in said) == (0, True)
    item, _ = item_of(node, exchange)
    assert (item.record.event, item.record.contract.version) == ("policy.change", "open-v2")
    assert item.record.data.digests == {"policy-before": before.policy_digest}
    assert item.record.contract.policy == node.store.offer("open").policy_digest != before.policy_digest
    assert exchange != foretold
    code, said, _ = run(capsys, "dataset", "add", "invoices", "-c", settings.folder)
    assert (code, "on record" in said) == (0, False)  # nothing changed


def test_who_cannot_record_yet_offers_all_the_same(shared, tmp_path, monkeypatch, capsys) -> None:
    made = config.init(tmp_path / "new", "new-one", "gba", "HK", "127.0.0.1:7999")
    with pytest.raises(ConfigError):
        offers.announce(made)  # not enrolled
    node = shared.nodes[OWNER]
    with monkeypatch.context() as busy:
        busy.setattr(offers, "record", unavailable)
        code, said, why = run(capsys, "dataset", "add", "invoices", "-c", node.config.folder)
    assert (code, "policy" in said, "[state.busy]" in why) == (0, True, True)
    monkeypatch.setattr(node.evidence, "_witnesses", {})
    assert offers.record(node) == []


def unavailable(_):
    raise Unavailable("state.busy", "ask again later")


def test_what_an_older_version_published_keeps_nobody_from_serving(shared, monkeypatch) -> None:
    node = shared.nodes[OWNER]
    entry = node.store.offer("open").entry
    table = node.store.datasets()[0]
    node.store.add_offer("older", table.name, table.version, entry, b"{}", "", "0" * 64)
    assert offers.record(node) == []
    monkeypatch.setattr(node, "_shown", (-1.0, []))
    assert "older" not in {o.name for o in node.offers_of(OWNER)} != set()
    monkeypatch.setattr("connector.node._agreement", refused)
    assert {node.contract_json(n)["agreement_state"] for n in node.store.negotiations()} == {"active"}
    node.store.withdraw_offer("older")


def refused(_):
    raise PeerViolation("contract.malformed", "an older version's")


def test_what_a_receipt_cannot_open_is_refused(shared) -> None:
    node = shared.nodes[OWNER]
    with pytest.raises(ConfigError, match="nothing here opens querry") as caught:
        receipt(node.store, recorded(node)[0], ("querry", "offer"))
    assert caught.value.code == "evidence.show"


def test_no_policy_is_shown_but_the_one_whose_digest_is_on_record(shared, monkeypatch) -> None:
    """As an older version's, which this one would write otherwise."""
    node = shared.nodes[OWNER]
    negotiation = next(n for n in node.store.negotiations() if n.agreement)
    assert node.evidence.settle(negotiation.id, 20)
    monkeypatch.setattr("connector.receipts._policy", lambda *_: b'{"odrl:uid":"other"}')
    with pytest.raises(ConfigError, match="nothing here opens policy"):
        receipt(node.store, negotiation.id, ("policy",))


def test_a_contract_receipt_shows_its_policy(shared) -> None:
    for node in shared.nodes.values():
        negotiation = next(n for n in node.store.negotiations() if n.agreement)
        assert node.evidence.settle(negotiation.id, 20)
        found = verify_files(receipt(node.store, negotiation.id, ("policy",)), trust_file(node.config))
        assert set(found.policies) == {i.record.contract.policy for i in found.items}
