"""Model cards of SDD-FIQA and its published weights."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import ModelCard, OutputSpec, Preprocess, Upstream, VendorFiles, WeightFile

__all__ = ["CARDS", "VENDOR_FILES", "WEIGHTS"]

# Names used by the vendor's recipe.
VENDOR_FILES = VendorFiles(build="", vdsp="tface", default="sdd_fiqa_r50")

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

UPSTREAM = Upstream(
    paper="https://arxiv.org/abs/2103.05977",
    repository="https://github.com/Tencent/TFace/tree/master/quality",
    commit="171ec1434aca0972e111663ac646c9c1e3e44b5b",
    code_licence="Apache-2.0",
)

PREPROCESS = Preprocess(
    input_hw=(112, 112),
    fit="stretch",
    norm="DIV255_MINUSMEAN_DIVSTD",
    mean=(0.5, 0.5, 0.5),  # source: TFace@171ec14 quality/eval.py
    std=(0.5, 0.5, 0.5),  # source: same file
)


def _card(card_id: str, weights: str) -> ModelCard:
    # The authors publish their results only as an image, so there are no numbers to quote.
    return ModelCard(
        id=card_id,
        model="sdd_fiqa",
        task="face_quality",
        summary="Scores how useful an aligned face is for recognition.",
        upstream=UPSTREAM,
        input_name="input",
        preprocess=PREPROCESS,
        outputs=(
            OutputSpec("quality", 1, 0, "unbounded, pseudo-labels were 0 to 100; higher is better"),
        ),
        weights=weights,
    )


CARDS: Dict[str, ModelCard] = {
    card.id: card
    for card in (
        _card("sdd_fiqa_r50", "sdd_fiqa_r50_pth"),
        _card("sdd_fiqa_mobilefacenet", ""),
    )
}
