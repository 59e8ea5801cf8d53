"""WeChat by one of three providers: a wechaty puppet service, the Android accessibility app, or wkteam. Importing this package imports none of them."""

from __future__ import annotations

from adapters.checks import Finding
from core.clock import Clock
from core.config import WechatSection
from core.ports import Adapter


def make_adapter(config: WechatSection, clock: Clock) -> Adapter:
    """The adapter of ``[wechat] provider``, not started."""
    match config.provider:
        case "wechaty":
            from adapters.wechat.wechaty_adapter import WechatyAdapter

            return WechatyAdapter(config, clock)
        case "android":
            from adapters.wechat.android import AndroidAdapter

            return AndroidAdapter(config, clock)
        case "wkteam":
            from adapters.wechat.wkteam import WkteamAdapter

            return WkteamAdapter(config, clock)


async def check(config: WechatSection) -> list[Finding]:
    """What is missing for the chosen provider, and how to get it."""
    from adapters.wechat.checking import check as check_provider

    return await check_provider(config)
