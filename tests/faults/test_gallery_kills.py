"""A gallery is killed while people are added: nothing is lost, nothing is there twice."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra gallery")
pytest.importorskip("faiss", reason="needs the extra gallery")
from facezoo.people.faces import Space
from facezoo.people.gallery import (
    Enrolled,
    Gallery,
    change_gallery,
    create_gallery,
)

SPACE = Space("w600k_mbf", "0" * 64, {})
BATCHES, EACH = 40, 25


def batch(number):
    """Return twenty-five people, each with two faces."""
    rng = np.random.default_rng(number)
    vectors = np.repeat(rng.standard_normal((EACH, 64)), 2, axis=0)
    vectors += 0.1 * rng.standard_normal(vectors.shape)
    people = [f"p{number:02}-{row // 2:02}" for row in range(2 * EACH)]
    return Enrolled(
        tuple(people),
        tuple(f"/photos/{name}/{row}.jpg" for row, name in enumerate(people)),
        np.zeros(2 * EACH, np.int32),
        np.zeros((2 * EACH, 4), np.float32),
        np.ones(2 * EACH),
        vectors.astype(np.float32),
    )


def add_all(folder):
    """Add all batches, each by a change of its own, and remove one that was there before."""
    for number in range(BATCHES):
        with change_gallery(folder) as change:
            change.add(batch(number), SPACE, f"batch {number}")
            if "gone" in change.gallery.names and number > BATCHES // 2:
                change.remove(["gone"])


def start(folder):
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def check_whole(folder):
    """Every batch is there completely and once, or not at all; return how many are."""
    found = Gallery(folder)
    found.check()
    counts = found.counts()
    counts.pop("gone", None)
    numbers = sorted({int(name[1:3]) for name in counts})
    assert numbers == list(range(len(numbers)))
    assert counts == {name: 2 for number in numbers for name in batch(number).people}
    return len(numbers)


def kill_and_compare(tmp_path, kills):
    gone = batch(99).rows([0])._replace(people=("gone",))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        create_gallery(folder, SPACE, "w600k_mbf")
        with change_gallery(folder) as change:
            change.add(gone, SPACE, "gone")
    add_all(whole)
    draw = random.Random(0)
    done, hits = 0, 0
    for _ in range(kills):
        if done == BATCHES:  # Start over, so that there is something left to kill.
            with change_gallery(killed) as change:
                change.remove([name for name in change.gallery.names if name > "p09"])
        process = start(killed)
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        hits += process.wait() == -signal.SIGKILL
        done = check_whole(killed)
    add_all(killed)
    assert check_whole(killed) == BATCHES and hits > 0
    one, other = Gallery(whole), Gallery(killed)
    assert one.names == other.names and one.faces == other.faces
    every = np.arange(len(one))
    np.testing.assert_array_equal(one.templates(every), other.templates(every))
    # Nothing of a killed change is left, and nobody who was removed.
    assert len(list(killed.iterdir())) == len(list(whole.iterdir()))
    content = b"".join(path.read_bytes() for path in killed.iterdir())
    assert b"gone" not in content and gone.vectors[0].tobytes() not in content


def test_three_kills_lose_nothing(tmp_path):
    kill_and_compare(tmp_path, 3)


@pytest.mark.long
def test_twenty_kills_lose_nothing(tmp_path):
    kill_and_compare(tmp_path, 20)


if __name__ == "__main__":
    print("ready", flush=True)
    add_all(sys.argv[1])
