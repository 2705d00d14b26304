"""Every reader of a file from elsewhere with content that means harm, and with content that is not
its own: it answers or says which file is wrong, in bounded time and memory, and runs nothing."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from facezoo.arrays import read_npz
from facezoo.artifact import read_artifact
from facezoo.cli.doctor import _read_arrays, _read_faces
from facezoo.compiler.gate import read_gate_settings
from facezoo.contract import find_contract
from facezoo.datasets.embeddings import read_embeddings
from facezoo.datasets.face_sets import unpack_sets
from facezoo.datasets.image_list import read_image_list, read_paths
from facezoo.datasets.pairs import read_bin, read_feature_list, read_pair_labels
from facezoo.datasets.protocols import read_protocol
from facezoo.datasets.recordio import RecordFile
from facezoo.datasets.scores import read_scores
from facezoo.datasets.templates import read_template_protocol
from facezoo.datasets.wflw import read_annotations, read_rectangles
from facezoo.datasets.widerface import (
    read_ground_truth,
    read_predictions,
    unpack_ground_truth,
    unpack_photos,
)
from facezoo.errors import FaceZooError
from facezoo.evaluation.landmarks import evaluate_results
from facezoo.image.files import read_image_rgb
from facezoo.models import find_card
from facezoo.models.pipnet.decode import read_meanface
from facezoo.pipeline.acceptance import read_score_limit
from facezoo.profiles.appearance import read_appearance
from facezoo.profiles.quality import read_quality
from facezoo.profiles.similarity import read_similarity
from facezoo.vacc.build_config import read_build_config
from facezoo.vacc.npz import read_datalist, read_input, read_pictures
from facezoo.vacc.vdsp import read_vdsp
from fault_table import FAULTS, WEB_PAGE
from limits import SECONDS, Payload, bounds

PREPROCESS = find_card("scrfd_500m_bnkps").preprocess


def manifest_of(path: Path) -> None:
    path.with_name("list.txt").write_text("/in/a.npz\n")
    read_pictures(path.with_name("list.txt"))


def records_of(path: Path) -> None:
    path.with_suffix(".idx").write_text("0\t0\n1\t64\n")
    with RecordFile(path) as records:
        list(records)


def index_of(path: Path) -> None:
    path.with_suffix(".rec").write_bytes(struct.pack("<II", 0xCED7230A, 24) + b"\0" * 24)
    with RecordFile(path.with_suffix(".rec")) as records:
        list(records)


def gate_of(path: Path) -> None:
    read_gate_settings(path.with_name("toy.yaml"))


def template_pairs_of(path: Path) -> None:
    path.with_name("ijbb_face_tid_mid.txt").write_text("1.jpg 1 1\n")
    read_template_protocol(path.parent.parent, "b")


# What is read -> the name of its file, and its reader.
def cfp_of(path):
    """Read CFP's folder, whose other files are right."""
    for which in "FP":
        (path.parents[3] / f"Pair_list_{which}.txt").write_text("1 a.jpg\n")
    (path.parent / "diff.txt").write_text("1,1\n")
    return read_protocol(path.parents[3])


READERS = {
    "picture": ("a.jpg", read_image_rgb),
    "graph": ("a.onnx", find_contract),
    "artifact": ("mod.build.json", lambda path: read_artifact(path.with_name("mod"))),
    "build YAML": ("build.yaml", read_build_config),
    "gate YAML": ("toy.gate.yaml", gate_of),
    "vdsp": ("vdsp.json", lambda path: read_vdsp(path, PREPROCESS)),
    "npz": ("a.npz", read_npz),
    "npz of a picture": ("a.npz", read_input),
    "datalist": ("list.txt", read_datalist),
    "manifest": ("list.txt.manifest.json", manifest_of),
    "observed arrays": ("mine.npz", _read_arrays),
    "observed array": ("mine.npy", _read_arrays),
    "observed faces": ("mine.json", _read_faces),
    "predictions": ("0--Event/a.txt", lambda path: read_predictions(path.parent.parent)),
    "predictions as tar": ("predictions.tar.gz", read_predictions),
    "predictions as zip": ("predictions.zip", read_predictions),
    "predictions as JSON": ("faces.json", read_predictions),
    "ground truth": ("wider_face_val.mat", lambda path: read_ground_truth(path.parent)),
    "ground truth as zip": ("eval.zip", lambda path: unpack_ground_truth(path, Path("to"))),
    "photos as zip": ("val.zip", lambda path: unpack_photos(path, Path("to"))),
    "faces as tar": ("sets.tar", lambda path: unpack_sets(path, Path("to"))),
    "encoded pairs": ("lfw.bin", read_bin),
    "records": ("train.rec", records_of),
    "index of records": ("train.idx", index_of),
    "image list": ("img.list", read_image_list),
    "paths": ("img.list", read_paths),
    "features": ("feat.list", lambda path: read_feature_list(path, 4)),
    "pairs": ("pair.list", read_pair_labels),
    "protocol": ("pairs.txt", read_protocol),
    "protocol as CSV": ("pairs.csv", read_protocol),
    "protocol of CFP": ("Protocol/Split/FP/01/same.txt", cfp_of),
    "pairs of templates": ("meta/ijbb_template_pair_label.txt", template_pairs_of),
    "annotations": ("list_98pt_rect_attr_test.txt", read_annotations),
    "rectangles": ("rects.json", read_rectangles),
    "landmarks": ("results.json", lambda path: evaluate_results(path, Path("data"))),
    "mean face": ("meanface.txt", read_meanface),
    "scores": ("results.json", read_scores),
    "scores as CSV": ("scores.csv", read_scores),
    "scores as npz": ("scores.npz", read_scores),
    "scores as text": ("scores.txt", read_scores),
    "embeddings": ("embeddings.npz", read_embeddings),
    "limit of scores": ("quality.json", lambda path: read_score_limit(path, "drop 5 %")),
    "quality profile": ("quality.json", lambda path: read_quality(path, "0" * 64)),
    "similarity profile": ("similarity.json", lambda path: read_similarity(path, "0" * 64)),
    "appearance profile": ("appearance.json", read_appearance),
}

JUNK = {
    "nothing": b"",
    "a web page": WEB_PAGE,
    "NUL bytes": b"\0" * 4096,
    "latin-1": "caf\xe9 1 2 3\n".encode("latin-1") * 9,
    "4 MB without a line break": b"1 " * (2 << 20),
    "deep JSON": b"[" * 100_000,
    "deep JSON in an object": b'{"schema": ' + b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "a pickle": pickle.dumps(([Payload()], [True])),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reads(
    kind: str, content: bytes, folder: str = "in", seconds: int = SECONDS, what: str = ""
) -> bool:
    """Let a reader have a file of this content; False if it refuses it by its name."""
    name, read = READERS[kind]
    path = Path(folder, name)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    try:
        with bounds(seconds, what):
            read(path)
    except FaceZooError as error:
        text = str(error)
        assert path.stem in text, text
        assert "\n" not in text
        assert len(text) < 2000
        return False
    return True


def check_nothing_was_done(here):
    assert not {path.name for path in here.iterdir()} - {"in"}
    assert not (here.parent / "executed").exists()


@pytest.mark.parametrize("kind", READERS)
def test_readers_answer_to_what_is_not_theirs(here, kind):
    for what, content in JUNK.items():
        # Some of it is a list to one who takes any line for a path.
        reads(kind, content, f"in/{what}", what=f"{kind}: {what}")
    check_nothing_was_done(here)


# Without end --------------------------------------------------------------------------------------

ENDLESS = {name: FAULTS[name] for name in ("a pipe", "endless", "40 GB")}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("kind", READERS)
def test_readers_refuse_what_never_ends(here, kind, what):
    name, read = READERS[kind]
    path = Path("in", name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    ENDLESS[what](path)
    # A minute of zeros, or of waiting for a writer, is no answer.
    with bounds(5), pytest.raises(FaceZooError) as caught:
        read(path)
    assert path.stem in str(caught.value)
    check_nothing_was_done(here)


# Bombs -------------------------------------------------------------------------------------------


def tar_of(name="lfw/img.list", size=None, kind=tarfile.REGTYPE, link="", data=b"", gz=True):
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w:gz" if gz else "w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(data)
        info.devmajor, info.devminor = 1, 5
        archive.addfile(info, io.BytesIO(data))
    if size is None:
        return text.getvalue()
    # The size, and the checksum over it, as they would be if it were true.
    raw = bytearray(text.getvalue())
    raw[124:136] = b"%011o\0" % size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


def zip_of(name, data=b"x", mode=0, claims=None):
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    raw = bytearray(text.getvalue())
    if claims is not None:
        place = raw.index(b"PK\1\2")
        raw[place + 24 : place + 28] = struct.pack("<I", claims)
    return bytes(raw)


def mat_of(*elements):
    return b"x".ljust(124) + struct.pack("<H2s", 0x100, b"IM") + b"".join(elements)


def mat_bomb(size):
    squeezed = zlib.compressobj()
    parts = [squeezed.compress(struct.pack("<II", 14, size))]
    parts += [squeezed.compress(b"\0" * (1 << 20)) for _ in range(size >> 20)]
    data = b"".join(parts) + squeezed.flush()
    return mat_of(struct.pack("<II", 15, len(data)) + data)


def npy_of(shape, descr="|u1", data=b"\0" * 64):
    text = io.BytesIO()
    head = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(text, head)
    return text.getvalue() + data


def npz_of(compressed=False, **arrays):
    text = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(text, **arrays)
    return text.getvalue()


def pickled(*values):
    text = io.BytesIO()
    np.save(text, np.array(values, object), allow_pickle=True)
    return text.getvalue()


def embeddings(**changes):
    arrays = {"names": np.array(["a", "b"]), "vectors": np.ones((2, 4), np.float32)}
    return npz_of(**{**arrays, "norms": np.ones(2), **changes})


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
FACES = {"schema": "facezoo.faces/1"}
BOX = {"box_xyxy": [1, 2, 3, 4], "score": 0.5}


def faces(**changes):
    image = {"path": "0--Event/a.jpg", "faces": [{**BOX, **changes}]}
    return json.dumps({**FACES, "images": [image]}).encode()


def quality(**changes):
    content = {"schema": "facezoo.quality_profile/1", "card": "x", "model_sha256": "0" * 64}
    content.update(pictures=9, percentiles=list(range(101)), thresholds={"drop 5 %": 1.0})
    return json.dumps({**content, **changes}).encode()


def similarity(threshold):
    point = {"far": 0.1, "tar": 0.9, "cosine": {"threshold": threshold, "loose": 0, "strict": 1}}
    content = {"schema": "facezoo.similarity_profile/1", "card": "x", "model_sha256": "0" * 64}
    return json.dumps({**content, "genuine": 1, "impostors": 1, "points": [point]}).encode()


# What it is -> who would read it, its content.
BOMBS = {
    **{
        f"{kind}: {what}": (kind, content)
        for kind, member, suffix in (
            ("faces as tar", "lfw/a.jpg", ""),
            ("predictions as tar", "0--Event/a.txt", ""),
        )
        for what, content in {
            "an absolute path": tar_of("/tmp/" + member),
            "a path with ..": tar_of("../../" + member),
            "a link": tar_of(member, kind=tarfile.SYMTYPE, link="/etc/passwd"),
            "a hard link": tar_of(member, kind=tarfile.LNKTYPE, link="/etc/passwd"),
            "a device": tar_of(member, kind=tarfile.CHRTYPE),
            "a pipe": tar_of(member, kind=tarfile.FIFOTYPE),
            "unpacks to 40 MB": lambda member=member: tar_of(member, data=b"\0" * (40 << 20)),
            "claims 8 GB": gzip.compress(tar_of(member, size=(8 << 30) - 1, gz=False)),
            "a header cut short": tar_of(member, gz=False)[:200],
        }.items()
    },
    **{
        f"{kind}: {what}": (kind, content)
        for kind, member in (
            ("photos as zip", "WIDER_val/images/0--Event/a.jpg"),
            ("ground truth as zip", "eval_tools/ground_truth/wider_face_val.mat"),
            ("predictions as zip", "0--Event/a.txt"),
        )
        for what, content in {
            "an absolute path": zip_of("/tmp/" + member),
            "a path with ..": zip_of("../../" + member),
            "a drive": zip_of("C:\\" + member),
            "a link": zip_of(member, b"/etc/passwd", mode=0o120777),
            "claims 4 GB": zip_of(member, claims=(1 << 32) - 2),
            "holds more than it claims": zip_of(member, b"\0" * (20 << 20), claims=10),
        }.items()
    },
    "ground truth: unpacks to 65 MB": ("ground truth", lambda: mat_bomb(65 << 20)),
    "ground truth: claims 4 GB": ("ground truth", mat_of(struct.pack("<II", 14, (1 << 32) - 8))),
    "ground truth: 65 MB": ("ground truth", lambda: mat_of(b"\0" * (65 << 20))),
    "ground truth: no stream": ("ground truth", mat_of(struct.pack("<II", 15, 100) + b"x" * 100)),
    "gate YAML: aliases of aliases": ("gate YAML", (ALIASES + "limits: *a11\n").encode()),
    "gate YAML: a python object": ("gate YAML", b"limits: !!python/object/apply:os.mkdir [x]\n"),
    "gate YAML: 1 MB": ("gate YAML", b"# " + b"x" * (1 << 20)),
    **{
        f"npz of a picture: {what}": ("npz of a picture", content)
        for what, content in {
            "a pickled object": npz_of(input_0=np.array([Payload()], object)),
            "floats": npz_of(input_0=np.full((3, 8, 8), np.nan)),
            "two dimensions": npz_of(input_0=np.zeros((8, 8), np.uint8)),
            "no array": zip_of("input_0.txt"),
            "claims 10 TB": zip_of("input_0.npy", npy_of((10**13,))),
            "unpacks to 700 MB": zip_of(
                "input_0.npy", npy_of((700 << 20,)), claims=(700 << 20) + 128
            ),
        }.items()
    },
    "observed arrays: a pickled object": (
        "observed arrays",
        npz_of(x=np.array([Payload()], object)),
    ),
    "observed arrays: no numbers": ("observed arrays", npz_of(x=np.array(["a"]))),
    "observed arrays: unpacks to 900 MB": (
        "observed arrays",
        zip_of("x.npy", npy_of((900_000_000,)), claims=900_000_128),
    ),
    "observed array: a pickled object": ("observed array", pickled(Payload())),
    "observed array: claims 10 TB": ("observed array", npy_of((10**13,))),
    "observed array: cut short": ("observed array", npy_of((65,))),
    "observed array: negative sides": ("observed array", npy_of((-8, -8))),
    "embeddings: a pickled object": ("embeddings", embeddings(names=np.array([Payload()], object))),
    "embeddings: NaN": ("embeddings", embeddings(vectors=np.full((2, 4), np.nan))),
    "embeddings: infinite": ("embeddings", embeddings(vectors=np.full((2, 4), np.inf))),
    "embeddings: text": ("embeddings", embeddings(vectors=np.full((2, 4), "x"))),
    "embeddings: three axes": ("embeddings", embeddings(vectors=np.ones((2, 2, 2)))),
    "embeddings: one name too many": ("embeddings", embeddings(names=np.array(["a"] * 3))),
    "scores as npz: a pickled object": (
        "scores as npz",
        embeddings(norms=np.array([Payload()], object)),
    ),
    "scores as npz: claims 10 TB": (
        "scores as npz",
        lambda: zip_of("norms.npy", npy_of((10**13,))),
    ),
    "scores as npz: NaN": ("scores as npz", embeddings(norms=np.array([1, np.nan]))),
    "scores as npz: one score too few": ("scores as npz", embeddings(norms=np.ones(1))),
    "predictions as JSON: a score of NaN": ("predictions as JSON", faces(score=float("nan"))),
    "predictions as JSON: no end": (
        "predictions as JSON",
        faces(box_xyxy=[0, 0, float("inf"), 1]),
    ),
    "predictions as JSON: a box of text": ("predictions as JSON", faces(box_xyxy="1234")),
    "observed faces: NaN": (
        "observed faces",
        json.dumps({"faces": [{**BOX, "score": float("nan")}]}).encode(),
    ),
    "limit of scores: NaN": ("limit of scores", quality(thresholds={"drop 5 %": np.nan})),
    "quality profile: NaN": ("quality profile", quality(percentiles=[np.nan] * 101)),
    "quality profile: infinite": ("quality profile", quality(percentiles=[0] * 100 + [np.inf])),
    "similarity profile: NaN": ("similarity profile", similarity(np.nan)),
    "mean face: NaN": ("mean face", b"0.5 nan\n"),
    "encoded pairs: a pickled object": ("encoded pairs", pickle.dumps(([Payload()], [True]), 2)),
    "encoded pairs: claims 4 GB": (
        "encoded pairs",
        b"\x80\x02B" + struct.pack("<I", (1 << 32) - 1) + b"abc.",
    ),
    "records: claims 512 MB": (
        "records",
        struct.pack("<II", 0xCED7230A, (1 << 29) - 1) + b"\0" * 64,
    ),
    "datalist: a million lines and one": ("datalist", b"a\n" * 1_000_001),
    "image list: no end of a line": ("image list", b"x" * (20 << 20)),
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_are_refused(here, what):
    kind, content = BOMBS[what]
    assert not reads(kind, content() if callable(content) else content, what=what)
    assert not Path("executed").exists()
    check_nothing_was_done(here)


def test_what_the_bombs_were_made_from_is_read(here):
    for kind, content in (
        ("quality profile", quality()),
        ("limit of scores", quality()),
        ("similarity profile", similarity(0.5)),
        ("predictions as JSON", faces()),
        ("npz of a picture", npz_of(input_0=np.zeros((3, 8, 8), np.uint8))),
        ("embeddings", embeddings()),
        ("scores as npz", embeddings()),
        ("observed array", npy_of((64,))),
        ("observed arrays", zip_of("x.npy", npy_of((64,)), claims=192)),
        ("predictions as tar", tar_of("0--Event/a.txt", data=b"a\n0\n")),
        ("predictions as zip", zip_of("0--Event/a.txt", b"a\n0\n")),
        ("photos as zip", zip_of("WIDER_val/images/0--Event/a.jpg")),
        ("faces as tar", tar_of("lfw/a.jpg")),
    ):
        assert reads(kind, content, f"in/{kind}"), kind


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", ["datalist", "image list", "paths", "pairs", "features", "scores as text"]
)
def test_ten_million_lines_take_bounded_time_and_memory(here, kind):
    # Training lists may be as long, so that some are read, in 20 seconds of an idle machine.
    read = reads(kind, b"a.jpg 1\n" * 10_000_000, seconds=200, what=f"{kind}: ten million lines")
    assert read == (kind in ("image list", "paths", "pairs"))
