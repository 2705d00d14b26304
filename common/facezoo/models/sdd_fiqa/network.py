"""SDD-FIQA networks in torch: IR-50 and MobileFaceNet with a quality head, authors' names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ...errors import CardError
from ...graphs.export import load_checkpoint

__all__ = ["VARIANTS", "build", "load_official", "load_trunk"]

# source: TFace@171ec14 quality/generate_pseudo_labels/extract_embedding/model/model.py;
# channels and number of blocks per stage
IR50_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
# source: same folder, model_mobilefaceNet.py; channels and expanded channels of the step into a
# stage, then number and expanded channels of its residual blocks
MOBILE_STAGES = ((64, 128, 4, 128), (128, 256, 6, 256), (128, 512, 2, 256))
TRUNK_VALUES = 512 * 7 * 7  # both trunks end with 512 maps of 7x7
DROPOUT = 0.5  # source: both files, quality head
# Names of the layers after the trunk, in a recogniser with such a trunk and in a quality network.
# source: both files
HEADS = ("output_layer.", "quality.")


def _quality_head() -> nn.Module:
    # One slope per value, not per channel, as in the authors' code.
    return nn.Sequential(
        nn.Flatten(), nn.PReLU(TRUNK_VALUES), nn.Dropout(DROPOUT), nn.Linear(TRUNK_VALUES, 1)
    )


class Bottleneck(nn.Module):  # type: ignore[misc]
    """Residual block of IR-50; a shortcut with equal channels is subsampled, not convolved."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        if channels_in == channels_out:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class QualityIr50(nn.Module):  # type: ignore[misc]
    """The published network: an IR-50 trunk and the quality head."""

    def __init__(self) -> None:
        super().__init__()
        width = IR50_STAGES[0][0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        self.quality = _quality_head()
        blocks = []
        for channels, count in IR50_STAGES:
            blocks.append(Bottleneck(width, channels, 2))
            blocks.extend(Bottleneck(channels, channels, 1) for _ in range(count - 1))
            width = channels
        self.body = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return self.quality(self.body(self.input_layer(faces)))


class ConvNorm(nn.Module):  # type: ignore[misc]
    """Convolution, norm and, unless it is a projection, PReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels_out)
        self.prelu = nn.PReLU(channels_out) if activation else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(self.bn(self.conv(x)))


class DepthWise(nn.Module):  # type: ignore[misc]
    """Expand, depthwise convolution, project; residual if the shape is kept."""

    def __init__(self, channels_in: int, channels_out: int, expanded: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels_in, expanded)
        self.conv_dw = ConvNorm(expanded, expanded, 3, stride, groups=expanded)
        self.project = ConvNorm(expanded, channels_out, activation=False)
        self.residual = stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Residual(nn.Module):  # type: ignore[misc]
    """A sequence of residual blocks, with the authors' extra ``model.`` in the names."""

    def __init__(self, channels: int, count: int, expanded: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(DepthWise(channels, channels, expanded, 1) for _ in range(count))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class QualityMobileFaceNet(nn.Module):  # type: ignore[misc]
    """The authors' small variant: a MobileFaceNet trunk and the quality head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 3, 2)
        self.conv2_dw = ConvNorm(64, 64, 3, groups=64)
        width = 64
        for number, (channels, step, count, expanded) in enumerate(MOBILE_STAGES, start=3):
            self.add_module(f"conv_{number - 1}{number}", DepthWise(width, channels, step, 2))
            self.add_module(f"conv_{number}", Residual(channels, count, expanded))
            width = channels
        self.conv_6_sep = ConvNorm(width, 512)
        self.quality = _quality_head()

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        x = faces
        for stage in self.children():
            x = stage(x)
        return x


VARIANTS = {"r50": QualityIr50, "mobilefacenet": QualityMobileFaceNet}


def build(variant: str) -> nn.Module:
    """Build a quality network with fresh weights, on the CPU, in training mode.

    Input (N, 3, 112, 112) float32, RGB in [-1, 1]; output (N, 1) float32, unbounded, on the scale
    of the pseudo-labels it was trained on (0 to 100 for the authors' weights); higher is better.

    Parameters
    ----------
    variant
        ``r50`` or ``mobilefacenet``.

    Raises
    ------
    CardError
        If the variant is unknown.

    References
    ----------
    .. [1] Ou et al., *SDD-FIQA: Unsupervised Face Image Quality Assessment with Similarity
       Distribution Distance*, CVPR 2021, arXiv:2103.05977.
    .. [2] TFace@171ec14, ``quality/generate_pseudo_labels/extract_embedding/model``.
    """
    if variant not in VARIANTS:
        raise CardError(f"SDD-FIQA has no variant {variant!r}; expected one of {list(VARIANTS)}")
    return VARIANTS[variant]()


def load_official(network: nn.Module, path: Path) -> None:
    """Load a checkpoint of the authors strictly: no weight may stay random.

    Parameters
    ----------
    network
        Result of :func:`build` for the variant of the checkpoint.
    path
        A plain state dict, with or without ``module.`` before the names.

    Raises
    ------
    WeightsError
        If a tensor is missing, unknown or has another shape; the message names it.
    """
    load_checkpoint(network, path, prefixes=("module.",))


def load_trunk(network: nn.Module, path: Path) -> None:
    """Load the weights of a recogniser into the trunk, strictly; the quality head is unchanged.

    Parameters
    ----------
    network
        Result of :func:`build` for the variant with the recogniser's trunk.
    path
        A recogniser of the authors (its head is skipped), or a quality network.

    Raises
    ------
    WeightsError
        If a tensor of the trunk is missing or has another shape, or one is unknown; the message
        names it.
    """
    left_out = {f"{prefix}{head}": None for prefix in ("", "module.") for head in HEADS}
    head, network.quality = network.quality, nn.Identity()
    try:
        load_checkpoint(network, path, prefixes={"module.": "", **left_out})
    finally:
        network.quality = head
