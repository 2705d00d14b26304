"""vamp and bench: the vendor's command line, order, tail batches, lost workers, reports."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from facezoo.arrays import write_npz
from facezoo.backends.ort import OrtBackend
from facezoo.card import Preprocess
from facezoo.cli import bench, vamp
from facezoo.cli.main import build_parser, main
from facezoo.contract import read_contract
from facezoo.errors import BackendRunError, InputError
from facezoo.evaluation import speed as profiler
from facezoo.evaluation.speed import Batch, Job, Line, Synthetic, Timings, Workers
from facezoo.results import RawOutputs
from facezoo.testing import tiny_scrfd
from facezoo.vacc.outputs import OutputFolder
from fault_table import build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_scrfd(tmp_path_factory.mktemp("model") / "tiny.onnx")


def make_inputs(folder, count):
    """Write inputs of several sizes that all differ, and their list."""
    rng = np.random.default_rng(3)
    paths = []
    for index in range(count):
        height, width = 20 + index % 7, 30 + index % 5
        planes = rng.integers(0, 256, (3, height, width), np.uint8)
        paths.append(folder / f"{index}.npz")
        write_npz(paths[-1], {"input_0": planes})
    datalist = folder / "list.txt"
    datalist.write_text("".join(f"{path}\n" for path in paths))
    return datalist


def expected_outputs(model, datalist):
    """Run one picture after the other, without anything of vamp."""
    with OrtBackend(model, read_contract(model), threads=1) as backend:
        for line in datalist.read_text().split("\n")[:-1]:
            with np.load(line) as loaded:
                yield backend.infer(np.ascontiguousarray(loaded["input_0"].transpose(1, 2, 0)))


def check_outputs(model, datalist, folder):
    count = 0
    for index, raw in enumerate(expected_outputs(model, datalist)):
        with np.load(folder / f"output_{index:06d}.npz", allow_pickle=False) as loaded:
            assert list(loaded) == [f"output_{k}" for k in range(9)]
            for array, expected in zip(loaded.values(), raw.arrays.values()):
                assert array.dtype == np.float32
                assert array.shape == expected.shape
                np.testing.assert_array_equal(array, expected)
        count += 1
    assert len(list(folder.glob("output_*.npz"))) == count
    return count


def run_vamp(*arguments):
    return main(["vamp", *map(str, arguments)])


# The command line ------------------------------------------------------------------------------


def parse(*arguments):
    return build_parser("vamp").parse_args(["vamp", "-m", "x/mod", *arguments])


def test_every_flag_of_the_vendor_is_taken_long_and_short():
    short = parse("-i", "8", "-p", "2", "-b", "22", "-s", "[3,640,320]", "-d", "6", "-t", "10")
    long = parse(
        "--instance", "8", "--processes", "2", "--batch_size", "22", "--shape", "3,640,320",
        "--vdsp_params", "v.json", "--iterations", "64", "--forward_mode", "1",
        "--datalist", "l.txt", "--path_output", "out", "--backend", "vastpipe",
        "--hwconfig", "h.json", "--dtype", "uint32",
    )  # fmt: skip
    assert parse("-s", "[[3,640,320]]").shape == (640, 320)
    for args in (short, long):
        assert (args.instance, args.processes, args.batch_size) == (["8"], 2, 22)
        assert args.shape == (640, 320)
    assert (short.device_id, short.t) == (6, 10.0)
    assert (long.iterations, long.forward_mode, long.datalist) == (64, 1, ["l.txt"])


@pytest.mark.parametrize("shape", ["[3,640]", "[[3,8,8],[3,8,8]]", "4,8,8", "3,0,8", "3,a,8", ""])
def test_shapes_of_no_picture_are_refused(shape, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("-s", shape)
    assert caught.value.code == 2
    assert "-s" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["-b", "0"], ["-p", "x"], ["-t", "0"], ["-t", "inf"]])
def test_counts_and_times_that_make_no_sense_are_refused(flags):
    with pytest.raises(SystemExit):
        parse(*flags)


def test_the_stray_p_is_taken_with_a_warning(caplog):
    assert vamp._instances_and_processes(["2", "p", "3"], None) == (2, 3)
    assert caplog.messages == ["'p 3' without a dash is read as '-p 3'"]
    for values, processes in ((["2", "p", "3"], 1), (["2", "q", "3"], None), (["2", "3"], None)):
        with pytest.raises(InputError, match="has more than one number"):
            vamp._instances_and_processes(values, processes)
    with pytest.raises(InputError, match="-i x"):
        vamp._instances_and_processes(["x"], None)


def test_the_strayp_of_a_vendors_command_line_is_parsed():
    args = parse("-i", "2", "p", "2", "-b", "2")
    assert vamp._instances_and_processes(args.instance, args.processes) == (2, 2)
    assert args.batch_size == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--datalist", "a.txt", "b.txt", "--path_output", "o"], "--datalist has 2 values (a.txt"),
        (["--datalist", "a.txt"], "--datalist is given without --path_output"),
        (["--path_output", "o"], "--path_output is given without --datalist"),
        (["--backend", "vastpipe"], "--backend selects one of the vendor's runtimes"),
        (["--hwconfig", "h.json"], "needs the vendor's vamp"),
        (["--dtype", "uint32"], "needs the vendor's vamp"),
        (["-s", "[3,64,64]"], "no artifact at"),
        (["--datalist", "none.txt", "--path_output", "o"], "none.txt' cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_vamp("-m", "x/mod", *flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


# Lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "flags"),
    [
        (1, ["-i", "2", "-b", "4"]),
        (12, ["-i", "2", "-b", "4"]),
        (13, ["-p", "2", "-b", "3"]),
        (7, ["-i", "3", "-p", "3", "-b", "2"]),
    ],
)
def test_every_line_has_its_output_whatever_the_settings(tmp_path, model, count, flags, capsys):
    datalist = make_inputs(tmp_path / "in", count)
    out = tmp_path / "out"
    assert run_vamp("-m", model, *flags, "--datalist", datalist, "--path_output", out) == 0
    assert check_outputs(model, datalist, out) == count
    recorded = json.loads((out / "vamp.json").read_text())["outputs"]
    assert [entry["path"] for entry in recorded] == [
        f"output_{index:06d}.npz" for index in range(count)
    ]
    printed = capsys.readouterr().out
    assert f"{count} output{'s' * (count > 1)}; in {out}" in printed
    assert profiler.parse_report(printed)["qps"] > 0
    assert {path.name for path in out.iterdir()} == {
        ".files.jsonl",
        "run.json",
        "vamp.json",
        *(f"output_{index:06d}.npz" for index in range(count)),
    }


def test_an_input_that_cannot_be_read_stops_the_run_by_name_and_it_goes_on(tmp_path, model, capsys):
    datalist = make_inputs(tmp_path / "in", 9)
    broken = tmp_path / "in" / "5.npz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-30])
    os.utime(broken, (1, 1))
    flags = ("-m", model, "-b", 2, "--datalist", datalist, "--path_output", tmp_path / "out")
    assert run_vamp(*flags) == 2
    assert f"{broken}' is not an intact npz file" in capsys.readouterr().err
    assert not (tmp_path / "out" / "vamp.json").exists()
    broken.write_bytes(whole)
    assert run_vamp(*flags) == 4
    assert "the inputs have changed" in capsys.readouterr().err
    assert run_vamp(*flags, "--overwrite") == 0
    assert check_outputs(model, datalist, tmp_path / "out") == 9


def test_an_input_that_is_not_the_manifests_is_refused(tmp_path, model, capsys):
    datalist = make_inputs(tmp_path / "in", 2)
    items = [
        {"path": f"{i}.png", "width": 9, "height": 9, "npz": f"{i}.npz", "sha256": "00"}
        for i in range(2)
    ]
    manifest = {"schema": "facezoo.npz/1", "npz_folder": str(tmp_path / "in"), "items": items}
    datalist.with_name("list.txt.manifest.json").write_text(json.dumps(manifest))
    flags = ("-m", model, "--datalist", datalist, "--path_output", tmp_path / "out")
    assert run_vamp(*flags) == 2
    assert "0.npz' is not the file that was recorded" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_refused_by_name(tmp_path, model, capsys):
    datalist = make_inputs(tmp_path / "in", 2)
    out = tmp_path / "out"
    out.mkdir()
    flags = ("-m", model, "--datalist", datalist, "--path_output", out)
    (out / "stranger.txt").write_text("x")
    for more in ([], ["--overwrite"]):
        assert run_vamp(*flags, *more) == 4
        assert "holds 'stranger.txt'" in capsys.readouterr().err
    (out / "stranger.txt").unlink()
    for index in range(5):
        (out / f"output_{index:06d}.npz").write_bytes(b"of another run")
    for more in ([], ["--overwrite"]):
        assert run_vamp(*flags, *more) == 4
        assert "holds 'output_000000.npz' but no run.json" in capsys.readouterr().err
    for index in range(5):
        (out / f"output_{index:06d}.npz").unlink()
    assert run_vamp(*flags) == 0
    assert check_outputs(model, datalist, out) == 2


def test_the_same_command_again_keeps_what_is_there(tmp_path, model, capsys):
    datalist = make_inputs(tmp_path / "in", 5)
    flags = ("-m", model, "--datalist", datalist, "--path_output", tmp_path / "out")
    assert run_vamp(*flags) == 0
    index = (tmp_path / "out" / "vamp.json").read_bytes()
    capsys.readouterr()
    assert run_vamp(*flags, "-b", 3, "-p", 2) == 0
    assert (
        capsys.readouterr().out == f"5 outputs, 5 kept from an earlier run; in {tmp_path / 'out'}\n"
    )
    assert (tmp_path / "out" / "vamp.json").read_bytes() == index


@pytest.mark.slow
def test_a_thousand_lines_interrupted_and_gone_on_with_equal_an_uninterrupted_run(tmp_path, model):
    datalist = make_inputs(tmp_path / "in", 1000)
    flags = ["-m", model, "--engine", "ort", "--datalist", datalist, "--path_output"]
    command = [sys.executable, "-m", "facezoo.cli.main", "vamp", *flags, tmp_path / "out"]
    process = subprocess.Popen(
        [*map(str, command), "-p", "2", "-b", "7"],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    journal = tmp_path / "out" / ".items.jsonl"
    end = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes()) and time.monotonic() < end:
        time.sleep(0.002)
    # As a terminal does it: every process of the group is told.
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, stderr
    assert stderr == "facezoo: interrupted; run the same command again to resume\n"
    assert not (tmp_path / "out" / "vamp.json").exists()
    assert 0 < len(list((tmp_path / "out").glob("output_*.npz"))) < 1000
    assert run_vamp(*flags, tmp_path / "out", "-i", 2, "-b", 9) == 0
    assert check_outputs(model, datalist, tmp_path / "out") == 1000
    assert run_vamp(*flags, tmp_path / "whole", "-b", 22) == 0
    index = (tmp_path / "whole" / "vamp.json").read_bytes()
    assert (tmp_path / "out" / "vamp.json").read_bytes() == index
    assert len(OutputFolder(tmp_path / "out", datalist)) == 1000


# Worker processes ------------------------------------------------------------------------------


def children():
    """Return pids of this process's worker processes."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            command = status.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if re.search(rf"PPid:\t{os.getpid()}\n", text) and b"spawn_main" in command:
            found.append(int(status.parent.name))
    return sorted(found)


@pytest.mark.parametrize("when", ["loading", "working"])
def test_a_lost_worker_is_noticed_and_named(model, when):
    workers = Workers(Job(model, processes=2), prog="")

    def kill_second():
        end = time.monotonic() + 30
        while len(children()) < 2 and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(children()[1], signal.SIGKILL)

    started = time.monotonic()
    killer = threading.Timer(0.0 if when == "loading" else 0.5, kill_second)
    with pytest.raises(BackendRunError) as caught:
        if when == "loading":
            killer.start()
        with workers:
            if when == "working":
                killer.start()
            Timings.of(workers.run_synthetic(Synthetic(seconds=120)))
    killer.join()
    assert time.monotonic() - started < 45
    message = r"worker process 2 of 2 \(pid \d+\) was lost: signal 9, SIGKILL"
    assert re.search(message, str(caught.value))
    assert children() == []


def test_a_model_that_cannot_be_loaded_is_refused_as_elsewhere(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match="is not a valid ONNX graph"), Workers(
        Job(tmp_path / "x.onnx"), prog=""
    ):
        pass
    assert children() == []


def test_batches_are_cut_at_the_same_lines_when_a_run_goes_on(model, tmp_path):
    job = Job(model, processes=2, batch=4)
    lines = [Line(Path(str(i)), "", Path("o")) for i in range(11)]
    workers = Workers(job)
    seen = []
    workers._run = lambda shares: seen.append(shares)
    workers.run_lines(lines)
    workers.run_lines(lines, first=5)
    cut = [[[line.npz.name for line in batch] for batch in share] for share in seen[1]]
    assert [[len(batch) for batch in share] for share in seen[0]] == [[4, 3], [4]]
    assert cut == [[["5", "6", "7"]], [["8", "9", "10"]]]


def test_synthetic_work_is_shared_out():
    shares = [Synthetic(batches=5).share(rank, 3).batches for rank in range(3)]
    assert shares == [2, 2, 1]
    assert Synthetic(seconds=1.0).share(1, 2) == Synthetic(seconds=1.0)


class Slow:
    """A backend whose stages take a known time."""

    name, version, device = "slow", "1", "sleep"
    PRE, INFER, POST = 0.02, 0.03, 0.01

    def __init__(self, model, calls):
        self.contract = read_contract(model)
        self.preprocess = Preprocess(input_hw=(8, 8))
        self.calls = calls

    def prepare(self, pictures):
        time.sleep(self.PRE)
        return pictures, ()

    def run_tensor(self, tensor, placements):
        self.calls.append(len(tensor))
        time.sleep(self.INFER)
        return RawOutputs({}, ())

    def settings(self):
        return {}


def slow_decode(contract, raw):
    time.sleep(Slow.POST)


@pytest.fixture
def instances(model, monkeypatch):
    calls = []
    monkeypatch.setattr(Job, "open", lambda self: Slow(model, calls))
    monkeypatch.setattr(profiler.logging, "disable", lambda level: None)
    made = profiler._Instances(Job(model, instances=2, batch=3, decode=slow_decode))
    made.calls = calls
    return made


def test_the_stages_add_up_and_the_warm_up_is_left_out(instances):
    instances.warm_up(Synthetic(batches=7))
    assert instances.calls == [3, 3]
    measured = Timings.of(instances.run(Synthetic(batches=7)))
    assert len(instances.calls) == 2 + 7
    assert measured.pictures == 21
    assert len(measured.latencies) == 7
    total = sum(measured.latencies)
    assert measured.pre + measured.infer + measured.post == pytest.approx(total, rel=0.05)
    for part, seconds in ((measured.pre, Slow.PRE), (measured.infer, Slow.INFER)):
        assert part / 7e9 == pytest.approx(seconds, rel=0.5)
        assert part / 7e9 >= seconds
    # Two instances at once: four rounds for seven calls.
    assert measured.rate == pytest.approx(21 / (4 * 0.06), rel=0.4)


def test_synthetic_work_ends_in_time(instances):
    started = time.monotonic()
    measured = Timings.of(instances.run(Synthetic(seconds=0.2)))
    assert 0.2 <= time.monotonic() - started < 1.0
    assert 2 <= len(measured.latencies) <= 10


# Reports ---------------------------------------------------------------------------------------


def test_a_report_has_the_vendors_layout():
    measured = Timings()
    for index in range(100):
        start = 1000 + index * 10**6
        latency = (index + 1) * 1000
        measured.add(Batch(4, start, start + 10**6, latency, 0, latency, 0))
    text = profiler.format_report(Job(Path("x"), instances=2, processes=2, batch=4), measured)
    # 400 pictures in 100 ms; latencies of 1 to 100 us.
    assert text.splitlines() == [
        "- number of instances: 4",
        "  devices: [ 0 ]",
        "  queue size: 0",
        "  batch size: 4",
        "  throughput (qps): 4000.00",
        "  latency (us):",
        "    avg latency: 50",
        "    min latency: 1",
        "    max latency: 100",
        "    p50 latency: 50",
        "    p90 latency: 90",
        "    p95 latency: 95",
        "    p99 latency: 99",
    ]
    assert profiler.parse_report("noise\n" + text) == {
        "qps": 4000.0, "avg": 50.0, "min": 1.0, "max": 100.0,
        "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0,
    }  # fmt: skip


def test_a_report_without_a_rate_or_a_batch_is_refused():
    with pytest.raises(InputError, match="printed no"):
        profiler.parse_report("Segmentation fault")
    with pytest.raises(InputError, match="no batch was measured"):
        Timings().latency_us()


def test_synthetic_pictures_of_a_shape_are_measured(model, capsys):
    flags = ("-i", 2, "-b", 3, "-s", "[3,50,70]", "--iterations", 5)
    assert run_vamp("-m", model, *flags, "--vdsp_params", vdsp_of(model)) == 0
    numbers = profiler.parse_report(capsys.readouterr().out)
    assert set(numbers) == {"qps", "avg", "min", "max", "p50", "p90", "p95", "p99"}
    assert numbers["min"] <= numbers["p50"] <= numbers["p99"] <= numbers["max"]


def vdsp_of(model):
    from facezoo.vacc.vdsp import render_vdsp

    path = model.with_name("vdsp.json")
    path.write_text(json.dumps(render_vdsp(read_contract(model).preprocess)))
    return path


def test_the_processes_say_as_much_as_was_asked_for(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    build(tmp_path)
    assert main(["vamc", "compile", "build.yaml"]) == 0
    said = {}
    for flag in ("--quiet", "--verbose"):
        model = "deploy_weights/official_scrfd_fp16/mod"
        assert main(["vamp", "-m", model, "--iterations", "1", flag]) == 0
        said[flag] = capfd.readouterr().err
    assert "facezoo vamp: engine ort: " in said["--verbose"]
    assert said["--quiet"] == ""


def test_bench_measures_the_three_scenarios(model, tmp_path, capsys):
    report = tmp_path / "bench.json"
    assert main(["bench", "-m", str(model), "-t", "0.2", "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert content["schema"] == "facezoo.bench/1"
    assert (content["engine"], content["card"]) == ("ort", "scrfd_500m_bnkps")
    assert content["machine"]["cores"] >= 1
    rows = {row["scenario"]: row for row in content["rows"]}
    assert [(name, row["batch"], row["metric"]) for name, row in rows.items()] == [
        ("single-stream", 1, "p90"),
        ("multi-stream", 8, "p99"),
        ("offline", 1, "images_per_s"),
    ]
    for row in rows.values():
        assert row["images_per_s"] > 0
        assert row["cpu_us_per_image"] > 0
        stages = row["stages_us_per_image"]
        assert stages["total"] == pytest.approx(
            stages["pre"] + stages["infer"] + stages["post"], rel=0.05
        )
        # A Python process with a runtime in it, and not the sum of the machine's.
        assert 20 < row["peak_mb"] < 2000
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_sweep_visits_what_fits_the_cores(monkeypatch):
    monkeypatch.setattr(bench, "usable_cores", lambda: 6)
    points = {(s.instances, s.threads) for s in bench.sweep()}
    assert points == {(1, 1), (1, 2), (1, 4), (1, 6), (2, 1), (2, 2), (4, 1), (6, 1)}
    assert {s.batch for s in bench.sweep()} == {1, 2, 4, 8}


def test_bench_reads_another_vamps_report(model, tmp_path, capsys):
    tool = tmp_path / "vendor_vamp.py"
    tool.write_text(
        "import sys\n"
        "print('- number of instances: 1\\n  throughput (qps): 863.92\\n  latency (us):')\n"
        "print('    p50 latency: 1156\\n    p99 latency:', 1000 + len(sys.argv))\n"
        "sys.exit(int('-b 8' in ' '.join(sys.argv)) * int(sys.argv[1]))\n"
    )
    report = tmp_path / "bench.json"
    flags = ["-m", str(model), "-s", "3,8,8", "--json", str(report)]
    assert main(["bench", *flags, "--vamp", f"{sys.executable} {tool} 0"]) == 0
    row = json.loads(report.read_text())["rows"][0]
    assert row["images_per_s"] == 863.92
    # -m x -s x -i x -p x -b x -d x --iterations x, the script and its own argument.
    assert row["latency_us"] == {"p50": 1156.0, "p99": 1016.0}
    assert row["peak_mb"] is None
    assert main(["bench", *flags, "--vamp", f"{sys.executable} {tool} 3"]) == 2
    assert "ended with 3" in capsys.readouterr().err
    assert main(["bench", *flags, "--vamp", "/none/vamp"]) == 2
    assert "cannot be started" in capsys.readouterr().err
    assert main(["bench", *flags, "--vamp", "'vamp"]) == 2
    assert "No closing quotation" in capsys.readouterr().err


def test_help_names_every_flag_of_the_vendor(capsys):
    with pytest.raises(SystemExit):
        main(["vamp", "--help"])
    text = capsys.readouterr().out
    flags = (
        "-m --vdsp_params -i --instance -p --processes -b --batch_size -s --shape --datalist "
        "--path_output -d -t --iterations --forward_mode --backend --hwconfig --dtype"
    )
    assert [flag for flag in flags.split() if flag not in text] == []
    assert isinstance(build_parser("vamp"), argparse.ArgumentParser)
