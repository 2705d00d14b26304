"""Photos of an object store: listed, read and scored as those of a folder are."""

import os
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")
from bulk import LIMITS, STAGES, parts, tables, write_photos, write_run
from facezoo.cli.main import main
from facezoo.errors import ImageError, InputError
from facezoo.scale import addresses
from facezoo.scale.addresses import join, list_remote, read_bytes, stat_of
from facezoo.testing import tiny_magface, tiny_scrfd

BUCKET = "photos"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Start an object store on this machine alone; return its address."""
    pytest.importorskip("moto.server", reason="needs moto (make test-all)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@pytest.fixture
def bucket(store, monkeypatch, tmp_path):
    """Put photos into a bucket; return their folder."""
    boto3 = pytest.importorskip("boto3")
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    addresses._file_system.cache_clear()
    write_photos(tmp_path / "photos", 9)
    (tmp_path / "photos" / "1" / "a +b%.png").write_bytes(b"no image")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for path in (tmp_path / "photos").rglob("*.png"):
        name = path.relative_to(tmp_path / "photos").as_posix()
        client.upload_file(str(path), BUCKET, f"2026/{name}")
    yield tmp_path / "photos"
    addresses._file_system.cache_clear()


def test_a_bucket_is_scored_as_a_folder_is(bucket, tmp_path, monkeypatch):
    tiny_scrfd(tmp_path / "detector.onnx")
    tiny_magface(tmp_path / "embedder.onnx")
    monkeypatch.chdir(tmp_path)
    assert main(["score", "manifest", f"s3://{BUCKET}/2026", "--to", "run"]) == 0
    words = ["--threads", "1", "--quiet", *STAGES, *LIMITS]
    assert main(["score", "run", "run", *words]) == 1
    assert main(["score", "check", "run"]) == 0
    write_run(tmp_path, 1 << 16, "folder")
    assert main(["score", "run", "folder", *words]) == 1
    for run in ("run", "folder"):
        assert main(["score", "merge", run, "-o", f"{run}_merged"]) == 0
    assert tables(tmp_path / "run_merged") == tables(tmp_path / "folder_merged")
    assert parts(tmp_path / "run") != {}
    # Nothing about the way to the store is in the manifest.
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"testing" not in kept and os.environ["AWS_ENDPOINT_URL"].encode() not in kept


def test_a_list_names_objects(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"s3://{BUCKET}/2026/0/000.png", f"s3://{BUCKET}/2026/0/none.png"]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(names) + "\n")
    assert main(["score", "manifest", "list.csv", "--to", "run"]) == 0
    found = stat_of(names[0])
    assert (found.photo, found.size) == (names[0], (bucket / "0" / "000.png").stat().st_size)
    assert found.mtime is not None
    assert stat_of(names[1]).size is None
    assert read_bytes(names[0]) == (bucket / "0" / "000.png").read_bytes()
    with pytest.raises(ImageError, match=r"none\.png' cannot be read"):
        read_bytes(names[1])
    with pytest.raises(InputError, match=r"'s3://nowhere' cannot be listed"):
        list(list_remote("s3://nowhere"))


def test_what_pyarrow_does_not_know_fsspec_reads():
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec (make test-all)")
    memory = fsspec.filesystem("memory")
    memory.pipe("/photos/a/b.jpg", b"123")
    memory.pipe("/photos/c.jpg", b"12")
    found = {one.photo: one.size for one in list_remote("memory://photos")}
    assert found == {"a/b.jpg": 3, "c.jpg": 2}
    assert read_bytes(join("memory://photos", "a/b.jpg")) == b"123"
