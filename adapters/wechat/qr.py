"""The login QR code in the terminal, with a link for those who cannot scan it there."""

from __future__ import annotations

from typing import TextIO
from urllib.parse import quote

import qrcode

_LINK = "https://wechaty.js.org/qrcode/"


def show_qr_code(content: str, terminal: TextIO) -> None:
    """Write ``content`` (what WeChat scans) to ``terminal`` as a QR code of characters."""
    code = qrcode.QRCode(border=2)
    code.add_data(content)
    code.make(fit=True)
    terminal.write("\n用微信扫码登录 / scan with WeChat to log in:\n")
    code.print_ascii(out=terminal, invert=True)
    terminal.write(f"扫不了就打开 / or open: {_LINK}{quote(content, safe='')}\n")
    terminal.flush()
