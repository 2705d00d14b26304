"""PIPNet's published weights."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import ModelCard, WeightFile

__all__ = ["CARDS", "WEIGHTS"]

# source: PIPNet@b9eab58 README.md, Demo, step 2: one Google Drive folder with all trained models
SNAPSHOTS = "https://drive.google.com/drive/folders/17OwDgJUfuc5_ymQ3QruD8pUnh5zHreP2"


def _snapshot(backbone: str, experiment: str) -> WeightFile:
    return WeightFile(
        name=f"pipnet_{backbone}_wflw_98_pth",
        model="pipnet",
        file=f"pipnet_{backbone}_wflw_98.pth",
        size=0,
        sha256="",
        licence="not stated (code: MIT)",
        commercial="unknown",
        holds=f"the authors' snapshot, ResNet-{backbone[1:]}, WFLW, PyTorch",
        manual=f"open {SNAPSHOTS} and take epoch59.pth out of WFLW/{experiment}",
    )


WEIGHTS: Tuple[WeightFile, ...] = (
    WeightFile(
        name="pipnet_r18_wflw_98",
        model="pipnet",
        file="pipnet_r18_wflw_98.onnx",
        size=0,
        # source: uniface@d1df387 uniface/constants.py, PIPNetWeights.WFLW_98
        sha256="9862838dc6144bc772b6485f6f6d31295c0b1c1ab7293e6ddeb0a439cb10218d",
        # source: uniface@d1df387 docs/license-attribution.md; docs/datasets.md for WFLW
        licence="MIT, says its publisher",
        commercial="unknown",
        holds="PIPNet, ResNet-18, WFLW, 98 points, ONNX (47 MB)",
        url="https://github.com/yakhyo/pipnet-onnx/releases/download/weights/"
        "pipnet_r18_wflw_98.onnx",
    ),
    # source: PIPNet@b9eab58 experiments/WFLW, run_demo.sh: 60 epochs, the last is epoch59
    _snapshot("r18", "pip_32_16_60_r18_l2_l1_10_1_nb10"),
    _snapshot("r101", "pip_32_16_60_r101_l2_l1_10_1_nb10"),
)

CARDS: Dict[str, ModelCard] = {}
