"""Weights: what is accepted, what is refused by name, and in which order sources are asked."""

import hashlib
import http.server
import logging
import os
import pwd
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile

import pytest
from facezoo import models, sources, weights
from facezoo.card import WeightFile, Wheel
from facezoo.cli.main import main
from facezoo.errors import CardError, ChecksumMismatch, WeightsError, WeightsMissing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONTENT = bytes(range(256)) * 400
OTHER = CONTENT[::-1]
PAGE = b"\n<!DOCTYPE html><html><body>Sign in to continue</body></html>"


def published(name="net", content=CONTENT, **changes):
    facts = {
        "model": "scrfd",
        "file": f"{name}.onnx",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "MIT",
        "commercial": "yes",
        "holds": "a network",
    }
    return WeightFile(name=name, **{**facts, **changes})


@pytest.fixture
def home(monkeypatch, tmp_path):
    folder = tmp_path / "home"
    monkeypatch.setenv("FACEZOO_HOME", str(folder))
    monkeypatch.delenv("FACEZOO_OFFLINE", raising=False)
    return folder


@pytest.fixture
def zoo(monkeypatch, home):
    """Put files of one's own into the catalogue."""

    def fill(*files):
        catalogue = {"CARDS": {}, "WEIGHTS": {file.name: file for file in files}}
        monkeypatch.setattr(models, "_catalogue", lambda: catalogue)
        return files[0]

    return fill


@pytest.fixture
def put(home):
    def write(file, content):
        home.mkdir(exist_ok=True)
        (home / file.file).write_bytes(content)
        return home / file.file

    return write


@pytest.fixture
def no_connections(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


class Server(http.server.ThreadingHTTPServer):
    """Answers the list of (status, body, announced length) in turn, then repeats the last."""

    answers = ()
    asked = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/net.onnx"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        status, body, length = self.server.answers[
            min(self.server.asked, len(self.server.answers)) - 1
        ]
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "PAUSES_SECONDS", (0.0, 0.0))
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


def answer(body, status=200, length=None):
    return (status, body, len(body) if length is None else length)


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A pip that hands out a wheel made here, and counts how often it was asked."""

    class FakePip:
        wheel = tmp_path / "parts-1.0-py3-none-any.whl"
        calls = tmp_path / "calls"
        script = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"

        def pack(self, **members):
            with zipfile.ZipFile(self.wheel, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members.items():
                    archive.writestr(f"parts/{name}.onnx", content)

        @property
        def asked(self):
            return len(self.calls.read_text()) if self.calls.exists() else 0

        def command(self, pip, wheel, folder):
            with self.calls.open("a") as stream:
                stream.write("x")
            return [sys.executable, "-c", self.script, str(self.wheel), str(folder)]

    fake = FakePip()
    monkeypatch.setattr(sources, "_pip_command", fake.command)
    return fake


def in_wheel(name="net"):
    return Wheel("parts", "1.0", f"parts/{name}.onnx")


def leftovers(home):
    return [path.name for path in home.iterdir() if path.name.endswith(".part")]


# --- find ---------------------------------------------------------------------------------------


def test_home_is_the_variable_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FACEZOO_HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert weights.home() == tmp_path / ".cache" / "facezoo"
    monkeypatch.setenv("FACEZOO_HOME", "~/here")
    assert weights.home() == tmp_path / "here"
    monkeypatch.delenv("FACEZOO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights.home() == tmp_path / "cache" / "facezoo"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert weights.home() == tmp_path / ".cache" / "facezoo"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, capsys):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("FACEZOO_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(WeightsError, match="set FACEZOO_HOME"):
        weights.home()
    for verb, code in {"list": 2, "doctor": 0}.items():
        assert main([verb]) == code
        printed = capsys.readouterr()
        assert "set FACEZOO_HOME" in printed.out + printed.err


def test_find_returns_a_file_that_is_what_it_should_be(zoo, put, no_connections):
    file = zoo(published())
    path = put(file, CONTENT)
    assert weights.find("net") == path


def test_locate_takes_paths_names_and_published_file_names(zoo, put, tmp_path, monkeypatch):
    file = zoo(published("net"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsMissing, match=r"^net can only be downloaded"):
        weights.locate("net")
    with pytest.raises(WeightsMissing, match=r"^net can only be downloaded"):
        weights.locate("net.onnx")
    path = put(file, CONTENT)
    assert weights.locate("net") == weights.locate("net.onnx") == path
    assert weights.locate(tmp_path / "net.onnx") == tmp_path / "net.onnx"
    assert str(weights.locate("other.pth")) == "other.pth"
    with pytest.raises(CardError):
        weights.locate("other")
    (tmp_path / "net.onnx").write_bytes(OTHER)
    assert str(weights.locate("net.onnx")) == "net.onnx"


def test_find_says_how_to_get_what_is_missing(zoo, home, no_connections):
    zoo(published(url="http://127.0.0.1:1/net.onnx"), published("seen", manual="open <page>"))
    with pytest.raises(
        WeightsMissing, match=r'net\.onnx" does not exist; run: facezoo download net'
    ):
        weights.find("net")
    with pytest.raises(WeightsMissing) as caught:
        weights.find("seen")
    assert "open <page>" in str(caught.value)
    assert f'"{home / "seen.onnx"}"' in str(caught.value)
    assert str(len(CONTENT)) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"Not Found", "has 9 bytes, the published file has 102400"),
        (b"", "has 0 bytes, the published file has 102400"),
        (CONTENT[:-1], "has 102399 bytes, the published file has 102400"),
        (PAGE, f"is a web page of {len(PAGE)} bytes, the published file has 102400"),
        (OTHER, f"sha256 {hashlib.sha256(OTHER).hexdigest()}"),
        (PAGE + CONTENT[len(PAGE) :], "is a web page of 102400 bytes and sha256"),
    ],
)
def test_find_refuses_by_name_what_is_not_the_published_file(zoo, put, content, complaint):
    path = put(zoo(published()), content)
    with pytest.raises(ChecksumMismatch) as caught:
        weights.find("net")
    assert str(caught.value).startswith(f'net: "{path}" ')
    assert complaint in str(caught.value)
    assert "delete it and run: facezoo download net" in str(caught.value)
    assert path.read_bytes() == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(place=st.integers(0, len(CONTENT) - 1), flip=st.integers(1, 255))
def test_no_single_byte_may_differ(tmp_path, place, flip):
    path = tmp_path / "net.onnx"
    changed = bytearray(CONTENT)
    changed[place] ^= flip
    path.write_bytes(changed)
    assert weights._problem(published(), path)
    path.write_bytes(CONTENT[:place])
    assert weights._problem(published(size=0), path)


def test_an_unpublished_sha256_is_said(zoo, put, caplog):
    path = put(zoo(published(size=0, sha256="")), OTHER)
    with caplog.at_level(logging.WARNING):
        assert weights.find("net") == path
    assert [record.getMessage() for record in caplog.records] == [
        f'net: no sha256 is published for it, so "{path}" is used unverified'
    ]


@pytest.mark.parametrize("content", [b"Not Found", b"", PAGE, PAGE + CONTENT])
def test_error_messages_are_refused_without_a_published_sha256(zoo, put, content):
    put(zoo(published(size=0, sha256="")), content)
    with pytest.raises(ChecksumMismatch, match="not a network"):
        weights.find("net")


def test_unknown_names_are_refused_with_the_nearest(home):
    with pytest.raises(CardError, match='no file "scrfd_500m_bnkp"; did you mean scrfd_500m_bnk'):
        weights.find("scrfd_500m_bnkp")
    with pytest.raises(CardError, match='no file "sdd"; did you mean sdd_fiqa_r50_pth'):
        weights.find("sdd")
    with pytest.raises(CardError, match='no file "xyz"; "facezoo list" shows all'):
        list(weights.fetch_many(["players", "xyz"]))
    assert not home.exists()


# --- fetch: the local folder and the network ----------------------------------------------------


def test_a_file_that_is_here_is_not_fetched(zoo, put, no_connections):
    path = put(zoo(published(url="http://127.0.0.1:1/", wheel=in_wheel())), CONTENT)
    assert weights.fetch("net") == path


def test_a_wrong_file_in_its_place_is_kept_and_named(zoo, put, no_connections):
    path = put(zoo(published(url="http://127.0.0.1:1/")), OTHER)
    with pytest.raises(ChecksumMismatch, match="delete it"):
        weights.fetch("net")
    assert path.read_bytes() == OTHER


def test_fetch_from_the_url(zoo, home, server, pip):
    zoo(published(url=server.url, wheel=in_wheel()))
    server.answers = [answer(CONTENT)]
    umask = os.umask(0o022)
    try:
        path = weights.fetch("net")
    finally:
        os.umask(umask)
    assert path == home / "net.onnx"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in home.iterdir()] == ["net.onnx"]
    assert (server.asked, pip.asked) == (1, 0)


def test_fetch_without_a_published_size(zoo, server):
    zoo(published(url=server.url, size=0))
    server.answers = [answer(CONTENT)]
    assert weights.fetch("net").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answers", "asked", "complaint"),
    [
        ([answer(PAGE)], 1, f"the download is a web page of {len(PAGE)} bytes"),
        ([answer(b"Not Found")], 1, "the download has 9 bytes, the published file has 102400"),
        ([answer(OTHER)], 1, "the download has 102400 bytes and sha256"),
        ([answer(CONTENT + b"!")], 1, "the download exceeds the published 102400 bytes"),
        ([answer(b"", 404)], 1, "answered 404 Not Found"),
        ([answer(b"", 503)], 3, "answered 503 Service Unavailable"),
        ([answer(CONTENT[:5000], length=len(CONTENT))], 3, "5000"),
    ],
)
def test_what_a_url_gives_wrongly_is_refused(zoo, home, server, answers, asked, complaint):
    zoo(published(url=server.url, manual="ask the authors"))
    server.answers = answers
    with pytest.raises(WeightsMissing) as caught:
        weights.fetch("net")
    message = str(caught.value)
    assert message.startswith(f"net: {server.url}: ")
    assert complaint in message
    assert "ask the authors" in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert server.asked == asked
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "first", [answer(b"", 503), answer(CONTENT[:5000], length=len(CONTENT))], ids=["busy", "broken"]
)
def test_an_address_is_asked_again_after_a_passing_fault(zoo, server, first):
    zoo(published(url=server.url))
    server.answers = [first, answer(CONTENT)]
    assert weights.fetch("net").read_bytes() == CONTENT
    assert server.asked == 2


def test_a_host_that_does_not_answer_is_asked_once(zoo, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(weights.time, "sleep", lambda seconds: pytest.fail("asked again"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        zoo(published(url=f"http://127.0.0.1:{silent.getsockname()[1]}/"))
        with pytest.raises(WeightsMissing, match="timed out"):
            weights.fetch("net")


def test_a_failing_url_costs_one_warning_and_the_wheel_is_taken(zoo, server, pip, caplog):
    zoo(published(url=server.url, wheel=in_wheel()))
    server.answers = [answer(PAGE)]
    pip.pack(net=CONTENT)
    with caplog.at_level(logging.WARNING):
        assert weights.fetch("net").read_bytes() == CONTENT
    (record,) = caplog.records
    assert record.getMessage().startswith(f"net: {server.url}: the download is a web page")
    assert record.getMessage().endswith("trying the next source")


def test_nobody_listens_and_pip_fails_names_both(zoo, pip, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "PAUSES_SECONDS", (0.0,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    zoo(published(url=url, wheel=in_wheel()))
    pip.script = "import sys; sys.exit('WARNING: slow\\nERROR: first\\nERROR: No matching wheel')"
    with pytest.raises(WeightsMissing) as caught:
        weights.fetch("net")
    assert f"{url}: " in str(caught.value)
    assert "pip cannot fetch parts==1.0: No matching wheel;" in str(caught.value)
    assert "take parts/net.onnx out of a wheel of parts 1.0" in str(caught.value)


# --- fetch: wheels ------------------------------------------------------------------------------


def test_a_wheel_is_fetched_once_for_all_its_members(zoo, home, pip):
    zoo(
        published("net", wheel=in_wheel("net")),
        published("photo", OTHER, wheel=in_wheel("photo")),
        published("none", wheel=in_wheel("none")),
    )
    pip.pack(net=CONTENT, photo=OTHER)
    pairs = list(weights.fetch_many(["net", "none", "photo", "net"]))
    assert [name for name, _ in pairs] == ["net", "none", "photo"]
    outcomes = dict(pairs)
    assert outcomes["net"].read_bytes() == CONTENT
    assert outcomes["photo"].read_bytes() == OTHER
    assert isinstance(outcomes["none"], WeightsMissing)
    assert "cannot read parts/none.onnx" in str(outcomes["none"])
    assert pip.asked == 1
    assert leftovers(home) == []


def test_a_wheel_that_cannot_be_had_is_asked_for_once(zoo, home, pip):
    zoo(published("a", wheel=in_wheel()), published("b", wheel=in_wheel()))
    pip.script = "import sys; sys.exit(3)"
    outcomes = dict(weights.fetch_many(["a", "b"]))
    assert all(
        "pip cannot fetch parts==1.0: exit code 3" in str(error) for error in outcomes.values()
    )
    assert pip.asked == 1


def test_a_wheel_that_is_no_archive_or_holds_another_file(zoo, home, pip):
    zoo(published(wheel=in_wheel()))
    pip.wheel.write_bytes(CONTENT)
    with pytest.raises(WeightsMissing, match=r"cannot read parts/net\.onnx"):
        weights.fetch("net")
    pip.pack(net=OTHER)
    with pytest.raises(WeightsMissing, match="the download has 102400 bytes and sha256"):
        weights.fetch("net")
    assert list(home.iterdir()) == []


def test_names_inside_an_archive_decide_nothing(zoo, home, pip, tmp_path):
    zoo(published(wheel=Wheel("parts", "1.0", "../../../evil.onnx")))
    with zipfile.ZipFile(pip.wheel, "w") as archive:
        archive.writestr("../../../evil.onnx", CONTENT)
        archive.writestr("/tmp/evil.onnx", OTHER)
    assert weights.fetch("net") == home / "net.onnx"
    assert list(tmp_path.rglob("evil*")) == []


def test_pip_is_never_asked_for_a_source_archive(tmp_path):
    pip = [sys.executable, "-m", "pip"]
    command = sources._pip_command(pip, Wheel("parts", "1.0", "member"), tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} < set(command)
    assert command[-1] == "parts==1.0"
    assert "--platform" not in command
    tagged = Wheel("parts", "1.0", "member", tag="cp310-cp310-manylinux2014_x86_64")
    line = " ".join(sources._pip_command(pip, tagged, tmp_path))
    assert "--implementation cp --python-version 310 --abi cp310" in line
    assert "--platform manylinux2014_x86_64" in line


# --- fetch: a Python without pip ------------------------------------------------------------------


@pytest.fixture
def no_pip(monkeypatch, tmp_path):
    """An environment as uv makes it, of a user who has set no index."""
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    for name in (*sources.INDEX_VARIABLES, *sources.MORE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


LINKS = """<!DOCTYPE html><a href="parts-0.9-py3-none-any.whl">old</a>
<a href="parts-1.0.tar.gz">source</a>
<a data-requires-python="&gt;=3.8" href='../files/{name}#sha256={digest}'>{name}</a>"""


@pytest.fixture
def index(tmp_path, pip):
    """A package index in a folder, with one wheel."""

    def make(member=CONTENT, name="parts-1.0-py3-none-any.whl", digest=None):
        pip.pack(net=member)
        data = pip.wheel.read_bytes()
        digest = digest or hashlib.sha256(data).hexdigest()
        for folder, file, content in (
            ("files", name, data),
            ("parts", "index.html", LINKS.format(name=name, digest=digest).encode()),
        ):
            (tmp_path / "simple" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "simple" / folder / file).write_bytes(content)
        return (tmp_path / "simple").as_uri()

    return make


@pytest.mark.parametrize(
    ("variable", "before"),
    [
        ("UV_DEFAULT_INDEX", ""),
        ("UV_DEFAULT_INDEX", "mine="),
        ("PIP_INDEX_URL", ""),
        ("PIP_EXTRA_INDEX_URL", "file:///nowhere/simple "),
    ],
)
def test_the_users_own_index_is_asked(zoo, pip, index, no_pip, monkeypatch, variable, before):
    zoo(published(wheel=in_wheel()))
    monkeypatch.setenv(variable, before + index())
    assert weights.fetch("net").read_bytes() == CONTENT
    assert pip.asked == 0


def test_pips_configuration_names_the_index_too(zoo, index, no_pip, monkeypatch, tmp_path):
    zoo(published(wheel=in_wheel()))
    (tmp_path / "pip.conf").write_text(f"[global]\nindex_url = {index()}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert weights.fetch("net").read_bytes() == CONTENT
    before = sources._pip_settings()
    (tmp_path / "pip.conf").write_text("no section\n")
    assert sources._pip_settings().get("index-url") != before["index-url"]


def test_user_and_password_are_sent_and_not_shown(zoo, server, no_pip, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    zoo(published(wheel=in_wheel()))
    server.answers = [answer(b"", 401)]
    url = server.url.replace("//", "//me:secret@").replace("/net.onnx", "/simple")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    with pytest.raises(WeightsMissing, match="answered 401") as caught:
        weights.fetch("net")
    assert "secret" not in str(caught.value) + caplog.text
    address, headers = sources._without_credentials("https://me:se%20cret@x.org/simple")
    assert address == "https://x.org/simple"
    assert headers == {"Authorization": "Basic bWU6c2UgY3JldA=="}
    assert sources._with_credentials_of("https://a:b@x.org/s", "https://x.org/f") == (
        "https://a:b@x.org/f"
    )
    assert sources._with_credentials_of("https://a:b@x.org/s", "https://y.org/f") == (
        "https://y.org/f"
    )


def test_a_wheel_of_another_hash_is_not_used(zoo, index, no_pip, monkeypatch):
    zoo(published(wheel=in_wheel()))
    monkeypatch.setenv("PIP_INDEX_URL", index(digest="0" * 64))
    with pytest.raises(WeightsMissing, match="differs from the hash that the index gives"):
        weights.fetch("net")


@pytest.mark.parametrize(
    ("name", "tag", "wanted"),
    [
        ("parts-1.0-py3-none-any.whl", "", True),
        ("Parts-1.0-py3-none-any.whl", "", True),
        ("parts-1.0.tar.gz", "", False),
        ("parts-1.0.1-py3-none-any.whl", "", False),
        ("others-1.0-py3-none-any.whl", "", False),
        ("parts-1.0-cp310-cp310-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", "cp310", True),
        ("parts-1.0-1-cp310-cp310-manylinux2014_x86_64.whl", "cp310", True),
        ("parts-1.0-cp311-cp311-manylinux2014_x86_64.whl", "cp310", False),
    ],
)
def test_which_file_of_an_index_is_wanted(name, tag, wanted):
    tag = tag and f"{tag}-{tag}-manylinux2014_x86_64"
    assert sources._is_wanted(name, Wheel("parts", "1.0", "member", tag=tag)) == wanted


def test_without_an_index_uv_is_called(zoo, pip, no_pip, monkeypatch, tmp_path):
    zoo(published(wheel=in_wheel()))
    pip.pack(net=CONTENT)
    asked = []

    def command(tool, wheel, folder):
        asked.append(tool)
        return pip.command(tool, wheel, folder)

    monkeypatch.setattr(sources, "_pip_command", command)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    assert weights.fetch("net").read_bytes() == CONTENT
    assert asked == [[str(uv), "tool", "run", "pip"]]


def test_without_any_of_them_the_variable_is_named(zoo, pip, no_pip):
    zoo(published(wheel=in_wheel()))
    with pytest.raises(WeightsMissing, match=r"no pip to fetch parts==1\.0.* set PIP_INDEX_URL"):
        weights.fetch("net")
    assert pip.asked == 0


# --- fetch: by hand, offline, disks, other processes --------------------------------------------


def test_what_no_program_can_fetch_is_explained(zoo, home, no_connections):
    zoo(published(size=0, sha256="", manual="open <page> (code ab12)"))
    with pytest.raises(WeightsMissing) as caught:
        weights.fetch("net")
    assert str(caught.value) == (
        "net can only be downloaded by hand: open <page> (code ab12); "
        f'put the file at "{home}/net.onnx"'
    )


@pytest.mark.parametrize("source", [{"url": "http://127.0.0.1:1/"}, {"wheel": in_wheel()}])
def test_offline_opens_no_connection_and_names_what_is_missing(
    zoo, put, monkeypatch, no_connections, source
):
    monkeypatch.setenv("FACEZOO_OFFLINE", "1")
    file, here = published(**source), published("here", **source)
    zoo(file, here)
    path = put(here, CONTENT)
    outcomes = dict(weights.fetch_many(["net", "here"]))
    assert outcomes["here"] == path
    message = str(outcomes["net"])
    assert isinstance(outcomes["net"], WeightsMissing)
    assert message.startswith("net is missing and FACEZOO_OFFLINE=1 forbids downloads")
    assert f"({file.size} bytes, sha256 {file.sha256})" in message
    with pytest.raises(WeightsMissing, match="FACEZOO_OFFLINE=1"):
        weights.find("net")


@pytest.mark.parametrize("value", ["", "0"])
def test_offline_can_be_switched_off(zoo, server, monkeypatch, value):
    monkeypatch.setenv("FACEZOO_OFFLINE", value)
    zoo(published(url=server.url))
    server.answers = [answer(CONTENT)]
    assert weights.fetch("net").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_named(zoo, home, server):
    zoo(published(url=server.url))
    server.answers = [answer(CONTENT)]
    home.write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match=f'cannot write "{home}/net.onnx"') as caught:
        weights.fetch("net")
    assert "FACEZOO_HOME" in str(caught.value)


def test_an_interrupted_download_leaves_nothing(zoo, home, monkeypatch):
    def interrupted(url):
        yield CONTENT[:1000]
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "read_url", interrupted)
    zoo(published(url="http://127.0.0.1:1/"))
    with pytest.raises(KeyboardInterrupt):
        weights.fetch("net")
    assert list(home.iterdir()) == []


def test_processes_that_fetch_the_same_file_do_not_disturb_each_other(home):
    # Each process writes its chunks slowly, so that all of them are writing at the same time.
    script = textwrap.dedent(
        f"""
        import time
        from facezoo import models, sources, weights
        from facezoo.card import WeightFile

        content = bytes(range(256)) * 400
        file = WeightFile("net", "scrfd", "net.onnx", {len(CONTENT)},
                          "{hashlib.sha256(CONTENT).hexdigest()}", "MIT", "yes", "a network",
                          url="http://127.0.0.1:1/")
        models._catalogue = lambda: {{"CARDS": {{}}, "WEIGHTS": {{"net": file}}}}

        def slowly(url):
            for start in range(0, len(content), 10240):
                time.sleep(0.02)
                yield content[start:start + 10240]

        sources.read_url = slowly
        print("ready", flush=True)
        input()
        weights.fetch("net")
        """
    )
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in crowd:
        assert process.stdout.readline() == "ready\n"
    for process in crowd:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate() for process in crowd]
    assert [(process.returncode, err) for process, (_, err) in zip(crowd, ends)] == [(0, "")] * 3
    assert (home / "net.onnx").read_bytes() == CONTENT
    assert leftovers(home) == []


# --- the catalogue ------------------------------------------------------------------------------


def test_every_published_file_has_the_facts_it_needs():
    files = models.WEIGHTS.values()
    assert len({file.file for file in files}) == len(files)
    for name, file in models.WEIGHTS.items():
        assert name == file.name
        assert file.model in (*models.MODELS, "photo")
        assert file.file and "/" not in file.file and not file.file.startswith(".")
        assert file.licence and file.holds
        assert file.commercial in ("yes", "no", "unknown")
        assert file.sources or file.manual, f"{name} can be had from nowhere"
        if file.sources:
            assert len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef"), name
        assert file.url.startswith("https://") or not file.url


def test_rooms_do_not_share_names():
    rooms = [
        __import__(f"facezoo.models.{model}.card", fromlist=["card"]) for model in models.MODELS
    ]
    cards = [card_id for room in rooms for card_id in room.CARDS]
    files = [file.name for room in rooms for file in room.WEIGHTS]
    assert len(set(cards)) == len(cards) == len(models.CARDS)
    assert len(set(files)) == len(files)
    assert set(files) < set(models.WEIGHTS)


def test_cards_are_made_from_files_that_exist():
    for card_id, card in models.CARDS.items():
        assert card_id == card.id
        assert not card.weights or models.WEIGHTS[card.weights].model == card.model


def test_find_card():
    assert models.find_card("scrfd_500m").id == "scrfd_500m"
    with pytest.raises(CardError, match='no card "scrfd_500"; did you mean scrfd_500m'):
        models.find_card("scrfd_500")


def test_the_catalogue_is_read_when_asked_for():
    script = (
        "import sys, facezoo.weights, facezoo.models as m;"
        "heavy = {'numpy', 'cv2', 'torch', 'onnxruntime'};"
        "assert not any(n.endswith('.card') and 'models' in n for n in sys.modules);"
        "assert m.CARDS and m.WEIGHTS;"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="NOTHING"):
        models.NOTHING  # noqa: B018
