"""What the operator's monitoring reads: a few figures of the running witness, as Prometheus text.

`bayspace_witness_forks` above zero is an alarm. No participant, record or key is named here.
"""

from http import HTTPStatus

from witness import checkpoint as checkpoints
from witness import note
from witness.log import Log
from witness.memory import Memory
from witness.plainhttp import BoundedHandler, BoundedServer
from witness.quorum import Quorum
from witness.sequencer import Sequencer

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Reads the figures of one witness."""

    def __init__(self, log: Log, sequencer: Sequencer, quorum: Quorum | None, memory: Memory | None) -> None:
        self._log, self._sequencer, self._quorum, self._memory = log, sequencer, quorum, memory

    def text(self) -> str:
        """All figures."""
        failing = 0 if self._quorum is None else len(self._quorum.failing)
        forgetful = 0 if self._quorum is None else len(self._quorum.forgetful)
        forgotten = int(self._memory is not None and self._memory.forgotten)
        forks = self._log.database.forks()
        proved = sum(fork.proved for fork in forks)
        lines = [
            *_gauge("log_size", "Entries published.", self._log.size),
            *_gauge("witnessed_size", "Entries under a checkpoint that counts.", self._log.witnessed_size),
            *_gauge("waiting", "Submissions that wait to be recorded.", self._sequencer.waiting),
            *_gauge("silent_witnesses", "Witnesses that did not cosign when last asked.", failing),
            *_gauge("forgetful_witnesses", "Witnesses that lost what they cosigned of this log.", forgetful),
            *_gauge(
                "cosigner_forgot", "1: this witness lost what it cosigned; it cosigns nothing.", forgotten
            ),
            *_gauge("forks", "Contradictions kept: a log signed what cannot both be true.", len(forks)),
            *_gauge("forks_proved", "Those that are signed proof by themselves.", proved),
            "# HELP bayspace_witness_cosigned_size Size of each other log when last cosigned.",
            "# TYPE bayspace_witness_cosigned_size gauge",
        ]
        for origin, text in sorted(self._log.database.all_cosigned().items()):
            size = checkpoints.parse(note.parse(text).text, extensions=True).size
            lines.append(f'bayspace_witness_cosigned_size{{log="{_escaped(origin)}"}} {size}')
        return "\n".join(lines) + "\n"


def _gauge(name: str, what: str, value: int) -> list[str]:
    full = f"bayspace_witness_{name}"
    return [f"# HELP {full} {what}", f"# TYPE {full} gauge", f"{full} {value}"]


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"')


class MetricsServer(BoundedServer):
    """Serves `/metrics`, and nothing else."""

    def __init__(self, host: str, port: int, metrics: Metrics) -> None:
        self.metrics = metrics
        super().__init__(host, port, _Handler)


class _Handler(BoundedHandler):
    server: MetricsServer

    def do_GET(self) -> None:  # noqa: N802  http.server names them so
        if self.path != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = self.server.metrics.text().encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
