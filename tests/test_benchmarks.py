"""The benchmark runner: what its JSON says, what its tables hold, whose time it counts. It times nothing."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

import pytest

from benchmarks import figures, measure, parties, peers, run, witnessing
from benchmarks.measure import Result
from benchmarks.profiling import kernel_seconds
from compute import _native, kernel

FIELDS = {
    *("name", "rows", "protocol", "seconds", "cpu_seconds", "rows_per_s", "bytes_sent", "bytes_received"),
    *("bytes_total", "peak_rss_mb", "floor_seconds", "kernel", "cores", "commit", "stages"),
}


def said(monkeypatch, capsys, *arguments, runs=1):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments, "--runs", str(runs), "--json"])
    assert run.main() == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments", [("kernel", "--rows", "256"), ("selection_sum", "--rows", "500", "--weight", "9")]
)
def test_one_object_with_every_field(arguments, monkeypatch, capsys):
    document = said(monkeypatch, capsys, *arguments)
    assert document.keys() >= FIELDS
    assert (document["name"], document["rows"]) == (arguments[0], int(arguments[2]))
    assert document["rows_per_s"] == round(document["rows"] / document["seconds"])


@pytest.mark.deep
@pytest.mark.parametrize("name", ["psi", "psi_aggregate", "private_join_and_compute"])
def test_the_bare_protocols_and_the_kernels_share(name, monkeypatch, capsys):
    document = said(monkeypatch, capsys, name, "--rows", "512", "--in-memory")
    assert document["bytes_total"] == document["bytes_sent"] + document["bytes_received"] > 0
    assert document["stages"]["kernel: mask"] > 0
    assert 0 < document["figures"]["kernel_percent"] <= 100
    assert document["floor_seconds"] > 0
    with pytest.raises(SystemExit, match="not under"):
        said(monkeypatch, capsys, name, "--rows", "512", "--in-memory", "--protocol", "psi")


@pytest.mark.deep
def test_every_run_of_a_joint_query_is_computed(monkeypatch, capsys):
    """A connector shows what it has when the same is asked again: that would be measured otherwise."""
    assert said(monkeypatch, capsys, "psi", "--rows", "64", runs=2)["bytes_total"] > 64 * 2 * 32


@pytest.mark.deep
def test_the_witness_says_every_figure_of_its_goals(monkeypatch, capsys):
    monkeypatch.setattr(witnessing, "SINGLES", 3)
    figures = said(monkeypatch, capsys, "witness", "--rows", "128", "--entries", "300")["figures"]
    names = ("records_per_s", "unary_per_s", "published_p99_ms", "cosigned_p99_ms", "proof_p99_ms")
    assert all(figures[name] > 0 for name in names)
    assert figures["entries"] == 300


COUNTED = ("unary_per_s", "openssl_x25519_per_s", "cpu_seconds_per_participant", "bytes_per_participant")


def test_the_page_is_made_of_what_was_measured_and_nothing_else(monkeypatch, tmp_path):
    mutants = "| module | mutants | killed |\n| --- | --- | --- |\n| check | 9 | 9 |\n"
    (tmp_path / "RESULTS.md").write_text(f"# Results\n\nBy hand.\n\n## Mutants\n\nOld news.\n\n{mutants}")
    monkeypatch.setattr(figures, "HERE", tmp_path)
    monkeypatch.setattr(figures, "_plot", lambda curve: None)

    def measured(command, _runs, _peers):
        name, *options = command.split()
        if name == "catalogue":
            return figures._failed(name, *options)
        rows = int(options[options.index("--rows") + 1]) if options else 1
        of_machine = {"commit": "def" if name == "witness" else "abc", "kernel": "ifma"}
        counted = dict.fromkeys(COUNTED, 20_250)
        said = Result(name, rows, "some", 2, 3, floor_seconds=1, stages={"part": 4}, figures=counted)
        peer = {"name": "spu-ecdh", "rows": rows, "error": "none"} | ({"seconds": 4} if name == "psi" else {})
        return {**said.document(), **of_machine, "peers": [peer]}

    monkeypatch.setattr(figures, "measured", measured)
    monkeypatch.setattr(measure, "commit", str)
    assert figures.write_results(Namespace(runs=1, peers=None, largest=2**16)) == 1  # for one that failed
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.endswith(f"others each day.\n\n{mutants}")
    assert "By hand" not in page
    assert "Old news" not in page
    assert "at commit `abc, def`" in page
    assert "| `catalogue` | p99 <= 50 ms | failed |" in page
    assert "- `psi --rows 65536`: part 4 s" in page
    assert "| OpenSSL's X25519, one thread | 30,000 a second | 20,250 a second | 1.48 |" in page
    assert "| `psi --rows 65536` | seconds | 1.2 | spu-ecdh 1.5 | 0.800 | 2.000 | 4.000 | 0.500 |" in page
    beside_psi = "| seconds | 18 | spu-ecdh 17.9 | 1.006 | 2.000 | 4.000 | 0.500 |"  # psi's, at the same size
    assert f"| `private_join_and_compute --rows 1048576` {beside_psi}" in page
    assert f"| `{figures.WITNESS}` | unary_per_s | 900 " in page
    assert all(f"| `{command}` | {goal} |" in page for command, goal in figures.GOALS)


def test_tables_overlap_as_told():
    theirs, mine = (set(table["id"].to_pylist()) for table in parties.tables(1000, 0.3, 5))
    assert len(theirs) == len(mine) == 1000
    assert len(theirs & mine) == 300
    assert {len(key.encode()) for key in theirs | mine} == {16}


def test_kernel_time_is_counted_while_it_is_asked_for():
    before = _native.truncated_tags
    with kernel_seconds() as spent:
        column = kernel.hash_to_group(parties.keys(0, 8).cast("large_binary"), b"tag")
        kernel.truncated_tags(column, bytes(32), 16)
    assert spent["hash_to_group"] > 0
    assert spent["truncated_tags"] > 0
    assert _native.truncated_tags is before


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"psi": (peers.Peer("nobody", "no_such_module", 4, dict),)})
    assert peers.measured("psi", None, 100, 0.5, 1) == []


def test_a_peers_failure_is_said(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"psi": (peers.Peer("nobody", "json", 4, dict),)})
    (found,) = peers.measured("psi", None, 100, 0.5, 1)
    assert (found["name"], found["rows"]) == ("nobody", 4)
    assert found["error"]
