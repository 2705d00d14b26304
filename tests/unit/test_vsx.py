"""The card's backend against a stand-in for the runtime; first the stand-in against its papers."""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from facezoo.artifact import BuildInfo, write_artifact
from facezoo.backends import RuntimeOptions, open_backend
from facezoo.backends.ort import OrtBackend
from facezoo.backends.vsx import (
    DeviceStream,
    ModelShapes,
    VsxBackend,
    check_device,
    contract_from_cards,
    read_shapes,
)
from facezoo.contract import read_contract
from facezoo.errors import BackendRunError, BackendUnavailable, ConfigError, GraphError, InputError
from facezoo.evaluation.drift import compare_detections
from facezoo.image.preprocess import VdspOperation
from facezoo.image.resize import fit_image
from facezoo.models import CARDS
from facezoo.pipeline.load import load
from facezoo.testing import tiny_scrfd
from facezoo.vacc.vdsp import render_vdsp

FAKE = Path(__file__).with_name("fake_vaststreamx.py")
SHORT = 0.5  # seconds a planted fault may last


@pytest.fixture
def runtime(monkeypatch):
    """Install the stand-in as ``vaststreamx``, with settings and planted faults.

    Afterwards every thread of the backend has ended, but for those the stand-in kept hanging.
    """
    modules = []

    def install(**settings):
        monkeypatch.setenv("FAKE_VSX", json.dumps(settings))
        spec = importlib.util.spec_from_file_location("vaststreamx", FAKE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "vaststreamx", module)
        modules.append(module)
        return module

    yield install
    if not any("hang" in fault for module in modules for fault in module.SETTINGS):
        assert threads_end()
    for module in modules:
        module.release()
    assert threads_end()


def threads_end():
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if not [one for one in threading.enumerate() if one.name.startswith("facezoo-vsx")]:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Our two files and the vendor's three under one prefix."""
    folder = tmp_path_factory.mktemp("deploy") / "tiny_fp16"
    graph = tiny_scrfd(folder / "source.onnx").read_bytes()
    contract = read_contract(folder / "source.onnx")
    build = BuildInfo(
        name="tiny_fp16",
        dtype="fp16",
        arithmetic="float32",
        source="source.onnx",
        source_sha256="",
        card=contract.card_id,
        inputs={"input.1": ("batch", 3, 64, 64)},
        outputs=contract.output_names,
    )
    write_artifact(folder / "mod", graph, build)
    for suffix in (".json", ".params"):
        (folder / f"mod{suffix}").write_text("")
    (folder / "mod.so").write_bytes(graph)
    return folder / "mod"


@pytest.fixture
def vendor_prefix(prefix, tmp_path):
    """The vendor's three files alone."""
    for suffix in (".so", ".json", ".params"):
        (tmp_path / f"mod{suffix}").write_bytes(prefix.with_suffix(suffix).read_bytes())
    return tmp_path / "mod"


def contract_of(prefix):
    return read_contract(prefix.with_suffix(".onnx"))


@pytest.fixture
def vdsp(prefix, tmp_path):
    def write(name="vdsp.json", without=(), **change):
        preprocess = dataclasses.replace(contract_of(prefix).preprocess, **change)
        entry = render_vdsp(preprocess)
        for key in without:
            del entry["OpConfig"][key]
        path = tmp_path / name
        path.write_text(json.dumps(entry))
        return path

    return write


def pictures(count):
    rng = np.random.default_rng(8)
    shapes = [(64, 64), (31, 97), (101, 57), (1, 1), (47, 48)]
    images = []
    for index in range(count):
        height, width = shapes[index % len(shapes)]
        image = np.full((height, width, 3), 20, np.uint8)
        y, x = rng.integers(0, height), rng.integers(0, width)
        image[y : y + 12, x : x + 12] = rng.integers(180, 255, 3)
        images.append(image)
    return images


# The stand-in does what the documentation says --------------------------------------------------


def opened(runtime, prefix, vdsp, batch=1, register=lambda stream, fusion, network: None):
    assert runtime.set_device(0) == 0
    model = runtime.Model(str(prefix), batch)
    (fusion,) = runtime.Operator.load_ops_from_json_file(str(vdsp))
    network = runtime.ModelOperator(model)
    graph = runtime.Graph()
    graph.add_operators(fusion, network)
    stream = runtime.Stream(graph, runtime.StreamBalanceMode.ONCE)
    stream.register_operator_output(network)
    register(stream, fusion, network)
    assert stream.build() == 0
    return stream, network, model


def planar(runtime, image):
    array = np.ascontiguousarray(image.transpose(2, 0, 1))
    width, height = image.shape[1], image.shape[0]
    return runtime.create_image(array, runtime.ImageFormat.RGB_PLANAR, width, height, 0)


def test_fake_gives_lists_of_float16_in_order_and_valueerror_at_the_end(runtime, prefix, vdsp):
    vsx = runtime()
    stream, network, model = opened(vsx, prefix, vdsp(), batch=2)
    assert model.input_shape == [[2, 3, 64, 64]]
    assert model.output_count == 9
    images = pictures(5)
    for batch in (images[:2], images[2:4], images[4:]):
        stream.run_async([planar(vsx, image) for image in batch])
    # A synchronous call does not get into the queue of the others.
    expected = [stream.run_sync([planar(vsx, image)])[0] for image in images]
    stream.close_input()
    found = [stream.get_operator_output(network) for _ in range(3)]
    assert [len(one) for one in found] == [2, 2, 1]
    rows = [row for one in found for row in one]
    for row, other in zip(rows, expected):
        assert [vsx.as_numpy(tensor).shape for tensor in row][:2] == [(1, 2, 8, 8), (1, 2, 4, 4)]
        for tensor, twin in zip(row, other):
            assert vsx.as_numpy(tensor).dtype == np.float16
            np.testing.assert_allclose(vsx.as_numpy(tensor), vsx.as_numpy(twin), rtol=2e-3)
    with pytest.raises(ValueError, match="closed"):
        stream.get_operator_output(network)
    stream.wait_until_done()
    with pytest.raises(RuntimeError):
        stream.run_async([planar(vsx, images[0])])


def test_fake_stops_where_a_registered_output_is_not_drained(runtime, prefix, vdsp):
    vsx = runtime(queue=2)

    def register(stream, fusion, network):
        shape = [[(3, 64, 64), vsx.TypeFlag.FLOAT16]]
        stream.register_operator_output("tensor", fusion, shape)

    stream, network, _ = opened(vsx, prefix, vdsp(), register=register)
    taken = []

    def feed():
        for image in pictures(20):
            stream.run_async([planar(vsx, image)])

    def drain_one_of_two():
        with contextlib.suppress(ValueError):
            while True:
                taken.append(stream.get_operator_output(network))

    for work in (feed, drain_one_of_two):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)
    assert len(taken) == 2
    assert vsx.as_numpy(stream.get_operator_output("tensor")[0][0]).shape == (3, 64, 64)
    time.sleep(0.2)
    assert len(taken) == 3


def test_fake_prepares_a_picture_as_its_op_says(runtime, prefix, vdsp):
    vsx = runtime(pad=[114, 115, 116])

    def register(stream, fusion, network):
        shape = [[(3, 64, 64), vsx.TypeFlag.FLOAT16]]
        stream.register_operator_output("tensor", fusion, shape)

    stream, *_ = opened(vsx, prefix, vdsp(without=["Padding"]), register=register)
    # 100 x 50 becomes 64 x 32, 16 rows of padding above and below.
    stream.run_async([planar(vsx, np.full((50, 100, 3), 200, np.uint8))])
    tensor = vsx.as_numpy(stream.get_operator_output("tensor")[0][0]).astype(np.float32)
    inside = (200 - 127.5) / 128
    np.testing.assert_allclose(tensor[:, 16:48], inside, atol=1e-3)
    for channel, pad in enumerate((114, 115, 116)):
        for rows in (slice(0, 16), slice(48, 64)):
            np.testing.assert_allclose(tensor[channel, rows], (pad - 127.5) / 128, atol=1e-3)


def test_fake_refuses_what_the_runtime_would(runtime, prefix, vdsp):
    vsx = runtime()
    assert vsx.set_device(3) == 1
    image = pictures(2)[1]
    array = np.ascontiguousarray(image.transpose(2, 0, 1))
    with pytest.raises(RuntimeError, match="expected"):
        # Height before width is the usual mistake.
        vsx.create_image(array, vsx.ImageFormat.RGB_PLANAR, *image.shape[:2], 0)
    stream, _, _ = opened(vsx, prefix, vdsp(), batch=2)
    with pytest.raises(RuntimeError, match="3 images for a batch of 2"):
        stream.run_async([planar(vsx, image)] * 3)
    with pytest.raises(TypeError):
        stream.run_async([array])


# The backend ------------------------------------------------------------------------------------


def test_calls_come_in_the_documented_order(runtime, prefix):
    vsx = runtime()
    with open_backend(prefix, RuntimeOptions(engine="vsx")) as backend:
        backend.infer(pictures(1)[0])
    order = list(dict.fromkeys(vsx.calls))
    assert order == [
        "set_device",
        "Model",
        "load_ops_from_json_file",
        "ModelOperator",
        "add_operators",
        "register_operator_output",
        "build",
        "close_input",
        "wait_until_done",
    ]


def test_the_card_gives_what_onnx_runtime_gives(runtime, prefix):
    runtime()
    images = pictures(10)
    with open_backend(prefix, RuntimeOptions(engine="vsx")) as card, open_backend(
        prefix, RuntimeOptions(engine="ort")
    ) as host:
        assert (card.name, card.device) == ("vsx", "device 0")
        for image in images:
            ours, theirs = card.infer(image), host.infer(image)
            assert ours.placements == theirs.placements
            assert list(ours.arrays) == list(theirs.arrays)
            for name, array in ours.arrays.items():
                assert array.dtype == np.float32
                np.testing.assert_allclose(array, theirs.arrays[name], rtol=4e-3, atol=4e-3)
        assert card.settings()["preprocess"] == dataclasses.asdict(card.preprocess)
        assert set(card.settings()["model_sha256"]) == {"mod.so", "mod.json", "mod.params"}


def test_faces_of_the_card_are_the_hosts(runtime, prefix):
    runtime()
    images = pictures(15)
    with load(prefix, profile="eval", runtime=RuntimeOptions(engine="vsx")) as card, load(
        prefix, profile="eval", runtime=RuntimeOptions(engine="ort")
    ) as host:
        drift = compare_detections([(host(image), card(image)) for image in images])
    assert drift.faces > 10
    assert drift.missed == drift.extra == 0
    assert drift.worst_score < 1e-2


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batches_are_cut_and_put_together(runtime, prefix, batch):
    vsx = runtime()
    images = pictures(7)
    with open_backend(prefix, RuntimeOptions(engine="ort")) as host, open_backend(
        prefix, RuntimeOptions(engine="vsx"), batch=batch
    ) as card:
        raw, expected = card.infer_batch(images), host.infer_batch(images)
        assert raw.placements == expected.placements
        for name, array in raw.arrays.items():
            np.testing.assert_allclose(array, expected.arrays[name], rtol=4e-3, atol=4e-3)
    assert vsx.streams[0]._given == -(-7 // batch)


def test_many_pictures_keep_their_order(runtime, prefix):
    runtime(queue=3)
    images = pictures(200)
    with open_backend(prefix, RuntimeOptions(engine="vsx", threads=4)) as card:
        results = list(card.map(lambda infer, image: infer(image), images))
        for image, raw in zip(images[::17], results[::17]):
            assert raw.placements[0].image_hw == image.shape[:2]
            alone = card.infer(image)
            for name, array in raw.arrays.items():
                np.testing.assert_array_equal(array, alone.arrays[name])


@pytest.mark.parametrize(
    ("image_format", "conversion", "bgr"),
    [
        ("RGB_PLANAR", "NO_CHANGE", False),
        ("RGB888", "NO_CHANGE", False),
        ("BGR_PLANAR", "BGR2RGB", False),
        ("BGR888", "BGR2RGB", False),
        ("RGB_PLANAR", "RGB2BGR", True),
        ("BGR888", "NO_CHANGE", True),
    ],
)
def test_pictures_are_fed_in_the_format_of_the_vdsp_file(
    runtime, prefix, vdsp, image_format, conversion, bgr
):
    runtime()
    change = {"image_format": image_format, "color_conversion": conversion, "pad_value": (9, 9, 9)}
    path = vdsp(**change)
    preprocess = dataclasses.replace(contract_of(prefix).preprocess, **change)
    stream = DeviceStream(prefix, path, with_tensor=True, image_format=image_format)
    for image in pictures(5):
        (result,) = stream.result(stream.submit([image]))
        expected = VdspOperation(preprocess, half_output=True)(image)[0]
        assert result.tensor.dtype == np.float16
        # The device's formula is x/std - mean/std, which rounds another way at times.
        np.testing.assert_allclose(result.tensor.astype(np.float32), expected, atol=2e-3)
        assert preprocess.swaps_channels == bgr
    stream.close()


def test_both_registered_outputs_are_drained(runtime, prefix, vdsp):
    vsx = runtime(queue=2)
    stream = DeviceStream(prefix, vdsp(), with_tensor=True, batch=2, timeout=5)
    images = pictures(41)
    calls = [stream.submit(images[first : first + 2]) for first in range(0, 41, 2)]
    results = [result for call in calls for result in stream.result(call)]
    assert len(results) == 41
    operation = VdspOperation(contract_of(prefix).preprocess, half_output=True)
    for image, result in zip(images, results):
        np.testing.assert_allclose(result.tensor, operation(image)[0], atol=2e-3)
    stream.close()
    assert vsx.streams[0].undrained == 0


def test_what_is_no_picture_is_refused_before_the_card_sees_it(runtime, prefix):
    runtime()
    with open_backend(prefix, RuntimeOptions(engine="vsx")) as card, pytest.raises(
        ConfigError, match="uint8"
    ):
        card.infer(np.zeros((4, 4, 3), np.float32))


# When something goes wrong ----------------------------------------------------------------------


def stream_with(runtime, prefix, vdsp, **faults):
    batch = faults.pop("batch", 1)
    runtime(**faults)
    return DeviceStream(prefix, vdsp(), batch=batch, timeout=SHORT)


def outcomes(stream, count, batch=1):
    """What becomes of some calls: the number of results, or the error."""
    found, images = [], pictures(count)
    for first in range(0, count, batch):
        try:
            found.append(len(stream.result(stream.submit(images[first : first + batch]))))
        except BackendRunError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("fault", "first", "then"),
    [
        # Pictures that the runtime refuses, and results it cannot hand out, concern no other.
        ({"create_fails": 2}, "rejected: RuntimeError: vdsp memory exhausted", 1),
        ({"as_numpy_fails": 18}, "cannot be read: ValueError: cannot map device memory", 1),
        # After all others it is not known which result is whose.
        ({"closes_after": 2}, "the stream ended by itself", "the stream ended by itself"),
        ({"receive_fails": 2}, "RuntimeError: device memory fault", "device memory fault"),
        ({"send_fails": 2}, "RuntimeError: device lost", "device lost"),
        ({"hangs_after": 2}, "no result within 0.5 s", "no result within 0.5 s"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_reaches_the_caller_in_time(runtime, prefix, vdsp, fault, first, then):
    stream = stream_with(runtime, prefix, vdsp, **fault)
    started = time.monotonic()
    found = outcomes(stream, 5)
    stream.close()
    assert time.monotonic() - started < 4 * SHORT
    assert found[:2] == [1, 1]
    assert first in found[2]
    assert str(prefix) in found[2]
    for one in found[3:]:
        assert one == 1 if then == 1 else then in one
    with pytest.raises(BackendRunError):
        stream.submit(pictures(1))


def test_a_call_that_waits_learns_of_a_fault_at_once(runtime, prefix, vdsp):
    runtime(receive_fails=0)
    stream = DeviceStream(prefix, vdsp(), timeout=60)
    started = time.monotonic()
    calls = []
    for image in pictures(3):
        try:
            calls.append(stream.submit([image]))
        except BackendRunError:
            break
    for call in calls:
        with pytest.raises(BackendRunError, match="device memory fault"):
            stream.result(call)
    stream.close()
    assert time.monotonic() - started < 5


def test_a_batch_with_a_result_too_few_is_no_batch(runtime, prefix, vdsp):
    stream = stream_with(runtime, prefix, vdsp, loses_a_result=True, batch=2)
    found = outcomes(stream, 5, batch=2)
    assert "received 1 results for a call of 2 images" in found[0]
    assert "received 1 results" in found[1]
    stream.close()


def test_a_result_too_many_ends_the_stream(runtime, prefix, vdsp):
    stream = stream_with(runtime, prefix, vdsp, repeats_a_result=True)
    stream.result(stream.submit(pictures(1)))
    ends_by = time.monotonic() + 30
    while not stream._broken and time.monotonic() < ends_by:
        time.sleep(0.01)
    with pytest.raises(BackendRunError, match="received a result without a call"):
        stream.submit(pictures(1))
    stream.close()


def test_an_error_of_the_decoder_is_raised_at_its_place(runtime, prefix):
    runtime()

    def decode(infer, index):
        raw = infer(images[index])
        if index == 7:
            # To the vendor's runners this would be the end of the stream.
            raise ValueError("cannot reshape")
        return raw.placements[0].image_hw

    images = pictures(50)
    with open_backend(prefix, RuntimeOptions(engine="vsx")) as card:
        results = card.map(decode, range(50))
        assert [next(results) for _ in range(7)] == [image.shape[:2] for image in images[:7]]
        with pytest.raises(ValueError, match="cannot reshape"):
            next(results)
        assert card.infer(images[0]).placements


def test_a_picture_the_card_refuses_does_not_shift_the_others(runtime, prefix):
    runtime(create_refuses=97)
    images = pictures(20)

    def one(infer, image):
        try:
            return infer(image).placements[0].image_hw
        except BackendRunError as error:
            return "no picture 97 wide" in str(error)

    with open_backend(prefix, RuntimeOptions(engine="vsx")) as card:
        found = list(card.map(one, images))
    assert found == [True if i.shape[1] == 97 else i.shape[:2] for i in images]


def test_loading_that_hangs_ends_in_time(runtime, prefix, vdsp):
    runtime(load_hangs=True)
    started = time.monotonic()
    with pytest.raises(BackendRunError, match=r"loading did not finish within 0\.5 s"):
        DeviceStream(prefix, vdsp(), timeout=SHORT)
    with pytest.raises(BackendRunError, match=r"did not return within 0\.5 s"):
        read_shapes(prefix, timeout=SHORT)
    assert time.monotonic() - started < 4 * SHORT


def test_what_cannot_be_loaded_is_said(runtime, prefix, vdsp, tmp_path):
    runtime()
    with pytest.raises(BackendRunError, match=r"cannot be loaded: RuntimeError: .*\.so not found"):
        DeviceStream(tmp_path / "none", vdsp())
    with pytest.raises(BackendRunError, match=r"\.so not found"):
        read_shapes(tmp_path / "none")


def test_a_die_that_does_not_answer_is_said(runtime, prefix, vdsp):
    runtime(dies=1)
    check_device(0)
    for ask in (
        lambda: check_device(1),
        lambda: open_backend(prefix, RuntimeOptions(engine="vsx", device_id=1)),
        lambda: read_shapes(prefix, device_id=1),
    ):
        with pytest.raises(
            BackendUnavailable, match=r"device 1 .*set_device returned 1, expected 0"
        ):
            ask()


def test_a_machine_without_the_runtime_says_so(prefix):
    with pytest.raises(BackendUnavailable, match="vaststreamx cannot be imported"):
        open_backend(prefix, RuntimeOptions(engine="vsx"))


def test_the_input_of_a_device_does_not_follow_the_photo(runtime, prefix):
    runtime()
    with pytest.raises(InputError, match="for the device has one size and cannot follow the photo"):
        open_backend(prefix, RuntimeOptions(engine="vsx"), input_hw="auto")


def test_a_closed_backend_says_so(runtime, prefix):
    runtime()
    backend = open_backend(prefix, RuntimeOptions(engine="vsx"))
    backend.close()
    backend.close()
    with pytest.raises(BackendRunError, match="the stream is closed"):
        backend.infer(pictures(1)[0])


# Which engine, and which contract ---------------------------------------------------------------


def test_auto_takes_the_card_where_there_is_one_and_says_so(runtime, prefix, caplog):
    caplog.set_level(logging.INFO)
    with open_backend(prefix) as backend:
        assert isinstance(backend, OrtBackend)
    assert "engine ort: the vendor's package vaststreamx cannot be imported" in caplog.text
    caplog.clear()
    runtime()
    with open_backend(prefix, RuntimeOptions(device_id=5)) as backend:
        assert isinstance(backend, OrtBackend)
    assert "engine ort: device 5 does not answer" in caplog.text
    caplog.clear()
    with open_backend(prefix) as backend:
        assert isinstance(backend, VsxBackend)
    assert [r.message for r in caplog.records] == [
        "engine vsx: device 0 answers, and the vendor's three files exist"
    ]


def test_auto_leaves_the_card_alone_without_its_files(runtime, prefix, tmp_path, caplog):
    runtime()
    caplog.set_level(logging.INFO)
    for suffix in (".onnx", ".build.json", ".so", ".json"):
        source = prefix.parent / f"mod{suffix}"
        (tmp_path / f"mod{suffix}").write_bytes(source.read_bytes())
    with open_backend(tmp_path / "mod") as backend:
        assert isinstance(backend, OrtBackend)
    assert caplog.text == ""
    for level, asked in ((logging.INFO, RuntimeOptions(device_id=1)), (logging.DEBUG, None)):
        caplog.clear()
        caplog.set_level(level)
        open_backend(tmp_path / "mod", asked or RuntimeOptions()).close()
        assert "has no .so, .json and .params for the device" in caplog.text
    with pytest.raises(InputError, match=r"no \.so, \.json and \.params for engine 'vsx'"):
        open_backend(tmp_path / "mod", RuntimeOptions(engine="vsx"))
    with pytest.raises(InputError, match="engine 'vsx'"):
        open_backend(prefix.with_suffix(".onnx"), RuntimeOptions(engine="vsx"))


def test_a_vdsp_file_reaches_the_card_as_it_is(runtime, prefix, vdsp, caplog):
    runtime(pad=[114, 114, 114])
    image = np.full((20, 64, 3), 90, np.uint8)
    # In this file mean and std stand unrounded, and the pad colour is left to the device.
    path = vdsp(without=["Padding"])
    with open_backend(prefix, RuntimeOptions(engine="vsx")) as plain, open_backend(
        prefix, RuntimeOptions(engine="vsx"), vdsp=path
    ) as given:
        ours, theirs = plain.infer(image), given.infer(image)
    # The uppermost cells see padding alone.
    assert not np.allclose(ours.arrays["score_8"][..., 0, :], theirs.arrays["score_8"][..., 0, :])
    np.testing.assert_array_equal(
        ours.arrays["score_8"][..., 4, :], theirs.arrays["score_8"][..., 4, :]
    )
    assert "no Padding is given, so the device pads with its default colour" in caplog.text


def test_a_size_the_network_does_not_take_is_refused(runtime, prefix, vdsp):
    runtime()
    with pytest.raises(GraphError, match="expects 64x64 images, the pre-processing gives 32x32"):
        open_backend(prefix, RuntimeOptions(engine="vsx"), vdsp=vdsp(input_hw=(32, 32)))


def test_a_corner_anchor_is_refused(runtime, prefix):
    runtime()
    corner = dataclasses.replace(contract_of(prefix).preprocess, anchor="top_left")
    with pytest.raises(ConfigError, match="letterbox is centred"):
        open_backend(prefix, RuntimeOptions(engine="vsx"), preprocess=corner)


def test_another_number_of_outputs_is_refused(runtime, prefix):
    runtime()
    contract = contract_of(prefix)
    short = dataclasses.replace(contract, output_names=contract.output_names[:6])
    with pytest.raises(GraphError, match="has 9 outputs, its contract names"):
        VsxBackend(prefix, short)


def test_the_vendors_files_alone_run_by_the_cards_they_fit(runtime, vendor_prefix, prefix):
    runtime()
    cards = [card for card in CARDS.values() if card.model == "scrfd"]
    image = pictures(1)[0]
    with open_backend(
        vendor_prefix, RuntimeOptions(engine="vsx"), cards=cards
    ) as alone, open_backend(prefix, RuntimeOptions(engine="vsx")) as known:
        # Which of the variants with landmarks it is, the shapes do not say.
        assert alone.contract.card_id == "scrfd"
        assert alone.contract.preprocess == known.contract.preprocess
        for name, array in known.infer(image).arrays.items():
            np.testing.assert_array_equal(alone.infer(image).arrays[name], array)
    with open_backend(
        vendor_prefix, RuntimeOptions(engine="vsx"), cards=[CARDS["scrfd_10g_bnkps"]]
    ) as named:
        assert named.contract.card_id == "scrfd_10g_bnkps"


def test_the_vendors_files_alone_are_refused_where_nothing_fits(runtime, vendor_prefix):
    runtime()
    for cards in ([], [CARDS["scrfd_500m"]], [CARDS["pip_resnet18"]]):
        with pytest.raises(GraphError, match=r"fits no card; keep mod\.onnx"):
            open_backend(vendor_prefix, RuntimeOptions(engine="vsx"), cards=cards)
    with pytest.raises(BackendUnavailable, match="built for the device only"):
        open_backend(vendor_prefix, RuntimeOptions(engine="ort"))


def test_cards_that_are_fed_otherwise_are_not_guessed_among(tmp_path):
    shapes = ModelShapes((112, 112), ((512,),))
    magface = [card for card in CARDS.values() if card.model == "magface"]
    with pytest.raises(GraphError, match=r"fits magface_iresnet18, .*w600k_mbf, .*; keep"):
        contract_from_cards(magface, shapes, tmp_path)
    with pytest.raises(GraphError, match="fits no card"):
        contract_from_cards(magface, ModelShapes((112, 112), ((256,),)), tmp_path)
    backbones = [card for card in magface if card.id.startswith("magface")]
    assert contract_from_cards(backbones, shapes, tmp_path).card_id == "magface"


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_card_is_found_again_by_its_shapes(card, tmp_path):
    height, width = card.preprocess.input_hw
    outputs = tuple(
        (out.channels, height // out.stride, width // out.stride) if out.stride else (out.channels,)
        for out in card.outputs
    )
    contract = contract_from_cards([card], ModelShapes((height, width), outputs), tmp_path)
    assert contract.card_id == card.id
    assert contract.preprocess == card.preprocess


def test_placements_are_the_hosts(runtime, prefix):
    runtime()
    preprocess = contract_of(prefix).preprocess
    with open_backend(prefix, RuntimeOptions(engine="vsx")) as card:
        for image in pictures(5):
            assert card.infer(image).placements == (fit_image(image, preprocess)[1],)
