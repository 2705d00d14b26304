"""SDD-FIQA's published weights."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import ModelCard, WeightFile

__all__ = ["CARDS", "WEIGHTS"]

WEIGHTS: Tuple[WeightFile, ...] = (
    WeightFile(
        name="sdd_fiqa_r50_pth",
        model="sdd_fiqa",
        # source: TFace@171ec14 quality/eval.py, the file name its network is loaded from
        file="SDD_FIQA_checkpoints_r50.pth",
        size=0,
        sha256="",
        licence="not stated (code: Apache-2.0)",
        commercial="unknown",
        holds="the authors' checkpoint, IR-50, refined MS1M, PyTorch",
        # source: TFace@171ec14 quality/README.md, Prediction of FIQA
        manual="open https://drive.google.com/file/d/1AM0iWVfSVWRjCriwZZ3FXiUGbcDzkF25/view",
    ),
)

CARDS: Dict[str, ModelCard] = {}
