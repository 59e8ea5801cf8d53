"""Webhook mode: what is believed, and what is not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from adapters.feishu.adapter import FeishuAdapter
from core.config import FeishuSection
from core.errors import ConfigError
from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.adapters.feishu.payloads import golden, text_event
from tests.adapters.feishu.wires import encrypted, section, signed
from tests.adapters.manual_clock import ManualClock
from tests.adapters.recording_sink import RecordingSink

KEY, TOKEN = "encrypt-me", "verify-me"


class Bench:
    """A webhook adapter and a client that posts to it."""

    def __init__(self, config: FeishuSection) -> None:
        self.clock, self.sink = ManualClock(), RecordingSink()
        self.adapter = FeishuAdapter(config, self.clock)
        self.session = aiohttp.ClientSession()

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.adapter.webhook_port}/feishu/events"
        async with self.session.post(url, data=body, headers={"Content-Type": "application/json", **(headers or {})}) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else text

    async def event(self, payload: dict[str, Any], age: float = 0.0, nonce: str | None = None, lower: bool = False) -> tuple[int, Any]:
        headers, body = signed(payload, KEY, self.clock.now().timestamp() - age, nonce)
        return await self.post(body, {name.lower(): value for name, value in headers.items()} if lower else headers)


async def _bench(server: LoopbackFeishu, **values: Any) -> AsyncIterator[Bench]:
    bench = Bench(section(server, mode="webhook", listen="127.0.0.1:0", max_body_bytes=4096, **values))
    await bench.adapter.start(bench.sink)
    yield bench
    await bench.session.close()
    await bench.adapter.stop()


@pytest.fixture
async def signed_bench(feishu: LoopbackFeishu) -> AsyncIterator[Bench]:
    async for bench in _bench(feishu, encrypt_key=SecretStr(KEY), verification_token=SecretStr(TOKEN)):
        yield bench


@pytest.fixture
async def token_bench(feishu: LoopbackFeishu) -> AsyncIterator[Bench]:
    async for bench in _bench(feishu, verification_token=SecretStr(TOKEN)):
        yield bench


CHALLENGE = {"challenge": 'a"b', "token": TOKEN, "type": "url_verification"}


async def test_the_challenge_is_answered(signed_bench: Bench, token_bench: Bench) -> None:
    assert await signed_bench.post(encrypted(CHALLENGE, KEY)) == (200, {"challenge": 'a"b'})
    assert await token_bench.post(json.dumps(CHALLENGE).encode()) == (200, {"challenge": 'a"b'})


async def test_a_challenge_of_somebody_else_is_not_answered(signed_bench: Bench, token_bench: Bench) -> None:
    assert (await signed_bench.post(json.dumps(CHALLENGE).encode()))[0] == 401
    assert (await signed_bench.post(encrypted(CHALLENGE, "another key")))[0] == 401
    assert (await token_bench.post(json.dumps({**CHALLENGE, "token": "x"}).encode()))[0] == 401


@pytest.mark.parametrize("lower", [False, True], ids=["as-sent", "lower-case"])
async def test_a_signed_event_is_taken_whatever_the_case_of_its_headers(signed_bench: Bench, lower: bool) -> None:
    assert (await signed_bench.event(text_event("m1"), lower=lower))[0] == 200
    assert signed_bench.sink.ids() == ["m1"]
    assert signed_bench.adapter.health().last_event_age == 0.0


async def test_a_replay_is_refused_and_an_honest_repetition_is_not(signed_bench: Bench) -> None:
    headers, body = signed(text_event("m1"), KEY, signed_bench.clock.now().timestamp(), "nonce-1")
    signed_bench.sink.errors.append(OSError("disk full"))
    assert (await signed_bench.post(body, headers))[0] == 500
    assert (await signed_bench.post(body, headers))[0] == 200
    assert (await signed_bench.post(body, headers))[0] == 401
    assert signed_bench.sink.ids() == ["m1"]


async def test_a_replay_is_remembered_for_as_long_as_its_timestamp_is_good(signed_bench: Bench) -> None:
    headers, body = signed(text_event("m1"), KEY, signed_bench.clock.now().timestamp() + 299)
    assert (await signed_bench.post(body, headers))[0] == 200
    for _ in range(6):
        await signed_bench.clock.advance(99)
        await signed_bench.event(text_event("other"))
        assert (await signed_bench.post(body, headers))[0] == 401
    assert signed_bench.sink.ids().count("m1") == 1


@pytest.mark.parametrize("age", [301, -301, 86400])
async def test_a_stale_or_future_request_is_refused(signed_bench: Bench, age: float) -> None:
    assert (await signed_bench.event(text_event("m1"), age=age))[0] == 401
    assert signed_bench.sink.entered == 0


async def test_a_wrong_signature_is_refused(signed_bench: Bench) -> None:
    headers, body = signed(text_event("m1"), KEY, signed_bench.clock.now().timestamp())
    for broken in ({**headers, "X-Lark-Signature": "0" * 64}, {**headers, "X-Lark-Request-Nonce": "other"}, {}):
        assert (await signed_bench.post(body, broken))[0] == 401
    _, other = signed(text_event("m2"), KEY, signed_bench.clock.now().timestamp())
    assert (await signed_bench.post(other, headers))[0] == 401
    assert signed_bench.sink.entered == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"[" * 3000])
async def test_what_is_no_event_is_a_bad_request(signed_bench: Bench, token_bench: Bench, body: bytes) -> None:
    assert (await signed_bench.post(body))[0] == 400
    assert (await token_bench.post(body))[0] == 400


@pytest.mark.parametrize("encrypted_text", [1, "", "AAAA", "!!!", "A" * 64])
async def test_broken_ciphers_are_refused(signed_bench: Bench, encrypted_text: object) -> None:
    assert (await signed_bench.post(json.dumps({"encrypt": encrypted_text}).encode()))[0] == 401


async def test_a_body_beyond_the_limit_is_refused(signed_bench: Bench) -> None:
    assert (await signed_bench.event(text_event("m1", "长" * 4000)))[0] == 413
    assert signed_bench.sink.entered == 0


async def test_without_encryption_the_token_decides(token_bench: Bench) -> None:
    assert (await token_bench.post(json.dumps(text_event("m1")).encode()))[0] == 200
    forged = text_event("m2")
    forged["header"]["token"] = "guess"
    assert (await token_bench.post(json.dumps(forged).encode()))[0] == 401
    assert token_bench.sink.ids() == ["m1"]


async def test_events_nobody_registered_for_are_acknowledged(signed_bench: Bench) -> None:
    assert (await signed_bench.event(golden("reaction")))[0] == 200


async def test_webhook_mode_without_any_secret_is_refused(feishu: LoopbackFeishu) -> None:
    with pytest.raises(ConfigError, match="encrypt_key"):
        await FeishuAdapter(section(feishu, mode="webhook"), ManualClock()).start(RecordingSink())


async def test_a_port_in_use_is_named(feishu: LoopbackFeishu, signed_bench: Bench) -> None:
    config = section(feishu, mode="webhook", encrypt_key=SecretStr(KEY), listen=f"127.0.0.1:{signed_bench.adapter.webhook_port}")
    with pytest.raises(ConfigError, match="cannot listen"):
        await FeishuAdapter(config, ManualClock()).start(RecordingSink())
