"""How many trials fit on nodes, and what the next one is granted."""

import pytest

from sweeper.cluster.resources import STEP, Grant, Packing, Resources, fitting, slots
from sweeper.memory import Peak, peak, reset_peak

GIB = 2**30


@pytest.mark.parametrize(
    ("node", "grant", "number"),
    [
        ({"CPU": 8, "GPU": 1}, Grant(1, 0.25), 4),
        ({"CPU": 2, "GPU": 1}, Grant(1, 0.25), 2),
        ({"CPU": 64, "GPU": 8}, Grant(1, 0.4), 16),  # two on each GPU, not 20 on the sum of what is left of them
        ({"CPU": 64, "GPU": 8}, Grant(4, 2), 4),
        ({"CPU": 1}, Grant(0.1, 0), 10),  # 1 // 0.1 is 9
        ({"CPU": 64, "GPU": 1}, Grant(1, 0.1), 10),
        ({"CPU": 4}, Grant(1, 0.5), 0),
        ({"CPU": 8, "memory": 6 * GIB}, Grant(1, 0, 2 * GIB), 3),
        ({"CPU": 8}, Grant(1, 0, 2 * GIB), 8),  # a node that does not count its memory
    ],
)
def test_how_many_fit_on_a_node(node: dict[str, float], grant: Grant, number: int) -> None:
    assert fitting(node, grant) == number


def test_no_more_run_at_once_than_asked_for() -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 2.0}]
    assert slots(nodes, Grant(2, 0), None) == 3
    assert slots(nodes, Grant(2, 0), 2) == 2
    assert slots(nodes, Grant(8, 0), 2) == 0


def test_a_part_of_a_gpu_beside_a_whole_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--gpus-per-trial must be at most 1 or a whole number, got 1\.5"):
        Resources(gpus=1.5)


def test_memory_is_not_counted_where_every_slot_has_plenty() -> None:
    packing = Packing(Resources(cpus=1))
    assert packing.grant([{"CPU": 4, "memory": 16 * GIB}]) == Grant(1, 0)


def test_fewer_begin_where_memory_is_scarce_until_one_is_measured() -> None:
    packing, nodes = Packing(Resources(cpus=1)), [{"CPU": 8, "memory": 8 * GIB}]
    assert slots(nodes, packing.grant(nodes), None) == 4
    packing.learn(Peak(GIB // 2))
    assert packing.grant(nodes) == Grant(1, 0)  # 0.75 GiB each: all eight fit


def test_trials_that_need_more_than_assumed_are_granted_what_the_largest_needed_and_a_fifth() -> None:
    packing, nodes = Packing(Resources(cpus=1)), [{"CPU": 8, "memory": 32 * GIB}]
    packing.learn(Peak(5 * GIB))
    packing.learn(Peak(1 * GIB))
    grant = packing.grant(nodes)
    assert grant.memory == 6 * GIB and grant.memory % STEP == 0
    assert slots(nodes, grant, None) == 5


def test_one_that_needs_more_than_any_node_has_is_granted_a_whole_nodes() -> None:
    packing, nodes = Packing(Resources(cpus=1)), [{"CPU": 8, "memory": 4.0 * GIB}, {"CPU": 8, "memory": 3.0 * GIB}]
    packing.learn(Peak(10 * GIB))
    assert slots(nodes, packing.grant(nodes), None) == 1


def test_a_part_of_a_gpu_grows_to_what_was_measured() -> None:
    packing, nodes = Packing(Resources(cpus=1, gpus=0.25)), [{"CPU": 8.0, "GPU": 1.0}]
    assert slots(nodes, packing.grant(nodes), None) == 4
    packing.learn(Peak(GIB, gpu_bytes=10 * GIB, gpu_total_bytes=24 * GIB))
    assert packing.grant(nodes).gpus == 0.5
    assert slots(nodes, packing.grant(nodes), None) == 2
    packing.learn(Peak(GIB, gpu_bytes=23 * GIB, gpu_total_bytes=24 * GIB))
    assert packing.grant(nodes).gpus == 1.0


def test_a_whole_gpu_stays_one() -> None:
    packing = Packing(Resources(cpus=1, gpus=1))
    packing.learn(Peak(GIB, gpu_bytes=GIB, gpu_total_bytes=24 * GIB))
    assert packing.grant([{"CPU": 8, "GPU": 1}]).gpus == 1


def test_alone_is_a_grant_beside_which_nothing_fits() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0, "memory": 8.0 * GIB}, {"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * GIB}]
    packing = Packing(Resources(cpus=1, gpus=0.25))
    assert packing.alone(nodes) == Grant(8, 2)


def test_a_peak_is_of_the_work_since_the_reset() -> None:
    reset_peak()
    before = peak().host_bytes
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert peak().host_bytes - before == pytest.approx(200 * 2**20, rel=0.2)
    del block
    reset_peak()
    assert peak().host_bytes - before < 50 * 2**20
