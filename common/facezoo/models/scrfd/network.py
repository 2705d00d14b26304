"""SCRFD network in plain PyTorch, with the authors' parameter names, so their checkpoints load.

A backbone of four stages, a neck over the last three (strides 8, 16, 32), and a head that predicts
for two anchors per cell a face score, its box and, in the ``_bnkps`` variants, its five landmarks.

References
----------
.. [1] Guo et al., *Sample and Computation Redistribution for Efficient Face Detection*,
   arXiv:2105.04714.
.. [2] insightface@7fadd42, ``detection/scrfd/configs/scrfd`` and ``detection/scrfd/mmdet/models``.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import CardError, InputError
from ...graphs.export import load_checkpoint
from .card import ANCHORS_PER_CELL, STRIDES

__all__ = ["VARIANTS", "Scrfd", "Variant", "build", "deploy", "load_official"]

# Prefixes of names in a checkpoint: data-parallel training wraps the network, and mmcv's averaging
# hook stores a second copy of every entry, which is skipped.
CHECKPOINT_PREFIXES = {"module.": "", "ema_": None, "module.ema_": None}


@dataclass(frozen=True)
class Variant:
    """Hyper-parameters of a variant.

    Attributes
    ----------
    block
        ``separable`` (MobileNetV1), ``basic`` or ``bottleneck`` (ResNetV1e).
    stem
        Channels of the stem's convolutions.
    blocks, planes
        Blocks and channels of each stage; a bottleneck's output has four times as many.
    neck, head, head_convs
        Channels of the neck, channels of the head, and number of stacked convolutions in the head.
    groups
        Groups of the head's group norms. None means the ``_bnkps`` head: batch norms, separate
        weights per level, landmarks.
    scales
        Whether the boxes of each level are multiplied by a learnt factor.
    """

    block: str
    stem: tuple[int, ...]
    blocks: tuple[int, int, int, int]
    planes: tuple[int, int, int, int]
    neck: int
    head: int
    head_convs: int
    groups: int | None
    scales: bool = True


# source: insightface@7fadd42 detection/scrfd/configs/scrfd/scrfd_{500m,1g,2.5g,10g,34g}.py
_500M = Variant("separable", (16, 16), (2, 3, 2, 6), (40, 72, 152, 288), 16, 64, 2, groups=16)
_1G = Variant("separable", (32, 48), (3, 2, 1, 5), (48, 160, 216, 312), 24, 96, 2, groups=8)
_2_5G = Variant("basic", (12, 12, 24), (3, 5, 3, 2), (24, 48, 48, 80), 24, 64, 2, groups=16)
_10G = Variant("basic", (28, 28, 56), (3, 4, 2, 3), (56, 88, 88, 224), 56, 80, 3, groups=16)
_34G = Variant(
    "bottleneck", (28, 28, 56), (17, 16, 2, 8), (56, 56, 144, 184), 128, 256, 2, groups=32
)

VARIANTS = {
    "scrfd_500m": _500M,
    "scrfd_500m_bnkps": replace(_500M, groups=None, scales=False),
    "scrfd_1g": _1G,
    "scrfd_2.5g": _2_5G,
    "scrfd_2.5g_bnkps": replace(_2_5G, groups=None),
    "scrfd_10g": _10G,
    "scrfd_10g_bnkps": replace(_10G, groups=None),
    "scrfd_34g": _34G,
}


def build(variant: str) -> Scrfd:
    """Build a variant's network with random weights.

    Raises
    ------
    CardError
        If there is no such variant.
    """
    if variant not in VARIANTS:
        raise CardError(f"{variant!r} is not an SCRFD variant; choose one of {', '.join(VARIANTS)}")
    return Scrfd(VARIANTS[variant])


def load_official(network: Scrfd, path: Path) -> None:
    """Load a checkpoint of the authors, strictly.

    Parameters
    ----------
    network
        Result of :func:`build` for the variant of the checkpoint.
    path
        A ``.pth`` file, complete or reduced to its weights; entries of the optimiser and of mmcv's
        averaging hook are skipped.

    Raises
    ------
    WeightsError
        If an entry is missing, unexpected or of another shape; the message lists them.
    """
    load_checkpoint(network, path, prefixes=CHECKPOINT_PREFIXES)


def deploy(network: Scrfd, *, decoded: bool = False) -> nn.Module:
    """Return a copy of a network for the export.

    The learnt scales of the boxes are folded into the convolutions before them, which then differ
    between levels even if the checkpoint shares them.

    Parameters
    ----------
    network
        A network with its final weights; not changed.
    decoded
        Return the authors' layout, (B, cells * 2, 1 | 4 | 10) with scores between 0 and 1, instead
        of the raw maps.
    """
    network = copy.deepcopy(network).eval()
    network.bbox_head.fold_scales()
    return Rows(network) if decoded else network


class Scrfd(nn.Module):  # type: ignore[misc]
    """Backbone, neck and head of one variant."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.backbone = Backbone(variant)
        self.neck = PathAggregation(self.backbone.out_channels, variant.neck)
        self.bbox_head = Head(variant)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the raw maps of images.

        Parameters
        ----------
        images
            Shape (B, 3, H, W), float32, RGB, (x - 127.5) / 128; H and W are multiples of 32.

        Returns
        -------
        tuple of torch.Tensor
            ``score_8, score_16, score_32, bbox_8 … kps_32``. score_S is (B, 2, H/S, W/S), logits;
            bbox_S (B, 8, …) and kps_S (B, 20, …) are distances in strides. Channel is
            anchor * (1 | 4 | 10) + component. Variants without landmarks return six maps.

        Raises
        ------
        InputError
            If height or width is not a multiple of 32.
        """
        height, width = images.shape[-2:]
        if not torch.jit.is_tracing() and (height % STRIDES[-1] or width % STRIDES[-1]):
            raise InputError(
                f"input of {height}x{width} is not divisible into cells of {STRIDES[-1]} pixels; "
                f"pad height and width to multiples of {STRIDES[-1]}"
            )
        maps: tuple[Tensor, ...] = self.bbox_head(self.neck(self.backbone(images)))
        return maps


class Backbone(nn.Module):  # type: ignore[misc]
    """MobileNetV1, or ResNetV1e: three stem convolutions, and shortcuts with average pooling."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        separable = variant.block == "separable"
        self.stem = _separable_stem(*variant.stem) if separable else _deep_stem(*variant.stem)
        self.pool = nn.Identity() if separable else nn.MaxPool2d(2)
        make_block, expansion = BLOCKS[variant.block]
        channels = [variant.stem[-1], *(planes * expansion for planes in variant.planes)]
        for stage, (count, planes) in enumerate(zip(variant.blocks, variant.planes)):
            blocks = [make_block(channels[stage], planes, 2 if stage or separable else 1)]
            blocks += [make_block(channels[stage + 1], planes, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out_channels = channels[2:]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.layer1(self.pool(self.stem(images)))
        outputs = []
        for stage in (self.layer2, self.layer3, self.layer4):
            x = stage(x)
            outputs.append(x)
        return outputs


def _conv_bn_relu(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _deep_stem(first: int, second: int, third: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv_bn_relu(3, first, 3, stride=2),
        *_conv_bn_relu(first, second, 3),
        *_conv_bn_relu(second, third, 3),
    )


def _separable_stem(first: int, second: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(*_conv_bn_relu(3, first, 3, stride=2)), _separable_block(first, second, 1)
    )


def _separable_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv_bn_relu(inputs, inputs, 3, stride, groups=inputs), *_conv_bn_relu(inputs, outputs, 1)
    )


class Residual(nn.Module):  # type: ignore[misc]
    """Convolutions ``conv1, conv2 …`` with batch norms ``bn1, bn2 …``, added to a shortcut."""

    def __init__(self, inputs: int, widths: Sequence[int], kernels: Sequence[int], stride: int):
        super().__init__()
        self.depth = len(kernels)
        # The stride is in the 3x3 convolution, in a basic block the first one.
        strided = kernels.index(3)
        ends = (inputs, *widths)
        for index, kernel in enumerate(kernels):
            conv, norm, _ = _conv_bn_relu(
                ends[index], ends[index + 1], kernel, stride if index == strided else 1
            )
            self.add_module(f"conv{index + 1}", conv)
            self.add_module(f"bn{index + 1}", norm)
        self.downsample = None
        if stride > 1 or inputs != widths[-1]:
            conv, norm, _ = _conv_bn_relu(inputs, widths[-1], 1)
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False), conv, norm
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index in range(1, self.depth + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            if index < self.depth:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _basic_block(inputs: int, planes: int, stride: int) -> Residual:
    return Residual(inputs, (planes, planes), (3, 3), stride)


def _bottleneck(inputs: int, planes: int, stride: int) -> Residual:
    return Residual(inputs, (planes, planes, 4 * planes), (1, 3, 1), stride)


# Constructor of a block from (inputs, planes, stride), and its output channels per plane.
BLOCKS = {
    "separable": (_separable_block, 1),
    "basic": (_basic_block, 1),
    "bottleneck": (_bottleneck, 4),
}


class PathAggregation(nn.Module):  # type: ignore[misc]
    """PAFPN: add the coarse levels to the fine ones, then the fine ones to the coarse ones."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        levels = len(inputs)
        self.lateral_convs = nn.ModuleList(_neck_conv(n, channels, 1) for n in inputs)
        self.fpn_convs = nn.ModuleList(_neck_conv(channels, channels, 3) for _ in range(levels))
        self.downsample_convs = nn.ModuleList(
            _neck_conv(channels, channels, 3, stride=2) for _ in range(levels - 1)
        )
        self.pafpn_convs = nn.ModuleList(
            _neck_conv(channels, channels, 3) for _ in range(levels - 1)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [conv(x) for conv, x in zip(self.lateral_convs, features)]
        for level in range(len(maps) - 1, 0, -1):
            maps[level - 1] = maps[level - 1] + F.interpolate(maps[level], scale_factor=2.0)
        maps = [conv(x) for conv, x in zip(self.fpn_convs, maps)]
        for level, conv in enumerate(self.downsample_convs):
            maps[level + 1] = maps[level + 1] + conv(maps[level])
        return [maps[0], *(conv(x) for conv, x in zip(self.pafpn_convs, maps[1:]))]


def _neck_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return nn.Sequential(OrderedDict(conv=conv))


class Head(nn.Module):  # type: ignore[misc]
    """Stacked convolutions shared by scores, boxes and landmarks, and one convolution for each.

    The levels share weights under the key ``0``, or have separate ones under ``(8, 8)`` and so on.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        own_weights = variant.groups is None
        keys = [_key(stride) for stride in STRIDES] if own_weights else ["0"]

        def predictions(size: int) -> nn.ModuleDict:
            outputs = ANCHORS_PER_CELL * size
            return nn.ModuleDict({k: nn.Conv2d(variant.head, outputs, 3, 1, 1) for k in keys})

        self.cls_stride_convs = nn.ModuleDict({key: _head_convs(variant) for key in keys})
        self.stride_cls = predictions(1)
        self.stride_reg = predictions(4)
        self.stride_kps = predictions(10) if own_weights else nn.ModuleDict()
        self.scales = nn.ModuleList(Scale() for _ in STRIDES if variant.scales)
        self.integral = Integral()

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        scores, boxes, landmarks = [], [], []
        for level, x in enumerate(features):
            x = _at(self.cls_stride_convs, level)(x)
            scores.append(_at(self.stride_cls, level)(x))
            box = _at(self.stride_reg, level)(x)
            boxes.append(self.scales[level](box) if len(self.scales) else box)
            if len(self.stride_kps):
                landmarks.append(_at(self.stride_kps, level)(x))
        return (*scores, *boxes, *landmarks)

    def fold_scales(self) -> None:
        """Fold the scale of each level into its box convolution, then separate per level."""
        folded = nn.ModuleDict()
        for level, scale in enumerate(self.scales):
            conv = copy.deepcopy(_at(self.stride_reg, level))
            conv.weight.data.mul_(scale.scale.data)
            conv.bias.data.mul_(scale.scale.data)
            folded[_key(STRIDES[level])] = conv
        if len(folded):
            self.stride_reg, self.scales = folded, nn.ModuleList()


def _key(stride: int) -> str:
    return str((stride, stride))


def _at(modules: nn.ModuleDict, level: int) -> nn.Module:
    return modules["0"] if "0" in modules else modules[_key(STRIDES[level])]


def _head_convs(variant: Variant) -> nn.Sequential:
    def unit(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
        conv, norm, relu = _conv_bn_relu(inputs, outputs, kernel, groups=groups)
        if variant.groups is None:
            return nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=relu))
        norm = nn.GroupNorm(variant.groups, outputs)
        return nn.Sequential(OrderedDict(conv=conv, gn=norm, relu=relu))

    convs = []
    for inputs in (variant.neck, *[variant.head] * (variant.head_convs - 1)):
        if variant.block == "separable":
            depthwise = unit(inputs, inputs, 3, groups=inputs)
            pointwise = unit(inputs, variant.head, 1)
            pair = OrderedDict(depthwise_conv=depthwise, pointwise_conv=pointwise)
            convs.append(nn.Sequential(pair))
        else:
            convs.append(unit(inputs, variant.head, 3))
    return nn.Sequential(*convs)


class Scale(nn.Module):  # type: ignore[misc]
    """One learnt factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Integral(nn.Module):  # type: ignore[misc]
    """An unused buffer that every checkpoint contains."""

    def __init__(self) -> None:
        super().__init__()
        # source: insightface@7fadd42 configs/scrfd/scrfd_500m.py reg_max=8
        self.register_buffer("project", torch.arange(9, dtype=torch.float32))


class Rows(nn.Module):  # type: ignore[misc]
    """The authors' layout: one row per anchor, scores between 0 and 1."""

    def __init__(self, network: Scrfd) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.network(images)
        levels = len(STRIDES)
        sizes = (size for size in (1, 4, 10) for _ in range(levels))
        rows = [
            x.permute(0, 2, 3, 1).reshape(images.shape[0], -1, size) for x, size in zip(maps, sizes)
        ]
        return (*(x.sigmoid() for x in rows[:levels]), *rows[levels:])
