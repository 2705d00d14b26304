"""What fuzzing found stays found, and a little more of it each time."""

import os
import random
import time

import pytest
from fuzz_targets import CORPUS, TARGETS, mutate, try_content

MUTATIONS = 1000
# In make test-long ten seconds for each of the parsers of files from elsewhere, the formats of
# lists together.
LISTS = ("datalist", "image list", "features", "pairs", "WFLW")
SECONDS = dict.fromkeys(("predictions", "vdsp", "yaml", "manifest", "contract"), 10)
SECONDS.update(dict.fromkeys(("run", "journal", "files of a run"), 10 / 3))
SECONDS.update(dict.fromkeys(LISTS, 10 / len(LISTS)))
PROFILES = ("quality profile", "similarity profile", "appearance profile")
SECONDS.update(dict.fromkeys(PROFILES, 10 / len(PROFILES)))


def corpus_of(name):
    kept = sorted((CORPUS / name.replace(" ", "_")).glob("*"))
    return [*TARGETS[name][2], *(path.read_bytes() for path in kept)]


@pytest.mark.parametrize("name", TARGETS)
def test_valid_content_is_read(name, tmp_path):
    file, read, seeds = TARGETS[name]
    for index, seed in enumerate(seeds):
        path = tmp_path / str(index) / "0--Event" / file
        path.parent.mkdir(parents=True)
        path.write_bytes(seed)
        try:
            read(path)
        except Exception as error:
            # A file alone says what it lacks around it, which is no objection to its content.
            assert "does not exist" in str(error), error


@pytest.mark.parametrize("name", TARGETS)
def test_parsers_answer_or_refuse(name):
    for content in corpus_of(name):
        try_content(name, content)


def try_mutations(name, seed, goes_on):
    """Try one mutation after the other of a parser's corpus for as long as it is to go on."""
    rng = random.Random(seed)
    corpus = corpus_of(name)
    while goes_on():
        content = mutate(rng.choice(corpus), rng)
        try:
            try_content(name, content)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {name} with {content!r}") from error


@pytest.mark.parametrize("name", TARGETS)
def test_parsers_answer_or_refuse_what_comes_from_mutations(name):
    # The same mutations each time, so that a failure is the change's own; FUZZ_SEED tries others.
    left = iter(range(MUTATIONS))
    try_mutations(name, os.environ.get("FUZZ_SEED", name), lambda: next(left, None) is not None)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_parsers_answer_or_refuse_many_more_mutations(name):
    end = time.monotonic() + SECONDS.get(name, 1)
    seed = os.environ.get("FUZZ_SEED", f"{name}, long")
    try_mutations(name, seed, lambda: time.monotonic() < end)
