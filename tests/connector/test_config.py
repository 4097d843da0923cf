"""Configuration: the template loads, and every mistake is named with its place and without its value."""

from __future__ import annotations

import stat

import pytest

from compute.errors import ConfigError
from connector import config


@pytest.fixture
def folder(tmp_path):
    config.init(tmp_path / "hk", "hk-bank", "gba", "HK", witnesses=("witness-a", "witness-b"))
    return tmp_path / "hk"


def _refused(folder, old, new):
    file = folder / config.FILE
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        config.load(folder)
    line = (text[: text.index(old)]).count("\n") + 1
    return str(caught.value), f"line {line}"


def test_a_new_folder_is_complete_and_private(folder):
    loaded = config.load(folder)
    assert loaded == config.load(folder / config.FILE)
    assert (loaded.participant, loaded.space, loaded.jurisdiction, loaded.language) == (
        "hk-bank",
        "gba",
        "HK",
        "en",
    )
    assert [w.id for w in loaded.witness] == ["witness-a", "witness-b"]
    assert loaded.limits.maximum_joint_queries == 4
    assert (folder / "enrolment.json").exists()
    assert loaded.seat.participant == "hk-bank"
    for path in (loaded.tls.key, loaded.evidence_key_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_paths_count_from_the_folder_which_can_be_moved(folder, tmp_path, monkeypatch):
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    loaded = config.load(tmp_path / "moved" / config.FILE)
    assert loaded.members_path == tmp_path / "moved" / "members.json"
    assert loaded.state_url == f"sqlite:///{tmp_path / 'moved' / 'state' / 'connector.sqlite'}"
    assert loaded.spans_path == tmp_path / "moved" / "telemetry" / "spans.jsonl"


def test_postgresql_urls_are_left_alone(folder):
    file = folder / config.FILE
    url = "postgresql+psycopg://user@host/bay"
    file.write_text(file.read_text().replace("sqlite:///state/connector.sqlite", url))
    assert config.load(folder).state_url == url


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("memory_mib", "memroy_mib", "limits.memroy_mib: unknown key"),
        ("threads = 2", 'threads = "2"', "limits.threads"),
        ("threads = 2", "threads = 0", "limits.threads"),
        ("threads = 2", "threads = true", "limits.threads"),
        ('jurisdiction = "HK"', 'jurisdiction = "Hong Kong"', "jurisdiction"),
        ('language = "en"', 'language = "fr"', "language"),
        ('id = "witness-b"', 'id = "Witness B"', "witness.1.id"),
        ('participant = "hk-bank"', 'participant = "HK"', "participant"),
        ('space = "gba"', 'space = "GBA"', "space: a space name is"),
        ('listen = "127.0.0.1:7443"', 'listen = "127.0.0.1"', "network.listen"),
        ("[limits]", "[limit]", "limit: unknown key"),
    ],
)
def test_mistakes_are_named_with_line_and_key(folder, old, new, key):
    message, line = _refused(folder, old, new)
    assert f"{line}: {key}" in message
    assert config.FILE in message


def test_a_missing_key_and_broken_toml_are_named(folder):
    message, _ = _refused(folder, 'space = "gba"', "")
    assert "space: Field required" in message
    (folder / config.FILE).write_text("participant = \n")
    with pytest.raises(ConfigError, match="line 1"):
        config.load(folder)


def test_no_value_is_repeated(folder):
    message, _ = _refused(folder, 'url = "sqlite:///state/connector.sqlite"', 'url = ["user:hunter2@host"]')
    assert "hunter2" not in message


def test_nothing_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path)
    assert caught.value.code == "config.missing"


@pytest.mark.parametrize("name", ["Bank", 'a"\nx = "1', "bank\\"])
def test_a_wrong_argument_leaves_no_connector(tmp_path, name):
    with pytest.raises(ConfigError):
        config.init(tmp_path / "x", name, "gba", "HK")
    assert not (tmp_path / "x" / config.FILE).exists()
    config.init(tmp_path / "x", "bank", "gba", "HK")
