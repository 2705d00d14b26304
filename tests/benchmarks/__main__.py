"""Run the benchmarks one after the other and keep what they measured.

    python -m tests.benchmarks                 all that can run here
    python -m tests.benchmarks latency prelu   some

Weights are fetched; data that cannot be fetched is found through FACEZOO_SHARED, folders of photos
to score in bulk through FACEZOO_PHOTOS (with : between them), the interpreter of an environment
with insightface and uniface through FACEZOO_PEERS. Results go to this machine's folder below
tests/benchmarks/results, from where ``facezoo docs`` puts them into the pages beside those of other
machines; each is a ratio of medians taken in one run, so that a busy machine shows as a wider
spread and not as another ratio.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from facezoo import weights

from .records import folder_of_this_machine

HERE = Path(__file__).parent


def shared(*parts):
    folder = Path(os.environ.get("FACEZOO_SHARED", ""), *parts)
    if not os.environ.get("FACEZOO_SHARED") or not folder.exists():
        raise FileNotFoundError(f"{'/'.join(parts)} is not below FACEZOO_SHARED")
    return str(folder)


def needs(package):
    if importlib.util.find_spec(package) is None:
        raise FileNotFoundError(f"the package {package} is not installed")


def prelu():
    return [str(weights.fetch("w600k_mbf"))]


def latency():
    onnx = weights.fetch("scrfd_500m_bnkps")
    pictures = [str(weights.fetch(name)) for name in ("players", "gdp", "astronaut")]
    return ["--onnx", str(onnx), "--images", *pictures]


def peers():
    words = ["--photos", shared("assets", "photos"), "--weights", shared("assets", "scrfd")]
    words += ["--peers", os.environ["FACEZOO_PEERS"]] if os.environ.get("FACEZOO_PEERS") else []
    needs("openvino")
    return words


def chain():
    words = ["--photos", shared("assets", "photos"), "--weights", shared("assets", "scrfd")]
    words += ["--embedder", str(weights.fetch("w600k_mbf"))]
    if not os.environ.get("FACEZOO_PEERS"):
        raise FileNotFoundError("FACEZOO_PEERS names no interpreter with the peers")
    return [*words, "--peers", os.environ["FACEZOO_PEERS"]]


def embedding():
    needs("openvino")
    return [str(weights.fetch("w600k_mbf"))]


def scaling():
    onnx = weights.fetch("scrfd_500m_bnkps")
    return ["--onnx", str(onnx), "--photos", shared("assets", "photos")]


def widerface_eval():
    return [
        shared("assets", "widerface", "pred_retinaface_ajmalrasi.tar.gz"),
        shared("assets", "widerface", "ground_truth"),
    ]


def start():
    return [*widerface_eval(), "--text", str(folder_of_this_machine() / "start.txt")]


def pipnet_decode():
    needs("torch")
    return []


def predict():
    weights.fetch("scrfd_500m_bnkps"), weights.fetch("w600k_mbf")
    return ["--photos", shared("assets", "photos")]


def score():
    needs("ray")
    weights.fetch("scrfd_500m_bnkps"), weights.fetch("w600k_mbf")
    if not os.environ.get("FACEZOO_PHOTOS"):
        raise FileNotFoundError("FACEZOO_PHOTOS names no folders, with : between them")
    words = ["--count", "350", "--whole", "--text", str(folder_of_this_machine() / "score.txt")]
    return ["--photos", *os.environ["FACEZOO_PHOTOS"].split(":"), *words]


def gallery():
    needs("faiss")
    return ["--text", str(folder_of_this_machine() / "gallery.txt")]


def widerface_val():
    folders = [Path(one) for one in os.environ.get("FACEZOO_PHOTOS", "").split(":") if one]
    found = [str(one) for one in folders if (one / "0--Parade").is_dir()]
    if not found or not os.environ.get("FACEZOO_PEERS"):
        raise FileNotFoundError(
            "FACEZOO_PHOTOS names no WIDER_val/images, or FACEZOO_PEERS nothing"
        )
    words = ["--photos", found[0], "--gt", shared("assets", "widerface", "ground_truth")]
    words += ["--weights", shared("assets", "scrfd")]
    return [*words, "--peers", os.environ["FACEZOO_PEERS"]]


def training():
    needs("torch")
    return ["--text", str(folder_of_this_machine() / "training.txt")]


def long_run():
    results = folder_of_this_machine()
    plot = HERE.parent.parent / "images" / f"plot_long_run-{results.name}.png"
    where = ["--text", str(results / "long_run.txt"), "--plot", str(plot)]
    return ["--photos", shared("assets", "photos"), *where]


def int8():
    needs("openvino")
    large = shared("assets", "scrfd", "scrfd_2.5g.onnx")
    return [shared("assets", "photos"), "--large", large]


def photos():
    return [shared("assets", "photos")]


def quota():
    needs("openvino")
    return photos()


# Name of the file after bench_ to what gives its arguments.
BENCHMARKS = {
    "peers": peers,
    "chain": chain,
    "embedding": embedding,
    "latency": latency,
    "scaling": scaling,
    "prelu": prelu,
    "int8": int8,
    "image2npz": list,
    "widerface_eval": widerface_eval,
    "widerface_val": widerface_val,
    "start": start,
    "verification": list,
    "pseudo_labels": list,
    "pipnet_decode": pipnet_decode,
    "predict": predict,
    "score": score,
    "gallery": gallery,
    "training": training,
    "long_run": long_run,
    "quota": quota,
    "saturation": photos,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    args = parser.parse_args()
    unknown = set(args.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    results, failed = folder_of_this_machine(), 0
    for name in args.names or BENCHMARKS:
        print(f"== {name}", flush=True)
        try:
            words = BENCHMARKS[name]()
        except FileNotFoundError as error:
            print(f"skipped: {error}")
            continue
        command = [sys.executable, str(HERE / f"bench_{name}.py"), *words]
        failed += subprocess.call([*command, "--json", str(results / f"{name}.json")]) != 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
