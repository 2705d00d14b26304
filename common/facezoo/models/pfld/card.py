"""Model card of PFLD-GhostOne: 98 landmarks from a small crop, and its published weights."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

from ...card import ModelCard, OutputSpec, Preprocess, Reference, Upstream, WeightFile

__all__ = ["CARDS", "WEIGHTS"]

NUM_LANDMARKS = 98  # source: PFLD_GhostOne@7061b56 config.py, landmark number

WEIGHTS: Tuple[WeightFile, ...] = (
    WeightFile(
        name="pfld_ghostone",
        model="pfld",
        file="PFLD_GhostOne_112_1_opt_sim.onnx",
        size=2838549,  # source: PFLD_GhostOne@7061b56 onnx_models, the file itself
        sha256="74d1a83932af79c2689d9371b21f32d014552f089985f076e832e89cb18f41e8",
        licence="Apache-2.0 (repository); trained on WFLW, which is for research",
        commercial="unknown",
        holds="PFLD-GhostOne, width 1, 112x112, WFLW, 98 points, ONNX",
        url="https://github.com/AnthonyF333/PFLD_GhostOne/raw/"
        "7061b5649ffdb6e7fbb4add2372346264a160343/onnx_models/PFLD_GhostOne_112_1_opt_sim.onnx",
    ),
)

# Left in float by int8 builds, found with ``facezoo sensitivity``: 19 of the 51 convolutions, with
# four tenths of the MACs, the only matrix product, and all poolings and concatenations. With all
# layers in int8, landmarks move by three times what the accuracy gate allows.
# source: facezoo sensitivity, of the released graph
# source: measured on 400 crops of WIDER FACE val, half for calibration, half for the gate
LEFT_IN_FLOAT: Mapping[str, Any] = {
    "skip_conv_layers": [0, 1, 4, 13, 17, 18, 22, 26, 28, 30, 31, 32, 33, 35, 45, 47, 48, 49, 50],
    "skip_matmul_layers": [0],
    "exclude_layers": [
        *(4, 10, 14, 19, 22, 27, 30, 31, 37, 41, 46, 49, 54, 57),
        *(58, 64, 68, 73, 76, 81, 84, 89, 92, 93, 99, 102, 108),
    ],
}

CARDS: Dict[str, ModelCard] = {
    "pfld_ghostone": ModelCard(
        id="pfld_ghostone",
        model="pfld",
        task="face_alignment",
        summary="Finds 98 landmarks in a square crop of a face.",
        upstream=Upstream(
            paper="https://arxiv.org/abs/1902.10859",
            repository="https://github.com/AnthonyF333/PFLD_GhostOne",
            commit="7061b5649ffdb6e7fbb4add2372346264a160343",
            code_licence="Apache-2.0",
        ),
        input_name="input",
        preprocess=Preprocess(
            input_hw=(112, 112),  # source: PFLD_GhostOne@7061b56 README.md, WFLW Test Result
            fit="stretch",
            # source: PFLD_GhostOne@7061b56 dataset/datasets.py reads with OpenCV and keeps BGR
            color_conversion="RGB2BGR",
            norm="DIV255_MINUSMEAN_DIVSTD",
            mean=(0.5, 0.5, 0.5),  # source: PFLD_GhostOne@7061b56 test.py
            std=(0.5, 0.5, 0.5),  # source: same file
        ),
        outputs=(
            OutputSpec(
                "points", 2 * NUM_LANDMARKS, 0, "x and y of each landmark, 0 to 1 of the crop"
            ),
        ),
        weights="pfld_ghostone",
        quantize=LEFT_IN_FLOAT,
        references=(
            # source: PFLD_GhostOne@7061b56 README.md, WFLW Test Result
            Reference("WFLW test", "NME", 5.207, "%", False, "PFLD_GhostOne README.md"),
        ),
    )
}
