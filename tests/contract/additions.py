"""A model, a backend, a metric and a verb of nobody's, as somebody would add them by hand.

Each function writes into a copy of the repository and does nothing that CONTRIBUTING does not ask.
"""

import re
from pathlib import Path

import numpy as np
import onnx
from facezoo.files import sha256_of
from facezoo.testing import tiny_sdd_fiqa

CODE = "common/facezoo"
RECIPE = "face_quality/gradient"

CARD = '''"""Gradient's card and published weights."""

from __future__ import annotations

from typing import Dict, Tuple

from ...card import ModelCard, OutputSpec, Preprocess, Upstream, WeightFile

__all__ = ["CARDS", "WEIGHTS"]

WEIGHTS: Tuple[WeightFile, ...] = (
    WeightFile(
        name="gradient",
        model="gradient",
        file="gradient.onnx",
        size=SIZE,  # source: the file itself
        sha256="SHA256",
        licence="MIT",
        commercial="yes",
        holds="one convolution",
        url="https://example.org/gradient.onnx",
    ),
)
CARDS: Dict[str, ModelCard] = {
    "gradient": ModelCard(
        id="gradient",
        model="gradient",
        task="face_quality",
        summary="An aligned face in, a score out of how sharp it is.",
        upstream=Upstream("", "https://example.org/gradient", "0" * 40, "MIT"),
        input_name="input",
        preprocess=Preprocess(
            input_hw=(112, 112),
            norm="DIV255_MINUSMEAN_DIVSTD",
            mean=(0.5, 0.5, 0.5),  # source: nobody's; this model is made up
            std=(0.5, 0.5, 0.5),  # source: as above
        ),
        outputs=(OutputSpec("quality", 1, 0, "0 to 100; higher is better"),),
        weights="gradient",
    )
}
'''
DECODE = '''"""From the network's output to scores."""

from __future__ import annotations

from typing import List

from ...errors import DecodeError
from ...results import QualityScore, RawOutputs

__all__ = ["decode"]


def decode(raw: RawOutputs) -> List[QualityScore]:
    """Turn the output of a batch into scores."""
    (scores,) = raw.arrays.values()
    if scores.shape != (len(raw.placements), 1):
        raise DecodeError(f"the output must have shape (B, 1), got {scores.shape}")
    return [QualityScore(float(score)) for score in scores[:, 0]]
'''
MODEL = '''"""Gradient: an aligned face to a score."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from ...results import QualityScore
from ..base import FaceModel
from .decode import decode

__all__ = ["MODEL", "Gradient"]


class Gradient(FaceModel[QualityScore]):
    """Gradient on some runtime."""

    def batch(
        self, images_rgb: Sequence[np.ndarray], *, shared: bool = False
    ) -> List[QualityScore]:
        """Score several faces; see :meth:`FaceModel.batch`."""
        return decode(self._infer(images_rgb, shared))


MODEL = Gradient
'''
GRAPH = '''"""The published graph with the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
from onnx import helper

from ...backends.ort import run_graph
from ...card import ModelCard
from ...contract import Contract, load_graph
from ...errors import GraphError
from ...files import sha256_of, write_bytes
from .card import CARDS

__all__ = ["export_released"]


def export_released(
    source: Path, target: Path, *, batch: Optional[int] = None
) -> Tuple[ModelCard, float]:
    """Give the published graph the contract, once both graphs give the same."""
    card = CARDS["gradient"]
    model, named = load_graph(source, check=True), load_graph(source)
    helper.set_model_props(named, Contract.from_card(card, sha256_of(source)).to_metadata())
    noise = np.random.default_rng(0).uniform(-1, 1, (batch or 2, 3, 112, 112)).astype(np.float32)
    runs = [run_graph(one, {card.input_name: noise})["quality"] for one in (model, named)]
    worst = float(np.abs(runs[0] - runs[1]).max())
    if not worst < 1e-5:
        raise GraphError(f"{str(source)!r} changes with the contract by {worst:.2e}")
    write_bytes(Path(target), named.SerializeToString())
    return card, worst
'''
MODEL_TEST = '''"""Gradient's decoder against a score by hand and the authors' code."""

import numpy as np
from facezoo.models.gradient.decode import decode
from facezoo.results import Placement, RawOutputs


def test_scores_equal_the_authors(golden):
    scores = np.load(golden / "gradient" / "scores.npz")["scores"]
    whole = Placement((1.0, 1.0), 0.0, 0.0, (112, 112), (112, 112))
    raw = RawOutputs({"quality": scores}, (whole, whole))
    assert [score.value for score in decode(raw)] == [0.0, 100.0]
'''
STEPS = """\
```bash
cd face_quality/gradient/workspace
facezoo download gradient
python ../../../common/utils/export_onnx.py --card gradient --output onnx/gradient.onnx
facezoo vamc compile ../build_in/build/official_gradient.yaml
python ../../../common/utils/infer.py --file_path photos --save_dir out \\
    --model_prefix_path deploy_weights/official_gradient_fp16/mod
python ../../../common/utils/image2npz.py --dataset_path photos --target_path npz \\
    --text_path list.txt
facezoo vamp -m deploy_weights/official_gradient_fp16/mod -i 1 -p 1 -b 1 --datalist list.txt \\
    --path_output output
python ../../../common/utils/npz_decode.py --vamp_datalist_path list.txt \\
    --vamp_output_dir output --save_dir decoded
```
"""
CODE_TABLE = """\
| What | File | Function |
| --- | --- | --- |
| facts | [card.py](../../common/facezoo/models/gradient/card.py) | `CARDS` |
| export | [graph.py](../../common/facezoo/models/gradient/graph.py) | `export_released` |
| decode | [decode.py](../../common/facezoo/models/gradient/decode.py) | `decode` |
| in Python | [model.py](../../common/facezoo/models/gradient/model.py) | `Gradient` |
| runner | [infer.py](../../common/utils/infer.py) | `run` |
| npz decoder | [decode.py](../../common/facezoo/cli/decode.py) | `run` |
"""
PAGES = {
    "README.md": (
        "An aligned face goes in; one number comes out.",
        "**Without files by hand:** every step.",
        "[中文](README.zh-CN.md)",
    ),
    "README.zh-CN.md": (
        "输入一张对齐的人脸，输出一个数。",
        "**无需手动下载文件：** 所有步骤。",
        "[English](README.md)",
    ),
}
BLOCKS = {
    0: "facts gradient",
    1: "variants gradient",
    6: "accuracy gradient",
    -1: "weights gradient",
}


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def insert(root, name, before, text):
    content = (root / name).read_text("utf-8")
    assert content.count(before) == 1, (name, before)
    write(root, name, content.replace(before, text + before))


def published(folder: Path) -> Path:
    """Write what the made-up authors publish: a graph without a contract."""
    path = folder / "gradient.onnx"
    graph = onnx.load(tiny_sdd_fiqa(path))
    del graph.metadata_props[:]
    onnx.save(graph, path)
    return path


def page(root, name):
    """Write the recipe's page under the headings of another, without the original recipe's."""
    text = (root / "face_quality/sdd_fiqa" / name).read_text("utf-8")
    headings = [one for one in re.findall(r"^## (.+)$", text, re.M) if " → " not in one]
    bodies = dict.fromkeys(range(len(headings)), "–\n")
    language = " zh" if "zh" in name else ""
    for index, block in BLOCKS.items():
        begin = f"<!-- facezoo:begin {block}{language} -->"
        bodies[index % len(headings)] = f"{begin}\n<!-- facezoo:end -->\n"
    shown = f"{RECIPE}/expected/info.txt"
    bodies.update({2: STEPS, 3: CODE_TABLE})
    bodies[4] = f"<!-- facezoo:begin file {shown} -->\n<!-- facezoo:end -->\n"
    sections = [f"## {heading}\n\n{bodies[index]}" for index, heading in enumerate(headings)]
    return "\n".join(["# Gradient\n", *(f"{line}\n" for line in PAGES[name]), *sections])


def add_model(root: Path, file: Path, facezoo) -> None:
    """Write a fifth model; ``facezoo`` runs a verb of the copy and returns what it prints."""
    card = CARD.replace("SIZE", str(file.stat().st_size)).replace("SHA256", sha256_of(file))
    write(root, f"{CODE}/models/gradient/card.py", card)
    write(root, f"{CODE}/models/gradient/decode.py", DECODE)
    write(root, f"{CODE}/models/gradient/model.py", MODEL)
    write(root, f"{CODE}/models/gradient/graph.py", GRAPH)
    facezoo("doctor", "gradient", "--onnx", file, "--record")
    write(root, f"{RECIPE}/expected/info.txt", facezoo("info", file.name, cwd=file.parent))
    for name in PAGES:
        write(root, f"{RECIPE}/{name}", page(root, name))
    write(root, "tests/models/test_gradient_decode.py", MODEL_TEST)
    golden = root / "tests/golden/gradient/scores.npz"
    golden.parent.mkdir()
    np.savez(golden, scores=np.array([[0.0], [100.0]], np.float32))


BACKEND = '''"""Fastrt: a runtime of nobody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..card import Preprocess
from ..contract import Contract
from ..errors import BackendUnavailable
from .base import Graph, HostBackend

try:
    import fastrt
except ImportError:
    fastrt = None

__all__ = ["FastBackend"]


class FastBackend(HostBackend):
    """A raw-head graph on Fastrt."""

    name = "fast"

    def __init__(
        self,
        model: Path,
        contract: Contract,
        preprocess: Optional[Preprocess] = None,
        half_input: bool = False,
        threads: Optional[int] = None,
    ) -> None:
        if fastrt is None:
            raise BackendUnavailable("engine 'fast' needs the package fastrt")
        self.version = str(fastrt.__version__)
        super().__init__(model, contract, preprocess, half_input, threads)
        self.normalisation = None

    def _load(self, many: bool, pixels: bool) -> Graph:
        graph: Graph = fastrt.Graph(self.model)
        return graph
'''
# The runtime itself, which a user would install.
FASTRT = '''"""A runtime that another one computes for."""
import onnxruntime

__version__ = "1"


class Graph:
    def __init__(self, path):
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(path), providers=providers)
        self.device = "CPU"
        self.inputs = {one.name: one.shape for one in self.session.get_inputs()}
        self.outputs = [one.name for one in self.session.get_outputs()]

    def run(self, tensor):
        return self.session.run(None, {next(iter(self.inputs)): tensor.astype("float32")})
'''
BACKEND_TEST = '''"""Without its package the engine says what to install."""

import pytest
from facezoo.backends import RuntimeOptions, open_backend
from facezoo.errors import BackendUnavailable
from facezoo.testing import tiny_scrfd


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(BackendUnavailable, match="needs the package fastrt"):
        open_backend(tiny_scrfd(tmp_path / "tiny.onnx"), RuntimeOptions(engine="fast"))
'''


def add_backend(root: Path) -> None:
    """Write a runtime of this machine."""
    write(root, f"{CODE}/backends/fast.py", BACKEND)
    write(root, "tests/unit/test_fast.py", BACKEND_TEST)
    row = '    "fast": Host("FastBackend", "fastrt"),\n'
    insert(root, f"{CODE}/backends/__init__.py", '}\nENGINES = ("auto"', row)
    insert(root, "pyproject.toml", "torch = [\n", 'fast = ["fastrt>=1"]\n')
    row = "| fastrt | MIT | running graphs |\n"
    insert(root, "CONTRIBUTING.md", "| torch, torchvision | BSD", row)


METRIC = '''"""How unevenly errors are spread over faces."""

from __future__ import annotations

import numpy as np

__all__ = ["spread"]


def spread(errors: np.ndarray) -> float:
    """Return the standard deviation of the errors as a share of their mean."""
    return float(np.std(errors) / np.mean(errors))
'''
METRIC_TEST = '''"""The spread of errors, by hand."""

import numpy as np
from facezoo.metrics.spread import spread


def test_spread_by_hand():
    assert spread(np.array([1.0, 3.0])) == 0.5
'''


def add_metric(root: Path) -> None:
    """Write a number that an evaluation prints."""
    write(root, f"{CODE}/metrics/spread.py", METRIC)
    write(root, "tests/unit/test_spread.py", METRIC_TEST)
    evaluation = f"{CODE}/evaluation/landmarks.py"
    insert(root, evaluation, "from ..results import FaceD", "from ..metrics.spread import spread\n")
    insert(
        root,
        evaluation,
        "        yield f\"{'in %, with",
        '        yield f"spread: {spread(self.errors)}"\n',
    )


VERB = '''"""Say how many variants a task has.

  facezoo count face_quality
"""

from __future__ import annotations

import argparse

from ..models import CARDS

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("task", help="such as face_quality")


def run(args: argparse.Namespace) -> int:
    """Print the number."""
    print(sum(card.task == args.task for card in CARDS.values()))
    return 0
'''
VERB_TEST = '''"""The number of variants is that of the cards."""

from facezoo.cli.main import main


def test_variants_are_counted(capsys):
    assert main(["count", "face_quality"]) == 0
    assert capsys.readouterr().out == "2\\n"
'''


def add_verb(root: Path) -> None:
    """Write a verb of the command."""
    write(root, f"{CODE}/cli/count.py", VERB)
    write(root, "tests/unit/test_count.py", VERB_TEST)
    row = '        "count": "how many variants a task has",\n'
    insert(root, f"{CODE}/cli/main.py", '        "info": "parameters', row)
