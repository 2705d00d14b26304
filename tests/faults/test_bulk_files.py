"""What bulk scoring finds in its folders and on its standard input: nothing of it is lost."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")
from bulk import make_run, start, write_photos
from facezoo.cli.main import main
from facezoo.cli.predict import PARQUET_FILES
from facezoo.testing import tiny_scrfd
from fault_table import directory, link_to_itself, pipe
from limits import bounds


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "mine",
    [
        "manifest/mine.jpg",
        "manifest/00000.parquet",
        "manifest/deeper/mine.jpg",
        "shards.parquet",
        ".facezoo.notes",
        ".facezoo.notes.tmp",
        ".facezoo.abcdefgh/mine.jpg",
        ".lock",
    ],
)
def test_a_manifest_replaces_nothing_that_it_did_not_write(tmp_path, capsys, mine):
    write_photos(tmp_path / "photos", 3)
    path = tmp_path / "run" / mine
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    assert main(["score", "manifest", str(tmp_path / "photos"), "--to", str(tmp_path / "run")]) == 4
    assert files_in(tmp_path / "run") == {path: b"precious"}
    assert mine.split("/")[0] in capsys.readouterr().err
    path.unlink()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest").symlink_to(tmp_path / "elsewhere")
    assert main(["score", "manifest", str(tmp_path / "photos"), "--to", str(tmp_path / "run")]) == 4


@pytest.mark.parametrize("given", ["run/manifest", "run", "run/manifest/0/000.png"])
def test_photos_in_the_folder_of_the_manifest_are_refused(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    write_photos(Path("run/manifest"), 3)
    before = files_in(tmp_path)
    assert main(["score", "manifest", given, "--to", "run"]) == 2
    assert "is read by this run, which writes to 'run'" in capsys.readouterr().err
    assert files_in(tmp_path) == before


def test_what_a_killed_start_left_is_replaced(tmp_path):
    write_photos(tmp_path / "photos", 5)
    words = ["score", "manifest", str(tmp_path / "photos"), "--to", str(tmp_path / "run")]
    assert main(words) == 0
    expected = files_in(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    scratch = tmp_path / "run" / ".facezoo.ab_12xyz"
    shutil.copytree(tmp_path / "run" / "manifest", scratch / "manifest")
    (scratch / "0.arrow").write_bytes(b"piece")
    (tmp_path / "run" / ".facezoo.0123456789abcdef.tmp").write_bytes(b"half")
    assert main(words) == 0
    assert files_in(tmp_path / "run") == expected
    assert main(words) == 4


def test_a_list_without_photos_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    assert main(["score", "manifest", "-", "--to", "run"]) == 2
    assert "no photo was found" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["predict", "-", "--output"], ["score", "manifest", "-", "--to"]]
)
def test_a_list_without_an_end_is_refused(tmp_path, monkeypatch, capsys, words):
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr("sys.stdin", endless)
        with bounds():
            assert main([*words, str(tmp_path / "run")]) == 2
    assert "more than 65536 characters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["predict", "-", "--output"], ["score", "manifest", "-", "--to"]]
)
def test_a_list_that_is_not_of_lines_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr("sys.stdin", io.StringIO("a.png\0b.png\0"))  # as of find -print0
    assert main([*words, str(tmp_path / "run")]) == 2
    assert "a NUL character; expected a path per line" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_listed_name_that_is_not_utf_8_is_read_or_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_scrfd(tmp_path / "net.onnx")
    write_photos(Path("photos"), 1)
    shutil.copy("photos/0/000.png", os.fsdecode(b"caf\xe9.png"))
    predict = ["predict", "-", "--detector", "net.onnx", "--output", "out"]
    for words, code in ((predict, 0), (["score", "manifest", "-", "--to", "run"], 2)):
        stream = io.TextIOWrapper(io.BytesIO(b"caf\xe9.png\n"), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", stream)
        assert main(words) == code
    assert "caf\\udce9.png' is not UTF-8" in capsys.readouterr().err
    assert "caf\\udce9.png" in Path("out/faces.jsonl").read_text()
    assert not Path("run").exists()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("scored"), 6, 2)
    assert start(run, "local").done == 6
    return run


@pytest.fixture
def run(scored, tmp_path):
    # With its networks and photos, but its manifest names those of the original.
    shutil.copytree(scored.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def test_merging_replaces_no_other_tables(run, tmp_path, capsys):
    to = tmp_path / "tables"
    words = ["score", "merge", str(run), "--output", str(to)]
    to.mkdir()
    for name in PARQUET_FILES:
        (to / name).write_bytes(b"precious")
        assert main(words) == 2
        assert f"{name}' is not a table that this command writes" in capsys.readouterr().err
        assert files_in(to) == {to / name: b"precious"}
        (to / name).unlink()
    assert main(words) == 0
    merged = files_in(to)
    # Its own tables are replaced.
    assert main(words) == 0
    assert files_in(to) == merged
    (to / "run.json").write_text("{}")
    assert main(words) == 4
    assert "holds the results of a run" in capsys.readouterr().err


def test_merging_mixes_no_tables_of_two_merges(run, tmp_path, capsys):
    to = tmp_path / "tables"
    words = ["score", "merge", str(run), "--output", str(to), "--photos-per-file"]
    assert main([*words, "2"]) == 0
    before = files_in(to)
    assert main([*words, "2"]) == 0
    assert main([*words, "3"]) == 2
    assert "00002.parquet' is not a table that this command writes" in capsys.readouterr().err
    assert files_in(to) == before
    (to / "faces" / "mine.parquet").write_bytes(b"precious")
    assert main([*words, "2"]) == 2
    assert (to / "faces" / "mine.parquet").read_bytes() == b"precious"


def test_a_part_that_was_changed_is_not_merged(run, tmp_path, capsys):
    expected = tmp_path / "expected"
    assert main(["score", "merge", str(run), "--output", str(expected)]) == 0
    part = sorted(run.glob("faces/*/*.parquet"))[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 4] ^= 1
    part.write_bytes(data)
    words = ["score", "merge", str(run), "--output", str(tmp_path / "tables")]
    assert main(words) == 2
    assert f"{part.name}' is not as it was written; delete it" in capsys.readouterr().err
    assert not (tmp_path / "tables" / "faces.parquet").exists()


def test_damaged_settings_are_written_again(run):
    (settings,) = run.glob("settings/*.json")
    whole = settings.read_bytes()
    for damage in (b"", whole[:50], b"[]"):
        settings.write_bytes(damage)
        assert start(run, "local").kept == 6
        assert settings.read_bytes() == whole


@pytest.mark.parametrize("fault", [pipe, link_to_itself, directory])
def test_a_lock_that_no_run_made_is_named(run, capsys, fault):
    (run / ".lock").touch()
    fault(run / ".lock")
    with bounds():
        assert main(["score", "check", str(run)]) == 4
    assert ".lock' is not the lock of a run" in capsys.readouterr().err


def test_checking_removes_no_file_of_somebody_else(run):
    parts = next(iter(run.glob("faces/*")))
    mine = [parts / "0123456789abcdef.jpg", run / ".facezoo.notes.tmp", parts / "notes.parquet"]
    for path in mine:
        path.write_bytes(b"precious")
    ours = [parts / "0123456789abcdef.parquet", parts / ".facezoo.0123456789abcdef.tmp"]
    for path in ours:
        path.write_bytes(b"of a killed process")
    assert main(["score", "check", str(run)]) == 0
    assert [path.exists() for path in (*mine, *ours)] == [True, True, True, False, False]
    assert json.loads((run / "manifest.json").read_text())["photos"] == 6
