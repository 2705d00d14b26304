"""What a new user has after ``pip install``: in new environments, with nothing but the wheel.

    python tests/benchmarks/bench_install.py dist/*.whl --python python3.8 python3.13 --uv uv

Each interpreter gets a new environment, home and folder, and no C compiler; with --uv the last one
also gets an environment of uv, which has no pip. There the weights are fetched and the main jobs
done. A command that fails ends the run. Needs SciPy for the small ground truth; the size is that of
all installed packages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from facezoo.machine import describe_machine
from records import folder_of_this_machine
from scipy.io import savemat

PHOTOS = ("astronaut", "players", "gdp", "yaoming")
MODEL, EMBEDDER = "scrfd_500m_bnkps", "w600k_mbf"
LOAD = f"""
import facezoo
from facezoo.image.files import read_image_rgb
with facezoo.load("{MODEL}") as detector:
    print(len(detector(read_image_rgb("photos/0--Event/astronaut.png"))), "face")
"""
IMPORTED = "import sys, facezoo; print([m for m in ('cv2', 'onnxruntime') if m in sys.modules])"
STARTS = {"import facezoo": ["-c", "import facezoo"]}
STARTS.update({f"facezoo {v}": ["-m", "facezoo", *v.split()] for v in ("--help", "list")})
STARTS["facezoo evaluate --help"] = ["-m", "facezoo", "evaluate", "--help"]
ROUNDS = 5


class Environment:
    """A new environment with its own home, in whose empty folder commands run."""

    def __init__(self, folder, python, uv=""):
        self.folder, self.uv = folder / "work", uv
        self.folder.mkdir(parents=True)
        self.bin = folder / "venv" / "bin"
        passed = ("PATH", "LANG", *(n for n in os.environ if n.startswith(("PIP_", "UV_", "SSL_"))))
        self.variables = {name: os.environ[name] for name in passed if name in os.environ}
        self.variables.update(HOME=str(folder / "home"), CC="/nonexistent")
        make = [uv, "venv", "--python", python] if uv else [python, "-m", "venv"]
        self.run(*make, folder / "venv")

    def install(self, wheel):
        pip = [self.uv, "pip", "install", "--python", self.python] if self.uv else [self.pip]
        pip += [] if self.uv else ["install", "--disable-pip-version-check"]
        before, started = self.size(), time.perf_counter()
        self.run(*pip, wheel)
        return time.perf_counter() - started, self.size() - before

    @property
    def python(self):
        return str(self.bin / "python")

    @property
    def pip(self):
        return str(self.bin / "pip")

    def size(self):
        files = self.bin.parent.rglob("*")
        return sum(path.lstat().st_size for path in files if path.is_file()) / 1e6

    def run(self, *command, code=0):
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
        )
        if done.returncode != code:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def facezoo(self, line, code=0):
        return self.run(self.bin / "facezoo", *line.split(), code=code)

    def cpu_seconds(self, arguments):
        """Return the smallest processor time of some starts, in which other work has no part."""
        times = []
        for _ in range(ROUNDS):
            before = os.times()
            self.run(self.python, *arguments)
            after = os.times()
            spent = (after.children_user + after.children_system) - (
                before.children_user + before.children_system
            )
            times.append(spent)
        return min(times)


def photos(env):
    """Fetch weights and photos, and lay the photos out as WIDER FACE has them."""
    env.facezoo(f"download {MODEL} {EMBEDDER} {' '.join(PHOTOS)}")
    home = Path(env.variables["HOME"], ".cache", "facezoo")
    for name in PHOTOS:
        (path,) = [path for path in home.glob(f"{name}.*") if path.suffix != ".onnx"]
        target = env.folder / "photos" / "0--Event" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def save_truth(folder, results):
    """Write as ground truth what was found, so that every face is found again."""

    def cells(values):
        array = np.empty((len(values), 1), dtype=object)
        for index, value in enumerate(values):
            array[index, 0] = value
        return array

    def event(values):
        return cells([cells(values)])

    images = json.loads(results.read_text())["images"]
    boxes = [np.array([face["box_xyxy"] for face in image["faces"]]) for image in images]
    for one in boxes:
        one[:, 2:] -= one[:, :2]
    names = [Path(image["path"]).stem for image in images]
    folder.mkdir()
    content = {"event_list": cells(["0--Event"]), "file_list": event(names)}
    savemat(folder / "wider_face_val.mat", {**content, "face_bbx_list": event(boxes)})
    counted = event([np.arange(1, len(one) + 1).reshape(-1, 1) for one in boxes])
    for level in ("easy", "medium", "hard"):
        savemat(folder / f"wider_{level}_val.mat", {"gt_list": counted})


def use(env):
    """Do the main jobs; return what took how long."""
    env.run(env.python, "-c", LOAD)
    env.facezoo(f"predict photos --save_dir found --embedder {EMBEDDER}")
    home = Path(env.variables["HOME"], ".cache", "facezoo")
    env.facezoo(f"match {home}/yaoming.jpg {home}/players.jpg")
    env.facezoo(f"export {MODEL} --output onnx/{MODEL}.onnx")
    env.facezoo("recipe scrfd --to recipe")
    build = env.folder / "recipe/face_detection/scrfd/build_in/build/official_scrfd.yaml"
    text = build.read_text("utf-8").replace("suffix: jpg, get_data_num: 50", "get_data_num: 4")
    (env.folder / "official_scrfd.yaml").write_text(text, "utf-8")
    (env.folder / "calibration").symlink_to(env.folder / "photos" / "0--Event")
    for dtype in ("fp16", "int8"):
        env.facezoo(f"compile official_scrfd.yaml --dtype {dtype}")
    env.facezoo("image2npz --dataset_path photos --target_path npz --text_path list.txt")
    env.facezoo(
        "vamp -m deploy_weights/official_scrfd_fp16/mod -i 1 -p 1 -b 1 --datalist list.txt "
        "--path_output output"
    )
    env.facezoo("decode --vamp_datalist_path list.txt --vamp_output_dir output --save_dir decoded")
    save_truth(env.folder / "truth", env.folder / "decoded" / "results.json")
    said = env.facezoo("evaluate scrfd -p decoded/results.json -g truth")
    if said.count("Val AP: 1.0") != 3:
        raise SystemExit(f"not every face was found again: {said}")
    if env.run(env.python, "-c", IMPORTED) != "[]\n":
        raise SystemExit("import facezoo imports OpenCV or a runtime")


def measure(folder, python, wheel, uv=""):
    env = Environment(folder, python, uv)
    seconds, megabytes = env.install(wheel)
    started = time.perf_counter()
    photos(env)
    use(env)
    version = env.run(env.python, "-c", "import platform; print(platform.python_version())").strip()
    return {
        "python": version,
        "installer": Path(uv).name or "pip",
        "load": round(os.getloadavg()[0]),
        "install_seconds": round(seconds, 1),
        "megabytes": round(megabytes),
        "use_seconds": round(time.perf_counter() - started, 1),
        "start_cpu_seconds": {k: round(env.cpu_seconds(v), 2) for k, v in STARTS.items()},
    }


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--uv", default="", help="uv, for an environment without pip")
    parser.add_argument("--json", type=Path, help="by default in the results of this machine")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    wheel, rows = args.wheel.resolve(), []
    setups = [(python, "") for python in args.python]
    # Commands run in another folder.
    setups += [(args.python[-1], str(Path(args.uv).resolve()))] * bool(args.uv)
    for python, uv in setups:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), python, wheel, uv))
        print(json.dumps(rows[-1]), flush=True)
    result = {"wheel": wheel.name, "megabytes": round(wheel.stat().st_size / 1e6, 1)}
    result.update(machine=describe_machine(), environments=rows)
    path = args.json or folder_of_this_machine() / "install.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
