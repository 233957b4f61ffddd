import random

import pytest

from deployments.errors import OverloadedError
from deployments.llm.scheduler import Finish, Prefill, Scheduler


def test_a_prompt_is_prefilled_in_chunks_then_decodes_until_its_budget():
    scheduler = Scheduler(slots=2, chunk=4, max_waiting=1)
    scheduler.add(7, prompt=6, budget=3)
    assert scheduler.plan().prefill == Prefill(7, 0, 0, 4, first=True, last=False)
    assert scheduler.plan().prefill == Prefill(7, 0, 4, 6, first=False, last=True)
    assert scheduler.accept(7, stop=False) is None
    assert scheduler.plan().decode == ((7, 0),)
    assert scheduler.plan().decode == ((7, 0),)
    assert not scheduler.plan()
    assert scheduler.accept(7, stop=False) is None
    assert scheduler.accept(7, stop=False) is Finish.LENGTH
    assert scheduler.occupied == 0


def test_decoding_goes_on_between_the_chunks_of_a_long_prompt():
    scheduler = Scheduler(slots=2, chunk=4, max_waiting=1)
    scheduler.add(1, prompt=2, budget=9)
    scheduler.plan()
    scheduler.add(2, prompt=12, budget=9)
    for _ in range(3):
        plan = scheduler.plan()
        assert plan.prefill is not None and plan.decode == ((1, 0),)
    assert scheduler.plan().decode == ((1, 0), (2, 1))


def test_a_stop_frees_the_slot_for_who_waits():
    scheduler = Scheduler(slots=1, chunk=4, max_waiting=1)
    scheduler.add(1, prompt=2, budget=9)
    scheduler.plan()
    scheduler.add(2, prompt=2, budget=9)
    assert scheduler.plan().prefill is None
    assert scheduler.accept(1, stop=True) is Finish.STOP
    assert 1 not in scheduler
    assert scheduler.plan().prefill == Prefill(2, 0, 0, 2, first=True, last=True)


def test_a_full_queue_refuses():
    scheduler = Scheduler(slots=1, chunk=4, max_waiting=2)
    for key in range(3):
        scheduler.add(key, prompt=1, budget=1)
    with pytest.raises(OverloadedError):
        scheduler.add(3, prompt=1, budget=1)


def test_a_request_can_be_removed_while_it_waits():
    scheduler = Scheduler(slots=1, chunk=4, max_waiting=2)
    scheduler.add(0, prompt=1, budget=1)
    scheduler.plan()
    scheduler.add(1, prompt=1, budget=1)
    scheduler.remove(1)
    assert scheduler.waiting == 0
    assert scheduler.occupied == 1


def test_positions_in_use_are_counted():
    scheduler = Scheduler(slots=2, chunk=4, max_waiting=2)
    scheduler.add(0, prompt=6, budget=5)
    counts = []
    for _ in range(4):
        scheduler.plan()
        counts.append(scheduler.tokens)
    assert counts == [4, 6, 7, 8]


@pytest.mark.parametrize("seed", range(5))
def test_slots_are_never_shared_and_always_come_back(seed: int):
    chance = random.Random(seed)
    scheduler = Scheduler(slots=4, chunk=8, max_waiting=1000)
    owner: dict[int, int] = {}
    results: list[int] = []
    for key in range(200):
        scheduler.add(key, chance.randint(1, 30), chance.randint(1, 20))
    while scheduler.waiting or scheduler.occupied:
        plan = scheduler.plan()
        if plan.prefill is not None and plan.prefill.first:
            assert owner.get(plan.prefill.slot) not in scheduler or owner[plan.prefill.slot] == plan.prefill.key
            owner[plan.prefill.slot] = plan.prefill.key
        if plan.prefill is not None and plan.prefill.last:
            results.append(plan.prefill.key)
        assert all(owner[slot] == key for key, slot in plan.decode)
        results += [key for key, _ in plan.decode]
        while results and chance.random() < 0.8:
            key = results.pop(0)
            if key in scheduler:
                scheduler.accept(key, stop=chance.random() < 0.1)
        if chance.random() < 0.05:
            scheduler.remove(chance.randrange(200))
    assert sorted(scheduler._free) == [0, 1, 2, 3]
    assert scheduler.tokens == 0
