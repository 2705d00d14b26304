"""SCRFD's cards: eight variants of one face detector, and their published weights."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import ModelCard, OutputSpec, Preprocess, Reference, Upstream, WeightFile

__all__ = ["CARDS", "WEIGHTS"]

STRIDES = (8, 16, 32)  # source: insightface@7fadd42 configs/scrfd/scrfd_500m.py anchor strides
ANCHORS_PER_CELL = 2  # source: same file, anchor_generator scales=[1, 2]

UPSTREAM = Upstream(
    paper="https://arxiv.org/abs/2105.04714",
    repository="https://github.com/deepinsight/insightface/tree/master/detection/scrfd",
    commit="80e20d868f25344051ae30729257953ed4d3bc43",
    code_licence="MIT",
)

PREPROCESS = Preprocess(
    input_hw=(640, 640),
    fit="letterbox",
    anchor="center",
    rounding="floor",
    resize="BILINEAR_CV",
    norm="MINUSMEAN_DIVSTD",
    mean=(127.5, 127.5, 127.5),  # source: insightface@7fadd42 configs/scrfd/scrfd_500m.py
    std=(128.0, 128.0, 128.0),  # source: same file; not 127.5, which recognition uses
)

# source: insightface@7fadd42 detection/scrfd/README.md, WIDER FACE val, long side 640:
# variant -> easy, medium, hard
PUBLISHED_AP = {
    "scrfd_500m": (90.57, 88.12, 68.51),
    "scrfd_500m_bnkps": (90.97, 88.44, 69.49),
    "scrfd_1g": (92.38, 90.57, 74.80),
    "scrfd_2.5g": (93.78, 92.16, 77.87),
    "scrfd_2.5g_bnkps": (93.80, 92.02, 77.13),
    "scrfd_10g": (95.16, 93.87, 83.05),
    "scrfd_10g_bnkps": (95.40, 94.01, 82.80),
    "scrfd_34g": (96.06, 94.92, 85.29),
}

# Weights of a variant by the name `facezoo download` takes; variants that no project publishes as
# a file (only as a checkpoint behind a login) have none.
WEIGHTS_OF = {
    "scrfd_500m_bnkps": "scrfd_500m_bnkps",
    "scrfd_2.5g_bnkps": "scrfd_2.5g_bnkps",
    "scrfd_10g_bnkps": "scrfd_10g_bnkps",
}

WEIGHTS: Tuple[WeightFile, ...] = ()


def _outputs(landmarks: bool) -> Tuple[OutputSpec, ...]:
    heads = [("score", 1, "logits of being a face; apply a sigmoid")]
    heads.append(("bbox", 4, "distances left, top, right, bottom of the cell, in strides"))
    if landmarks:
        heads.append(("kps", 10, "five x, y offsets from the cell, in strides"))
    return tuple(
        OutputSpec(f"{head}_{stride}", size * ANCHORS_PER_CELL, stride, meaning)
        for head, size, meaning in heads
        for stride in STRIDES
    )


def _card(variant: str) -> ModelCard:
    landmarks = variant.endswith("_bnkps")
    found = "boxes, scores and five landmarks" if landmarks else "boxes and scores"
    return ModelCard(
        id=variant,
        model="scrfd",
        task="face_detection",
        summary=f"A photo in, faces out: {found}.",
        upstream=UPSTREAM,
        input_name="input.1",
        preprocess=PREPROCESS,
        outputs=_outputs(landmarks),
        decode={"strides": list(STRIDES), "anchors_per_cell": ANCHORS_PER_CELL},
        weights=WEIGHTS_OF.get(variant, ""),
        references=tuple(
            Reference(
                dataset="WIDER FACE val",
                metric=f"AP {level}",
                value=value,
                unit="%",
                higher_is_better=True,
                printed_in="insightface detection/scrfd/README.md",
            )
            for level, value in zip(("easy", "medium", "hard"), PUBLISHED_AP[variant])
        ),
    )


CARDS: Dict[str, ModelCard] = {variant: _card(variant) for variant in PUBLISHED_AP}
