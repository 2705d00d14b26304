"""Backends: order, errors, contracts, and the replay."""

import json
import threading
import time

import cv2
import numpy as np
import onnx
import pytest
from facezoo.backends import RuntimeOptions, open_backend
from facezoo.backends.ort import PROVIDERS, OrtBackend, run_graph
from facezoo.backends.replay import ReplayBackend
from facezoo.cli.evaluate.record import engine_text
from facezoo.contract import METADATA_KEY, Contract, read_contract
from facezoo.errors import BackendRunError, BackendUnavailable, GraphError, InputError
from facezoo.image.files import write_image_rgb
from facezoo.machine import usable_cores
from facezoo.models import CARDS
from facezoo.models.magface.graph import export_released as export_recogniser
from facezoo.testing import tiny_pipnet, tiny_scrfd
from facezoo.vacc.vdsp import render_vdsp
from facezoo.workers import map_in_order


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_scrfd(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


def pictures(count):
    rng = np.random.default_rng(3)
    shapes = [(64, 64), (30, 90), (101, 57)]
    return [
        cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), shapes[i % 3][::-1])
        for i in range(count)
    ]


def many_of(backend, images):
    return backend.map(lambda infer, image: infer(image), images)


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_one_many_and_a_batch_give_the_same(model, engine):
    pytest.importorskip("onnxruntime" if engine == "ort" else engine)
    images = pictures(10)
    with open_backend(model, RuntimeOptions(engine=engine)) as backend:
        alone = [backend.infer(image) for image in images]
        many = list(many_of(backend, images))
        grouped = [backend.infer_shared(images[start : start + 4]) for start in (0, 4, 8)]
        batch = backend.infer_batch(images)
    for start, group in zip((0, 4, 8), grouped):
        assert len(group.placements) == len(images[start : start + 4])
        for row, one in enumerate(alone[start : start + 4]):
            assert group.placements[row] == one.placements[0]
            for name in one.arrays:
                np.testing.assert_allclose(one.arrays[name][0], group.arrays[name][row], atol=1e-5)
    assert [raw.placements for raw in many] == [raw.placements for raw in alone]
    for index, (one, other) in enumerate(zip(alone, many)):
        assert batch.placements[index] == one.placements[0]
        for name in one.arrays:
            assert one.arrays[name].dtype == np.float32
            np.testing.assert_allclose(one.arrays[name], other.arrays[name], atol=1e-5)
            np.testing.assert_allclose(batch.arrays[name][index], one.arrays[name][0], atol=1e-5)


def plain(backend, images, many=False):
    """Feed the backend as if its graph took tensors only."""
    tensors, placements = zip(*[backend.operation(image) for image in images])
    return backend.run_tensor(np.stack(tensors), placements, many)


def assert_same(one, other):
    assert one.placements == other.placements
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


@pytest.mark.parametrize("threads", [1, 2])
def test_pixels_into_the_graph_change_no_bit(model, threads):
    images = pictures(6)
    with open_backend(model, RuntimeOptions(threads=threads)) as backend:
        assert backend.prepare(images)[0].dtype == np.uint8
        assert_same(backend.infer_batch(images), plain(backend, images))
        for image, raw in zip(images, many_of(backend, images)):
            assert_same(raw, plain(backend, [image], many=True))


@pytest.mark.shared
def test_pixels_into_a_released_network_change_no_bit(shared, tmp_path, rng):
    from facezoo.models.scrfd.graph import export_released

    export_released(shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx", tmp_path / "raw.onnx")
    image = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    with open_backend(tmp_path / "raw.onnx", RuntimeOptions(threads=1)) as backend:
        assert_same(backend.infer(image), plain(backend, [image]))


@pytest.mark.shared
def test_a_released_recogniser_gives_the_bits_of_its_own_prelu(shared, tmp_path, monkeypatch):
    export_recogniser(shared / "assets" / "recognition" / "w600k_mbf.onnx", tmp_path / "w.onnx")
    faces = [cv2.resize(image, (112, 112)) for image in pictures(3)]
    with open_backend(tmp_path / "w.onnx") as backend:
        found = [backend.infer_batch(faces), backend.infer_shared(faces)]
    monkeypatch.setattr("facezoo.backends.ort.BLOCKED_MACHINES", ())
    with open_backend(tmp_path / "w.onnx") as backend:
        expected = backend.infer_batch(faces)
    for raw in found:
        assert_same(raw, expected)


def test_pixels_into_openvino_change_next_to_nothing(model):
    pytest.importorskip("openvino")
    images = pictures(3)
    with open_backend(model, RuntimeOptions(engine="openvino")) as backend:
        assert backend.prepare(images)[0].dtype == np.uint8
        inside, outside = backend.infer_batch(images), plain(backend, images)
        for name, array in inside.arrays.items():
            np.testing.assert_allclose(array, outside.arrays[name], atol=1e-5)


def test_what_a_graph_would_round_otherwise_stays_a_table(tmp_path):
    with open_backend(tiny_pipnet(tmp_path / "tiny.onnx")) as backend:
        assert backend.normalisation is None
        assert backend.prepare(pictures(1))[0].dtype == np.float32


@pytest.mark.parametrize("threads, workers", [(1, 1), (2, 3)])
def test_openvino_has_one_more_worker_where_all_cores_are_ours(
    model, monkeypatch, threads, workers
):
    runtime = pytest.importorskip("facezoo.backends.openvino")
    pytest.importorskip("openvino")
    monkeypatch.setattr(runtime, "usable_cores", lambda: 2)
    with open_backend(model, RuntimeOptions(engine="openvino", threads=threads)) as backend:
        assert backend.workers == workers


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_gives_what_onnx_runtime_gives(model, precision):
    pytest.importorskip("openvino")
    images = pictures(5)
    with open_backend(model) as ort, open_backend(
        model, RuntimeOptions(engine="openvino", precision=precision)
    ) as backend:
        assert backend.name == "openvino"
        many = list(many_of(backend, images))
        batch = backend.infer_batch(images)
        for index, image in enumerate(images):
            expected = ort.infer(image)
            assert many[index].placements == expected.placements
            for name, array in expected.arrays.items():
                # bfloat16 keeps eight bits of a number.
                tolerance = 1e-4 if precision == "f32" else 0.05 * np.abs(array).max()
                np.testing.assert_allclose(many[index].arrays[name], array, atol=tolerance)
                np.testing.assert_allclose(batch.arrays[name][index], array[0], atol=tolerance)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_precision_that_runs_is_said_and_recorded(tmp_path, model, run_here, precision):
    openvino = pytest.importorskip("openvino")
    has_it = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    runs = precision if has_it else "f32"
    write_image_rgb(tmp_path / "in" / "a.png", pictures(1)[0])
    folders = ["--file_path", tmp_path / "in", "--save_dir", tmp_path / "out"]
    wish = ["--engine", "openvino", "--precision", precision]
    script = "common/utils/infer.py"
    code, _, said = run_here(script, *folders, "--model_prefix_path", model, *wish)
    assert code == 0
    told = f"precision {precision}: this CPU does not have it, so OpenVINO computes in f32"
    assert (told in said) == (precision != runs)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert f"'device': 'CPU {runs}'" in str(run)
    with open_backend(model, RuntimeOptions(engine="openvino", precision=precision)) as backend:
        assert engine_text(backend).endswith(" bf16") == (runs == "bf16")


def test_settings_without_effect_are_named(model, caplog):
    pytest.importorskip("openvino")
    with open_backend(model, RuntimeOptions(precision="bf16", device_id=3)):
        assert "precision bf16 is for engine openvino and has no effect on ort" in caplog.text
        assert "device 3 is for engine vsx, no effect on ort" in caplog.text
    with open_backend(model, RuntimeOptions(engine="openvino", threads=4096)) as backend:
        assert backend.threads < 4096
        assert f"threads 4096: OpenVINO uses {backend.threads}" in caplog.text


def test_opencv_has_its_threads_back_after_a_run(model):
    before, during = cv2.getNumThreads(), []
    cv2.setNumThreads(2)
    try:
        with open_backend(model, RuntimeOptions(threads=2)) as backend:
            for _ in backend.map(lambda infer, image: infer(image), pictures(3)):
                during.append(cv2.getNumThreads())
            stopped = many_of(backend, pictures(9))
            next(stopped)
            stopped.close()
        assert (during, cv2.getNumThreads()) == ([1, 1, 1], 2)
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("last_in_first_out", [False, True])
def test_streams_at_once_give_opencv_its_threads_back(model, last_in_first_out):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        with open_backend(model, RuntimeOptions(threads=2)) as backend:
            streams = [many_of(backend, pictures(9)) for _ in range(3)]
            for stream in streams:
                next(stream)
            for stream in streams[:: -1 if last_in_first_out else 1]:
                assert cv2.getNumThreads() == 1
                stream.close()
            assert cv2.getNumThreads() == 2

            def work():
                for _ in range(5):
                    list(many_of(backend, pictures(3)))

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_a_provider_that_is_not_there_is_refused(model):
    with pytest.raises(BackendUnavailable, match=r"'cuda' is not .* the package onnxruntime-gpu"):
        open_backend(model, RuntimeOptions(provider="cuda"))
    with pytest.raises(InputError, match="provider 'gpu' is not known"):
        open_backend(model, RuntimeOptions(provider="gpu"))


def test_the_provider_that_runs_is_said(model, monkeypatch, caplog):
    """Another name for the CPU's stands in for a provider that is not on this machine."""
    monkeypatch.setitem(PROVIDERS, "cuda", PROVIDERS["cpu"])
    with caplog.at_level("INFO"), open_backend(model, RuntimeOptions(provider="cuda")):
        assert "provider cuda: ONNX Runtime" in caplog.text
        assert "runs on CPUExecutionProvider" in caplog.text


def test_what_the_engine_has_no_use_for_is_said(model, caplog):
    open_backend(model, RuntimeOptions(precision="bf16")).close()
    assert "precision bf16 is for engine openvino and has no effect on ort" in caplog.text


def test_results_come_in_order_and_few_are_under_way():
    active, most, lock = 0, 0, threading.Lock()
    taken = []

    def source():
        for index in range(50):
            taken.append(index)
            yield index

    def slow(index):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.001 * (index % 3))
        with lock:
            active -= 1
        return index

    results = map_in_order(slow, source(), workers=2)
    assert next(results) == 0
    assert len(taken) <= 8
    assert list(results) == list(range(1, 50))
    assert most <= 2


def test_the_first_error_comes_at_its_place_and_the_rest_is_dropped():
    done = []

    def work(index):
        if index == 3:
            raise ValueError("three")
        done.append(index)
        return index

    results = map_in_order(work, range(1000), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(done) < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("facezoo")]


def test_stopping_early_leaves_no_thread():
    results = map_in_order(lambda x: x, range(1000), workers=2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("facezoo")]


def test_a_vdsp_file_is_obeyed_and_its_difference_is_said(model, tmp_path, caplog):
    import dataclasses
    import json

    contract = read_contract(model)
    other = dataclasses.replace(contract.preprocess, std=(127.5, 127.5, 127.5))
    path = tmp_path / "vdsp.json"
    path.write_text(json.dumps(render_vdsp(other)))
    image = pictures(1)[0]
    with open_backend(model) as plain, open_backend(model, vdsp=path) as given:
        assert not np.allclose(
            plain.infer(image).arrays["score_8"], given.infer(image).arrays["score_8"]
        )
    assert "normalisation" in caplog.text


def test_a_size_the_graph_does_not_take_is_refused(model, tmp_path):
    import dataclasses
    import json

    wide = dataclasses.replace(read_contract(model).preprocess, input_hw=(64, 96))
    path = tmp_path / "vdsp.json"
    path.write_text(json.dumps(render_vdsp(wide)))
    with pytest.raises(GraphError, match="expects a width of 64, the pre-processing gives 96"):
        open_backend(model, vdsp=path)


def rewritten(model, path, change):
    graph = onnx.load(str(model))
    change(graph)
    onnx.save(graph, str(path))
    return path


def test_a_graph_without_a_contract_is_refused(model, tmp_path):
    path = rewritten(model, tmp_path / "bare.onnx", lambda g: g.ClearField("metadata_props"))
    with pytest.raises(GraphError, match="carries no contract"):
        open_backend(path)


def test_a_damaged_contract_is_refused(model, tmp_path):
    def damage(graph):
        for entry in graph.metadata_props:
            entry.value = "{"

    with pytest.raises(GraphError, match=METADATA_KEY):
        open_backend(rewritten(model, tmp_path / "bad.onnx", damage))


def test_a_missing_output_is_named(model, tmp_path):
    def drop(graph):
        del graph.graph.output[0]

    with pytest.raises(GraphError, match="'score_8' not found"):
        open_backend(rewritten(model, tmp_path / "short.onnx", drop))


def test_another_input_name_is_refused(model, tmp_path):
    def rename(graph):
        graph.graph.input[0].name = "data"
        for node in graph.graph.node:
            node.input[0] = "data"

    with pytest.raises(GraphError, match=r"the contract says 'input\.1'"):
        open_backend(rewritten(model, tmp_path / "named.onnx", rename))


def test_what_is_no_graph_is_refused_by_name(tmp_path):
    path = tmp_path / "page.onnx"
    path.write_text("<html>")
    with pytest.raises(GraphError, match=r"page\.onnx"):
        open_backend(path)
    with pytest.raises(GraphError, match=r"none\.onnx"):
        open_backend(tmp_path / "none.onnx")


def test_an_unknown_engine_is_refused(model):
    with pytest.raises(InputError, match="'tpu' is not known"):
        open_backend(model, RuntimeOptions(engine="tpu"))


def test_a_graph_that_does_not_take_its_feeds_is_said(model):
    with pytest.raises(GraphError, match="does not run on these inputs"):
        run_graph(model, {"input.1": np.zeros((1, 3, 32, 32), np.float32)})


def test_a_failing_run_names_the_model(model):
    contract = read_contract(model)
    with OrtBackend(model, contract) as backend, pytest.raises(BackendRunError, match="tiny"):
        backend.run_tensor(np.zeros((1, 3, 32, 32), np.float32), ())


def test_half_inputs_are_rounded(model):
    image = pictures(1)[0]
    contract = read_contract(model)
    full, half = OrtBackend(model, contract), OrtBackend(model, contract, half_input=True)
    assert not np.array_equal(full.operation.table, half.operation.table) or np.array_equal(
        full.operation.table.astype(np.float16), full.operation.table
    )
    assert full.infer(image).placements == half.infer(image).placements


def test_the_replay_gives_back_what_was_recorded(model):
    images = pictures(4)
    with open_backend(model) as backend:
        recorded = [backend.infer(image) for image in images]
    contract = read_contract(model)
    replay = ReplayBackend([raw.arrays for raw in recorded], contract)
    for raw, again in zip(recorded, many_of(replay, images)):
        assert raw.placements == again.placements
        for name in raw.arrays:
            np.testing.assert_array_equal(raw.arrays[name], again.arrays[name])
    with pytest.raises(BackendRunError, match="more images than recorded"):
        replay.infer(images[0])


def test_there_is_at_least_one_core():
    assert usable_cores() >= 1


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_contract_survives_the_metadata(card):
    contract = Contract.from_card(card, "ab" * 32, (96, 64))
    assert Contract.from_metadata(contract.to_metadata()) == contract
    assert contract.preprocess.input_hw == (96, 64)


def test_a_contract_of_another_schema_is_refused():
    metadata = Contract.from_card(CARDS["scrfd_500m"]).to_metadata()
    metadata[METADATA_KEY] = metadata[METADATA_KEY].replace('"schema": 1', '"schema": 99')
    with pytest.raises(GraphError, match="schema 99"):
        Contract.from_metadata(metadata)
