"""The wechaty provider's connection, against a puppet service with the faults that real ones have: the real wechaty client over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from grpclib.const import Status
from structlog.testing import capture_logs

from adapters.wechat.payloads import PLATFORM
from adapters.wechat.wechaty_adapter import Timing, WechatyAdapter
from adapters.wechat.wechaty_compat import import_wechaty
from core.config import WechatSection
from core.delivery import Delivery, Outcome
from core.errors import ConfigError, SendError
from storage.engine import open_database
from storage.outbox import SqlOutbox
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.recording_sink import RecordingSink
from tests.adapters.wechat.loopback_puppet import BOT, LoopbackPuppet
from tests.adapters.wechat.wechaty_bench import Bench, reply, running


class TestConnection:
    @pytest.mark.parametrize("status", [None, Status.OK, Status.UNAVAILABLE, Status.INTERNAL], ids=str)
    async def test_end_of_the_stream_is_a_reconnect(self, bench: Bench, status: Status | None) -> None:
        bench.server.end_stream(status)
        await bench.until(lambda: not bench.adapter.health().connected, step=0.0)
        await bench.until(lambda: bench.server.connected and bench.adapter.health().connected)
        bench.server.message("m1")
        assert await bench.text_of("m1") == "你好"
        assert await bench.adapter.send(reply()) == "sent-1"

    @pytest.mark.parametrize("payload", ["{broken", "[]", "{}", '{"messageId": 7}', "null", ""])
    async def test_bad_events_do_no_harm(self, bench: Bench, payload: str) -> None:
        for kind in (1, 2, 3, 19, 20, 21, 22, 25, 26, 99):
            if (kind, payload) != (26, payload):
                bench.server.event(kind, payload)
        bench.server.message("m1")
        assert await bench.text_of("m1") == "你好"
        assert bench.server.calls["Start"] == 1

    async def test_reset_by_the_service_is_a_new_connection(self, bench: Bench) -> None:
        bench.server.event(24, {"data": "the puppet starts anew"})
        await bench.until(lambda: bench.server.calls["Start"] == 2 and bench.adapter.health().connected)
        bench.server.message("m1")
        assert await bench.text_of("m1") == "你好"

    async def test_service_that_is_down_at_start_is_awaited(self, server: LoopbackPuppet) -> None:
        await server.close()
        bench = Bench(server)
        await bench.start()
        assert not bench.adapter.health().connected
        assert "cannot connect" in bench.adapter.health().detail
        await server.listen()
        await bench.until(lambda: bench.adapter.health().connected)
        await bench.stop()

    async def test_pauses_between_attempts_grow_to_a_limit_with_jitter(self, server: LoopbackPuppet) -> None:
        await server.close()
        bench = Bench(server, timing=Timing(first_retry=1.0, longest_retry=8.0))
        pauses: list[float] = []
        sleep = bench.clock.sleep

        async def recorded(seconds: float) -> None:
            pauses.append(seconds)
            await sleep(seconds)

        bench.clock.sleep = recorded  # type: ignore[method-assign]
        await bench.start()
        await bench.until(lambda: len(pauses) >= 8, step=10.0)
        await bench.stop()
        for pause, longest in zip(pauses, [1, 2, 4, 8, 8, 8, 8, 8], strict=False):
            assert longest / 2 <= pause <= longest
        assert len(set(pauses)) == len(pauses)

    async def test_black_hole_is_noticed_by_ding(self, impatient: Bench) -> None:
        impatient.server.black_hole()
        before = impatient.server.calls["Start"]
        await impatient.until(lambda: impatient.server.calls["Start"] > before and impatient.adapter.health().connected, step=5.0)
        impatient.server.message("m1")
        assert await impatient.text_of("m1") == "你好"

    async def test_a_reply_into_a_black_hole_is_said_once_over_the_next_connection(self, impatient: Bench, tmp_path: Path) -> None:
        """It is tried once over the dead line: after a second try in doubt it would be given up, and nobody would have seen it."""
        async with contextlib.AsyncExitStack() as stack:
            database = await open_database(f"sqlite:///{tmp_path / 'bot.db'}", now=impatient.clock.now)
            stack.push_async_callback(database.close)
            delivery = Delivery(SqlOutbox(database), {PLATFORM: impatient.adapter}, timedelta(hours=1), clock=impatient.clock)
            stack.push_async_callback(delivery.stop)
            outcomes = delivery.counts[PLATFORM]
            impatient.server.black_hole()
            await delivery.start()
            await delivery.enqueue(reply())
            await impatient.until(lambda: outcomes[Outcome.RETRIED] == 1, step=0.0)  # no answer within the deadline
            await impatient.until(lambda: outcomes[Outcome.RETRIED] == 2, step=0.1)  # due again long before the line is known to be dead
            await impatient.until(lambda: outcomes[Outcome.SENT] or outcomes[Outcome.UNCONFIRMED], step=1.0)
        assert ([text for _, text, _ in impatient.server.sent], outcomes[Outcome.UNCONFIRMED]) == (["收到"], 0)

    @pytest.mark.parametrize("dongs", [True, False])
    async def test_after_a_reply_without_an_answer_nothing_is_sent_until_a_sign_of_life(self, server: LoopbackPuppet, dongs: bool) -> None:
        server.answers_ding = dongs
        async with running(Bench(server, call_deadline=0.5)) as bench:
            server.hanging.add("MessageSendText")
            for retry_after in (None, Timing().first_retry):  # in doubt; certainly not sent
                with pytest.raises(SendError) as caught:
                    await bench.adapter.send(reply())
                assert caught.value.retry_after == retry_after
            server.hanging.clear()
            dings = server.calls["Ding"]
            await bench.until(lambda: server.calls["Ding"] > dings, step=5.0)
            sent: list[str] = []

            async def send() -> None:
                with contextlib.suppress(SendError):
                    sent.append(await bench.adapter.send(reply()))
                await bench.clock.advance(0.0 if dongs else 1.0)

            await eventually(lambda: sent, tick=send)
            assert server.calls["Start"] == 1

    @pytest.mark.parametrize("ending", ["the stream ends", "the bot stops"])
    async def test_a_reply_that_is_on_its_way_when_the_connection_is_given_up_is_waited_for(self, bench: Bench, ending: str) -> None:
        """The group has seen it: were it cut off, it would be said again."""
        answered = bench.server.delays["收到"] = asyncio.Event()
        sending = asyncio.create_task(bench.adapter.send(reply()))
        await eventually(lambda: bench.server.sent)
        if ending == "the bot stops":
            stopping = asyncio.create_task(bench.stop())
        else:
            stopping = None
            bench.server.end_stream(Status.UNAVAILABLE)
        await eventually(lambda: not bench.adapter.health().connected)
        answered.set()
        assert await sending == "sent-1"
        if stopping is not None:
            await stopping

    async def test_quiet_night_with_dongs_is_no_reason_to_reconnect(self, bench: Bench) -> None:
        for number in range(2, 8):
            await bench.until(lambda number=number: bench.server.calls["Ding"] == number, step=5.0)
            await eventually(lambda: bench.adapter.health().last_event_age == 0.0)
        assert bench.clock.monotonic() > 150
        assert bench.server.calls["Start"] == 1

    async def test_stream_that_is_open_and_silent_is_noticed_by_ding_and_opened_anew(self, bench: Bench) -> None:
        """The service goes on answering calls, dings too; only its events do not arrive any more."""
        await bench.until(lambda: bench.server.calls["Ding"] == 1, step=0.0)
        await asyncio.sleep(0.05)
        bench.server.mute()
        with capture_logs() as logged:
            await bench.until(lambda: bench.server.calls["Start"] == 2 and bench.adapter.health().connected)
        assert "no sign of life" in next(entry["reason"] for entry in logged if entry["event"] == "wechat.disconnected")
        bench.server.message("m2")
        assert await bench.text_of("m2") == "你好"

    async def test_service_without_dongs_is_alive_while_it_takes_the_call(self, server: LoopbackPuppet) -> None:
        server.answers_ding = False
        bench = Bench(server)
        await bench.start()
        await bench.until(lambda: server.calls["Ding"] == 4, step=5.0)
        assert server.calls["Start"] == 1
        await bench.stop()

    async def test_pools_of_the_package_are_cleared_for_a_new_connection(self, bench: Bench) -> None:
        modules = import_wechaty()
        modules.room._pool["chat-1"] = modules.contact._pool["alice"] = object()
        bench.server.drop()
        await bench.until(lambda: bench.server.calls["Start"] == 2 and bench.adapter.health().connected)
        assert (dict(modules.room._pool), dict(modules.contact._pool)) == ({}, {})

    async def test_restart_of_the_adapter_delivers_again(self, bench: Bench) -> None:
        await bench.stop()
        await bench.start()
        await bench.until(lambda: bench.server.connected)
        bench.server.message("m1")
        assert await bench.text_of("m1") == "你好"

    async def test_age_of_the_last_event_is_told(self, bench: Bench) -> None:
        bench.server.event(1, {})
        await eventually(lambda: bench.adapter.health().last_event_age == 0.0)
        await bench.clock.advance(7.0)
        assert bench.adapter.health().last_event_age == 7.0

    async def test_logout_and_login_show_in_the_health(self, bench: Bench) -> None:
        bench.server.event(26, {"contactId": BOT})
        await eventually(lambda: not bench.adapter.health().connected)
        assert "logged out" in bench.adapter.health().detail
        bench.server.login()
        await eventually(lambda: bench.adapter.health().connected)

    async def test_qr_code_is_shown_once_with_its_link(self, bench: Bench) -> None:
        for _ in range(2):
            bench.server.event(22, {"status": 2, "qrcode": "http://weixin.qq.com/x/AbC="})
        await eventually(lambda: not bench.adapter.health().connected)
        bench.server.message("m1")
        await bench.text_of("m1")
        shown = bench.terminal.getvalue()
        assert shown.count("https://wechaty.js.org/qrcode/http%3A%2F%2Fweixin.qq.com%2Fx%2FAbC%3D") == 1
        assert shown.count("█") > 100

    @pytest.mark.parametrize("endpoint", ["", "localhost", "host:", ":80", "host:99999", "host:x", "host:²", "https://127.0.0.1:1", "127.0.0.1:1/path:1"])
    async def test_bad_endpoint_is_a_config_error(self, endpoint: str) -> None:
        with pytest.raises(ConfigError, match="endpoint"):
            await WechatyAdapter(WechatSection(endpoint=endpoint), ManualClock()).start(RecordingSink())

    async def test_refused_token_is_a_config_error(self, server: LoopbackPuppet) -> None:
        server.fail("Start", Status.UNAUTHENTICATED)
        bench = Bench(server)
        with pytest.raises(ConfigError, match="token"):
            await bench.start()
        assert not bench.adapter.health().connected
