"""Lanes: order within a conversation, bounded room, and an end for everything that is inside."""

from __future__ import annotations

import asyncio

import pytest

from adapters.feishu.lanes import Lanes, LanesClosed
from tests.adapters.manual_clock import ManualClock


class Work:
    """A handler that waits for :attr:`go` and remembers."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.go = asyncio.Event()

    async def __call__(self, event: int) -> None:
        await self.go.wait()
        if event < 0:
            raise ValueError(event)
        self.done.append(event)


async def test_order_is_kept_within_a_key_and_keys_do_not_wait_for_each_other() -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async def handle(event: str) -> None:
        if event == "slow":
            await gate.wait()
        order.append(event)

    lanes: Lanes[str] = Lanes(handle, ManualClock())
    held = [lanes.submit("a", "slow"), lanes.submit("a", "next")]
    await lanes.submit("b", "other")
    gate.set()
    await asyncio.gather(*held)
    assert order == ["other", "slow", "next"]


async def test_there_is_no_room_beyond_the_capacity_even_when_those_who_pushed_have_gone() -> None:
    work = Work()
    lanes: Lanes[int] = Lanes(work, ManualClock(), capacity=2)
    first, second = lanes.submit("a", 1), lanes.submit("b", 2)
    first.cancel()
    assert lanes.full
    room = asyncio.create_task(lanes.room())
    await asyncio.sleep(0)
    assert not room.done()
    work.go.set()
    await room
    await second
    assert work.done == [1, 2]


async def test_a_failure_is_told_to_its_pusher_alone() -> None:
    work = Work()
    work.go.set()
    lanes: Lanes[int] = Lanes(work, ManualClock())
    failing, following = lanes.submit("a", -1), lanes.submit("a", 2)
    await following
    with pytest.raises(ValueError):
        await failing
    assert not lanes.full


async def test_closing_waits_for_a_while_and_then_ends_everything() -> None:
    work, clock = Work(), ManualClock()
    lanes: Lanes[int] = Lanes(work, clock)
    stuck = [lanes.submit("a", 1), lanes.submit("a", 2)]
    closing = asyncio.create_task(lanes.close(5.0))
    for _ in range(3):
        await asyncio.sleep(0)  # its timer has been set
    await clock.advance(4.9)
    assert not closing.done()
    await clock.advance(0.2)
    await closing
    for future in (*stuck, lanes.submit("a", 3)):
        with pytest.raises(LanesClosed):
            await future
    await lanes.close(5.0)
    assert work.done == []
