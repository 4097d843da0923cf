"""Spans with one trace id across both parties: what took how long, how many, under which ids.

A span is written to a file of JSON lines in the connector's folder and, where configured, sent to an OTLP
collector. The trace id is the W3C `traceparent` that a query carries; both parties' spans, evidence and
receipt name it.

Refuses everything but counts, durations, ids and stable codes: attribute names come from a closed list,
texts must look like ids, and an exception leaves its code, never its message (libraries quote cell values
in theirs). A span that cannot be written is lost; no query fails for it.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from compute.errors import BayspaceError, ConfigError
from connector.config import ConnectorConfig

LARGEST_FILE = 16 * 1024 * 1024
"""A full span file becomes `<name>.1`, replacing the one before: telemetry never fills a disk."""

COUNTS = frozenset(
    {
        "attempts",
        "bytes_received",
        "bytes_sent",
        "cells_released",
        "cells_suppressed",
        "columns",
        "frames_received",
        "frames_sent",
        "keys_bound",
        "rows_bound",
        "witnesses",
    }
)
IDS = frozenset(
    {"agreement", "error", "exchange", "offer", "outcome", "peer", "protocol", "stage", "witness"}
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class Span:
    """One running span. `traceparent` names it to whoever does part of its work."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def set(self, name: str, value: float | str) -> None:
        """Attach a count, a duration or an id; anything else is dropped."""
        count = name in COUNTS and isinstance(value, int | float) and not isinstance(value, bool)
        if count or (name in IDS and isinstance(value, str) and _ID.fullmatch(value)):
            self._span.set_attribute(name, value)

    def failed(self, error: BaseException) -> None:
        """The work ended with an error: its stable code, or that it had none."""
        known = error.code if isinstance(error, BayspaceError) else None
        self.set("error", known or ("cancelled" if isinstance(error, GeneratorExit) else "internal"))
        self._span.set_status(trace.StatusCode.ERROR)


class Telemetry:
    """A connector's tracer. Close it when done, so that the last spans are written."""

    def __init__(self, participant: str, exporters: Sequence[SpanExporter]) -> None:
        # Not Resource.create(): that one takes in environment variables and the host's name.
        resource = Resource({"service.name": "bayspace-connector", "service.instance.id": participant})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            wrap = SimpleSpanProcessor if isinstance(exporter, FileExporter) else BatchSpanProcessor
            self._provider.add_span_processor(wrap(exporter))
        self._tracer = self._provider.get_tracer("bayspace")

    @classmethod
    def open(cls, config: ConnectorConfig) -> Self:
        """The telemetry that a connector's configuration asks for. Raises ConfigError."""
        exporters: list[SpanExporter] = []
        if config.spans_path is not None:
            exporters.append(FileExporter(config.spans_path))
        if config.telemetry.otlp_endpoint is not None:
            exporters.append(_otlp(config.telemetry.otlp_endpoint))
        return cls(config.participant, exporters)

    def close(self) -> None:
        """Write what is left."""
        self._provider.shutdown()

    @contextmanager
    def span(self, name: str, traceparent: str = "", **attributes: float | str) -> Iterator[Span]:
        """Time the work inside. `traceparent`: the span it belongs to; a new trace when it is none.

        The span is nobody's "current" span: protocol roles are generators, which would carry a current
        one into each other's work.
        """
        started = Span(self._tracer.start_span(name, _parent(traceparent)))
        for key, value in attributes.items():
            started.set(key, value)
        try:
            yield started
        except BaseException as error:
            started.failed(error)
            raise
        finally:
            started._span.end()  # noqa: SLF001

    @contextmanager
    def query_span(self, traceparent: str = "") -> Iterator[str]:
        """Time a whole query of this participant's; gives the `traceparent` to send along."""
        with self.span("query", traceparent) as span:
            yield span.traceparent


def trace_id(traceparent: str) -> str:
    """The trace id of a `traceparent`: 32 hexadecimal digits, or nothing when it is not one."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


def _parent(traceparent: str) -> Context:
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return Context()
    context = trace.SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True)
    return trace.set_span_in_context(trace.NonRecordingSpan(context), Context())


class FileExporter(SpanExporter):
    """Appends spans to a private file, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append, and start a new file when this one is full."""
        lines = "".join(json.dumps(_as_json(span), sort_keys=True) + "\n" for span in spans)
        try:
            with self._lock:
                self._append(lines.encode())
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(lines)
            full = file.tell() >= LARGEST_FILE
        if full:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))


def _as_json(span: ReadableSpan) -> dict[str, object]:
    context, parent = span.get_span_context(), span.parent
    start, end = span.start_time or 0, span.end_time or 0
    return {
        "attributes": dict(span.attributes or {}),
        "name": span.name,
        "parent": f"{parent.span_id:016x}" if parent else None,
        "participant": span.resource.attributes["service.instance.id"],
        "seconds": (end - start) / 1e9,
        "span": f"{context.span_id:016x}" if context else None,
        "start": start,  # nanoseconds since 1970
        "status": "error" if span.status.status_code is trace.StatusCode.ERROR else "ok",
        "trace": f"{context.trace_id:032x}" if context else None,
    }


def _otlp(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            "telemetry.extra", "telemetry.otlp_endpoint needs the extra: bayspace[otlp]"
        ) from error
    exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint)
    return exporter
