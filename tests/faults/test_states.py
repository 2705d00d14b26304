"""Runs that are stopped, changed and started again in any order; lists, manifests and files of
which any is lost, changed or exchanged: what comes is the undisturbed result or an error.
"""

import contextlib
import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from facezoo.contract import Contract
from facezoo.errors import FaceZooError, ImageError, RunFolderError
from facezoo.files import write_bytes
from facezoo.models import find_card
from facezoo.runs import JOURNAL_FILE, RUN_FILE, Inputs, RunFolder
from facezoo.vacc import npz, outputs
from facezoo.written import LIST_FILE, LOCK_FILE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

NAMES = [f"e/{index}.jpg" for index in range(6)]
REFUSED = 3
RESULTS = "results.json"
ENDS = (RESULTS, "more.txt")
IN_MAKE_TEST = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(IN_MAKE_TEST, max_examples=600, stateful_step_count=40)


class Value:
    def __init__(self, value):
        self.value = value

    def to_dict(self):
        return {"value": self.value}


class Interrupted(BaseException):
    """What Ctrl-C, or the system, does to a run."""


def content(folder):
    """Return every file with its bytes but those that hold times or come and go."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in (RUN_FILE, LOCK_FILE, LIST_FILE)
        and path.suffix != ".tmp"
    }


class Runs(RuleBasedStateMachine):
    """One run folder, and what may happen to it between starts."""

    def __init__(self):
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.folder = self.base / "run"
        self.worked = []
        self.whole, self.journal = self.undisturbed()

    @classmethod
    @lru_cache(maxsize=None)
    def undisturbed(cls):
        """Return the files that a whole run leaves, and the lines of its journal."""
        machine = cls.__new__(cls)
        machine.worked = []
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.suppress(Interrupted):
                machine.start(Path(folder, "run"), 1, stop=len(NAMES))
            journal = Path(folder, "run", JOURNAL_FILE).read_bytes().splitlines(True)
            machine.start(Path(folder, "run"), 1)
            return content(Path(folder, "run")), journal

    def teardown(self):
        # Whatever has happened, the run ends as it would have without.
        (self.folder / "foreign").unlink(missing_ok=True)
        try:
            self.start(self.folder, 1)
        except RunFolderError:
            self.mend()
            self.start(self.folder, 1, overwrite=True)
        assert content(self.folder) == self.whole
        before = len(self.worked)
        self.start(self.folder, 1)
        assert len(self.worked) == before, "a finished run was done again"
        shutil.rmtree(self.base)

    def mend(self):
        """Do what the errors advise: take away what is not the run's, or all of it by hand."""
        if "schema" not in self.state() or self.is_replaced():
            shutil.rmtree(self.folder, ignore_errors=True)

    # The run ------------------------------------------------------------------------------------

    def open(self, folder, scale, overwrite=False):
        return RunFolder(folder, "test", {"scale": scale}, Inputs([], []), overwrite)

    def text_of(self, folder, name):
        return folder / "txt" / f"{name}.txt"

    def work(self, run, index, scale):
        self.worked.append(index)
        if index == REFUSED:
            run.record(NAMES[index], ImageError(f"{NAMES[index]!r} is empty"))
            return
        path = self.text_of(run.folder, NAMES[index])
        write_bytes(path, f"{scale * index}".encode())
        run.record(NAMES[index], Value(scale * index))

    def start(self, folder, scale, overwrite=False, stop=None, expected=None):
        with self.open(folder, scale, overwrite) as run:
            done = run.completed(NAMES, lambda name: [self.text_of(folder, name)])
            assert expected is None or done == expected, "done again, or taken for done"
            for index in range(done, len(NAMES)):
                if index == stop:
                    raise Interrupted
                self.work(run, index, scale)
            if not run.finished:
                if stop == len(NAMES):
                    raise Interrupted
                write_bytes(folder / "more.txt", str(scale).encode())
                run.write_items(RESULTS, "test/1", "items")
                if stop == len(NAMES) + 1:
                    raise Interrupted
                run.finish("more.txt")

    # What is there --------------------------------------------------------------------------------

    def state(self):
        try:
            state = json.loads((self.folder / RUN_FILE).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return state if isinstance(state, dict) else {}

    def scale(self):
        return self.state().get("settings", {}).get("scale")

    def is_ours(self):
        """Tell whether a start may go on here: it is this run's, or nobody's."""
        if (self.folder / "foreign").exists() or self.is_replaced():
            return False
        if (self.folder / RUN_FILE).exists():
            return self.scale() == 1
        return not self.folder.exists() or {path.name for path in self.folder.iterdir()} <= {
            LOCK_FILE
        }

    def is_replaced(self):
        """Tell whether a file has other content than the run wrote, and is not only emptied."""
        files = content(self.folder)
        return any(
            files.get(name, data) != data and files[name].strip(b"\0")
            for name, data in self.whole.items()
        )

    def kept(self):
        """Count the items that a start must not do again, from what lies in the folder."""
        if self.is_whole():
            return len(NAMES)
        path = self.folder / JOURNAL_FILE
        lines = path.read_bytes().splitlines(True) if path.exists() else []
        count = 0
        for index, (line, expected) in enumerate(zip(lines, self.journal)):
            text = self.text_of(self.folder, NAMES[index])
            has_file = index == REFUSED or (text.exists() and text.read_bytes().strip(b"\0"))
            if line != expected or not has_file:
                break
            count += 1
        return count

    def is_whole(self):
        files = content(self.folder)
        return bool(self.state().get("finished")) and all(
            files.get(name) == data for name, data in self.whole.items()
        )

    # What may happen ------------------------------------------------------------------------------

    @rule(stop=st.none() | st.integers(0, len(NAMES) + 1))
    def run_again(self, stop):
        ours, before = self.is_ours(), content(self.folder)
        try:
            self.start(self.folder, 1, stop=stop, expected=self.kept())
        except Interrupted:
            assert ours
        except RunFolderError:
            assert not ours
            assert content(self.folder) == before, "refused, but changed"
        else:
            assert ours
            assert content(self.folder) == self.whole

    @rule(stop=st.none() | st.integers(0, len(NAMES)))
    def start_anew(self, stop):
        try:
            self.start(self.folder, 1, overwrite=True, stop=stop, expected=0)
        except Interrupted:
            pass
        except RunFolderError:
            has_foreign = (self.folder / "foreign").exists() or self.is_replaced()
            assert has_foreign or "schema" not in self.state()

    @rule()
    def another_run_comes(self):
        scale, before = self.scale(), content(self.folder)
        try:
            self.start(self.folder, 2, stop=2)
        except Interrupted:
            assert scale != 1, "it took over what this run left"
        except RunFolderError:
            assert content(self.folder) == before

    @precondition(lambda self: (self.folder / JOURNAL_FILE).exists())
    @rule(size=st.integers(0, 200))
    def the_journal_is_cut(self, size):
        path = self.folder / JOURNAL_FILE
        path.write_bytes(path.read_bytes()[:size])

    @precondition(lambda self: (self.folder / JOURNAL_FILE).exists())
    @rule(first=st.integers(0, 5), second=st.integers(0, 5))
    def lines_of_the_journal_change_places(self, first, second):
        path = self.folder / JOURNAL_FILE
        lines = path.read_bytes().splitlines(True)
        if max(first, second) < len(lines):
            lines[first], lines[second] = lines[second], lines[first]
        path.write_bytes(b"".join(lines))

    @precondition(lambda self: (self.folder / JOURNAL_FILE).exists())
    @rule(junk=st.sampled_from([b"\0" * 9, b"{", b"[]\n", b'{"path": 3}\n', b"[" * 9999 + b"\n"]))
    def the_journal_is_torn(self, junk):
        with (self.folder / JOURNAL_FILE).open("ab") as file:
            file.write(junk)

    @rule(index=st.integers(0, len(NAMES) - 1))
    def a_file_of_an_item_is_lost(self, index):
        self.text_of(self.folder, NAMES[index]).unlink(missing_ok=True)

    @rule(index=st.integers(0, len(NAMES) - 1), zeros=st.booleans())
    def a_power_failure_empties_a_file_of_an_item(self, index, zeros):
        path = self.text_of(self.folder, NAMES[index])
        if path.exists():
            path.write_bytes(bytes(path.stat().st_size * zeros))

    @rule(name=st.sampled_from([RESULTS, "more.txt", JOURNAL_FILE, RUN_FILE]))
    def a_file_is_lost(self, name):
        (self.folder / name).unlink(missing_ok=True)

    @rule(name=st.sampled_from([RESULTS, "more.txt"]))
    def a_result_is_cut(self, name):
        path = self.folder / name
        if path.exists():
            path.write_bytes(path.read_bytes()[:-1])

    @rule(text=st.sampled_from(["", "{", "[]", '{"results": 3}', "[" * 9999]))
    def the_run_file_is_broken(self, text):
        if (self.folder / RUN_FILE).exists():
            (self.folder / RUN_FILE).write_text(text)

    @precondition(lambda self: self.folder.exists())
    @rule()
    def a_kill_leaves_a_lock(self):
        (self.folder / LOCK_FILE).touch()

    @precondition(lambda self: (self.folder / LIST_FILE).exists())
    @rule(name=st.sampled_from([".facezoo.00.tmp", "txt/.facezoo.01.tmp"]))
    def a_kill_leaves_a_file(self, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        with (self.folder / LIST_FILE).open("a") as file:
            file.write(json.dumps({"temporary": name}) + "\n")

    @precondition(lambda self: self.folder.exists())
    @rule()
    def a_stranger_leaves_a_file(self):
        (self.folder / "foreign").write_text("kept")


# Lists, manifests, npz files ----------------------------------------------------------------------

PICTURES = ["a/0.png", "a/1.png", "b/0.png", "b/broken.png", "b/2.png"]
BROKEN = 3
CONTRACT = Contract.from_card(find_card("scrfd_500m_bnkps"), input_hw=(64, 64))


class Lists(RuleBasedStateMachine):
    """A list with its manifest, its npz files and vamp's outputs, as each picture's number."""

    def __init__(self):
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.datalist = self.base / "list.txt"
        self.manifest = self.base / "list.txt.manifest.json"
        folder, self.output = self.base / "npz", self.base / "out"
        items, self.files, outputs_of, self.expected = [], [], [], []
        for index, name in enumerate(PICTURES):
            if index == BROKEN:
                items.append({"path": name, "error": "is empty"})
                continue
            self.expected.append((name, index, (index + 1, 2), index))
            picture = {"input_0": np.full((3, index + 1, 2), index, np.uint8)}
            entry = {"path": name, "width": 2, "height": index + 1, "npz": f"{name}.npz"}
            items.append({**entry, "sha256": npz.write_npz(folder / f"{name}.npz", picture)})
            made = self.output / outputs.output_name(len(outputs_of))
            array = {"output_0": np.full((1, 2), index, np.float32)}
            outputs_of.append({"path": made.name, "sha256": npz.write_npz(made, array)})
            self.files += [folder / f"{name}.npz", made]
        head = {"schema": npz.MANIFEST_SCHEMA, "root": "/photos", "npz_folder": str(folder)}
        (folder / npz.MANIFEST_FILE).write_text(json.dumps({**head, "items": items}))
        npz.write_datalist(self.datalist, folder)
        head = outputs.index_head(CONTRACT, "float32", self.datalist, {"model_sha256": "0" * 64})
        index = {"schema": outputs.INDEX_SCHEMA, **head, "outputs": outputs_of}
        (self.output / outputs.INDEX_FILE).write_text(json.dumps(index))
        self.pristine = content(self.base)

    def teardown(self):
        shutil.rmtree(self.base)

    def pairs(self):
        """Read everything; return each picture with the numbers in its npz and in its output."""
        lines = npz.read_datalist(self.datalist)
        folder = outputs.OutputFolder(self.output, self.datalist)
        found = []
        for picture in npz.read_pictures(self.datalist):
            if not picture.error:
                image = npz.read_input(lines[picture.line], picture.sha256)
                (array,) = folder.arrays(picture.line)
                number = int(image[0, 0, 0])
                found.append((picture.name, number, picture.image_hw, int(array[0, 0])))
        return found

    @invariant()
    def each_picture_has_its_own_or_an_error_says_why(self):
        try:
            assert self.pairs() == self.expected
        except FaceZooError:
            assert content(self.base) != self.pristine

    def change_lines(self, change):
        if self.datalist.exists():
            lines = self.datalist.read_text().splitlines()
            change(lines)
            self.datalist.write_text("".join(f"{line}\n" for line in lines))

    def change_entries(self, change):
        if self.manifest.exists():
            with contextlib.suppress(ValueError):
                entry = json.loads(self.manifest.read_text())
                change(entry["items"])
                self.manifest.write_text(json.dumps(entry))

    def change_both(self, change):
        """Make the same change to list and manifest, which then agree with each other."""
        self.change_lines(change)
        self.change_entries(change)

    @rule(where=st.sampled_from(["change_lines", "change_entries", "change_both"]), data=st.data())
    def places_are_exchanged(self, where, data):
        first, second = data.draw(st.tuples(*[st.integers(0, 4)] * 2))

        def exchange(items):
            if max(first, second) < len(items):
                items[first], items[second] = items[second], items[first]

        getattr(self, where)(exchange)

    @rule(
        where=st.sampled_from(["change_lines", "change_entries", "change_both"]),
        index=st.integers(0, 4),
    )
    def one_is_lost(self, where, index):
        getattr(self, where)(lambda items: items.pop(index) if index < len(items) else None)

    @rule(
        where=st.sampled_from(["change_lines", "change_entries", "change_both"]),
        index=st.integers(0, 4),
        to=st.integers(0, 5),
    )
    def one_is_there_twice(self, where, index, to):
        def double(items):
            if index < len(items):
                items.insert(to, items[index])

        getattr(self, where)(double)

    @rule(is_list=st.booleans(), size=st.integers(0, 800))
    def a_list_is_cut(self, is_list, size):
        path = self.datalist if is_list else self.manifest
        if path.exists():
            path.write_bytes(path.read_bytes()[:size])

    @rule(which=st.sampled_from(["datalist", "manifest"]))
    def a_list_is_lost(self, which):
        getattr(self, which).unlink(missing_ok=True)

    @rule(index=st.integers(0, 7), size=st.integers(0, 300))
    def a_file_is_cut(self, index, size):
        path = self.files[index]
        if path.exists():
            path.write_bytes(path.read_bytes()[:size])

    @rule(index=st.integers(0, 7))
    def a_file_is_lost(self, index):
        self.files[index].unlink(missing_ok=True)

    @rule(index=st.integers(0, 7), value=st.integers(0, 4))
    def a_file_is_another_runs(self, index, value):
        path = self.files[index]
        if path.parent == self.output:
            npz.write_npz(path, {"output_0": np.full((1, 2), value, np.float32)})
        else:
            npz.write_npz(path, {"input_0": np.full((3, 1 + index // 2, 2), value, np.uint8)})

    @rule(first=st.integers(0, 7), second=st.integers(0, 7))
    def files_are_exchanged(self, first, second):
        one, other = self.files[first], self.files[second]
        if one.exists() and other.exists():
            data = one.read_bytes()
            one.write_bytes(other.read_bytes())
            other.write_bytes(data)

    @rule(index=st.integers(0, 7), number=st.integers(0, 5))
    def a_file_is_renamed(self, index, number):
        path = self.files[index]
        if path.exists():
            path.rename(path.with_name(outputs.output_name(number)))

    @rule()
    def all_is_mended(self):
        for path in self.base.rglob("*"):
            if path.is_file():
                path.unlink()
        for name, data in self.pristine.items():
            (self.base / name).write_bytes(data)


TestRuns, TestLists = Runs.TestCase, Lists.TestCase
TestRuns.settings = TestLists.settings = IN_MAKE_TEST


@pytest.mark.long
@pytest.mark.parametrize("machine", [Runs, Lists])
def test_many_more_orders_of_events(machine):
    run_state_machine_as_test(machine, settings=LONG)
