"""The recipes for Ray on Kubernetes and for SLURM: known fields, commands that are accepted."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import facezoo
import pytest
import yaml
from facezoo.cli.main import build_parser

REPOSITORY = Path(facezoo.__file__).parent.parent.parent
FOLDER = REPOSITORY / "common" / "scale"
JOB = (FOLDER / "rayjob.yaml").read_text("utf-8")
BATCH = (FOLDER / "score.sbatch").read_text("utf-8")
KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
}


@pytest.fixture
def schema(golden):
    return json.loads((golden / "kuberay" / "rayjob.json").read_text("utf-8"))["schema"]


def wrong(value, schema, where="job"):
    """Return what is wrong with a value: a field that does not exist, lacks, or is no such kind."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(type(value) is KINDS[kind] for kind in kinds):
        return [f"{where} is no {' or '.join(kinds)}"]
    problems = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        problems += [
            f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value
        ]
        for name, item in value.items():
            inner = schema.get("values", known.get(name))
            if inner is None and known and not schema.get("open"):
                problems.append(f"{where}.{name} does not exist")
            problems += wrong(item, inner or {}, f"{where}.{name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            problems += wrong(item, schema.get("items", {}), f"{where}[{index}]")
    if "enum" in schema and value not in schema["enum"]:
        problems.append(f"{where} is {value}")
    return problems


def test_the_job_has_fields_of_kuberay(schema):
    job = yaml.safe_load(JOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert wrong(job, schema) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("submissionMode", "submissionmode", "does not exist"),
        ("replicas: 4", "replicas: four", "is no integer"),
        ("groupName: scorers", "priority: 1", "lacks groupName"),
        ("imagePullPolicy", "pullPolicy", "does not exist"),
        ('num-cpus: "8"', "num-cpus: 8", "is no string"),
        ("claimName", "claim", "lacks claimName"),
    ],
)
def test_other_fields_are_noticed(schema, old, new, said):
    assert old in JOB
    assert any(said in problem for problem in wrong(yaml.safe_load(JOB.replace(old, new)), schema))


def test_both_run_a_command_that_is_accepted():
    entry = yaml.safe_load(JOB)["spec"]["entrypoint"].replace("$(hostname -i)", "10.0.0.1")
    batch = re.search(r"^exec (.*?)\Z", BATCH, re.DOTALL | re.MULTILINE)[1]
    batch = batch.replace("\\\n", " ").replace("${RUN:?the folder of the manifest}", "run")
    batch = batch.replace("${SLURM_ARRAY_TASK_ID}", "3").replace("${SLURM_ARRAY_TASK_COUNT}", "16")
    for text, engine in ((entry, "ray"), (batch, "local")):
        tool, *words = shlex.split(text)
        args = build_parser("score").parse_args(words)
        assert (tool, args.step, args.on.name) == ("facezoo", "run", engine)


def test_the_batch_script_is_one_of_bash():
    done = subprocess.run(["bash", "-n", str(FOLDER / "score.sbatch")], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_job_uses_the_version_of_ray_that_the_image_has():
    pins = (REPOSITORY / "face_recognition/magface/constraints.txt").read_text("utf-8")
    version = yaml.safe_load(JOB)["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"\nray=={version}\n" in pins
    assert "\npyarrow==" in pins
