"""PIPNet network in torch: five backbones with the authors' parameter names.

A backbone is an ordered table of stages (name to module) and its output channels; the following
layers (a change of stride, five 1x1 heads) are the same for all.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from torch import nn
from torchvision import models

from ...errors import InputError
from ...graphs.export import load_checkpoint, read_checkpoint

__all__ = ["BACKBONES", "PipNet", "build", "load_start"]

Stages = Dict[str, nn.Module]

NECK_CHANNELS = 512  # source: PIPNet@b9eab58 lib/networks.py, layer5, layer6, deconv1
HEAD_STD = 0.001  # source: same file, nn.init.normal_ of heads and neck

# source: PIPNet@b9eab58 lib/mobilenetv3.py mobilenetv3_large: kernel, expanded channels, channels
# out, squeeze-and-excite, hard swish (else ReLU), stride
MOBILENET_V3_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class SqueezeExcite(nn.Module):  # type: ignore[misc]
    """Scale each channel by a factor computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _multiple_of_8(channels // 4)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors = self.fc(self.avg_pool(x).flatten(1))
        return x * factors[:, :, None, None]


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """Block of MobileNetV3 as in the authors' port: squeeze-and-excite before the activation."""

    def __init__(
        self,
        channels: int,
        kernel: int,
        expanded: int,
        channels_out: int,
        squeeze: bool,
        hard_swish: bool,
        stride: int,
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hard_swish else partial(nn.ReLU, inplace=True)
        layers = []  # their positions are parameter names
        if expanded != channels:
            layers = [nn.Conv2d(channels, expanded, 1, bias=False), nn.BatchNorm2d(expanded)]
            layers.append(activation())
        layers += [
            nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            SqueezeExcite(expanded) if squeeze else nn.Identity(),
            activation(),
            nn.Conv2d(expanded, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        self.conv = nn.Sequential(*layers)
        self.identity = stride == 1 and channels == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.identity else self.conv(x)


class PipNet(nn.Module):  # type: ignore[misc]
    """Pixel-in-pixel net: predicts each landmark and its neighbours on a coarse grid.

    Input (B, 3, S, S) float32, RGB, ImageNet mean and standard deviation. Outputs, with N
    landmarks, K neighbours and maps of S / net_stride per side: ``cls`` (B, N, h, w), higher at
    the landmark, no activation; ``x`` and ``y`` (B, N, h, w), offsets from the cell's corner in
    cells; ``nb_x`` and ``nb_y`` (B, N K, h, w), the offsets of landmark n's neighbour k in channel
    n K + k.

    References
    ----------
    .. [1] Jin et al., *Pixel-in-Pixel Net: Towards Efficient Facial Landmark Detection in the
       Wild*, IJCV 2021, arXiv:2003.03771.
    .. [2] PIPNet@b9eab58, ``lib/networks.py``.
    """

    def __init__(
        self,
        stages: Stages,
        channels: int,
        num_landmarks: int,
        num_neighbors: int,
        input_size: int,
        net_stride: int,
    ) -> None:
        super().__init__()
        self.num_landmarks = num_landmarks
        self.num_neighbors = num_neighbors
        self.input_size = input_size
        self.net_stride = net_stride
        neck, channels = _neck(channels, net_stride)
        for name, module in {**stages, **neck}.items():
            self.add_module(name, module)
        self._stages = (*stages, *neck)
        neighbors = num_landmarks * num_neighbors
        self.cls_layer = _head(channels, num_landmarks)
        self.x_layer = _head(channels, num_landmarks)
        self.y_layer = _head(channels, num_landmarks)
        self.nb_x_layer = _head(channels, neighbors)
        self.nb_y_layer = _head(channels, neighbors)

    def blocks(self) -> List[nn.Module]:
        """Return the layers below the heads in their order; a MobileNet's blocks one by one."""
        stages = [(name, getattr(self, name)) for name in self._stages]
        return [block for name, stage in stages for block in _blocks_of(name, stage)]

    def heads_at(
        self, features: torch.Tensor, at: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the outputs, offsets only in one cell per landmark.

        The losses need no more, and the offsets of all cells are most of what the heads compute.

        Parameters
        ----------
        features
            Output of the last block, (B, C, h, w).
        at
            Shape (B, N), int64: index of the cell of each landmark, row by row.

        Returns
        -------
        tuple of torch.Tensor
            ``cls`` (B, N, h, w); ``x``, ``y`` (B, N); ``nb_x``, ``nb_y`` (B, N, K).
        """
        cells = features.flatten(2).transpose(1, 2)
        here = cells.gather(1, at[..., None].expand(-1, -1, cells.shape[2]))
        offsets = (
            torch.einsum(
                "bnc,nkc->bnk", here, layer.weight.view(self.num_landmarks, -1, here.shape[2])
            )
            + layer.bias.view(self.num_landmarks, -1)
            for layer in (self.x_layer, self.y_layer, self.nb_x_layer, self.nb_y_layer)
        )
        x, y, nb_x, nb_y = offsets
        return self.cls_layer(features), x[..., 0], y[..., 0], nb_x, nb_y

    def forward(self, faces: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Return cls, x, y, nb_x and nb_y as described above."""
        features = faces
        for name in self._stages:
            features = getattr(self, name)(features)
        return (
            self.cls_layer(features),
            self.x_layer(features),
            self.y_layer(features),
            self.nb_x_layer(features),
            self.nb_y_layer(features),
        )


def _blocks_of(name: str, stage: nn.Module) -> List[nn.Module]:
    return list(stage) if name == "features" else [stage]


def load_start(network: PipNet, path: Path) -> None:
    """Load weights to start a training from, strictly.

    Parameters
    ----------
    network
        Result of :func:`build`.
    path
        A whole network of the same shape, or a backbone under its names, such as torchvision's
        file of weights; the heads and the neck then keep theirs, and the file's classifier is
        skipped.

    Raises
    ------
    WeightsError
        If the file cannot be read, or a tensor is missing or has another shape; names it.
    """
    weights = read_checkpoint(path)
    heads = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")
    if any(name.rpartition("module.")[2].startswith(heads) for name in weights):
        load_checkpoint(network, path)
        return
    backbone = nn.Module()
    for name, stage in network.named_children():
        if name not in heads and name not in NECK_NAMES:
            backbone.add_module(name, stage)
    skipped = {prefix: None for prefix in ("classifier.", "fc.")}
    load_checkpoint(backbone, path, prefixes={"module.": "", **skipped})


def build(
    backbone: str,
    num_landmarks: int = 98,
    num_neighbors: int = 10,
    input_size: int = 256,
    net_stride: int = 32,
) -> PipNet:
    """Build a network with fresh weights, on the CPU, in training mode.

    Parameters
    ----------
    backbone
        ``resnet18``, ``resnet50``, ``resnet101``, ``mobilenet_v2`` or ``mobilenet_v3``.
    num_landmarks
        Landmarks of the data set: 98 for WFLW, 68 for 300W, 29 for COFW, 19 for AFLW.
    num_neighbors
        Number of neighbours that each landmark also predicts.
    input_size
        Side of the square input in pixels, a multiple of ``net_stride``.
    net_stride
        Input pixels per cell of the maps: 16, 32, 64 or 128. The authors use 16 with ResNet-18 and
        64 and 128 with ResNets; here their additional layers work with any backbone.

    Raises
    ------
    InputError
        If a value is invalid, or the input is not an integer number of cells.
    """
    if backbone not in BACKBONES:
        raise InputError(f"PIPNet has no backbone {backbone!r}; expected one of {list(BACKBONES)}")
    if net_stride not in NECKS:
        raise InputError(f"net_stride must be one of {list(NECKS)}, got {net_stride}")
    if input_size < net_stride or input_size % net_stride:
        raise InputError(f"input_size must be a multiple of {net_stride}, got {input_size}")
    if not 1 <= num_neighbors < num_landmarks:
        raise InputError(
            f"num_neighbors must be from 1 to {num_landmarks - 1} for {num_landmarks} landmarks, "
            f"got {num_neighbors}"
        )
    stages, channels = BACKBONES[backbone]()
    return PipNet(stages, channels, num_landmarks, num_neighbors, input_size, net_stride)


def _resnet(make: Callable[..., nn.Module], channels: int) -> Tuple[Stages, int]:
    resnet = make(weights=None)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return {name: getattr(resnet, name) for name in names}, channels


def _mobilenet_v2() -> Tuple[Stages, int]:
    return {"features": models.mobilenet_v2(weights=None).features}, 1280


def _mobilenet_v3() -> Tuple[Stages, int]:
    # torchvision's MobileNetV3 uses other names and another order inside a block.
    layers = [_conv_norm_swish(3, 16, kernel=3, stride=2)]
    channels, expanded = 16, 16
    for kernel, expanded, channels_out, squeeze, hard_swish, stride in MOBILENET_V3_BLOCKS:
        layers.append(
            InvertedResidual(channels, kernel, expanded, channels_out, squeeze, hard_swish, stride)
        )
        channels = channels_out
    stages = {"features": nn.Sequential(*layers), "conv": _conv_norm_swish(channels, expanded)}
    for stage in stages.values():
        stage.apply(_initialise)
    return stages, expanded


def _conv_norm_swish(
    channels: int, channels_out: int, kernel: int = 1, stride: int = 1
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.Hardswish(),
    )


def _multiple_of_8(channels: int) -> int:
    """Round to a multiple of 8, but never down by more than a tenth."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _neck(channels: int, net_stride: int) -> Tuple[Stages, int]:
    """Return the stages that convert maps of stride 32 to another stride, and their channels."""
    layers: Stages = {}
    for name, norm, make in NECKS[net_stride]:
        layers[name] = make(channels)
        nn.init.normal_(layers[name].weight, std=HEAD_STD)
        layers[norm] = nn.BatchNorm2d(NECK_CHANNELS)
        layers[f"{norm}_relu"] = nn.ReLU(inplace=True)
        channels = NECK_CHANNELS
    return layers, channels


def _halve(channels: int) -> nn.Module:
    return nn.Conv2d(channels, NECK_CHANNELS, 3, 2, padding=1)


def _double(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, NECK_CHANNELS, 4, 2, padding=1, bias=False)


def _head(channels: int, outputs: int) -> nn.Module:
    head = nn.Conv2d(channels, outputs, 1)
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)
    return head


def _initialise(module: nn.Module) -> None:
    # source: PIPNet@b9eab58 lib/mobilenetv3.py _initialize_weights
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


# Stride to the layers after the backbone: name, name of the norm, constructor of the layer.
NECKS: Dict[int, Tuple[Tuple[str, str, Callable[[int], nn.Module]], ...]] = {
    16: (("deconv1", "bn_deconv1", _double),),
    32: (),
    64: (("layer5", "bn5", _halve),),
    128: (("layer5", "bn5", _halve), ("layer6", "bn6", _halve)),
}
NECK_NAMES = {name for neck in NECKS.values() for layer in neck for name in layer[:2]}

BACKBONES: Dict[str, Callable[[], Tuple[Stages, int]]] = {
    "resnet18": partial(_resnet, models.resnet18, 512),
    "resnet50": partial(_resnet, models.resnet50, 2048),
    "resnet101": partial(_resnet, models.resnet101, 2048),
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3": _mobilenet_v3,
}
