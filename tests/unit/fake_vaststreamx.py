"""A stand-in for the device's runtime ``vaststreamx``, as its documented use describes it.

Nothing of facezoo is used here: the pre-processing is written anew from the vdsp JSON's words, the
network is an ONNX graph that lies in ``<prefix>.so``, and what the documentation leaves open is a
setting. ``test_vsx.py`` first shows the documented behaviour of this module itself.

Settings and planted faults are read from the environment variable FAKE_VSX, a JSON object, when
the module is imported:

=====================  ==========================================================================
``dies``               number of dies; ``set_device`` of another gives 1
``queue``              results of one registered output that may wait before the stream stops
``pad``                colour of a letterbox whose JSON has no Padding
``size``, ``offset``   ``floor``, ``round`` or ``ceil``: of a letterbox's fractional size, offset
``uint8``              whether resized pixels are rounded to whole numbers
``mean_reversed``      whether the last mean belongs to the first channel
``create_fails``       the nth ``create_image`` raises, from 0
``create_refuses``     ``create_image`` refuses pictures of this width
``send_fails``         the nth ``run_async`` raises
``closes_after``       after so many results the stream ends by itself
``receive_fails``      the nth ``get_operator_output`` of the network raises no ValueError
``hangs_after``        after so many results none comes any more
``load_hangs``         ``Model`` does not return
``as_numpy_fails``     the nth ``as_numpy`` raises a ValueError
``aborts``             the process dies at the nth ``run_async``
``loses_a_result``     a batch of several pictures gives one result too few
``repeats_a_result``   the first result comes twice
=====================  ==========================================================================
"""

import collections
import enum
import json
import math
import os
import pathlib
import threading

import cv2
import numpy as np
import onnxruntime

SETTINGS = {
    "dies": 1,
    "queue": 8,
    "pad": [0, 0, 0],
    "size": "floor",
    "offset": "floor",
    "uint8": True,
    "mean_reversed": False,
    **json.loads(os.environ.get("FAKE_VSX", "{}")),
}

# What was called, in order; for tests that look at it.
calls = []
streams = []
_device = threading.local()
_counts = collections.Counter()
_count_lock = threading.Lock()
_release = threading.Event()


def _planted(name):
    """Count a call; True if the fault of this name is planted at this one."""
    with _count_lock:
        number = _counts[name]
        _counts[name] += 1
    return SETTINGS.get(name) == number


def _hang():
    _release.wait()
    raise RuntimeError("released")


def release():
    """End what hangs and close what is open, after a test; no part of the runtime."""
    _release.set()
    for stream in streams:
        stream.close_input()


class ImageFormat(enum.Enum):
    RGB_PLANAR = 0
    BGR_PLANAR = 1
    RGB_INTERLEAVE = 2
    BGR_INTERLEAVE = 3
    GRAY = 4
    YUV_NV12 = 5


class TypeFlag(enum.Enum):
    FLOAT16 = 0
    UINT8 = 1


class StreamBalanceMode(enum.Enum):
    ONCE = 0
    RUN = 1


class GraphOutputType(enum.Enum):
    GRAPH_OUTPUT_TYPE_NCHW_DEVICE = 0
    GRAPH_OUTPUT_TYPE_NCHW_HOST = 1


def set_device(device_id):
    calls.append("set_device")
    if not 0 <= device_id < SETTINGS["dies"]:
        return 1
    _device.id = device_id
    return 0


def get_all_cards_count():
    return 1


def _need_device():
    if not hasattr(_device, "id"):
        raise RuntimeError("no device is set in this thread")


class Image:
    def __init__(self, array, image_format, width, height):
        self._array = array.copy()
        self.format, self.width, self.height = image_format, width, height
        self.shape = array.shape


class Tensor:
    def __init__(self, array):
        self._array = array
        self.shape, self.size = array.shape, array.size


def create_image(array, image_format, width, height, device_id):
    """Planar is CHW, interleaved HWC, always uint8; the width comes before the height."""
    if _planted("create_fails"):
        raise RuntimeError("vdsp memory exhausted")
    if not 0 <= device_id < SETTINGS["dies"]:
        raise RuntimeError(f"no die {device_id}")
    planar = image_format in (ImageFormat.RGB_PLANAR, ImageFormat.BGR_PLANAR)
    expected = (3, height, width) if planar else (height, width, 3)
    if array.dtype != np.uint8 or array.shape != expected or not array.flags.c_contiguous:
        raise RuntimeError(f"image {array.shape} {array.dtype}, expected {expected} uint8")
    if SETTINGS.get("create_refuses") == width:
        raise RuntimeError(f"no picture {width} wide")
    return Image(array, image_format, width, height)


def as_numpy(thing):
    if _planted("as_numpy_fails"):
        raise ValueError("cannot map device memory")
    return thing._array.copy()


class Model:
    def __init__(self, prefix, batch_size, hw_config=""):
        calls.append("Model")
        _need_device()
        if SETTINGS.get("load_hangs"):
            _hang()
        for suffix in (".so", ".json", ".params"):
            if not pathlib.Path(prefix + suffix).is_file():
                raise RuntimeError(f"{prefix}{suffix} not found")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            pathlib.Path(prefix + ".so").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        (entry,) = self._session.get_inputs()
        self._input = entry.name
        self.batch_size = self.max_batch_size = batch_size
        self.input_count = 1
        self.output_count = len(self._session.get_outputs())
        self.input_shape = [[batch_size, *entry.shape[1:]]]
        outputs = self._session.get_outputs()
        self.output_shape = [[batch_size, *output.shape[1:]] for output in outputs]

    def _run(self, tensors):
        """One list of float16 outputs a picture, each with a first axis of 1."""
        outputs = self._session.run(None, {self._input: tensors.astype(np.float32)})
        return [
            [Tensor(output[row : row + 1].astype(np.float16)) for output in outputs]
            for row in range(len(tensors))
        ]


class Operator:
    def __init__(self, entry):
        self.op_type, self._config = entry["OpType"], entry["OpConfig"]

    @staticmethod
    def load_ops_from_json_file(path):
        """One object in the file, a list out of it."""
        calls.append("load_ops_from_json_file")
        return [Operator(json.loads(pathlib.Path(path).read_text()))]

    def _run(self, image, input_hw):
        """Picture to planar float16, as the op's name and its settings say."""
        config = self._config
        pixels = image._array
        if image.format in (ImageFormat.RGB_PLANAR, ImageFormat.BGR_PLANAR):
            pixels = pixels.transpose(1, 2, 0)
        declared = {
            "RGB_PLANAR": ImageFormat.RGB_PLANAR,
            "BGR_PLANAR": ImageFormat.BGR_PLANAR,
            "RGB888": ImageFormat.RGB_INTERLEAVE,
            "BGR888": ImageFormat.BGR_INTERLEAVE,
        }[config["IimageFormat"]]
        if declared is not image.format:
            raise RuntimeError(f"image is {image.format}, the op takes {declared}")
        size = (config.get("OimageHeight", input_hw[0]), config.get("OimageWidth", input_hw[1]))
        if size != tuple(input_hw):
            raise RuntimeError(f"op makes {size}, model takes {tuple(input_hw)}")
        if self.op_type == "FUSION_OP_RGB_LETTERBOX_CVTCOLOR_NORM_TENSOR":
            pixels = self._letterbox(pixels, size)
        elif self.op_type == "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR":
            pixels = self._resize(pixels, size)
        else:
            raise RuntimeError(f"op {self.op_type} is not in this fake")
        if config["ColorCvtCode"] in ("BGR2RGB", "RGB2BGR"):
            pixels = pixels[:, :, ::-1]
        return self._normalise(pixels.astype(np.float32)).astype(np.float16).transpose(2, 0, 1)

    def _letterbox(self, pixels, size):
        height, width = pixels.shape[:2]
        whole = {"floor": math.floor, "round": round, "ceil": math.ceil}
        ratio = min(size[0] / height, size[1] / width)
        inner = [
            min(limit, max(1, whole[SETTINGS["size"]](round(side * ratio, 6))))
            for side, limit in zip((height, width), size)
        ]
        top, left = (whole[SETTINGS["offset"]]((a - b) / 2) for a, b in zip(size, inner))
        canvas = np.empty((*size, 3), np.float32)
        canvas[:] = self._config.get("Padding", SETTINGS["pad"])
        canvas[top : top + inner[0], left : left + inner[1]] = self._resize(pixels, inner)
        return canvas

    def _resize(self, pixels, size):
        mode = cv2.INTER_NEAREST
        if self._config["ResizeType"].startswith("BILINEAR"):
            mode = cv2.INTER_LINEAR
        if SETTINGS["uint8"]:
            return cv2.resize(pixels, (size[1], size[0]), interpolation=mode)
        return cv2.resize(pixels.astype(np.float32), (size[1], size[0]), interpolation=mode)

    def _normalise(self, pixels):
        mean = np.array(self._config["Mean"], np.float16).astype(np.float32)
        if SETTINGS["mean_reversed"]:
            mean = mean[::-1]
        std = np.array(self._config["Std"], np.float16).astype(np.float32)
        return {
            "EQUAL": lambda: pixels,
            "DIV255": lambda: pixels / 255,
            "DIV1275_MINUSONE": lambda: pixels / 127.5 - 1,
            "MINUSMEAN_DIVSTD": lambda: pixels / std - mean / std,
            "DIV255_MINUSMEAN_DIVSTD": lambda: pixels / (255 * std) - mean / std,
        }[self._config["NormaType"]]()


class ModelOperator:
    def __init__(self, model):
        calls.append("ModelOperator")
        self._model = model


class Graph:
    def __init__(self, output_type=GraphOutputType.GRAPH_OUTPUT_TYPE_NCHW_DEVICE):
        self._operators = ()

    def add_operators(self, *operators):
        calls.append("add_operators")
        self._operators = operators


class Stream:
    """Runs calls one after the other in a thread of its own; each registered output has a queue."""

    def __init__(self, graph, balance_mode):
        self._fusion, network = graph._operators
        self._model = network._model
        self._network = network
        self._outputs = {}
        self._built = self._closed = self._ended = False
        self._given = 0
        self._work = collections.deque()
        self._change = threading.Condition()
        streams.append(self)

    def register_operator_output(self, *arguments):
        """Either (op), or (name, op), or (name, op, [[shape, type]])."""
        calls.append("register_operator_output")
        if self._built:
            raise RuntimeError("the stream is built")
        key, operator = arguments[0], arguments[min(1, len(arguments) - 1)]
        if operator is self._fusion:
            ((shape, kind),) = arguments[2]
            if kind is not TypeFlag.FLOAT16 or tuple(shape) != tuple(
                self._model.input_shape[0][1:]
            ):
                raise RuntimeError("declared output does not fit")
        self._outputs[key] = (operator, collections.deque())

    def build(self):
        calls.append("build")
        _need_device()
        self._built = True
        threading.Thread(target=self._serve, name="fake-card", daemon=True).start()
        return 0

    def run_async(self, images, params=None):
        if _planted("aborts"):
            os.abort()
        if _planted("send_fails"):
            raise RuntimeError("device lost")
        if not self._built or self._closed:
            raise RuntimeError("the stream takes no input")
        if not 1 <= len(images) <= self._model.batch_size:
            raise RuntimeError(f"{len(images)} images for a batch of {self._model.batch_size}")
        if not all(isinstance(image, Image) for image in images):
            raise TypeError("inputs must be images")
        with self._change:
            # A stream whose results nobody takes ends up taking no input.
            self._change.wait_for(lambda: self._room() and len(self._work) < SETTINGS["queue"])
            self._work.append(list(images))
            self._change.notify_all()

    def _room(self):
        return all(len(results) < SETTINGS["queue"] for _, results in self._outputs.values())

    def _serve(self):
        while True:
            with self._change:
                self._change.wait_for(lambda: (self._work and self._room()) or self._closed)
                if not self._work:
                    self._ended = True
                    self._change.notify_all()
                    return
                images = self._work[0]
            try:
                results = self._compute(images)
            except Exception as error:
                results = error, error
            with self._change:
                self._work.popleft()
                often = 2 if SETTINGS.get("repeats_a_result") and not self._given else 1
                for operator, queue in self._outputs.values():
                    queue.extend([results[operator is self._fusion]] * often)
                self._given += 1
                if SETTINGS.get("closes_after") == self._given:
                    self._ended = True
                self._change.notify_all()
                if self._ended:
                    return

    def _compute(self, images):
        hw = self._model.input_shape[0][2:]
        tensors = np.stack([self._fusion._run(image, hw) for image in images])
        outputs = self._model._run(tensors)
        if SETTINGS.get("loses_a_result") and len(images) > 1:
            outputs = outputs[:-1]
        return outputs, [[Tensor(tensor)] for tensor in tensors]

    def get_operator_output(self, key):
        """Wait for the next result; ValueError once the stream is closed and none is left."""
        operator, results = self._outputs[key]
        if operator is self._network and _planted("receive_fails"):
            raise RuntimeError("device memory fault")
        if operator is self._network and _planted("hangs_after"):
            _hang()
        with self._change:
            self._change.wait_for(lambda: results or self._ended)
            if not results:
                raise ValueError("stream is closed")
            result = results.popleft()
            self._change.notify_all()
        if isinstance(result, Exception):
            raise result
        return result

    def run_sync(self, images, params=None):
        return self._compute(images)[0]

    def close_input(self):
        calls.append("close_input")
        with self._change:
            self._closed = True
            self._change.notify_all()

    def wait_until_done(self):
        calls.append("wait_until_done")
        with self._change:
            self._change.wait_for(lambda: self._ended)

    @property
    def undrained(self):
        """How many results were never taken; no part of the runtime."""
        return sum(len(results) for _, results in self._outputs.values())
