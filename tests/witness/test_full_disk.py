"""A witness on a disk that is full: nothing acknowledged is lost, and nobody has to repair anything."""

import contextlib
import os
import subprocess
import sys

import pytest

from tests.witness.test_service import TAG, Running, authority, signed
from witness import __main__ as command
from witness import encoding, members
from witness.client import WitnessUnavailable

__all__ = ["authority"]
pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a disk needs root"),
]


@pytest.fixture
def disk(tmp_path):
    """A file system of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(disk):
    """Not a byte is free inside."""
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, b"x" * 4096)
    os.close(descriptor)
    yield
    ballast.unlink()


def test_nothing_acknowledged_is_lost_and_room_is_all_it_needs(space, authority, disk, capsys):
    space.now = encoding.system_clock()
    space.members = members.successor(None, "gba", space.participants(), space.now - 1000)
    space.member_envelope = members.sign(space.members, [space.operator])
    witness = Running(space, authority, disk / "witness")
    witness.configure()
    recorded: dict[bytes, int | None] = {}

    def submit(client):
        batch = [(signed(space), TAG) for _ in range(16)]
        recorded.update(zip([e for e, _ in batch], [r.index for r in client.submit(batch)], strict=True))

    with witness.process(), witness.client() as client:
        submit(client)
        with full(disk):
            for _ in range(2):
                with pytest.raises(WitnessUnavailable, match="does not take entries now"):
                    submit(client)
            assert client.await_proof(next(iter(recorded)), TAG)
            assert witness.get("/checkpoint")[0] == 200
        submit(client)
    with full(disk):
        with witness.process():  # started on a full disk
            pass
        assert command.main(["fsck", str(witness.folder)]) == 0
    with witness.process(), witness.client() as client:
        submit(client)
        assert {e: client.submit([(e, TAG)])[0].index for e in recorded} == recorded
    assert command.main(["fsck", str(witness.folder)]) == 0
    assert f": {len(recorded)} entries" in capsys.readouterr().out
