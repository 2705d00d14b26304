"""WIDER FACE data set: the official ground truth, prediction files, and the photos.

A photo is identified by ``event/photo`` without suffix, such as
``0--Parade/0_Parade_marchingband_1_465``.

A prediction text belongs to one photo, lies in the event's folder and has the photo's name::

    0--Parade/0_Parade_marchingband_1_465       the name, with or without folder and suffix
    2                                           number of boxes that follow
    541 354 36 46.5 0.98                        left top width height score, in original pixels
    100 20 8 10 0.31
"""

from __future__ import annotations

import json
import re
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Dict, Iterator, List, Literal, Mapping, NoReturn, Sequence, Tuple, Union

import numpy as np

from ..errors import DatasetError
from ..files import check_room, open_file, read_file, walk, write_missing
from ..metrics.detection import GroundTruth, Predictions
from ..results import FaceDetections
from ..runs import Progress
from .matfile import read_mat

__all__ = [
    "EVENTS",
    "FACES",
    "GROUND_TRUTH",
    "LEVELS",
    "PHOTOS",
    "PHOTOS_SHA256",
    "SCHEMA",
    "check_dataset",
    "format_widerface",
    "photo_name",
    "predictions_from_faces",
    "read_ground_truth",
    "read_predictions",
    "unpack_ground_truth",
    "unpack_photos",
]

LEVELS = ("easy", "medium", "hard")
SCHEMA = "facezoo.faces/1"
ANY_MODEL = "facezoo.results/1"  # The same faces, written by the commands for any model.

# source: wider_face_val.mat of the official eval_tools.zip
EVENTS, PHOTOS, FACES = 61, 3226, 39708
# Of the names of the photos, as facezoo.evaluation.measured hashes a list.
PHOTOS_SHA256 = "7de7edd4ccf76e6c5a674bf16b3703a6ceb37906078f4d89de0d758a413fff2f"

GROUND_TRUTH = ("wider_face_val.mat", *(f"wider_{level}_val.mat" for level in LEVELS))

# Folders of the two archives when unpacked by hand; `unpack_*` use the same.
PHOTOS_FOLDER = "WIDER_val/images"
GROUND_TRUTH_FOLDER = "eval_tools/ground_truth"

TEXT_LAYOUT = "expected its photo's name, the number of boxes, then 'x y width height score' lines"
BYTES_AT_ONCE = 4 << 20  # Texts are parsed in batches: fast, and the memory does not grow.
LARGEST_TEXT = 16 << 20  # 300,000 boxes in one photo; more is a decompression bomb.
LARGEST_MAT = 64 << 20  # The largest of the four unpacks to 3 MiB.
LARGEST_ARCHIVE = 2 << 30  # WIDER_val.zip unpacks to 0.4 GB.

_PHOTO_SUFFIX = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)


def photo_name(path: str, label: str = "") -> str:
    """Return ``event/photo`` for the path of a photo or of its text.

    Parameters
    ----------
    path
        Path with forward slashes; at least the folder of an event and a file.
    label
        Name of the path in errors; the path itself if empty.

    Raises
    ------
    DatasetError
        If the path has no folder of an event.

    Examples
    --------
    >>> photo_name("WIDER_val/images/0--Parade/0_Parade_Parade_0_102.jpg")
    '0--Parade/0_Parade_Parade_0_102'
    """
    *_, event, name = ("/" + path).split("/")
    if event in ("", "."):
        raise DatasetError(
            f"{(label or path)!r} is not in the folder of an event; expected <event>/<photo>, "
            "such as 0--Parade/0_Parade_marchingband_1_465"
        )
    return f"{event}/{_without_suffix(name)}"


# Ground truth ----------------------------------------------------------------------------------


def read_ground_truth(folder: Path) -> GroundTruth:
    """Read the four official .mat files of the validation set.

    Parameters
    ----------
    folder
        Folder with wider_face_val.mat (photos and boxes) and wider_{easy,medium,hard}_val.mat
        (which boxes count at each level).

    Returns
    -------
    GroundTruth
        Ground truth with the levels easy, medium and hard.

    Raises
    ------
    DatasetError
        If a file is missing, is not a .mat file of this kind, or the files do not match.
    """
    path = Path(folder, GROUND_TRUTH[0])
    content = _load_mat(path, ("event_list", "file_list", "face_bbx_list"))
    try:
        events = [str(cell[0][0]) for cell in content["event_list"]]
        photos = [[str(cell[0][0]) for cell in event[0]] for event in content["file_list"]]
        boxes = [[cell[0].reshape(-1, 4) for cell in e[0]] for e in content["face_bbx_list"]]
        joined = np.concatenate([rows for event in boxes for rows in event]).astype(np.float64)
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise _not_official(path) from error
    if len(events) != len(photos) or list(map(len, photos)) != list(map(len, boxes)):
        raise _not_official(path)
    starts = np.cumsum([0, *(len(rows) for event in boxes for rows in event)], dtype=np.int64)
    return GroundTruth(
        images=tuple(f"{event}/{photo}" for event, p in zip(events, photos) for photo in p),
        starts=starts,
        boxes_xywh=joined,
        levels={level: _read_level(Path(folder), level, starts) for level in LEVELS},
    )


def _read_level(folder: Path, level: str, starts: np.ndarray) -> np.ndarray:
    path = folder / f"wider_{level}_val.mat"
    try:
        cells = [
            c[0].ravel() for event in _load_mat(path, ("gt_list",))["gt_list"] for c in event[0]
        ]
        numbers = np.concatenate(cells).astype(np.int64)
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise _not_official(path) from error
    if len(cells) != len(starts) - 1:
        raise DatasetError(
            f"{str(path)!r} covers {len(cells)} photos, {GROUND_TRUTH[0]} covers "
            f"{len(starts) - 1}; use all four files from one eval_tools.zip"
        )
    image = np.repeat(np.arange(len(cells)), [len(cell) for cell in cells])
    rows = starts[image] + numbers - 1
    mask = np.zeros(starts[-1], bool)
    if ((numbers < 1) | (rows >= starts[image + 1])).any() or len(np.unique(rows)) != len(rows):
        raise _not_official(path)
    mask[rows] = True
    return mask


def _load_mat(path: Path, names: Tuple[str, ...]) -> Dict[str, Any]:
    if not path.is_file():
        raise DatasetError(
            f"{str(path)!r} is missing; expected a folder with {', '.join(GROUND_TRUTH)}; "
            "facezoo prepare widerface --help says where to get them"
        )
    try:
        if path.stat().st_size > LARGEST_MAT:
            raise _not_official(path)
        content = read_mat(path.read_bytes(), names, LARGEST_MAT)
    except ValueError as error:
        raise _not_official(path) from error
    if not set(names) <= set(content):
        raise _not_official(path)
    return content


def _not_official(path: Path) -> DatasetError:
    return DatasetError(
        f"{str(path)!r} is not the ground truth of WIDER FACE, or is damaged; expected the file "
        "from the official eval_tools.zip; facezoo prepare widerface --help says where to get it"
    )


# Predictions -----------------------------------------------------------------------------------


def read_predictions(source: Path) -> Predictions:
    """Read predictions from texts (see the module) or from a JSON file of results.

    Parameters
    ----------
    source
        A folder with ``<event>/<photo>.txt`` at any depth; a .tar.gz, .tgz, .tar or .zip of such
        texts; or a .json with schema facezoo.faces/1 or facezoo.results/1. Other files
        beside the texts are ignored.

    Returns
    -------
    Predictions
        Boxes in the order of the files.

    Raises
    ------
    DatasetError
        If the source cannot be read or its content is malformed; names file and line. An archive
        with links or paths that lead outside is rejected as a whole.
    """
    source = Path(source)
    name = source.name.lower()
    if source.is_dir():
        return _parse_texts(source, _texts_in_folder(source))
    if not source.is_file():
        raise DatasetError(
            f"{str(source)!r} does not exist; expected a folder or archive of predictions"
        )
    if name.endswith((".tar.gz", ".tgz", ".tar")):
        return _parse_texts(source, _texts_in_tar(source))
    if name.endswith(".zip"):
        return _parse_texts(source, _texts_in_zip(source))
    if name.endswith(".json"):
        return _read_json(source)
    raise DatasetError(
        f"{str(source)!r} is not a source of predictions; "
        "expected a folder, a .tar.gz, .tgz, .tar, .zip or .json file"
    )


@dataclass(frozen=True)
class _Text:
    """Unparsed predictions of one photo; the label names their source."""

    label: str
    photo: str
    data: bytes


def _is_text(path: str) -> bool:
    return path.endswith(".txt") and not path.rpartition("/")[2].startswith(".")


def _texts_in_folder(folder: Path) -> Iterator[_Text]:
    files, left_out = walk(folder)
    for error in left_out:
        _refuse(error.filename, f"cannot be read: {error.strerror}; expected every prediction")
    texts = [path for path in files if _is_text(path.name)]
    for path in sorted(texts, key=lambda path: (path.parent.parts, path.name)):
        photo = photo_name(path.relative_to(folder).as_posix(), str(path))
        try:
            with open_file(path) as file:
                data = file.read(LARGEST_TEXT + 1)
        except OSError as error:
            _refuse(str(path), f"cannot be read: {error.strerror}; {TEXT_LAYOUT}")
        if len(data) > LARGEST_TEXT:
            _refuse(str(path), f"is larger than {LARGEST_TEXT >> 20} MiB; {TEXT_LAYOUT}")
        yield _Text(str(path), photo, data)


class _QuickTarInfo(tarfile.TarInfo):
    """A tar member with name, size and type only; a premature end of the archive is an error.

    With thousands of small texts, tarfile spends most of its time on owners, modes and times; and
    it treats a damaged header, or the end of a truncated file, as the end of the archive.
    """

    @classmethod
    def frombuf(cls, buf: Union[bytes, bytearray], encoding: str, errors: str) -> _QuickTarInfo:
        if len(buf) != tarfile.BLOCKSIZE:
            raise tarfile.HeaderError("it ends early")
        if buf[156:157] != tarfile.REGTYPE or buf[345]:  # Not a regular file with a short name.
            try:
                return super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                if not any(buf):
                    raise  # The regular end.
                raise tarfile.HeaderError(str(error)) from error
        member = cls()
        try:
            checksum = int(buf[148:156].rstrip(b"\0 "), 8)
            member.size = int(buf[124:136].rstrip(b"\0 "), 8)
        except ValueError as error:
            raise tarfile.HeaderError("bad header") from error
        if checksum != 8 * ord(" ") + sum(buf[:148]) + sum(buf[156:]):
            raise tarfile.HeaderError("bad checksum")
        member.name = buf[:100].rstrip(b"\0").decode(encoding, errors)
        return member


def _texts_in_tar(path: Path) -> Iterator[_Text]:
    mode: Literal["r:", "r:gz"] = "r:" if path.suffix.lower() == ".tar" else "r:gz"
    try:
        with open_file(path) as opened, tarfile.open(
            fileobj=opened, mode=mode, tarinfo=_QuickTarInfo
        ) as archive:
            for member in archive:
                link = not (member.isfile() or member.isdir())
                label = _check_member(path, member.name, member.size, link, LARGEST_TEXT)
                file = archive.extractfile(member) if _is_text(member.name) else None
                if file is not None:
                    yield _Text(label, photo_name(member.name, label), file.read())
            # The checksum of a compressed archive is only verified once all of it has been read.
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{str(path)!r} is not a tar archive or is damaged ({error})") from error


def _texts_in_zip(path: Path) -> Iterator[_Text]:
    with _opened_zip(path) as archive:
        for info in archive.infolist():
            link = _is_link(info)
            label = _check_member(path, info.filename, info.file_size, link, LARGEST_TEXT)
            if _is_text(info.filename):
                yield _Text(label, photo_name(info.filename, label), archive.read(info))


def _parse_texts(source: Path, texts: Iterator[_Text]) -> Predictions:
    photos: Dict[str, str] = {}
    counts: List[int] = []
    parts: List[np.ndarray] = []
    for batch in _batches(texts):
        for text in batch:
            if text.photo in photos:
                _refuse(
                    text.label,
                    f"is for the same photo as {photos[text.photo]!r}; expected one text per photo",
                )
            photos[text.photo] = text.label
        sizes, rows = _parse_batch(batch)
        counts += sizes
        parts.append(rows)
    if not photos:
        raise DatasetError(
            f"{str(source)!r} contains no predictions; expected texts named <event>/<photo>.txt, "
            "such as 0--Parade/0_Parade_marchingband_1_465.txt"
        )
    joined = np.concatenate(parts)
    starts = np.cumsum([0, *counts], dtype=np.int64)
    return Predictions(tuple(photos), starts, joined[:, :4].copy(), joined[:, 4].copy())


def _batches(texts: Iterator[_Text]) -> Iterator[List[_Text]]:
    batch: List[_Text] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.data)
        if size >= BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parse_batch(batch: Sequence[_Text]) -> Tuple[List[int], np.ndarray]:
    """Parse all boxes at once, or text by text if any of them is irregular."""
    try:
        return _parse_together(batch)
    except ValueError:
        parts = [_parse_alone(text) for text in batch]
        return [len(part) for part in parts], np.concatenate(parts)


def _parse_together(batch: Sequence[_Text]) -> Tuple[List[int], np.ndarray]:
    counts, bodies = [], []
    for text in batch:
        first, count, body = text.data.split(b"\n", 2)
        body = body.strip()
        lines = body.count(b"\n") + 1 if body else 0
        if int(count) != lines or _stem(first) != text.photo.rpartition("/")[2]:
            raise ValueError
        counts.append(lines)
        if body:
            bodies.append(body)
    joined = b"\n".join(bodies)
    if not joined:
        return counts, np.zeros((0, 5))
    rows = np.loadtxt(BytesIO(joined), comments=None, ndmin=2)
    if not joined.isascii() or rows.shape != (sum(counts), 5) or not _is_good(rows):
        raise ValueError
    return counts, rows


def _parse_alone(text: _Text) -> np.ndarray:
    lines = text.data.splitlines()
    if len(lines) < 2:
        _refuse(text.label, f"has fewer than two lines; {TEXT_LAYOUT}")
    try:
        stem = _stem(lines[0])
    except UnicodeDecodeError:
        _refuse(text.label, f"line 1 is {_shown(lines[0])}, not UTF-8 text; {TEXT_LAYOUT}")
    if stem != text.photo.rpartition("/")[2]:
        _refuse(
            text.label,
            f"line 1 names the photo {stem!r}; expected the file's own name, "
            f"{text.photo.rpartition('/')[2]!r}; rename one of them",
        )
    if not re.fullmatch(rb"\d{1,9}", lines[1].strip()):
        _refuse(text.label, f"line 2 is {_shown(lines[1])}; expected the number of boxes")
    rows = [
        _parse_row(text.label, number, line)
        for number, line in enumerate(lines[2:], 3)
        if line.strip()
    ]
    if len(rows) != int(lines[1]):
        _refuse(
            text.label,
            f"line 2 announces {int(lines[1])} boxes, but {len(rows)} follow; "
            "the file may be truncated: write it again",
        )
    return np.reshape(rows, (-1, 5)).astype(np.float64)


def _parse_row(label: str, number: int, line: bytes) -> List[float]:
    words = line.split()
    expected = "expected five numbers: x y width height score"
    if len(words) != 5:
        _refuse(label, f"line {number} is {_shown(line)} (columns: {len(words)}); {expected}")
    try:
        row = [float(word) for word in words]
    except ValueError:
        _refuse(label, f"line {number} is {_shown(line)}; {expected}")
    if not _is_good(np.array([row])):
        _refuse(
            label, f"line {number} is {_shown(line)}; {expected}, all finite, sizes not negative"
        )
    return row


def _is_good(rows: np.ndarray) -> bool:
    return bool(np.isfinite(rows).all() and (rows[:, 2:4] >= 0).all())


def _stem(line: bytes) -> str:
    """Return the name of the photo in line 1, without folders and suffix."""
    return _PHOTO_SUFFIX.sub("", line.decode("utf-8-sig").strip().rpartition("/")[2])


def _without_suffix(name: str) -> str:
    return name[:-4] if name.endswith(".txt") else _PHOTO_SUFFIX.sub("", name)


def _shown(line: bytes) -> str:
    return repr(line[:80].strip().decode("ascii", "backslashreplace"))


def _refuse(label: str, message: str) -> NoReturn:
    raise DatasetError(f"{label!r} {message}")


# Results as JSON -------------------------------------------------------------------------------


def _read_json(path: Path) -> Predictions:
    try:
        content = json.loads(read_file(path), object_hook=_without_landmarks)
    except OSError as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{str(path)!r} is not valid JSON: {error}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in (SCHEMA, ANY_MODEL):
        raise DatasetError(f"{str(path)!r} has the schema {schema!r}; expected {SCHEMA!r}")
    images = content.get("images")
    if not isinstance(images, list):
        raise DatasetError(f"{str(path)!r} has no list 'images'; expected one entry per photo")
    rows: Dict[str, np.ndarray] = {}
    for index, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("path"), str):
            _refuse(str(path), f"images[{index}] has no 'path'; expected <event>/<photo>.jpg")
        if "error" in image:
            continue  # The runner rejected this photo, so it has no predictions.
        photo = photo_name(image["path"])
        if photo in rows:
            _refuse(str(path), f"lists the photo {photo!r} twice; expected it once")
        rows[photo] = _rows_of_json(f"{path}: {photo}", image.get("faces"))
    return Predictions.from_rows(rows)


def _without_landmarks(entry: Dict[str, Any]) -> Any:
    """Drop the landmarks of a face, which would take much memory."""
    if "box_xyxy" not in entry:
        return entry
    return entry["box_xyxy"], entry.get("score")


def _rows_of_json(label: str, faces: Any) -> np.ndarray:
    if not isinstance(faces, list):
        _refuse(label, "has no list 'faces'; expected a list, empty if there is no face")
    rows = np.zeros((len(faces), 5))
    for index, face in enumerate(faces):
        try:
            box, score = face
            rows[index] = [*map(_number, box), _number(score)]
        except (TypeError, ValueError, OverflowError):
            rows[index] = np.nan
    good = np.isfinite(rows).all(axis=1)
    if not good.all():
        _refuse(
            label,
            f"faces[{np.argmin(good)}] is not a face; expected 'box_xyxy' with left, top, right, "
            "bottom and a 'score', all finite numbers",
        )
    return _with_sizes(rows)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return float(value)


# Results of this package -----------------------------------------------------------------------


def format_widerface(name: str, faces: FaceDetections) -> str:
    """Format the faces of one photo as a WIDER FACE text.

    Nine digits are written, so that left, top and score are read back as the same float32, and so
    are left + width and top + height if left and top are not negative. An inverted box is written
    with size 0, since the format has no negative sizes.

    Parameters
    ----------
    name
        ``event/photo``.
    faces
        The faces of the photo.

    Returns
    -------
    str
        The text, with a final line break.
    """
    rows = _rows_of_faces(faces).tolist()
    lines = ["{:.9g} {:.9g} {:.9g} {:.9g} {:.9g}\n".format(*row) for row in rows]
    return f"{name}\n{len(lines)}\n{''.join(lines)}"


def predictions_from_faces(faces: Mapping[str, FaceDetections]) -> Predictions:
    """Collect the faces per photo (``event/photo``) without writing files."""
    return Predictions.from_rows({name: _rows_of_faces(found) for name, found in faces.items()})


def _rows_of_faces(faces: FaceDetections) -> np.ndarray:
    rows = np.empty((len(faces), 5))
    rows[:, :4] = faces.boxes_xyxy
    rows[:, 4] = faces.scores
    return _with_sizes(rows)


def _with_sizes(rows: np.ndarray) -> np.ndarray:
    """Replace right and bottom by width and height, 0 for an inverted box."""
    rows[:, 2:4] = np.maximum(rows[:, 2:4] - rows[:, :2], 0)
    return rows


# The data set ----------------------------------------------------------------------------------


def check_dataset(folder: Path) -> Tuple[int, int, int]:
    """Check that the validation set has every photo of the ground truth.

    Parameters
    ----------
    folder
        Contains ``WIDER_val/images/<event>/<photo>.jpg`` and ``eval_tools/ground_truth/*.mat``.

    Returns
    -------
    tuple of int
        Numbers of events, photos and faces: 61, 3226, 39708.

    Raises
    ------
    DatasetError
        If files are missing, empty or unexpected; names one.
    """
    truth = read_ground_truth(folder / GROUND_TRUTH_FOLDER)
    events = {name.partition("/")[0] for name in truth.images}
    found = (len(events), len(truth.images), len(truth.boxes_xywh))
    if found != (EVENTS, PHOTOS, FACES):
        raise DatasetError(
            f"the ground truth in {str(folder / GROUND_TRUTH_FOLDER)!r} has {found[0]} events, "
            f"{found[1]} photos and {found[2]} faces; expected {EVENTS}, {PHOTOS} and {FACES} of "
            "the validation set"
        )
    photos = {
        photo_name(path.relative_to(folder).as_posix()): path.stat().st_size
        for path in (folder / PHOTOS_FOLDER).glob("*/*.jpg")
    }
    for names, problem in (
        ([name for name in truth.images if name not in photos], "missing"),
        ([name for name in truth.images if photos.get(name) == 0], "empty (0 bytes)"),
        (sorted(set(photos) - set(truth.images)), "not in the validation set"),
    ):
        if names:
            raise DatasetError(
                f"{len(names)} of {PHOTOS} photos in {str(folder / PHOTOS_FOLDER)!r} are "
                f"{problem}, such as {names[0] + '.jpg'!r}; unpack WIDER_val.zip there again"
            )
    return found


def unpack_photos(
    archive: Path,
    folder: Path,
    progress: Progress = lambda items, total: items,
) -> int:
    """Unpack WIDER_val.zip to ``folder/WIDER_val/images``; whole photos of it are kept.

    Parameters
    ----------
    archive, folder
        The archive, and the folder of the data set.
    progress
        Wraps the loop over its files.

    Returns
    -------
    int
        The number of photos in the archive.

    Raises
    ------
    DatasetError
        If the archive is damaged, malicious or a different one; then nothing is written, except
        that a damaged photo is only noticed while unpacking.
    InputError
        If a photo of that name with another content is there; it stays.
    """
    pattern = re.compile(r"(?:^|/)images/([^/]+/[^/]+\.jpg)$")
    return _unpack(archive, folder, pattern, PHOTOS_FOLDER, progress)


def unpack_ground_truth(
    archive: Path,
    folder: Path,
    progress: Progress = lambda items, total: items,
) -> int:
    """Unpack the .mat files of eval_tools.zip to ``folder/eval_tools/ground_truth``.

    Parameters, return value and errors are those of :func:`unpack_photos`.
    """
    pattern = re.compile(rf"(?:^|/)({'|'.join(map(re.escape, GROUND_TRUTH))})$")
    return _unpack(archive, folder, pattern, GROUND_TRUTH_FOLDER, progress)


def _unpack(
    archive: Path, folder: Path, wanted: re.Pattern[str], below: str, progress: Progress
) -> int:
    with _opened_zip(archive) as zipped:
        chosen: Dict[str, zipfile.ZipInfo] = {}
        for info in zipped.infolist():
            _check_member(archive, info.filename, info.file_size, _is_link(info), LARGEST_ARCHIVE)
            match = wanted.search(info.filename)
            if match and not info.filename.startswith("__MACOSX/"):
                chosen[match.group(1)] = info
        if not chosen:
            _refuse(str(archive), f"contains nothing for {below}; expected the official archive")
        if sum(info.file_size for info in chosen.values()) > LARGEST_ARCHIVE:
            _refuse(str(archive), f"unpacks to more than {LARGEST_ARCHIVE >> 30} GiB")
        missing = [
            info
            for name, info in chosen.items()
            if not _has_size(folder / below / name, info.file_size)
        ]
        needed = sum(info.file_size for info in missing)
        check_room(folder, needed, f"{len(missing)} files of {archive.name}")
        for name, info in progress(chosen.items(), len(chosen)):
            write_missing(folder / below / name, zipped.read(info))
    return len(chosen)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError as error:
        raise DatasetError(f"{str(path)!r} does not exist; expected a .zip archive") from error
    # RuntimeError and NotImplementedError: encrypted, or an unsupported compression.
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError) as error:
        if getattr(error, "filename", None) not in (None, str(path)):
            raise  # A file that is unpacked could not be written.
        raise DatasetError(f"{str(path)!r} is not a zip archive or is damaged ({error})") from error


def _check_member(archive: Path, name: str, size: int, is_link: bool, largest: int) -> str:
    """Reject a member that leads outside or would fill the memory; return its label."""
    label = f"{archive}: {name}"
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0].endswith(":") or (parts[0] == "" and name):
        _refuse(label, "is a path that leads outside; expected plain relative paths")
    if is_link:
        _refuse(label, "is a link or a device; expected files and folders only")
    if size > largest:
        _refuse(label, f"is {size} bytes; expected at most {largest >> 20} MiB")
    return label


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)
