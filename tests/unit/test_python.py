"""What a Python program of a user meets: images in any form, results, and what is refused."""

import dataclasses
import json
import multiprocessing
import os
import pickle
import sys
from types import SimpleNamespace

import cv2
import facezoo
import numpy as np
import onnx
import pytest
from facezoo.errors import GraphError, InputError
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa
from PIL import Image


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "detector": tiny_scrfd(folder / "detector.onnx"),
        "landmarks": tiny_pipnet(folder / "landmarks.onnx"),
        "quality": tiny_sdd_fiqa(folder / "quality.onnx"),
        "embedder": tiny_magface(folder / "embedder.onnx"),
    }


@pytest.fixture(scope="module")
def detector(models):
    with facezoo.load(models["detector"]) as model:
        yield model


@pytest.fixture(scope="module")
def predictor(models):
    with facezoo.Predictor(**models) as model:
        yield model


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo with three bright squares, which the tiny detector takes for faces, in colour."""
    image = np.zeros((96, 128, 3), np.uint8)
    for left, top in ((8, 8), (64, 16), (40, 64)):
        image[top : top + 24, left : left + 24] = (250, 200, 160)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(image).save(path)
    return path


def rgb(photo):
    return np.array(Image.open(photo))


# Images -------------------------------------------------------------------------------------------


def test_every_form_of_an_image_gives_the_same_faces(detector, photo):
    faces = detector(rgb(photo))
    assert len(faces) > 1
    for given in (photo, str(photo), Image.open(photo)):
        assert detector(given) == faces
        assert detector(given, bgr=True) == faces
    bgr = cv2.imread(str(photo))
    assert detector(bgr, bgr=True) == faces
    assert detector(bgr) != faces


def test_a_pil_image_is_turned_upright(detector, photo, tmp_path):
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).save(turned, exif=exif)
    assert detector(Image.open(turned)) == detector(turned)
    assert detector(turned).image_hw == (128, 96)


def test_a_list_in_is_a_list_out(detector, predictor, photo):
    one = detector(photo)
    images = [photo, rgb(photo), np.zeros((64, 64, 3), np.uint8), Image.open(photo)] * 3
    found = detector(images)
    assert [len(faces) for faces in found] == [len(detector(image)) for image in images]
    for index in (0, 1, 3, 11):
        np.testing.assert_allclose(found[index].boxes_xyxy, one.boxes_xyxy, atol=1e-3)
    assert detector([]) == []
    assert len(predictor((photo, photo))) == 2
    with pytest.raises(
        facezoo.ImageError, match=r"^image 5 of the list: an image cannot be of typ"
    ):
        detector([*images[:5], None])


def test_a_network_of_one_image_takes_a_list_too(tmp_path, photo):
    import onnx

    graph = onnx.load(str(tiny_scrfd(tmp_path / "free.onnx")))
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, str(tmp_path / "one.onnx"))
    with facezoo.load(tmp_path / "one.onnx") as model:
        assert not model.backend.takes_batches
        assert model([photo] * 3) == [model(photo)] * 3


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "of type NoneType; expected a path, a PIL image or an array .*; cv2.imread"),
        (3, "of type int; expected a path"),
        (b"bytes", "of type bytes; .*BytesIO"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\) .*is the crop outside the photo"),
        (np.zeros((8, 8, 3)), r"type float64; .*\(image \* 255\)"),
        (np.zeros((8, 8, 3), np.uint16), "type uint16; expected"),
        (np.zeros((8, 8), np.uint8), "repeat a grey image"),
        (np.zeros((8, 8, 4), np.uint8), "alpha channel"),
        (np.zeros((2, 8, 8, 3), np.uint8), "several images as a list"),
        (Image.new("I;16", (8, 8)), "mode 'I;16'; expected 8 bits"),
        ("gone.jpg", "'gone.jpg' cannot be read: No such file"),
        (".", "'.' cannot be read: it is a folder; expected an image"),
    ],
)
def test_what_is_no_image_is_answered_in_one_sentence(models, image, says):
    for _name, path in models.items():
        with facezoo.load(path) as model, pytest.raises(facezoo.ImageError, match=says):
            model(image)
        if not isinstance(image, (str, Image.Image)):
            with facezoo.load(path) as model, pytest.raises(facezoo.ImageError):
                model.batch([image])
    if not isinstance(image, (str, Image.Image)) and np.ndim(image) != 2:  # It may be grey.
        with pytest.raises(facezoo.ImageError, match=says):
            facezoo.align_face(image, np.ones((5, 2)))


@pytest.mark.parametrize(
    "start", [b"\0\0\0\x20ftypisom", b"RIFF\0\0\0\0AVI LIST", b"\x1aE\xdf\xa3"]
)
def test_a_video_is_recognised(detector, tmp_path, start):
    path = tmp_path / "clip.jpg"
    path.write_bytes(start + bytes(200))
    with pytest.raises(facezoo.ImageError, match=r"clip\.jpg' is a video; .*cv2\.VideoCapture"):
        detector(path)


@pytest.mark.parametrize("landmarks", [None, "five", [[1, 2]], np.full((5, 2), np.nan)])
def test_landmarks_that_are_none(landmarks):
    with pytest.raises(InputError, match="landmarks must be five finite points"):
        facezoo.align_face(np.zeros((8, 8, 3), np.uint8), landmarks)


def test_a_stream_takes_paths_and_frames_and_goes_on(predictor, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    frame = cv2.imread(str(photo))
    items = [photo, frame, None, tmp_path / "broken.jpg", Image.open(photo)]
    seen = []
    found = list(predictor.stream(iter(items), lambda given, *_: seen.append(given), bgr=True))
    assert all(result.source is item for result, item in zip(found, items))
    assert [type(result).__name__ for result in found] == [
        "PredictedPhoto",
        "PredictedPhoto",
        "ImageError",
        "ImageError",
        "PredictedPhoto",
    ]
    assert found[0] == found[1] == found[4] == predictor(photo)
    assert len(seen) == 3
    for single in (photo, str(photo), frame, None):
        with pytest.raises(InputError, match="stream needs several images, got a single"):
            predictor.stream(single)


# Options ------------------------------------------------------------------------------------------


def test_the_keywords_of_load(models, photo):
    path = models["detector"]
    with facezoo.load(path, score=0.9, nms=0.1, threads=1, engine="ort") as model:
        assert (model.profile.score_threshold, model.profile.nms_iou) == (0.9, 0.1)
        assert (model.backend.threads, model.backend.name) == (1, "ort")
        assert model.profile.retry_border == 0.25
        assert all(face.score >= 0.9 for face in model(photo))


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"score": 2}, "score_threshold is 2; expected a number from 0 to 1"),
        ({"nms": "x"}, "nms_iou is 'x'"),
        ({"size": 33}, "cannot be 33x33; expected a height and a width that are multiples of 32"),
        ({"size": 0}, "size must be a side"),
        ({"size": "best"}, "or 'auto', got 'best'"),
        ({"size": "64"}, "size must be a side"),
        ({"threads": 0}, "threads must be a whole number from 1"),
        ({"engine": "tpu"}, "engine 'tpu' is not known"),
    ],
)
def test_keywords_that_cannot_be(models, keywords, says):
    with pytest.raises(InputError, match=says):
        facezoo.load(models["detector"], **keywords)


def test_an_input_that_follows_the_photo(tmp_path, rng):
    graph = onnx.load(tiny_scrfd(tmp_path / "fixed.onnx", input_hw=(128, 128)))
    sides = graph.graph.input[0].type.tensor_type.shape.dim[2:]
    for side, name in zip(sides, ("height", "width")):
        side.dim_param = name
    onnx.save(graph, tmp_path / "free.onnx")
    photo = rng.integers(0, 256, (90, 60, 3), dtype=np.uint8)
    with facezoo.load(tmp_path / "free.onnx", size="auto") as model:
        found = model([photo, photo[:60], photo])
        assert not model.backend.takes_batches
        assert model.settings()["size"] == "auto"
        assert model.backend.infer(photo).placements[0].input_hw == (96, 64)
        assert model.backend.infer(photo[:60]).placements[0].input_hw == (64, 64)
        with pytest.raises(InputError, match="so a run takes one image, not 2"):
            model.backend.infer_batch([photo, photo])
    assert found[0] == found[2]
    with facezoo.load(tmp_path / "free.onnx", size=(96, 64)) as model:
        assert model(photo) == found[0]
        assert "size" not in model.settings()


def test_an_input_that_cannot_follow_the_photo(models):
    with pytest.raises(InputError, match="w600k_mbf takes images of one size"):
        facezoo.load(models["embedder"], size="auto")
    with facezoo.load(models["detector"]) as model:
        preprocess = dataclasses.replace(model.backend.preprocess, fit="stretch")
    with pytest.raises(InputError, match="cannot follow the photo with the fit stretch"):
        facezoo.load(models["detector"], size="auto", preprocess=preprocess)
    with pytest.raises(GraphError, match="has a fixed height of 64, so its input cannot follow"):
        facezoo.load(models["detector"], size="auto")


def test_keywords_of_other_models(models):
    with pytest.raises(InputError, match="'score' is not an option of a FaceEmbedder"):
        facezoo.load(models["embedder"], score=0.5)
    with pytest.raises(InputError, match="w600k_mbf takes images of one size, 112x112"):
        facezoo.load(models["embedder"], size=64)
    with pytest.raises(InputError, match="names the engine ort, engine='openvino' another"):
        facezoo.load(f"{models['detector']}@ort", engine="openvino")
    with pytest.raises(InputError, match="got NoneType"):
        facezoo.load(None)


def test_a_predictor_takes_names_and_opened_models(models, detector, predictor, photo):
    mixed = facezoo.Predictor(detector, embedder=str(models["embedder"]))
    assert mixed(photo)[0].embedding == predictor(photo)[0].embedding
    for stages, says in (
        ((None,), "needs a detector, such as"),
        ((3,), "expected a FaceDetector, or its name or file, got int"),
        ((models["embedder"],), "expected a FaceDetector"),
        ((detector, detector), "expected a LandmarkModel, or its name or file, got FaceDetector"),
    ):
        with pytest.raises(InputError, match=says):
            facezoo.Predictor(*stages)
    # What it opened itself is closed if a later stage cannot be opened; what was given is not.
    with pytest.raises(InputError):
        facezoo.Predictor(detector, embedder="gone.onnx")
    detector(photo)


# Results ------------------------------------------------------------------------------------------


def test_faces_are_a_sequence(detector, photo):
    faces = detector(photo)
    assert [face.score for face in faces] == faces.scores.tolist()
    assert faces[0].box_xyxy == tuple(faces.boxes_xyxy[0].tolist())
    assert faces[-1] == faces[len(faces) - 1] != faces[0]
    with pytest.raises(IndexError):
        faces[len(faces)]
    for some in (faces[:2], faces[[0, 1]], faces[np.arange(len(faces)) < 2]):
        assert some == faces[:2] and len(some) == 2
    assert len(faces[[]]) == 0
    assert [face.to_dict() for face in faces] == faces.to_dict()["faces"]
    assert type(faces).from_dict(json.loads(json.dumps(faces.to_dict()))) == faces
    assert faces != faces[:1] and faces != 3


def test_results_are_compared_and_shown_on_one_line(predictor, detector, photo):
    found = predictor(photo)
    assert found == predictor(photo) != predictor(np.zeros((64, 64, 3), np.uint8))
    assert [face.score for face in found] == [face.score for face in found.faces]
    face = found[0]
    assert face.embedding.cosine(face.embedding) == pytest.approx(1)
    for shown in (found, face, face.embedding, face.points, detector(photo), detector(photo)[0]):
        assert len(repr(shown)) < 120 and "\n" not in repr(shown)
    assert len(face.points) == 98 == len(list(face.points))
    assert f"{len(found)} faces in 128x96" in found._repr_html_()
    bare = facezoo.Predictor(detector)(photo)[0]
    with pytest.raises(InputError, match="no embedding, since no embedder ran"):
        bare.embedding  # noqa: B018


def test_results_are_drawn(predictor, detector, photo, tmp_path):
    for result in (detector(photo), predictor(photo), predictor(photo)[0].points):
        drawn = result.draw(photo)
        assert drawn.size == (128, 96)
        assert (np.array(drawn) != rgb(photo)).any()
        assert drawn == result.draw(cv2.imread(str(photo)), bgr=True)
        drawn.save(tmp_path / "drawn.jpg")
        with pytest.raises(facezoo.ImageError, match="64x64 pixels, the result is of one with 128"):
            result.draw(np.zeros((64, 64, 3), np.uint8))


def test_tables_for_other_packages(predictor, detector, photo, monkeypatch):
    """Stand-ins say what the packages are given; without them, one sentence."""
    faces = detector(photo)
    for name, method in (("pandas", "to_pandas"), ("supervision", "to_supervision")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=f"this needs {name}, .*pip install {name}"):
            getattr(faces, method)()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: rows))
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=dict))
    row = faces.to_pandas()[0]
    assert (row["left"], row["score"]) == (faces[0].box_xyxy[0], faces[0].score)
    assert [row["nose_x"], row["nose_y"]] == faces.landmarks_xy[0, 2].tolist()
    assert predictor(photo).to_pandas()[0]["quality"] == predictor(photo)[0].quality
    given = predictor(photo).to_supervision()
    assert given["xyxy"] is not None and given["class_id"].tolist() == [0] * len(faces)
    np.testing.assert_array_equal(given["confidence"], faces.scores)


def test_a_table_of_pandas(predictor, detector, photo):
    pandas = pytest.importorskip("pandas")
    faces, found = detector(photo), predictor(photo)
    table = faces.to_pandas()
    assert isinstance(table, pandas.DataFrame) and len(table) == len(faces)
    np.testing.assert_array_equal(table[["left", "top", "right", "bottom"]], faces.boxes_xyxy)
    assert found.to_pandas()["magnitude"].tolist() == [face.magnitude for face in found]
    assert len(detector(np.zeros((64, 64, 3), np.uint8)).to_pandas()) == 0


def test_detections_of_supervision(predictor, detector, photo):
    supervision = pytest.importorskip("supervision")
    faces = detector(photo)
    given = predictor(photo).to_supervision()
    assert isinstance(given, supervision.Detections)
    np.testing.assert_array_equal(given.xyxy, faces.boxes_xyxy)
    np.testing.assert_array_equal(given.confidence, faces.scores)
    np.testing.assert_array_equal(given[1:].xyxy, faces.boxes_xyxy[1:])
    assert len(detector(np.zeros((64, 64, 3), np.uint8)).to_supervision()) == 0


# Life of a model ----------------------------------------------------------------------------------


def test_a_closed_model_refuses(models, photo):
    detector = facezoo.load(models["detector"])
    predictor = facezoo.Predictor(detector)
    predictor.close()
    for model in (detector, predictor):
        uses = (
            lambda model=model: model(photo),
            lambda model=model: model([photo]),
            lambda model=model: model.batch([rgb(photo)]),
            lambda model=model: model.stream([photo]),
            lambda model=model: pickle.dumps(model),
        )
        for use in uses:
            with pytest.raises(InputError, match="model is closed; open it again"):
                use()
        model.close()


def test_interleaved_streams_leave_opencv_as_it_was(detector, predictor, photo):
    before = cv2.getNumThreads()
    first, second = detector.stream([photo] * 4), predictor.stream([photo] * 4)
    next(first), next(second)
    first.close()
    assert len(list(second)) == 3
    assert cv2.getNumThreads() == before


def test_a_model_is_pickled_by_how_it_was_opened(models, photo):
    with facezoo.load(models["detector"], score=0.6, threads=1) as detector:
        data = pickle.dumps(detector)
        assert len(data) < 4000
        with pickle.loads(data) as again:
            assert again.settings() == detector.settings()
            assert again(photo) == detector(photo)
        predictor = facezoo.Predictor(detector, quality=models["quality"])
        with predictor, pickle.loads(pickle.dumps(predictor)) as again:
            assert again(photo) == predictor(photo)
        bare = facezoo.FaceDetector(detector.backend, detector.contract)
        with pytest.raises(InputError, match="can be pickled only if facezoo"):
            pickle.dumps(bare)


def test_a_spawned_process_may_be_given_a_model(models, photo):
    spawn = multiprocessing.get_context("spawn")
    with facezoo.load(models["detector"], threads=1) as detector, spawn.Pool(1) as pool:
        assert pool.apply(detector, (photo,)) == detector(photo)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_why_not(detector, photo):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            detector(photo)
        except InputError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert f"was opened in process {os.getpid()}, " in os.read(reader, 1000).decode()


# The tasks of a first day -------------------------------------------------------------------------

# Lines without imports, at most as many as the shortest of two well-known packages needs.
TASKS = {
    "boxes": (
        6,
        """
for face in facezoo.load("scrfd_500m_bnkps")("photo.jpg"):
    print(face.box_xyxy, face.score)
""",
    ),
    "draw": (
        2,
        """
faces = facezoo.load("scrfd_500m_bnkps")("photo.jpg")
faces.draw("photo.jpg").save("boxes.jpg")
""",
    ),
    "cosine of two photos": (
        2,
        """
a, b = facezoo.Predictor("scrfd_500m_bnkps", embedder="w600k_mbf")(["one.jpg", "two.jpg"])
print(a[0].embedding.cosine(b[0].embedding))
""",
    ),
    "folder with bad files": (
        5,
        """
for faces in facezoo.load("scrfd_500m_bnkps").stream(sorted(Path("mixed").iterdir())):
    print(faces.source.name, faces)
""",
    ),
    "landmarks": (1, 'print(facezoo.load("scrfd_500m_bnkps")("photo.jpg")[0].landmarks_xy.shape)'),
    "other size and score": (
        2,
        """
detector = facezoo.load("scrfd_500m_bnkps", size=320, score=0.3)
print(detector("photo.jpg"))
""",
    ),
    "JSON": (1, 'print(json.dumps(facezoo.load("scrfd_500m_bnkps")("photo.jpg").to_dict()))'),
    "video frames": (
        8,
        """
video = cv2.VideoCapture("clip.avi")
frames = (frame for _, frame in iter(video.read, (False, None)))
for faces in facezoo.load("scrfd_500m_bnkps").stream(frames, bgr=True):
    print(len(faces))
""",
    ),
}


@pytest.fixture
def folder_of_a_user(shared, tmp_path, monkeypatch):
    photos = shared / "assets" / "photos"
    home = tmp_path / "home"
    home.mkdir()
    for file in ("scrfd/scrfd_500m_bnkps.onnx", "recognition/w600k_mbf.onnx"):
        (home / file.rpartition("/")[2]).symlink_to(shared / "assets" / file)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "bad.jpg").write_bytes(b"no image")
    named = {
        "photo.jpg": "players.jpg",
        "mixed/good.jpg": "players.jpg",
        "one.jpg": "Rob_Lowe_0001.jpg",
        "two.jpg": "Rob_Lowe_0002.jpg",
    }
    for name, photo in named.items():
        (tmp_path / name).symlink_to(photos / photo)
    image = cv2.imread(str(photos / "players.jpg"))
    height, width = image.shape[:2]
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    video = cv2.VideoWriter(str(tmp_path / "clip.avi"), codec, 5, (width, height))
    for _ in range(3):
        video.write(image)
    video.release()
    monkeypatch.setenv("FACEZOO_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.shared
@pytest.mark.parametrize("task", TASKS)
def test_the_tasks_of_a_first_day(folder_of_a_user, capsys, task):
    most, program = TASKS[task]
    assert len(program.strip().splitlines()) <= most
    exec(f"import json, cv2, facezoo\nfrom pathlib import Path\n{program}", {})
    said = capsys.readouterr().out.splitlines()
    if task == "boxes":
        assert len(said) == 22
    elif task == "draw":
        assert Image.open("boxes.jpg").size == (1237, 800)
    elif task == "cosine of two photos":
        assert float(said[0]) == pytest.approx(0.59, abs=0.01)
    elif task == "folder with bad files":
        assert said[0] == "bad.jpg 'mixed/bad.jpg' is not a readable image"
        assert said[1].startswith("good.jpg FaceDetections(22 faces in 1237x800")
    elif task == "landmarks":
        assert said == ["(5, 2)"]
    elif task == "other size and score":
        assert said == [
            f"{facezoo.load('scrfd_500m_bnkps', size=(320, 320), score=0.3)('photo.jpg')}"
        ]
    elif task == "JSON":
        assert len(json.loads(said[0])["faces"]) == 22
    else:
        # The codec changes every frame, each version of OpenCV in its own way.
        video, detector = cv2.VideoCapture("clip.avi"), facezoo.load("scrfd_500m_bnkps")
        frames = [frame for _, frame in iter(video.read, (False, None))]
        assert said == [str(len(detector(frame, bgr=True))) for frame in frames]
        assert len(said) == 3 and {*map(int, said)} <= {21, 22}
