import asyncio

from deployments.vocoder.admission import Admission


async def settled(*tasks: "asyncio.Task[None]") -> list[bool]:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_what_does_not_fit_waits_in_order() -> None:
    admission = Admission(10)
    await admission.enter(8)
    big, small = asyncio.create_task(admission.enter(9)), asyncio.create_task(admission.enter(1))
    assert await settled(big, small) == [False, False]
    admission.leave(8)
    assert await settled(big, small) == [True, True]
    assert admission.active == 2


async def test_one_larger_than_everything_is_let_in_alone() -> None:
    admission = Admission(10)
    await admission.enter(50)
    other = asyncio.create_task(admission.enter(1))
    assert await settled(other) == [False]
    admission.leave(50)
    assert await settled(other) == [True]


async def test_one_that_gives_up_lets_the_next_in() -> None:
    admission = Admission(10)
    await admission.enter(6)
    big, small = asyncio.create_task(admission.enter(9)), asyncio.create_task(admission.enter(2))
    await settled()
    big.cancel()
    assert await settled(small) == [True]
    admission.leave(6)
    admission.leave(2)
    assert admission.active == 0
    await admission.enter(10)


async def test_one_cancelled_at_the_moment_it_is_let_in_takes_nothing() -> None:
    admission = Admission(10)
    await admission.enter(10)
    waiting = asyncio.create_task(admission.enter(10))
    await settled()
    admission.leave(10)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.active == 0
