"""Bulk scoring on one machine: the same results as predict's, whoever made which part."""

import json
import logging
import multiprocessing
import os
import re

import pytest
from facezoo.cli import options
from facezoo.cli.main import main

pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra scale")
dataset = pytest.importorskip("pyarrow.dataset")
from bulk import (  # noqa: E402
    LIMITS,
    STAGES,
    make_job,
    make_run,
    parts,
    predicted,
    receipts,
    tables,
    write_run,
)
from facezoo.errors import FaceZooError, RunFolderError  # noqa: E402
from facezoo.scale.local import score_locally  # noqa: E402
from facezoo.scale.outcome import check, merge, progress_of  # noqa: E402
from facezoo.scale.work import Share, Work, holding  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, one of them damaged, the networks, and a run that is finished."""
    folder = tmp_path_factory.mktemp("score")
    make_run(folder)
    (folder / "photos" / "1" / "x.png").write_bytes(b"no image")
    write_run(folder, 5, "whole")
    return folder


def words(folder):
    return [str(folder / word) if word.endswith(".onnx") else word for word in (*STAGES, *LIMITS)]


@pytest.fixture(scope="module")
def whole(folder):
    command = ["score", "run", str(folder / "whole"), "--threads", "2", "--quiet"]
    assert main([*command, *words(folder)]) == 1
    return folder / "whole"


def score(work, job, processes=1):
    return list(score_locally(work, job, processes))


def test_the_merged_tables_are_those_of_predict(whole, folder, capsys):
    assert main(["score", "check", str(whole)]) == 0
    assert main(["score", "merge", str(whole), "-o", str(folder / "merged")]) == 0
    assert "13 photos, " in capsys.readouterr().out
    assert tables(folder / "merged") == predicted(folder)


def test_long_work_is_a_line_a_minute(folder, monkeypatch, caplog):
    monkeypatch.setattr(options, "SECONDS_PER_LINE", 0.0)
    caplog.set_level(logging.INFO)
    run = write_run(folder, 5, "shown")
    assert main(["score", "run", str(run), "--threads", "1", *words(folder)]) == 1
    assert "5 of 13 done" in caplog.text and "minutes left" in caplog.text


def test_a_finished_run_does_nothing_more(whole, folder, caplog):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}
    command = ["score", "run", str(whole)]
    assert main([*command, *words(folder)]) == 1
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == before
    assert "'1/x.png' is not a readable image" in caplog.text


def test_shares_make_the_same_parts_whoever_makes_them(folder, whole):
    run = write_run(folder, 5, "shares")
    for index in range(3):
        command = ["score", "run", str(run), "--on", f"shard:{index}/3", "--threads", "1"]
        main([*command, "--quiet", *words(folder)])
        assert len(receipts(run)) == index + 1
    assert parts(run) == parts(whole)


def test_other_limits_write_beside_and_both_are_read(folder):
    run = write_run(folder, 5, "beside")
    scores, job = make_job(run)
    score(Work(scores), job)
    before = parts(run)
    others, job = make_job(run, score=0.9)
    assert others.identity != scores.identity
    score(Work(others), job)
    after = parts(run)
    assert {name: after[name] for name in before} == before
    table = dataset.dataset(run / "faces", partitioning="hive").to_table().to_pylist()
    counts = {one.identity: progress_of(one).faces for one in (scores, others)}
    assert counts[scores.identity] > counts[others.identity] > 0
    for identity, count in counts.items():
        assert sum(row["settings"] == identity for row in table) == count
    assert main(["score", "merge", str(run), "-o", str(folder / "x")]) == 2
    some = ["--settings", others.identity[:8], "--photos-per-file", "4"]
    assert main(["score", "merge", str(run), "-o", str(folder / "some"), *some]) == 0
    rows = [pq.read_table(path).num_rows for path in sorted((folder / "some/photos").iterdir())]
    assert rows == [4, 4, 4, 1]
    assert pq.read_table(folder / "some" / "faces").num_rows == counts[others.identity]


def test_only_what_is_missing_is_done_again(folder, whole):
    run = write_run(folder, 5, "missing")
    scores, job = make_job(run)
    score(Work(scores), job)
    expected = parts(run)
    first, second, third = (part for part, _ in scores.leaves({}))
    scores.path_of("faces", first.name).write_bytes(b"")
    scores._receipt(second.name).unlink()
    assert len(scores.clean()) == 5  # Without a receipt that fits they belong to no part.
    kept = scores.path_of("faces", third.name).stat().st_mtime_ns
    work = Work(scores)
    assert (work.photos, work.kept) == (13, third.photos)
    assert len(score(work, job)) == 2
    assert parts(run) == expected
    assert scores.path_of("faces", third.name).stat().st_mtime_ns == kept


def test_check_names_what_is_wrong(folder, capsys):
    run = write_run(folder, 5, "wrong")
    scores, job = make_job(run)
    assert main(["score", "check", str(run)]) == 1
    assert "shard 2, photos 0 to 2: not scored" in capsys.readouterr().out
    with pytest.raises(FaceZooError, match=r"13 photos of .* are not scored"):
        merge(scores, folder / "y")
    score(Work(scores), job)
    assert list(check(scores)) == []
    first, second, _ = (part for part, _ in scores.leaves({}))
    paths = [scores.path_of("photos", part.name) for part in (first, second)]
    content = [path.read_bytes() for path in paths]
    # The photos of another part, with a receipt that says so.
    table = pq.read_table(paths[1])
    pq.write_table(table.slice(0, 4), paths[0], compression="zstd")
    receipt = json.loads(scores._receipt(first.name).read_text())
    receipt["size"]["photos"] = paths[0].stat().st_size
    receipt["sha256"]["photos"] = __import__("hashlib").sha256(paths[0].read_bytes()).hexdigest()
    scores._receipt(first.name).write_text(json.dumps(receipt))
    paths[1].write_bytes(content[1][:-1] + b"x")
    (run / "faces" / f"settings={scores.identity}" / ".facezoo.0a.tmp").write_bytes(b"x")
    found = "\n".join(check(scores))
    assert "shard 0, photos 0 to 4: its photos are not those of the manifest" in found
    assert f"{second.name}.parquet' is not as it was written" in found
    assert main(["score", "check", str(run)]) == 1
    assert "1 files of processes that were stopped are removed" in capsys.readouterr().out


def test_photos_that_changed_since_the_manifest_are_not_scored(folder):
    run = write_run(folder, 5, "changed")
    scores, job = make_job(run)
    photos = sorted((folder / "photos").rglob("*.png"))
    before = photos[0].read_bytes(), photos[1].stat()
    try:
        photos[0].write_bytes(photos[2].read_bytes())
        os.utime(photos[1], (1, 1))
        work = Work(scores)
        score(work, job)
        assert work.counts == {
            "scored": 10,
            "damaged": 0,
            "unreadable": 1,
            "changed": 2,
            "killed": 0,
        }
    finally:
        photos[0].write_bytes(before[0])
        os.utime(photos[1], ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    assert Work(scores).done == 13
    again = Work(scores, again=True)
    assert again.kept == 3  # Only the last shard has no failed photo.


def hold(run, share, connection):
    with holding(run, share):
        connection.send(None)
        connection.recv()


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        (Share(), Share(), False),
        (Share(), Share(0, 2), False),
        (Share(0, 2), Share(), False),
        (Share(0, 2), Share(0, 2), False),
        (Share(0, 2), Share(1, 2), True),
    ],
)
def test_two_starts_do_not_work_on_the_same(tmp_path, held, wanted, free):
    # Locks are of a file that is open, so that one process can hold both.
    with holding(tmp_path, held):
        if free:
            with holding(tmp_path, wanted):
                pass
        else:
            with pytest.raises(RunFolderError, match="in use by another start"), holding(
                tmp_path, wanted
            ):
                pass
    with holding(tmp_path, wanted):
        pass


def test_a_live_view_names_the_failures(whole, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["score", "status", str(whole), "--watch"]) == 0
    shown = capsys.readouterr().err
    assert re.search(r"img/s lately, \d+ failed", shown), shown


def test_status_says_how_far_it_is(folder, whole, capsys):
    assert main(["score", "status", str(whole)]) == 0
    said = capsys.readouterr().out
    assert "detector scrfd_500m_bnkps, embedder w600k_mbf" in said
    assert "13 of 13 photos, 0 parts left" in said
    assert "photos/s per process" in said
    assert "1 unreadable" in said
    run = write_run(folder, 5, "status")
    assert main(["score", "status", str(run)]) == 0
    assert "nothing is scored yet" in capsys.readouterr().out
    scores, job = make_job(run)
    receipts = score_locally(Work(scores), job, 1)
    next(receipts)
    receipts.close()
    now = progress_of(scores)
    assert (now.photos, now.done, now.parts_left) == (13, 5, 2)
    assert now.eta > 0 and sum(now.hosts.values()) == 5


@pytest.mark.parametrize("engine", "here shard:2/2 shard:a/b shard:1 ray: ray:host".split())
def test_an_engine_that_is_none_is_refused(whole, capsys, engine):
    with pytest.raises(SystemExit):
        main(["score", "run", str(whole), "--on", engine])
    assert "expected local, ray, ray:HOST:PORT, or shard:I/N" in capsys.readouterr().err


def test_models_that_differ_between_machines_are_refused(folder):
    run = write_run(folder, 5, "differ")
    scores, _ = make_job(run)
    _, other = make_job(run, score=0.9)
    job = type(other)(run, scores.identity, other.model, 60.0)
    with pytest.raises(FaceZooError, match="are not those of the machine"):
        score(Work(scores), job)


def test_no_process_is_left_when_a_run_is_stopped(folder):
    run = write_run(folder, 1, "stopped")
    scores, job = make_job(run)
    running = score_locally(Work(scores), job, 2)
    next(running)
    assert len(multiprocessing.active_children()) == 2
    running.close()
    assert multiprocessing.active_children() == []
