"""The verbs ``download`` and ``list``: what they print, and what they end with."""

import argparse
import hashlib
import json
import socket
import subprocess
from email import message_from_string

import pytest
from facezoo import models, sources, weights
from facezoo.card import WeightFile, Wheel
from facezoo.cli import download, licences
from facezoo.cli import list as list_verb
from facezoo.errors import CardError, InputError, WeightsMissing

CONTENT = b"x" * 20_000


def published(name, **changes):
    facts = {
        "model": "scrfd",
        "file": f"{name}.onnx",
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "licence": "MIT",
        "commercial": "yes",
        "holds": "a network",
        "url": "https://example.invalid/net.onnx",
    }
    return WeightFile(name=name, **{**facts, **changes})


BY_HAND = {"url": "", "size": 0, "sha256": "", "manual": "open <page>"}


def call(verb, *argv):
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    return verb.run(parser.parse_args(argv))


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path))
    monkeypatch.delenv("FACEZOO_OFFLINE", raising=False)
    return tmp_path


@pytest.fixture
def zoo(monkeypatch, home):
    def fill(*files):
        catalogue = {"CARDS": {}, "WEIGHTS": {file.name: file for file in files}}
        monkeypatch.setattr(models, "_catalogue", lambda: catalogue)

    return fill


@pytest.fixture
def source(monkeypatch):
    """What every URL answers: CONTENT, or nothing for the addresses listed here."""
    dead = set()

    def read(url):
        if url in dead:
            raise sources.SourceFailed("answered 404 Not Found")
        yield CONTENT

    monkeypatch.setattr(sources, "read_url", read)
    return dead


@pytest.fixture
def no_connections(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


def test_download_prints_where_things_are(zoo, home, source, capsys):
    zoo(published("net"), published("other"))
    assert call(download, "net") == 0
    assert capsys.readouterr().out == f"net: {home / 'net.onnx'}\n"
    assert not (home / "other.onnx").exists()


def test_download_goes_on_after_a_failure(zoo, home, source, capsys):
    zoo(published("dead", url="https://example.invalid/dead"), published("net"))
    source.add("https://example.invalid/dead")
    assert call(download, "dead", "net") == 2
    out, err = capsys.readouterr()
    assert out == f"net: {home / 'net.onnx'}\n"
    assert err.startswith("facezoo download: dead: https://example.invalid/dead: answered 404")
    assert err.count("\n") == 1


def test_download_all_lists_what_is_only_by_hand(zoo, home, source, capsys):
    zoo(published("net"), published("seen", **BY_HAND), published("brought", **BY_HAND))
    (home / "brought.onnx").write_bytes(CONTENT)
    assert call(download, "--all") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"net: {home / 'net.onnx'}",
        f"brought: {home / 'brought.onnx'}",
        'only by hand ("facezoo download NAME" says how): seen',
    ]
    assert err == ""


def test_download_by_name_of_what_is_only_by_hand_fails_with_the_steps(zoo, home, capsys):
    zoo(published("seen", **BY_HAND))
    assert call(download, "seen") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "by hand: open <page>; put the file at" in err


def test_download_all_fails_if_something_fetchable_is_missing(zoo, source, capsys):
    zoo(published("dead"))
    source.add("https://example.invalid/net.onnx")
    assert call(download, "--all") == 2
    assert "dead: https://example.invalid/net.onnx" in capsys.readouterr().err


def test_download_offline_names_what_is_missing(zoo, monkeypatch, no_connections, capsys):
    monkeypatch.setenv("FACEZOO_OFFLINE", "1")
    zoo(published("net"), published("photo", url="", wheel=Wheel("p", "1", "m")))
    assert call(download, "--all") == 2
    err = capsys.readouterr().err
    assert err.count("FACEZOO_OFFLINE=1 forbids downloads") == 2
    assert err.count(hashlib.sha256(CONTENT).hexdigest()) == 2


def test_check_verifies_without_a_connection(zoo, home, no_connections, capsys):
    zoo(published("net"), published("bad"), published("gone"), published("seen", **BY_HAND))
    (home / "net.onnx").write_bytes(CONTENT)
    assert call(download, "--check") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"net: {home / 'net.onnx'}",
        "not here: bad, gone, seen",
    ]
    (home / "bad.onnx").write_bytes(CONTENT[:-1])
    assert call(download, "--check") == 2
    assert "bad.onnx" in capsys.readouterr().err
    assert call(download, "--check", "net") == 0
    assert call(download, "--check", "net", "gone") == 2
    assert 'gone.onnx" does not exist' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        ([], InputError, "nothing to download"),
        (["--all", "net"], InputError, "both names and --all"),
        (["nets"], CardError, 'no file "nets"; did you mean net'),
        (["--check", "nets"], CardError, 'no file "nets"'),
    ],
)
def test_download_refuses_what_makes_no_sense(zoo, argv, error, message):
    zoo(published("net"))
    with pytest.raises(error, match=message):
        call(download, *argv)


def test_find_and_download_agree_on_the_way_to_get_a_file(zoo, home):
    zoo(published("net"))
    with pytest.raises(WeightsMissing, match="run: facezoo download net"):
        weights.find("net")


def test_list_is_aligned_and_says_what_is_here(home, capsys):
    (home / "players.jpg").write_bytes(b"")
    assert call(list_verb) == 0
    variants, files, last = capsys.readouterr().out.split("\n\n")
    assert [row.split()[0] for row in variants.splitlines()[1:]] == list(models.CARDS)
    heading, *rows = files.splitlines()
    assert len(rows) == len(models.WEIGHTS)
    for column in ("model", "here", "MB", "from", "commercial", "licence", "holds"):
        start = heading.index(column)
        assert all(row[start - 1] == " " and row[start] != " " for row in rows), column
    facts = {row.split()[0]: row for row in rows}
    assert " yes " in facts["players"]
    assert " 2.52 " in facts["scrfd_500m_bnkps"] and " wheel " in facts["scrfd_500m_bnkps"]
    assert " by hand " in facts["sdd_fiqa_r50_pth"]
    row = next(row for row in variants.splitlines() if row.startswith("scrfd_34g "))
    assert row.split()[-1] == "scrfd_34g_pth"
    assert str(home) in last


def test_list_as_json(home, capsys):
    (home / "players.jpg").write_bytes(b"")
    assert call(list_verb, "--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["schema"] == "facezoo.list/1"
    assert listing["home"] == str(home)
    files = {file["name"]: file for file in listing["files"]}
    assert files["players"]["here"] is True and files["astronaut"]["here"] is False
    assert files["w600k_mbf"]["sources"] == ["url", "wheel"]
    assert files["w600k_mbf"]["commercial"] == "no"
    assert files["sdd_fiqa_r50_pth"]["size"] is None
    variants = {variant["id"]: variant for variant in listing["variants"]}
    assert variants["scrfd_500m_bnkps"] == {
        "id": "scrfd_500m_bnkps",
        "task": "face_detection",
        "model": "scrfd",
        "weights": "scrfd_500m_bnkps",
        "files": ["scrfd_500m_bnkps", "scrfd_500m_bnkps_pth"],
    }
    # Every file of a variant is in its row, and in no other's.
    files_of = {name: variant["files"] for name, variant in variants.items()}
    assert files_of["scrfd_500m"] == ["scrfd_500m_pth"]
    assert files_of["pip_resnet18"] == ["pipnet_r18_wflw_98", "pipnet_r18_wflw_98_pth"]
    assert files_of["magface_iresnet50"] == [
        "magface_iresnet50_ms1mv2_pth",
        "magface_iresnet50_ms1mv2_dp_pth",
        "magface_iresnet50_ofiq",
    ]
    assert files_of["pip_mobilenet_v2"] == []
    named = [name for found in files_of.values() for name in found]
    assert len(named) == len(set(named))


@pytest.fixture
def installed(monkeypatch):
    """Pretend that the package needs three others, of which one is not there."""
    facts = {"plain": "License: MIT\n", "classified": (
        "License: a whole\n text\nClassifier: License :: OSI Approved :: BSD License\n"
    )}  # fmt: skip

    def metadata(name):
        if name not in facts:
            raise licences.PackageNotFoundError(name)
        return message_from_string(f"Name: {name}\nVersion: 1.2\n{facts[name]}\n")

    lines = ["plain>=1", "classified<3; extra == 'ort'", "absent[x]"]
    monkeypatch.setattr(licences, "requires", lambda name: lines)
    monkeypatch.setattr(licences, "metadata", metadata)


def test_licences_of_packages_and_weights(installed, capsys):
    assert call(licences, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["packages"] == [
        {"package": "absent", "version": "-", "licence": "not installed"},
        {"package": "classified", "version": "1.2", "licence": "BSD License"},
        {"package": "plain", "version": "1.2", "licence": "MIT"},
    ]
    stated = {entry["weights"]: entry["licence"] for entry in content["weights"]}
    assert stated["scrfd_500m_bnkps"] == models.WEIGHTS["scrfd_500m_bnkps"].licence
    assert set(stated) == set(models.WEIGHTS)
    assert call(licences) == 0
    text = capsys.readouterr().out
    assert text.startswith("facezoo: Apache-2.0")
    assert "scrfd_500m_bnkps" in text


def test_licences_without_being_installed(monkeypatch, capsys):
    def nowhere(name):
        raise licences.PackageNotFoundError(name)

    monkeypatch.setattr(licences, "requires", nowhere)
    assert call(licences) == 0
    assert "scrfd_500m_bnkps" in capsys.readouterr().out
