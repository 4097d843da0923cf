"""Telemetry: one trace id across parties, and nothing but counts, durations, ids and codes."""

from __future__ import annotations

import json
import re
import stat

import pytest

from compute.errors import DataError
from connector import config, telemetry
from connector.telemetry import FileExporter, Telemetry

SECRET = "91440300MA5F SECRET"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "telemetry" / "spans.jsonl"


@pytest.fixture
def tracer(folder):
    made = Telemetry("hk-bank", [FileExporter(folder)])
    yield made
    made.close()


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_parties_share_one_trace(tracer, folder, tmp_path):
    other = Telemetry("sz-trade", [FileExporter(tmp_path / "other.jsonl")])
    with tracer.query_span() as carried:
        with other.span("answer", carried, exchange="e1", rows_bound=512) as answering:
            pass
        with tracer.span("local", carried):
            pass
    other.close()
    local, query = _lines(folder)
    (answer,) = _lines(tmp_path / "other.jsonl")
    assert query["trace"] == answer["trace"] == local["trace"] == telemetry.trace_id(carried)
    assert answer["parent"] == local["parent"] == query["span"]
    assert telemetry.trace_id(answering.traceparent) == query["trace"]
    assert (query["parent"], query["participant"], answer["participant"]) == (None, "hk-bank", "sz-trade")
    assert answer["attributes"] == {"exchange": "e1", "rows_bound": 512}
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", carried)
    assert query["seconds"] >= local["seconds"] >= 0


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"01-{'1' * 32}-{'1' * 16}-01",
        f"00-{'A' * 32}-{'1' * 16}-01",
    ],
)
def test_what_is_no_traceparent_starts_a_new_trace(tracer, given):
    assert telemetry.trace_id(given) == ""
    with tracer.query_span(given) as carried:
        assert len(telemetry.trace_id(carried)) == 32


def test_a_callers_trace_is_continued_even_if_it_was_not_sampled(tracer, folder):
    with tracer.query_span(f"00-{'a' * 32}-{'b' * 16}-00"):
        pass
    (span,) = _lines(folder)
    assert (span["trace"], span["parent"]) == ("a" * 32, "b" * 16)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sql", "SELECT 1"),
        ("exchange", SECRET),
        ("exchange", 7),
        ("rows_bound", "7"),
        ("rows_bound", True),
        ("peer", "x" * 129),
        ("company_id", "a"),
        ("error", f"column holds '{SECRET}'"),
    ],
)
def test_everything_else_is_dropped(tracer, folder, name, value):
    with tracer.span("query", **{name: value}) as span:
        span.set(name, value)
    assert _lines(folder)[0]["attributes"] == {}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("data.range", f"never {SECRET}"), "data.range"),
        (ValueError(SECRET), "internal"),
        (GeneratorExit(), "cancelled"),
    ],
)
def test_an_exception_leaves_its_code_and_no_message(tracer, folder, error, code):
    with pytest.raises(type(error)), tracer.span("query"):
        raise error
    assert SECRET not in folder.read_text()
    (span,) = _lines(folder)
    assert (span["status"], span["attributes"]) == ("error", {"error": code})


def test_the_file_is_private_and_never_fills_the_disk(tracer, folder, monkeypatch):
    monkeypatch.setattr(telemetry, "LARGEST_FILE", 2000)
    for _ in range(20):
        with tracer.span("query"):
            pass
    assert stat.S_IMODE((folder.parent / "spans.jsonl.1").stat().st_mode) == 0o600
    assert sum(file.stat().st_size for file in folder.parent.iterdir()) < 6000


def test_a_span_that_cannot_be_written_fails_no_query(tmp_path):
    (tmp_path / "file").touch()
    tracer = Telemetry("hk-bank", [FileExporter(tmp_path / "file" / "spans.jsonl")])
    with tracer.query_span() as carried:
        assert carried
    tracer.close()


def test_configuration_decides_where_spans_go(tmp_path):
    made = config.init(tmp_path / "hk", "hk-bank", "gba", "HK")
    tracer = Telemetry.open(made)
    with tracer.query_span():
        pass
    tracer.close()
    assert len(_lines(made.spans_path)) == 1
    file = made.folder / config.FILE
    file.write_text(file.read_text().replace('spans = "', '# spans = "'))
    quiet = Telemetry.open(config.load(file))
    with quiet.query_span() as carried:
        assert telemetry.trace_id(carried)
    quiet.close()
    assert len(_lines(made.spans_path)) == 1
