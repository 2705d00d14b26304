"""MagFace network in torch: iresnet18 to iresnet100 with the authors' parameter names."""

from __future__ import annotations

from pathlib import Path
from typing import Collection, Dict, List, Optional, Sequence, Set, Tuple

import torch
from torch import nn

from ...errors import CardError, WeightsError
from ...graphs.export import load_checkpoint, read_checkpoint

__all__ = ["BLOCKS", "MagFace", "build", "load_arcface", "load_official"]

# source: MagFace@99bae61 models/iresnet.py; blocks per stage
BLOCKS: Dict[str, Tuple[int, int, int, int]] = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)  # source: same file; channels per stage
EMBEDDING_SIZE = 512  # source: MagFace@99bae61 inference/gen_feat.py --embedding_size
DROPOUT = 0.4  # source: MagFace@99bae61 models/iresnet.py
NORM = {"eps": 2e-5, "momentum": 0.9}  # source: same file; torch's default eps is 1e-5

# Prefixes of the names in the authors' files, which differ between data-parallel and distributed
# training; the classifier beside the trunk is skipped.
# source: MagFace@99bae61 inference/network_inf.py clean_dict_inf
CHECKPOINT_PREFIXES = {
    "module.features.": "features.",
    "features.module.": "features.",
    "module.fc.": None,
    "fc.": None,
}


# What insightface's arcface_torch changes in the same network: names without "features." in front,
# and the eps of torch's batch norms.
# source: insightface@7fadd42 recognition/arcface_torch/backbones/iresnet.py
ARCFACE_EPS = 1e-5
_ARCFACE_NAMES = ("conv1.weight", "layer1.0.bn1.weight", "fc.weight", "features.running_var")
# A name in its other backbones, which this zoo has no network for.
# source: insightface@7fadd42 recognition/arcface_torch/backbones/mobilefacenet.py and vit.py
_OTHER_BACKBONES = {
    "conv_sep.layers.0.weight": "MobileFaceNet",
    "patch_embed.proj.weight": "vision transformer",
}


class Block(nn.Module):  # type: ignore[misc]
    """A residual block with batch norms before its first and after both convolutions."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in, **NORM)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out, **NORM)
        self.prelu = nn.PReLU(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out, **NORM)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out, **NORM),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(self.bn1(x))
        residual = self.conv2(self.prelu(self.bn2(residual)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn3(residual) + shortcut


class IResNet(nn.Module):  # type: ignore[misc]
    """A residual network for 112x112 faces whose four stages each halve the map."""

    def __init__(self, blocks: Sequence[int], embedding_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0], **NORM)
        self.prelu = nn.PReLU(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks[0])
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks[1])
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks[2])
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], blocks[3])
        self.bn2 = nn.BatchNorm2d(WIDTHS[3], **NORM)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.fc = nn.Linear(WIDTHS[3] * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, **NORM)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn2(x))
        return self.features(self.fc(x.flatten(1)))


def _stage(channels_in: int, channels_out: int, blocks: int) -> nn.Module:
    following = (Block(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(channels_in, channels_out, 2), *following)


class MagFace(nn.Module):  # type: ignore[misc]
    """The trunk from an aligned face to an embedding whose norm is its quality.

    Input (N, 3, 112, 112) float32, BGR in [0, 1]; output (N, 512) float32, not normalised.

    References
    ----------
    .. [1] Meng et al., *MagFace: A Universal Representation for Face Recognition and Quality
       Assessment*, CVPR 2021, arXiv:2103.06627.
    .. [2] MagFace@99bae61, ``models/iresnet.py``.
    """

    def __init__(self, blocks: Sequence[int], embedding_size: int = EMBEDDING_SIZE) -> None:
        super().__init__()
        self.features = IResNet(blocks, embedding_size)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (N, 512) of faces (N, 3, 112, 112)."""
        return self.features(faces)


def build(variant: str) -> MagFace:
    """Build a network with fresh weights, on the CPU, in training mode.

    Parameters
    ----------
    variant
        ``iresnet18``, ``iresnet34``, ``iresnet50`` or ``iresnet100``.

    Raises
    ------
    CardError
        If the variant is unknown.
    """
    if variant not in BLOCKS:
        raise CardError(f"MagFace has no variant {variant!r}; expected one of {list(BLOCKS)}")
    return MagFace(BLOCKS[variant])


def load_official(network: MagFace, path: Path) -> None:
    """Load a checkpoint of the authors strictly into a network.

    Parameters
    ----------
    network
        Result of :func:`build` for the architecture of the checkpoint.
    path
        A ``.pth`` file with the trunk under ``module.features.``, ``features.module.`` or
        ``features.``.

    Raises
    ------
    WeightsError
        If a tensor is missing, unknown or has another shape; the message names it. If the file is
        of insightface's arcface_torch, which expects another input.
    """
    names = read_checkpoint(path)
    _refuse_other_backbones(names, path)
    blocks = _arcface_blocks(names)
    if blocks is not None:
        raise WeightsError(
            f"{str(path)!r} is an iresnet of insightface's arcface_torch with {blocks} blocks, and "
            "expects RGB in [-1, 1]; MagFace expects BGR in [0, 1] (missing: names with "
            "'features.' in front); export it with --card arcface_rgb"
        )
    load_checkpoint(network, path, prefixes=CHECKPOINT_PREFIXES)


def load_arcface(path: Path) -> MagFace:
    """Build the network of a backbone of insightface's arcface_torch, with its weights.

    Parameters
    ----------
    path
        A ``backbone.pth`` or ``model.pt`` (state dict), or a ``checkpoint_gpu_0.pt``.

    Returns
    -------
    MagFace
        With as many blocks and as long embeddings as the file; input (N, 3, 112, 112), RGB in
        [-1, 1].

    Raises
    ------
    WeightsError
        If the file is none of its iresnets, or a tensor does not fit; the message names it.
    """
    entries = read_checkpoint(path)
    _refuse_other_backbones(entries, path)
    blocks = _arcface_blocks(entries)
    if blocks is None:
        raise WeightsError(
            f"{str(path)!r} is not an iresnet of insightface's arcface_torch; expected a backbone "
            f"with {', '.join(_ARCFACE_NAMES)}"
        )
    network = MagFace(blocks, len(entries["fc.weight"]))
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eps = ARCFACE_EPS
    load_checkpoint(network.features, path)
    return network


def _refuse_other_backbones(names: Collection[str], path: Path) -> None:
    for name, kind in _OTHER_BACKBONES.items():
        if name in names or f"module.{name}" in names:
            raise WeightsError(
                f"{str(path)!r} is a {kind} of insightface's arcface_torch, which this zoo has no "
                "network for; export it to .onnx there, and that file here with --card arcface_rgb"
            )


def _arcface_blocks(names: Collection[str]) -> Optional[Tuple[int, ...]]:
    """Return the number of blocks in each stage of arcface_torch's iresnet; None for others."""
    if any(name not in names for name in _ARCFACE_NAMES):
        return None
    places: List[Set[str]] = [set(), set(), set(), set()]
    for name in names:
        for number, stage in enumerate(places, start=1):
            if name.startswith(f"layer{number}."):
                stage.add(name.split(".")[1])
    return tuple(map(len, places))
