"""Bulk scoring on Ray: loopback only, the same bytes on any number of nodes, photos stay out."""

import os
import types
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")
from bulk import make_job, make_run, parts, receipts, start, write_run
from facezoo.errors import BackendUnavailable
from facezoo.scale import on_ray
from facezoo.scale.outcome import check
from facezoo.scale.work import Work
from fault_table import HERE

pytestmark = pytest.mark.scale

# About the size of the smallest photo of the tests.
PHOTO_BYTES = 5000


@pytest.fixture
def ray(monkeypatch):
    """Return Ray, for processes on this machine alone."""
    # Read when Ray is imported.
    for name, value in {**on_ray.STAY_LOCAL, **on_ray.KEEP_QUIET}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    return pytest.importorskip("ray", reason="needs Ray (make test-all)")


@pytest.fixture
def cluster(ray):
    """Return what starts so many nodes of one core; they are stopped at the end."""
    from ray.cluster_utils import Cluster

    running = []

    def begin(nodes):
        node = {
            "num_cpus": 1,
            "node_ip_address": on_ray.LOOPBACK,
            "object_store_memory": on_ray.STORE_BYTES,
            "include_dashboard": False,
        }
        running.append(Cluster(initialize_head=True, head_node_args=node))
        del node["include_dashboard"]
        for _ in range(nodes - 1):
            running[-1].add_node(**node)
        running[-1].wait_for_nodes()
        return running[-1].address

    yield begin
    ray.shutdown()
    for one in running:
        one.shutdown()


def listening():
    """Return the addresses that Ray's processes listen on, as the kernel writes them."""
    sockets = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray" in (process / "cmdline").read_bytes()[:300]:
                sockets |= {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue  # It has ended.
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    listen = "0A"  # source: Linux include/net/tcp_states.h, TCP_LISTEN
    return {
        row[1].partition(":")[0]
        for row in rows
        if row[3] == listen and f"socket:[{row[9]}]" in sockets
    }


def test_one_two_and_four_nodes_give_the_same_bytes(tmp_path, cluster, ray):
    run = make_run(tmp_path, 24, 3)
    start(run, "local")
    expected = parts(run)
    for nodes in (1, 2, 4):
        address = cluster(nodes)
        assert address.startswith("127.0.0.1:")
        again = write_run(tmp_path, 3, f"nodes_{nodes}")
        scores, job = make_job(again)
        work = Work(scores)
        free = []
        with on_ray.connected(address) as connected:
            assert {one["NodeManagerAddress"] for one in ray.nodes()} == {on_ray.LOOPBACK}
            for _ in on_ray._score(connected, work, job, 0.0):
                # What is in the object store is not available.
                free.append(ray.available_resources()["object_store_memory"])
            total = ray.cluster_resources()["object_store_memory"]
        assert parts(again) == expected
        assert len({one["host"] for one in receipts(again)}) == 1
        assert total - min(free) < PHOTO_BYTES


def test_started_here_it_listens_on_this_machine_alone(ray):
    with on_ray.connected():
        found = listening()
    # 127.0.0.1, also as IPv6 has it, in the byte order of the machine.
    assert found
    assert found <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_an_address_where_nothing_is_is_refused(ray):
    said = r"Ray at 127\.0\.0\.1:9 cannot be reached"
    with pytest.raises(BackendUnavailable, match=said), on_ray.connected("127.0.0.1:9"):
        pass


@pytest.mark.parametrize(
    ("asked", "found", "node", "said"),
    [
        ("", "192.0.2.2:6379", "127.0.0.1", r"listens on 127\.0\.0\.1, 192\.0\.2\.2"),
        ("", "127.0.0.1:6379", "192.0.2.2", r"listens on 127\.0\.0\.1, 192\.0\.2\.2"),
        ("10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.1", r"connected to 10\.0\.0\.2:6379, not to"),
        ("10.0.0.1:6379", "10.0.0.1:6379", "10.0.0.7", None),
        ("", "127.0.0.1:6379", "127.0.0.1", None),
    ],
)
def test_another_address_than_the_one_asked_for_is_refused(asked, found, node, said):
    ray = types.SimpleNamespace(
        get_runtime_context=lambda: types.SimpleNamespace(gcs_address=found),
        nodes=lambda: [{"NodeManagerAddress": node}],
    )
    if said is None:
        on_ray._check_address(ray, asked)
    else:
        with pytest.raises(BackendUnavailable, match=said):
            on_ray._check_address(ray, asked)


class Answers:
    """A Ray whose actors answer at once, or are lost; it counts what is in flight."""

    class exceptions:
        class RayActorError(Exception):
            pass

    def __init__(self, scores, losses, tells):
        self.scores, self.losses, self.tells = scores, set(losses), tells
        self.gone, self.silent = set(), set()
        self.in_flight, self.most, self.started, self.asked = {}, 0, 0, []

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **options):
        assert options == {
            "num_cpus": 1,
            "num_gpus": 0.0,
            "max_restarts": -1,
            "max_task_retries": 0,
        }
        return lambda kind: types.SimpleNamespace(remote=self.actor)

    def actor(self, job):
        number = self.started
        self.started += 1

        def ask(part=None):
            reference = (number, len(self.asked))
            self.asked.append(part)
            self.in_flight[reference] = part
            lost = self.gone | self.silent
            mine = [one for one in self.in_flight if one[0] == number and one not in lost]
            self.most = max(self.most, len(mine))
            return reference

        method = types.SimpleNamespace(remote=ask, options=lambda max_task_retries: method)
        return types.SimpleNamespace(ready=method, score=method)

    def wait(self, waiting, timeout):
        assert waiting and set(waiting) <= set(self.in_flight)
        # An actor answers in the order that it was asked.
        answering = [one for one in waiting if one not in self.silent]
        first = next(one for one in answering if one[0] == answering[-1][0])
        return [first], [one for one in waiting if one != first]

    def get(self, reference):
        part = self.in_flight.pop(reference)
        if part is None:
            return None
        if reference in self.gone:
            raise self.exceptions.RayActorError("lost")
        if len(self.asked) in self.losses:
            self.losses.discard(len(self.asked))
            # What else it was asked is lost too, and not always said to be.
            others = [
                o for o, p in self.in_flight.items() if o[0] == reference[0] and p is not None
            ]
            self.gone.update(others if self.tells else ())
            self.silent.update(() if self.tells else others)
            raise self.exceptions.RayActorError("lost")
        empty = [{"path": row.photo, "faces": []} for row in self.scores.rows(part)]
        return self.scores.write(part, [(entry, 1, None) for entry in empty])


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("losses", [(), (3, 5, 8), range(2, 30, 2)])
def test_an_actor_has_two_parts_at_most_and_a_lost_one_loses_none(tmp_path, losses, tells):
    scores, job = make_job(make_run(tmp_path, 24, 3))
    work, ray = Work(scores), Answers(scores, losses, tells)
    list(on_ray._score(ray, work, job, 0.0))
    assert ray.most == on_ray.IN_FLIGHT == 2
    assert ray.started == 2
    assert list(check(scores)) == []
    assert work.done == 24
