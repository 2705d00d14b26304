r"""Known people: enrol them, and find out who is in a photo, or that it is a stranger.

  facezoo gallery create staff people --embed-refused
  facezoo gallery add staff photo.jpg --person "Ada Lovelace" --embed-refused
  facezoo gallery search staff photo.jpg
  facezoo gallery search staff photos --fpir 0.05 --csv who.csv
  facezoo gallery list staff
  facezoo gallery info staff
  facezoo gallery remove staff "Ada Lovelace"
  facezoo gallery index staff --kind exact
  facezoo gallery rebuild staff --embedder onnx/magface_iresnet50.onnx --embed-refused

PEOPLE are folders with one folder per person, whatever lies below; photos of one --person; or
results of facezoo score or of predict --parquet. A face is given a name if its similarity is above
what strangers reach at --fpir, which follows from the gallery's own people, or from --strangers.
It needs the extra gallery.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ..errors import FaceZooError, InputError
from ..fields import whole
from ..files import counted, csv_cell, printable, write_bytes
from . import flags
from .inputs import add_inputs, find_inputs, local_path
from .options import EXIT_SOME_REFUSED, steps_of
from .outputs import write_report
from .predict import add_decision, add_stage_options

if TYPE_CHECKING:
    from ..people.faces import EmbeddedFaces, LeftOut, Space
    from ..people.gallery import Change, Enrolled, Gallery
    from ..pipeline.photo import Predictor

__all__ = ["configure", "run"]

EMBEDDER = "w600k_mbf"
PROBLEMS_SHOWN = 20
COLUMNS = ("photo", "face", "name", "rank", "person", "cosine")

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the steps."""
    step_of = steps_of(parser, _STEPS)

    def add(name: str, help: str) -> argparse.ArgumentParser:
        step = step_of(name, help)
        step.add_argument("gallery", type=Path, metavar="GALLERY", help="folder of the gallery")
        return step

    create = add("create", "make a gallery, and enrol people")
    _add_enrolment(create, nargs="*")
    _add_enrolment(add("add", "enrol people, or further photos of them"), nargs="+")
    search = add("search", "name the people in photos, or say that they are strangers")
    add_inputs(search)
    search.add_argument(
        "--top", type=whole(1, 1000), default=5, metavar="N", help="candidates to list per face"
    )
    add_decision(search)
    flags.add(search, "--json")
    flags.add(search, "--csv", "write one row per candidate")
    add_stage_options(search)
    flags.add_reading(search)
    remove = add("remove", "erase people: their photos' names, embeddings, and any index")
    remove.add_argument("names", nargs="+", metavar="NAME", help="name of a person")
    flags.add(add("list", "list the people, with their numbers of faces"), "--json")
    info = add("info", "show model, sizes, thresholds and outliers; check the files")
    flags.add(info, "--json")
    merge = add("merge", "add the people of other galleries")
    merge.add_argument("others", nargs="+", type=Path, metavar="OTHER", help="another gallery")
    index = add("index", "search approximately, if that finds what the exact search finds")
    index.add_argument(
        "--kind",
        choices=("hnsw", "ivfpq", "exact"),
        required=True,
        help="a graph; lists of codes, which take the least memory; or none",
    )
    rebuild = add("rebuild", "embed all faces again with another model, from their photos")
    add_stage_options(rebuild)
    flags.add_reading(rebuild, folders=False)
    flags.add(rebuild, "--photos", "folder of photos that are listed without one (default: none)")


def _add_enrolment(step: argparse.ArgumentParser, nargs: str) -> None:
    step.add_argument(
        "people",
        nargs=nargs,
        metavar="PEOPLE",
        help="a folder with one folder per person; with --person photos or folders of that one; "
        "or results of facezoo score or facezoo predict --parquet",
    )
    step.add_argument(
        "--person",
        metavar="NAME",
        help="whose photos these are (default: the names of the folders)",
    )
    flags.add(step, "--face", "face of a photo to enrol", default="largest")
    flags.add(
        step,
        "--settings",
        f"{flags.SHARED['--settings'].meaning} (default: the only one)",
    )
    add_stage_options(step)
    flags.add_reading(step)


def run(args: argparse.Namespace) -> int:
    """Do one step."""
    return int(args.run_step(args))


# Enrolment ----------------------------------------------------------------------------------------


def _create(args: argparse.Namespace) -> int:
    from ..people.gallery import change_gallery, create_gallery, discard_gallery

    args.embedder = args.embedder or EMBEDDER
    found = list(_collected(args, None))
    if found:
        space = found[0][1]
    else:
        with _open_chain(args) as model:
            space = _space_of(model)
    create_gallery(args.gallery, space, _spec(args.embedder))
    try:
        with change_gallery(args.gallery) as change:
            return _enrol(args, change, found)
    except FaceZooError:
        if not _opened(args).faces:
            discard_gallery(args.gallery)
        raise


def _add(args: argparse.Namespace) -> int:
    from ..people.gallery import change_gallery

    # Faces are found before the gallery is held, which takes long.
    gallery = _opened(args)
    args.embedder = args.embedder or gallery.embedder
    found = list(_collected(args, gallery.space))
    with change_gallery(args.gallery) as change:
        return _enrol(args, change, found)


def _opened(args: argparse.Namespace) -> Gallery:
    from ..people.gallery import Gallery

    return Gallery(args.gallery)


def _open_chain(args: argparse.Namespace) -> Predictor:
    from .predict.work import open_predictor

    return open_predictor(args)


def _space_of(model: Predictor) -> Space:
    from ..people.faces import Space

    return Space.of(model.settings())


def _spec(embedder: str) -> str:
    """Return how a model is found from another folder, too."""
    return str(Path(embedder).absolute()) if Path(embedder).exists() else embedder


Found = Tuple["Enrolled", "Space", str, int]


def _collected(args: argparse.Namespace, space: Optional[Space]) -> Iterator[Found]:
    """Yield the faces of each word: enrolled, what made them, what they are called, left out."""
    from ..people.faces import find_tables, read_faces
    from ..people.gallery import Enrolled

    photos: List[str] = []
    for word in args.people:
        path = local_path(word)
        if not find_tables(path, args.settings or ""):
            photos.append(word)
            continue
        faces = read_faces(path, args.settings or "")
        left = _name_left_out(faces)
        faces = faces.one_per_photo(args.face)
        people = _people_of(args, faces.photos, str(path))
        yield Enrolled.of(faces, people, _root_of(path)), faces.space, repr(str(path)), left
    if photos:
        yield from _of_photos(args, photos, space)


def _of_photos(
    args: argparse.Namespace, words: Sequence[str], space: Optional[Space]
) -> Iterator[Found]:
    from ..people.faces import faces_of_photos
    from ..people.gallery import Enrolled

    # One after the other: a name of a person is that below its own folder.
    with _open_chain(args) as model:
        if space is not None:
            space.refuse_other(_space_of(model), repr(str(args.gallery)), args.embedder)
        for word in words:
            paths, names = find_inputs([word])
            people = dict(zip(names, _people_of(args, names, word)))
            faces = faces_of_photos(model, paths, names)
            left = _name_left_out(faces)
            faces = faces.one_per_photo(args.face)
            root = os.path.commonpath([path.absolute().parent for path in paths])
            if Path(word).is_dir():
                root = str(Path(word).absolute())
            enrolled = Enrolled.of(faces, [people[name] for name in faces.photos], root)
            yield enrolled, faces.space, repr(word), left


def _people_of(args: argparse.Namespace, names: Sequence[str], source: str) -> List[str]:
    from ..datasets.image_list import people_of

    if args.person is not None:
        return [args.person] * len(names)
    return people_of(names, source)


def _root_of(path: Path) -> str:
    """Return the folder of the photos of a run; empty if its tables do not say it."""
    from ..scale.addresses import is_remote
    from ..scale.manifest import MANIFEST_FILE, Manifest

    if path.is_dir() and (path / MANIFEST_FILE).exists():
        root = Manifest(path).root
        return "" if is_remote(root) else root
    return ""


def _name_left_out(faces: EmbeddedFaces) -> int:
    """Name the photos and faces without an embedding; return their number."""
    _name_each(faces.left_out)
    return len(faces.left_out)


def _name_each(left_out: Sequence[LeftOut]) -> None:
    for one in left_out[:PROBLEMS_SHOWN]:
        where = "" if one.face is None else f", face {one.face}"
        _log.warning("left out: %r%s: %s", one.photo, where, one.why)
    if len(left_out) > PROBLEMS_SHOWN:
        _log.warning("left out: %d more", len(left_out) - PROBLEMS_SHOWN)


def _enrol(args: argparse.Namespace, change: Change, found: Sequence[Found]) -> int:
    left = 0
    for enrolled, space, name, left_out in found:
        added = change.add(enrolled, space, name)
        left += left_out + len(added.taken)
        _name_each(added.taken)
        already = f", {added.already} were there already" if added.already else ""
        print(
            f"{printable(name)}: {counted(added.faces, 'face')} added{already}, "
            f"new people: {added.people}"
        )
    _print_outliers(change.gallery)
    print(_size_line(change.gallery))
    return EXIT_SOME_REFUSED if left else 0


def _size_line(gallery: Gallery) -> str:
    faces = counted(gallery.faces, "face")
    return f"{len(gallery)} people, {faces} in {printable(str(gallery.folder))}"


def _print_outliers(gallery: Gallery) -> None:
    outliers = gallery.outliers()
    for one in outliers[:PROBLEMS_SHOWN]:
        _log.warning("not used, perhaps in the wrong folder: %s", one.line())
    if len(outliers) > PROBLEMS_SHOWN:
        _log.warning("not used: %d more; facezoo gallery info --json - lists all", len(outliers))


# Search -------------------------------------------------------------------------------------------


def _search(args: argparse.Namespace) -> int:
    from ..people.faces import NO_FACE, faces_of_photos
    from ..people.search import name_faces, read_strangers, threshold_for

    gallery = _opened(args)
    if args.strangers is None:  # Refused before the work.
        threshold, origin = threshold_for(gallery, args.fpir, args.min_similarity)
    args.embedder = args.embedder or gallery.embedder
    paths, names = find_inputs(args.inputs)
    with _open_chain(args) as model:
        gallery.space.refuse_other(_space_of(model), repr(str(args.gallery)), args.embedder)
        if args.strangers is not None:
            strangers = read_strangers(gallery, args.strangers, model)
            threshold, origin = threshold_for(gallery, args.fpir, args.min_similarity, strangers)
        faces = faces_of_photos(model, paths, names)
    _name_left_out(faces)
    named = name_faces(gallery, faces, threshold, args.top)
    for one in named:
        shown = ", ".join(f"{name} {cosine:.3f}" for name, cosine in one.candidates)
        print(f"{printable(one.photo)}, face {one.face}: {one.name or 'unknown'}  ({shown})")
    print(f"{counted(len(named), 'face')}, {sum(not one.name for one in named)} unknown; {origin}")
    if gallery.approximate:
        print(f"searched approximately: {_index_text(gallery)}")
    if args.csv:
        write_bytes(args.csv, _csv_of(named))
    if args.json:
        entry = {
            "schema": "facezoo.gallery_search/1",
            "threshold": threshold,
            "origin": origin,
            "approximate": bool(gallery.approximate),
            "faces": [one.to_dict() for one in named],
            "left_out": [one._asdict() for one in faces.left_out],
        }
        write_report(args.json, entry)
    is_refused = any(one.face is None and one.why != NO_FACE for one in faces.left_out)
    return EXIT_SOME_REFUSED if is_refused else 0


def _csv_of(named: Sequence[Any]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for one in named:
        for rank, (person, cosine) in enumerate(one.candidates, 1):
            cells = (csv_cell(one.name), rank, csv_cell(person), f"{cosine:.6f}")
            table.writerow((csv_cell(one.photo), one.face, *cells))
    return text.getvalue().encode()


# Other steps --------------------------------------------------------------------------------------


def _remove(args: argparse.Namespace) -> int:
    from ..people.gallery import change_gallery

    with change_gallery(args.gallery) as change:
        removed = change.remove(args.names)
        print(f"{counted(removed, 'face')} of {len(set(args.names))} people erased")
        print(_size_line(change.gallery))
    return 0


def _list(args: argparse.Namespace) -> int:
    counts = _opened(args).counts()
    for name, count in counts.items():
        print(f"{count:6} {printable(name)}")
    if args.json:
        write_report(args.json, {"schema": "facezoo.gallery_list/1", "people": counts})
    return 0


def _info(args: argparse.Namespace) -> int:
    from ..metrics.identification import threshold_at_fpir

    gallery = _opened(args)
    gallery.check()
    space, outliers = gallery.space, gallery.outliers()
    thresholds = [threshold_at_fpir(gallery.strangers, fpir, len(gallery)) for fpir in FPIRS]
    print(_size_line(gallery))
    print(f"model {space.model}, {gallery.dimensions} numbers, flip {space.flip}")
    print(f"alignment {space.alignment}; sha256 {space.model_sha256}")
    print("\n".join(one.line() for one in thresholds))
    print(f"search: {_index_text(gallery) if gallery.approximate else 'exact'}")
    print(f"faces that are not used, perhaps in the wrong folder: {len(outliers)}")
    for one in outliers[:PROBLEMS_SHOWN]:
        print(f"  {printable(one.line())}")
    if args.json:
        entry: Dict[str, Any] = {
            "schema": "facezoo.gallery_info/1",
            "people": len(gallery),
            "faces": gallery.faces,
            "space": space.to_dict(),
            "thresholds": [one.to_dict() for one in thresholds],
            "index": gallery.approximate,
            "outliers": [one._asdict() for one in outliers],
        }
        write_report(args.json, entry)
    return 0


FPIRS = (1e-1, 1e-2, 1e-3)


def _index_text(gallery: Gallery) -> str:
    found = gallery.approximate or {}
    return (
        f"{found['kind']}, recall@1 {found['recall']:.4f} of the exact search in "
        f"{found['queries']} queries"
    )


def _merge(args: argparse.Namespace) -> int:
    from ..people.gallery import Gallery, change_gallery

    others = [Gallery(path) for path in args.others]
    with change_gallery(args.gallery) as change:
        found = [
            (other.enrolled(), other.space, repr(str(other.folder)), 0)
            for other in others
            if other.faces
        ]
        return _enrol(args, change, found)


def _index(args: argparse.Namespace) -> int:
    from ..people.gallery import change_gallery

    with change_gallery(args.gallery) as change:
        if args.kind == "exact":
            change.drop_index()
            print("search is exact")
        else:
            change.make_index(args.kind)
            print(f"searched approximately: {_index_text(change.gallery)}")
    return 0


def _rebuild(args: argparse.Namespace) -> int:
    from ..people.gallery import change_gallery
    from ..people.search import embed_again

    with change_gallery(args.gallery) as change:
        gallery = change.gallery
        args.embedder = args.embedder or gallery.embedder
        with _open_chain(args) as model:
            enrolled, lost = embed_again(gallery, model, args.photos)
            space = _space_of(model)
        for photo, why in lost[:PROBLEMS_SHOWN]:
            _log.warning("not embedded: %r: %s", photo, why)
        if lost:
            raise InputError(
                f"{len(lost)} of {gallery.faces} faces cannot be embedded again, such as that of "
                f"{lost[0][0]!r}: {lost[0][1]}; the gallery stays as it was: bring the photos "
                "back, name their folder as --photos, or remove those people"
            )
        change.replace_all(enrolled, space, _spec(args.embedder))
        _print_outliers(change.gallery)
        print(f"embedded again with {space.model}")
        print(_size_line(change.gallery))
    return 0


_STEPS: Dict[str, Any] = {
    "create": _create,
    "add": _add,
    "search": _search,
    "remove": _remove,
    "list": _list,
    "info": _info,
    "merge": _merge,
    "index": _index,
    "rebuild": _rebuild,
}
