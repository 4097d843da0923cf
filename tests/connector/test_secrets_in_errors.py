"""Libraries quote cells in their messages: no error, log, span, evidence or standard error may repeat one."""

from __future__ import annotations

import json
import logging
import time

import duckdb
import grpc
import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from compute.errors import BayspaceError
from connector import answering, asking
from connector.transport import Headers

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SECRET = "SECRET-CELL-甲"
JOINT = "SELECT count(*) AS n FROM sz-trade.matched i JOIN hk-bank.credit c ON i.company_id = c.company_id"
ERRORS = {
    "DuckDB": duckdb.ConversionException(SECRET),
    "Arrow": pa.ArrowInvalid(SECRET),
    "gRPC": grpc.RpcError(SECRET),
    "SQL": OperationalError("INSERT", {"cell": SECRET}, Exception("disk full"), hide_parameters=True),
    "anything": RuntimeError(SECRET),
    "Python": AssertionError(SECRET),
}


def failing(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


def own_input(space, patch, error):
    patch.setattr(space.nodes[OWNER], "own_input", failing(error))


def askers_input(space, patch, error):
    patch.setattr(space.nodes[ASKER], "own_input", failing(error))


def protocol(_space, patch, error):
    patch.setattr(answering, "protocol_named", failing(error))


def gate(_space, patch, error):
    patch.setattr(answering, "_gate", lambda _: failing(error))


def finish(_space, patch, error):
    patch.setattr(asking, "finish", failing(error))


def recording_the_failure(space, patch, error):
    """It fails once more while the failure is put on record."""
    own_input(space, patch, error)
    patch.setattr(space.nodes[OWNER].evidence, "is_open", failing(error))


def frame(_space, patch, error):
    real = Headers.wrap

    def wrap(self, item):
        if item.kind == "tags":
            raise error
        return real(self, item)

    patch.setattr(Headers, "wrap", wrap)


PLACES = (own_input, askers_input, protocol, gate, finish, recording_the_failure, frame)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(error, id=name, marks=[] if number == 0 else pytest.mark.deep)
        for number, (name, error) in enumerate(ERRORS.items())
    ],
)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_message_of_a_library_gets_out(shared, monkeypatch, caplog, capfd, place, error):
    caplog.set_level(logging.DEBUG)
    with monkeypatch.context() as patch:
        place(shared, patch, error)
        with pytest.raises(BayspaceError) as failed:
            shared.asker.query(JOINT, PURPOSE)
    time.sleep(0.05)
    said = [str(failed.value), repr(failed.value), caplog.text, *capfd.readouterr()]
    for node in shared.nodes.values():
        said.append(node.config.spans_path.read_text() if node.config.spans_path else "")
        for exchange in node.store.exchanges():
            for record in node.store.evidence(exchange.id):
                said += [record.envelope.decode(), record.disclosures.decode()]
    for words in said:
        assert SECRET not in words
        assert json.dumps(SECRET)[1:-1] not in words
    for node in shared.nodes.values():
        node.store.clear_running()
    assert shared.asker.query(JOINT, PURPOSE).table.num_rows == 1


def test_the_search_would_find_it(caplog):
    logging.getLogger("connector").error("%s", ERRORS["anything"])
    assert SECRET in caplog.text
