"""The call-back server of both gateways, by real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from adapters.wechat import callbacks
from adapters.wechat.callbacks import BadCallbackError, CallbackServer, Respond, RoomLocks
from core.config import WechatSection
from core.errors import ConfigError
from tests.adapters.manual_clock import ManualClock, eventually

SECRET = "s3cret"


class Gateway:
    """A served address, and a client of it."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.clock = ManualClock()
        self.server = CallbackServer(WechatSection(listen="127.0.0.1:0", secret=SECRET, max_body_bytes=2048), self.answer, self.clock)

    async def answer(self, value: dict[str, Any], respond: Respond) -> None:
        await self.gate.wait()
        if self.error:
            raise self.error
        self.taken.append(value)
        await respond("done")

    async def post(self, path: str = f"/{SECRET}", body: bytes = b'{"a": 1}', **headers: str) -> int:
        host, port = self.server.address or ("", 0)
        async with aiohttp.ClientSession() as session, session.post(f"http://{host}:{port}{path}", data=body, headers=headers) as response:
            await response.read()
            return response.status


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    await gateway.server.start()
    yield gateway
    await gateway.server.stop()


@pytest.mark.parametrize("path", ["/s3cret", "/callback/s3cret", "/s3cret/wechat", "/api/v1/message/s3cret"])
async def test_secret_path_is_let_in(gateway: Gateway, path: str) -> None:
    assert await gateway.post(path) == 200
    assert gateway.taken == [{"a": 1}]


async def test_bearer_token_is_let_in_at_any_path(gateway: Gateway) -> None:
    assert await gateway.post("/callback", Authorization=f"Bearer {SECRET}") == 200
    assert await gateway.post("/", Authorization=f"bearer {SECRET}") == 200


@pytest.mark.parametrize(
    ("path", "authorization"), [("/", ""), ("/callback", ""), ("/s3cre", ""), ("/s3cret2", ""), ("/callback", "Bearer nope"), ("/callback", "Basic s3cret"), ("/é", "Bearer é")]
)
async def test_others_get_401_and_nothing_is_taken(gateway: Gateway, path: str, authorization: str) -> None:
    assert await gateway.post(path, Authorization=authorization) == 401
    assert gateway.taken == []


async def test_bytes_that_are_no_text_get_401(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection(*(gateway.server.address or ("", 0)))
    writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer \xff\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_a_secret_in_the_query_does_not_count(gateway: Gateway) -> None:
    assert await gateway.post("/callback?secret=s3cret") == 401


async def test_large_body_is_refused(gateway: Gateway) -> None:
    assert await gateway.post(body=b'{"a": "' + b"x" * 3000 + b'"}') == 413
    assert gateway.taken == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"null", b"\xff\xfe", b"[" * 2000])
async def test_what_is_no_json_object_gets_400(gateway: Gateway, body: bytes) -> None:
    assert await gateway.post(body=body) == 400


async def test_a_body_that_does_not_come_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_BODY_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection(*(gateway.server.address or ("", 0)))
    writer.write(f"POST /{SECRET} HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert b" 408 " in await reader.readline()
    writer.close()
    assert gateway.taken == []


async def test_only_post_is_served(gateway: Gateway) -> None:
    host, port = gateway.server.address or ("", 0)
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/{SECRET}") as response:
        assert response.status == 405


async def test_failing_store_gets_500_and_bad_format_400(gateway: Gateway) -> None:
    gateway.error = RuntimeError("disk full")
    assert await gateway.post() == 500
    gateway.error = BadCallbackError("query is missing")
    assert await gateway.post() == 400


async def test_gateway_that_hangs_up_does_not_interrupt_the_store(gateway: Gateway) -> None:
    gateway.gate.clear()
    posting = asyncio.create_task(gateway.post())
    await asyncio.sleep(0.1)
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    await asyncio.sleep(0.05)
    gateway.gate.set()
    await eventually(lambda: gateway.taken)


async def test_stop_lets_requests_under_way_finish(gateway: Gateway) -> None:
    gateway.gate.clear()
    posting = asyncio.create_task(gateway.post())
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(gateway.server.stop())
    await asyncio.sleep(0.05)
    gateway.gate.set()
    assert await posting == 200
    await stopping


@pytest.mark.parametrize(
    ("changes", "key"), [({"secret": ""}, "secret"), ({"listen": "9528"}, "listen"), ({"listen": "127.0.0.1:x"}, "listen"), ({"listen": "192.0.2.1:9528"}, "listen")]
)
async def test_what_cannot_be_served_is_a_config_error(changes: dict[str, str], key: str) -> None:
    async def answer(value: dict[str, Any], respond: Respond) -> None:
        await respond(value)

    config = WechatSection(**({"listen": "127.0.0.1:0", "secret": "s"} | changes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        await CallbackServer(config, answer, ManualClock()).start()
    assert caught.value.key == key


async def test_port_in_use_is_a_config_error(gateway: Gateway) -> None:
    assert gateway.server.address
    config = WechatSection(listen=f"127.0.0.1:{gateway.server.address[1]}", secret="s")
    with pytest.raises(ConfigError, match="cannot be used"):
        await CallbackServer(config, gateway.answer, ManualClock()).start()


async def test_calls_of_one_room_go_in_order_and_rooms_do_not_wait() -> None:
    locks, order, gate = RoomLocks(), [], asyncio.Event()

    async def first() -> None:
        await gate.wait()
        order.append("a1")

    async def note(name: str) -> None:
        order.append(name)

    tasks = [asyncio.create_task(locks.run("a", first)), asyncio.create_task(locks.run("a", lambda: note("a2"))), asyncio.create_task(locks.run("b", lambda: note("b1")))]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["b1", "a1", "a2"]
    assert locks._locks == {}
