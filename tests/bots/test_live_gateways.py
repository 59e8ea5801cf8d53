"""The WeChat bot behind the gateways that call it by HTTP: HuixiangDou's Android app and wkteam, in processes that are killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.adapters.manual_clock import eventually
from tests.bots.live_wires import LoopbackAnswers, MortalBot, Reaper, free_port, rows, stored, system_clock, write_config
from tests.bots.warm import PATIENCE, Warm

SECRET = "a-long-secret"
GROUP = "chat-1"


class Gateway:
    """A program that calls the bot back at ``http://HOST:PORT/SECRET``, and calls again until the bot has taken what it was told."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/{SECRET}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, body: dict[str, Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with self._session.post(self._url, json=body) as response:
                        if response.status == 200:
                            return await response.json()
                except aiohttp.ClientError:
                    await asyncio.sleep(0.01)  # the bot is down


class Phone(Gateway):
    """The Android app, which sees the chats on its screen."""

    async def say(self, text: str, user: str = "白露", group: str = GROUP, query_id: str = "") -> None:
        body = {"query_id": query_id or text, "groupname": f"{group}(128)", "username": user, "query": {"type": "text", "content": text}}
        assert await self.call(body) == {"msg": "ok", "msgCode": "10000", "data": []}

    async def poll(self, group: str = GROUP) -> list[tuple[str, str]]:
        """Who gets a reply, and what."""
        answer = await self.call({"query_id": "p", "groupname": group, "username": "豆解", "query": {"type": "poll"}})
        assert (answer["msg"], answer["msgCode"]) == ("ok", "10000")
        return [(item["req"]["username"], item["rsp"]["text"]) for item in answer["data"]]


def waiting(config: Path) -> int:
    return int(rows(config, "SELECT count(*) FROM replies WHERE state = 'pending'")[0][0])


async def test_what_the_phone_has_not_polled_survives_the_death_of_the_bot_and_is_typed_once(tmp_path: Path, warm: Warm) -> None:
    port = free_port()
    async with LoopbackAnswers() as answers, Phone(port) as phone:
        section = {"provider": "android", "listen": f"127.0.0.1:{port}", "secret": SECRET, "wcid": "豆解"}
        config = write_config(tmp_path, answers=answers, extra={"wechat": section})
        async with MortalBot(warm, config, "wechat") as bot:
            await phone.say("我用 mmpose", "张三")
            await phone.say("它怎么部署到 TX2？", "白露")
            await phone.say("它支持 int8 吗？", "霜降")
            await phone.say("别的群里的话？", group="chat-2")
            await eventually(lambda: waiting(config) == 2, PATIENCE)
            bot.kill()
            await bot.restart_after(1)
            await phone.say("它怎么部署到 TX2？", "白露")  # the screen is read again
            assert await phone.poll("chat-2") == []
            assert sorted(await phone.poll(f"{GROUP}(129)")) == [("白露", "答：mmpose怎么部署到 TX2？"), ("霜降", "答：mmpose支持 int8 吗？")]
            assert await phone.poll() == []
            bot.kill()
            await bot.restart_after(2)
            assert await phone.poll() == []
            await phone.say("答：mmpose怎么部署到 TX2？", "豆解")  # its own line on the screen
            await phone.say("谢谢", "白露")
            await eventually(lambda: len(stored(config, "wechat")) == 4, PATIENCE)
            await bot.finish()
        assert len(answers.asked) == 2


class Wkteam(Gateway):
    """wkteam with its API: it tells the reaper when the bot sends a reply that no member has seen yet, and when members see it but the bot has not been told."""

    def __init__(self, port: int, reaper: Reaper) -> None:
        super().__init__(port)
        self._reaper = reaper
        self.shown: list[str] = []
        self._attempted: set[str] = set()
        self.limited = 0

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/{call}", self._api)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return await super().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self._runner.cleanup()

    async def say(self, message_id: int, text: str, user: str) -> None:
        data = {"wId": "i-1", "fromGroup": GROUP, "fromUser": user, "content": text, "newMsgId": message_id, "timestamp": int(system_clock().now().timestamp()), "self": False}
        assert await self.call({"account": "1", "wcId": "wxid_bot", "messageType": "80001", "data": data}) == "done"

    async def _api(self, request: web.Request) -> web.Response:
        call, body = request.match_info["call"], await request.json()
        if request.headers.get("Authorization") != "auth":
            return web.json_response({"code": "1001"}, status=401)
        data: Any = [{"nickName": "白露"}]
        if call == "queryLoginWx":
            data = [{"wcId": "wxid_bot", "wId": "i-1"}]
        elif call == "sendText":
            if self.limited:
                self.limited -= 1
                return web.Response(status=429, headers={"Retry-After": "0"})
            again = body["content"] in self._attempted  # a reply that two deaths left in doubt would be given up
            self._attempted.add(body["content"])
            if not again and self._reaper.comes("before_shown"):
                return web.Response(status=502)
            self.shown.append(body["content"])
            if not again:
                self._reaper.comes("after_shown")
            data = {"newMsgId": 1000 + len(self.shown)}
        return web.json_response({"code": "1000", "message": "处理成功", "data": data})


async def test_wkteam_loses_no_reply_to_a_crash_and_repeats_at_most_what_the_bot_could_not_know(tmp_path: Path, warm: Warm) -> None:
    reaper, port = Reaper(), free_port()
    async with LoopbackAnswers(reaper) as answers, Wkteam(port, reaper) as gateway:
        gateway.limited = 2
        section = {"provider": "wkteam", "listen": f"127.0.0.1:{port}", "secret": SECRET, "endpoint": gateway.endpoint, "token": "auth", "wcid": "wxid_bot"}
        config, deaths = write_config(tmp_path, answers=answers, extra={"wechat": section}), ("answering", "before_shown", "after_shown")
        async with MortalBot(warm, config, "wechat") as bot:
            reaper.kill = bot.kill
            for part, reaper.next_death in enumerate(deaths):
                talking = asyncio.create_task(_talk(gateway, part))  # goes on while the bot is down
                await bot.restart_after(part + 1)
                await talking
            await eventually(lambda: rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(3,)], PATIENCE)
            await bot.finish()
        assert sorted(stored(config, "wechat"), key=int) == ["0", "1", "10", "11", "20", "21"]
        seen = Counter(text.partition("答：")[2] for text in gateway.shown)
        assert set(seen) == {f"问题 {part}：mmpose怎么部署？" for part in range(3)}
        assert sorted(seen.values()) == [1, 1, 2]  # twice only where the bot died before it was told


async def _talk(gateway: Wkteam, part: int) -> None:
    """Some talk and a question, of which the gateway tells twice."""
    await gateway.say(10 * part, f"随便聊聊 {part}", "wxid_a")
    for _ in range(2):
        await gateway.say(10 * part + 1, f"问题 {part}：它怎么部署？", f"wxid_{part}")
