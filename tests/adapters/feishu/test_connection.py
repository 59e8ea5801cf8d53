"""The long connection under everything that networks and the platform do to it, with the SDK's own client."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from adapters.feishu.adapter import FeishuAdapter
from adapters.feishu.rest import ApiError, Rest
from adapters.feishu.supervisor import Supervisor
from core.errors import ConfigError
from tests.adapters.feishu.conftest import Running
from tests.adapters.feishu.loopback import APP_ID, BOT_OPEN_ID, Failure, LoopbackFeishu
from tests.adapters.feishu.payloads import golden, text_event
from tests.adapters.feishu.wires import section
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.recording_sink import RecordingSink

ENDPOINT = "/callback/ws/endpoint"


async def test_a_black_hole_is_noticed_within_three_quarters_of_a_minute(running: Running) -> None:
    running.feishu.black_hole = True
    before, started = running.feishu.connections, running.clock.monotonic()
    await running.until(lambda: not running.adapter.health().connected or running.feishu.connections > before, step=0.5)
    assert running.clock.monotonic() - started <= 45
    running.feishu.black_hole = False
    await running.until(lambda: running.feishu.connections > before and running.adapter.health().connected, step=0.5)
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.ids() == ["m1"])


async def test_a_quiet_but_living_connection_is_left_alone(running: Running) -> None:
    for _ in range(40):
        await running.clock.advance(7.5)
        await asyncio.sleep(0.01)
    assert running.feishu.connections == 1
    assert running.adapter.health().connected


@pytest.mark.parametrize(
    "failures",
    [
        [Failure(502, text="<html>Bad Gateway</html>")] * 3,
        [Failure(200, 1)] * 2,
        [Failure(200, 1000040343)],
        [Failure(200, 403)],  # "any other code" kills the SDK's own receive task silently
        [Failure(200, 1000040350)],
        [Failure(200, 514)],  # after a good start: the secret may be on its way from one server of theirs to the other
        [Failure(200, text="maintenance")],
        [Failure(200, 0)],  # no URL in it
    ],
    ids=["502", "busy", "internal", "forbidden", "too-many-connections", "auth", "no-json", "no-url"],
)
async def test_every_failure_of_the_endpoint_is_survived(running: Running, failures: list[Failure]) -> None:
    running.feishu.failures[ENDPOINT] = failures
    before = running.feishu.connections
    await running.feishu.drop()
    await running.until(lambda: running.feishu.connections > before and running.adapter.health().connected, step=10.0)
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.ids() == ["m1"])


@pytest.mark.parametrize("failure", [Failure(502, text="<html>"), Failure(200, 1), Failure(200, 1000040343)], ids=["502", "busy", "internal"])
async def test_a_passing_failure_of_the_endpoint_costs_seconds(running: Running, failure: Failure) -> None:
    running.feishu.failures[ENDPOINT] = [failure] * 2
    before, started = running.feishu.connections, running.clock.monotonic()
    await running.feishu.drop()
    await running.until(lambda: running.feishu.connections > before, step=0.05)
    assert running.clock.monotonic() - started < 20


async def test_reconnections_are_spread_over_the_time_that_the_server_names(running: Running) -> None:
    """After an outage not all bots come back in the same second."""
    running.feishu.client_config["ReconnectNonce"] = 30
    with structlog.testing.capture_logs() as logged:
        for _ in range(7):
            before = running.feishu.connections
            await running.feishu.drop()
            await running.until(lambda before=before: running.feishu.connections > before and running.adapter.health().connected, step=1.0)
    first, *waits = [entry["retry_in"] for entry in logged if entry["event"] == "feishu.disconnected"]
    assert first <= 2.0  # still as the connection before was told
    assert all(0.0 <= wait <= 30.0 for wait in waits)
    assert len(set(waits)) > 3


async def test_the_reason_of_a_refusal_is_shown_in_health(running: Running) -> None:
    running.feishu.failures[ENDPOINT] = [Failure(200, 403)]
    await running.feishu.drop()
    await running.until(lambda: "403" in running.adapter.health().detail, step=0.5)
    assert not running.adapter.health().connected


async def test_what_was_not_acknowledged_comes_again_after_a_reconnection(running: Running) -> None:
    running.sink.hold()
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.entered == 1)
    before = running.feishu.connections
    await running.feishu.drop()
    await running.until(lambda: running.feishu.connections > before, step=0.5)
    running.sink.release()
    await running.until(lambda: ("f1", 200) in running.feishu.acknowledged)
    assert running.sink.ids() == ["m1", "m1"]


async def test_an_event_in_parts_is_put_together(running: Running) -> None:
    await running.feishu.push("f1", text_event("m1", "长" * 500), parts=3)
    await running.until(lambda: ("f1", 200) in running.feishu.acknowledged)
    assert running.sink.messages[0].text == "长" * 500


@pytest.mark.parametrize("name", ["reaction", "schema_1", "card", "own", "private"])
async def test_what_nobody_registered_for_is_acknowledged(running: Running, name: str) -> None:
    await running.feishu.push("f1", golden(name))
    await running.until(lambda: running.feishu.acknowledged == [("f1", 200)])
    assert running.sink.entered == 0
    assert sum(running.adapter.ignored.values()) == 1


async def test_what_is_no_json_is_acknowledged_and_not_fatal(running: Running) -> None:
    await running.feishu.push("f1", b"\xff{")
    await running.feishu.push("card", json.dumps({"action": {}}).encode(), frame_type="card")
    await running.feishu.push("f2", text_event("m2"))
    await running.until(lambda: len(running.feishu.acknowledged) == 3)
    assert {code for _, code in running.feishu.acknowledged} == {200}
    assert running.sink.ids() == ["m2"]


async def test_what_is_no_frame_does_no_harm(running: Running) -> None:
    for garbage in (b"\xff\xff", b"", "hello"):
        await running.feishu.send_raw(garbage)
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.ids() == ["m1"])
    assert running.feishu.connections == 1


async def test_a_receive_task_that_dies_is_noticed_at_once(running: Running) -> None:
    """A message that is longer than the client takes ends the connection from our side."""
    before = running.feishu.connections
    with structlog.testing.capture_logs() as logged:
        await running.feishu.send_raw(b"x" * (4 << 20))
        await running.until(lambda: running.feishu.connections > before and running.adapter.health().connected, step=0.1)
    assert "ConnectionClosed" in next(entry["reason"] for entry in logged if entry["event"] == "feishu.disconnected")
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.ids() == ["m1"])


async def test_a_message_that_cannot_be_stored_is_refused_so_that_it_comes_again(running: Running) -> None:
    running.sink.errors.append(OSError("disk full"))
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.feishu.acknowledged)
    assert running.feishu.acknowledged == [("f1", 500)]


async def test_recall_joined_left_and_renamed_reach_the_sink_in_order(running: Running) -> None:
    running.feishu.chats["oc_group"] = "旧名"
    for index, name in enumerate(["bot_added", "image", "recalled", "chat_renamed", "file", "bot_deleted"]):
        await running.feishu.push(f"f{index}", golden(name))
    await running.until(lambda: running.sink.leaves)
    assert [name for _, name in running.sink.joins] == ["部署讨论"]
    assert [message.chat_name for message in running.sink.messages] == ["部署讨论", "新名"]
    assert [recall.message_id for recall in running.sink.recalls] == ["om_1"]


async def test_wrong_credentials_are_told_at_the_start(feishu: LoopbackFeishu) -> None:
    config = section(feishu).model_copy(update={"app_secret": SecretStr("wrong")})
    adapter = FeishuAdapter(config, ManualClock())
    with pytest.raises(ConfigError, match="app_secret") as caught:
        await adapter.start(RecordingSink())
    assert "wrong" not in str(caught.value).replace("wrong secret", "")
    assert not adapter.health().connected


async def test_an_endpoint_that_refuses_the_credentials_is_told_at_the_start(feishu: LoopbackFeishu) -> None:
    feishu.failures[ENDPOINT] = [Failure(200, 514)]
    with pytest.raises(ConfigError, match="app_secret"):
        await FeishuAdapter(section(feishu), ManualClock()).start(RecordingSink())


@pytest.mark.parametrize(
    ("values", "key"),
    [({"app_id": ""}, "app_id"), ({"app_secret": SecretStr("")}, "app_secret"), ({"domain": "http://open.feishu.cn"}, "domain"), ({"domain": "feishu"}, "domain")],
)
async def test_a_config_that_cannot_work_is_refused_without_asking(feishu: LoopbackFeishu, values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await FeishuAdapter(section(feishu).model_copy(update=values), ManualClock()).start(RecordingSink())
    assert caught.value.key == key
    assert feishu.calls == []


async def test_a_platform_that_is_down_at_the_start_is_found_later(feishu: LoopbackFeishu) -> None:
    down = Failure(502, text="<html>")
    feishu.failures = {"/open-apis/auth": [down] * 2, ENDPOINT: [down] * 2, "/open-apis/bot": [down]}
    clock, sink = ManualClock(), RecordingSink()
    adapter = FeishuAdapter(section(feishu), clock)
    await adapter.start(sink)
    assert not adapter.health().connected
    await eventually(lambda: adapter.health().connected, tick=lambda: clock.advance(1.0))
    await feishu.push("f1", text_event("m1"))
    await eventually(lambda: sink.ids() == ["m1"], tick=lambda: clock.advance(0.1))
    stopping = asyncio.create_task(adapter.stop())
    await eventually(stopping.done, tick=lambda: clock.advance(1.0))


class Offline(Rest):
    """No network, as long as ``offline``."""

    offline = True
    attempts = 0

    async def endpoint(self) -> tuple[str, dict[str, Any]]:
        self.attempts += 1
        if self.offline:
            raise ApiError(ENDPOINT, "not reachable")
        return await super().endpoint()


async def test_days_without_a_network_are_survived(feishu: LoopbackFeishu) -> None:
    """The thousandth attempt comes after a day."""

    async def nothing(*_: object) -> None: ...

    clock = ManualClock()
    rest = Offline(section(feishu), clock)
    supervisor = Supervisor(APP_ID, rest, clock, nothing, nothing, nothing)
    try:
        await supervisor.start()
        with structlog.testing.capture_logs():
            await clock.advance(3 * 86_400)
        assert rest.attempts > 1100
        rest.offline = False
        await eventually(lambda: supervisor.connected, tick=lambda: clock.advance(10.0))
    finally:
        await supervisor.stop(nothing)
        await rest.close()


async def test_who_the_bot_is_is_asked_again_until_it_is_told(feishu: LoopbackFeishu) -> None:
    feishu.failures["/open-apis/bot"] = [Failure(502, text="<html>")] * 2
    clock, sink = ManualClock(), RecordingSink()
    adapter = FeishuAdapter(section(feishu), clock)
    await adapter.start(sink)
    assert adapter.health().connected
    await eventually(lambda: adapter.bot_id == BOT_OPEN_ID, tick=lambda: clock.advance(5.0))
    assert feishu.connections == 1
    await feishu.push("f1", golden("text_mentions_bot"))
    await eventually(lambda: [message.text for message in sink.messages] == ["/dj help"], tick=lambda: clock.advance(0.1))
    stopping = asyncio.create_task(adapter.stop())
    await eventually(stopping.done, tick=lambda: clock.advance(1.0))


async def test_who_the_bot_is_is_not_asked_for_after_a_stop(feishu: LoopbackFeishu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes when the session has ended."""
    adapter = FeishuAdapter(section(feishu, mode="webhook", verification_token=SecretStr("v")), ManualClock())
    asked, ended = asyncio.Event(), asyncio.Event()

    async def late(_: Rest) -> str:
        asked.set()
        await ended.wait()
        raise ApiError("/open-apis/bot/v3/info", "the adapter is stopped")

    monkeypatch.setattr("adapters.feishu.adapter._bot_id", late)
    monkeypatch.setattr("adapters.feishu.webhook.Webhook.start", lambda _: asyncio.sleep(0))
    starting = asyncio.create_task(adapter.start(RecordingSink()))
    await asked.wait()
    await adapter.stop()
    ended.set()
    await starting
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "feishu-identity"] == []


async def test_two_bots_live_in_one_process(feishu: LoopbackFeishu) -> None:
    async with LoopbackFeishu() as other:
        pairs = [(server, FeishuAdapter(section(server)), RecordingSink()) for server in (feishu, other)]
        for _, adapter, sink in pairs:
            await adapter.start(sink)
        for index, (server, _, _) in enumerate(pairs):
            await server.push("f1", text_event(f"m{index}"))
        await eventually(lambda: [sink.ids() for _, _, sink in pairs] == [["m0"], ["m1"]])
        for _, adapter, _ in pairs:
            await adapter.stop()


async def test_an_adapter_can_be_started_again(running: Running) -> None:
    await running.finish(running.adapter.stop(), 1.0)
    await running.adapter.start(running.sink)
    await running.until(lambda: running.adapter.health().connected)
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.ids() == ["m1"])


async def test_neither_texts_nor_secrets_are_logged(running: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    with structlog.testing.capture_logs() as logged:
        await running.feishu.push("f1", text_event("m1", "只给群里看的话"))
        await running.until(lambda: running.sink.messages)
        running.sink.errors.append(OSError("disk full"))
        await running.feishu.push("f2", text_event("m2", "只给群里看的话"))
        await running.until(lambda: len(running.feishu.acknowledged) == 2)
        before = running.feishu.connections
        await running.feishu.drop()
        await running.until(lambda: running.feishu.connections > before, step=0.5)
    out, err = capfd.readouterr()
    everything = json.dumps([entry for entry in logged if entry["log_level"] != "debug"], default=str, ensure_ascii=False) + caplog.text + out + err
    for secret in ("只给群里看的话", "secret-of-the-app", "very-secret", "t-1"):
        assert secret not in everything
