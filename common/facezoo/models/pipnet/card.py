"""Model cards of PIPNet: 98 landmarks with four backbones, and their published weights."""

from __future__ import annotations

from typing import Dict, Mapping, Tuple

from ...card import ModelCard, OutputSpec, Preprocess, Reference, Upstream, VendorFiles, WeightFile

__all__ = ["CARDS", "VENDOR_FILES", "WEIGHTS"]

NUM_LANDMARKS = 98  # source: PIPNet@b9eab58 experiments/WFLW/pip_32_16_60_r18_l2_l1_10_1_nb10.py
NUM_NEIGHBORS = 10  # source: same file
NET_STRIDE = 32  # source: same file

UPSTREAM = Upstream(
    paper="https://arxiv.org/abs/2003.03771",
    repository="https://github.com/jhb86253817/PIPNet",
    commit="b9eab58816437403a34aa5bc3adeafe5081fd36b",
    code_licence="MIT",
)

PREPROCESS = Preprocess(
    input_hw=(256, 256),
    fit="stretch",
    resize="BILINEAR_CV",
    norm="DIV255_MINUSMEAN_DIVSTD",
    mean=(0.485, 0.456, 0.406),  # source: PIPNet@b9eab58 lib/test.py
    std=(0.229, 0.224, 0.225),  # source: same file
)

OUTPUTS = (
    OutputSpec("cls", NUM_LANDMARKS, NET_STRIDE, "no activation; near 1 in the landmark's cell"),
    OutputSpec("x", NUM_LANDMARKS, NET_STRIDE, "offset from the cell's left side, in cells"),
    OutputSpec("y", NUM_LANDMARKS, NET_STRIDE, "offset from the cell's upper side, in cells"),
    OutputSpec(
        "nb_x",
        NUM_LANDMARKS * NUM_NEIGHBORS,
        NET_STRIDE,
        "offsets of the landmark's neighbours, ten in a row per landmark, in cells",
    ),
    OutputSpec(
        "nb_y", NUM_LANDMARKS * NUM_NEIGHBORS, NET_STRIDE, "the same, from the cell's upper side"
    ),
)

ZOO = "VastModelZOO cv/face_alignment/pipnet/README.md"

# source: VastModelZOO@43aff36 cv/face_alignment/pipnet/README.md, WFLW test, annotated crop:
# variant -> NME in %
PUBLISHED_NME = {
    "pip_resnet18": 4.57,
    "pip_resnet101": 4.31,
    "pip_mobilenet_v2": 4.79,
    "pip_mobilenet_v3": 4.65,
}

# source: same file, step 4, ResNet-18 on the vendor's card: NME, failure rate, CED area in %
PUBLISHED_ON_CARD: Mapping[str, Mapping[str, Tuple[float, float, float]]] = {
    "pip_resnet18": {
        "VACC fp16": (4.529910186405488, 4.24, 57.48485333333334),
        "VACC int8": (4.534812201653364, 4.28, 57.41772),
    },
}

# Weights of a variant, by name for `facezoo download`; the MobileNets are not published.
WEIGHTS_OF = {
    "pip_resnet18": "pipnet_r18_wflw_98",
    "pip_resnet101": "pipnet_r101_wflw_98_pth",
}

# source: PIPNet@b9eab58 README.md, Demo, step 2: one Google Drive folder with all trained models
SNAPSHOTS = "https://drive.google.com/drive/folders/17OwDgJUfuc5_ymQ3QruD8pUnh5zHreP2"


def _snapshot(backbone: str, experiment: str, size: int, sha256: str) -> WeightFile:
    return WeightFile(
        name=f"pipnet_{backbone}_wflw_98_pth",
        model="pipnet",
        file=f"pipnet_{backbone}_wflw_98.pth",
        size=size,
        sha256=sha256,
        licence="not stated (code: MIT)",
        commercial="unknown",
        holds=f"the authors' snapshot, ResNet-{backbone[1:]}, WFLW, PyTorch",
        manual=f"open {SNAPSHOTS} and take epoch59.pth out of WFLW/{experiment}",
    )


# Names used by the vendor's recipe.
VENDOR_FILES = VendorFiles(default="pip_resnet18", triton=True)

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
    # Sizes and hashes as reported by the pointers to these files in another repository.
    # source: PIPNet_LD_Demo@56e07eb snapshots/WFLW
    _snapshot(
        "r18",
        "pip_32_16_60_r18_l2_l1_10_1_nb10",
        49_393_015,
        "44002daaf3187e6e4b99e0fd9a52f60ffa05e06ec5df3721ace950fd2f2cc120",
    ),
    _snapshot(
        "r101",
        "pip_32_16_60_r101_l2_l1_10_1_nb10",
        189_011_113,
        "63ad4b1598d8933da1fcf9170cbe4b624660bc4d42debce42ac44e90772cbba0",
    ),
)


def _references(variant: str) -> Tuple[Reference, ...]:
    found = [("NME", PUBLISHED_NME[variant], False)]
    for build, (nme, failure_rate, area) in PUBLISHED_ON_CARD.get(variant, {}).items():
        found.append((f"NME, {build}", nme, False))
        found.append((f"failure rate at 10 %, {build}", failure_rate, False))
        found.append((f"CED area to 10 %, {build}", area, True))
    return tuple(
        Reference("WFLW test", metric, value, "%", higher_is_better, ZOO)
        for metric, value, higher_is_better in found
    )


def _card(variant: str) -> ModelCard:
    return ModelCard(
        id=variant,
        model="pipnet",
        task="face_alignment",
        summary="Finds 98 landmarks with confidences in the crop of a face.",
        upstream=UPSTREAM,
        input_name="input",
        preprocess=PREPROCESS,
        outputs=OUTPUTS,
        decode={"meanface": "WFLW", "num_neighbors": NUM_NEIGHBORS},
        weights=WEIGHTS_OF.get(variant, ""),
        references=_references(variant),
    )


CARDS: Dict[str, ModelCard] = {variant: _card(variant) for variant in PUBLISHED_NME}
