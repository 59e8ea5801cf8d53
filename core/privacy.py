"""Masking what tells a person or a secret in texts that leave the database: phone numbers, identity numbers, e-mail addresses, keys, passwords, links with tokens.

Masked parts become place-holders such as ``[电话]``, so that a text stays readable. What is common in technical talk and tells nobody (commit hashes, versions, error codes,
``git@`` addresses) stays.
"""

from __future__ import annotations

import re

PHONE, IDENTITY, EMAIL, SECRET = "[电话]", "[身份证号]", "[邮箱]", "[密钥]"

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_LINK = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>「」《》（），。；！？、]+", re.IGNORECASE)
_LINK_LOGIN = re.compile(r"(://)[^/@?#]*:[^/@?#]*@")
_LINK_VALUE = re.compile(r"([?&#;])([^=&#;]+)=([^&#;]*)")
_SECRET_NAME = re.compile(r"token|key|secret|sign|auth|pass|pwd|ticket|session|credential|sid|code|invite|openid", re.IGNORECASE)
_HOOKS = frozenset({"hook", "hooks", "webhook", "webhooks"})
_HOOK_KEY = re.compile(r"(?=\D*\d)[A-Za-z0-9_\-]{16,}")
_BOT_KEY = re.compile(r"bot\d+:[A-Za-z0-9_\-]{20,}")
_RANDOM = re.compile(r"(?=[^&]*\d)[A-Za-z0-9_\-.%~+/]{24,}")
# The prefixes that services give their keys, and JSON Web Tokens.
_KNOWN_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_\-]{16,}|(?:gh[pousr]|hf|npm|pypi)_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_\-]{16,}|xox[abprs]-[A-Za-z0-9\-]{10,}"
    r"|(?:AKIA|ASIA|LTAI|AKID)[A-Za-z0-9]{12,}|AIza[A-Za-z0-9_\-]{30,}|eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+)"
)
# What stands between a name and its value, as in "密码是：..." too.
_SAYS = r"(?:(?:(?:是|为|is)\s*)?[=:：]|是|为)"
_NAMED_SECRET = re.compile(
    r"((?:api|app|access|secret|private|encrypt)?[_\- ]?(?:key|secret|token|credential)s?(?:[_\- ]?id)?|密钥|令牌)"
    rf"([\"']?\s*{_SAYS}\s*[\"']?)([A-Za-z0-9_\-+/=.~]{{12,}})",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bBearer\s+)[A-Za-z0-9_\-+/=.~]{12,}", re.IGNORECASE)
_PASSWORD = re.compile(r"((?:password|passwd|pwd|密码|口令|提取码)[\"']?\s*" + _SAYS + r"\s*[\"']?)([\x21\x23-\x26\x28-\x7e]{4,})", re.IGNORECASE)
_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+\-])(?!git@)[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])")
_IDENTITY = re.compile(r"(?<![A-Za-z0-9])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![A-Za-z0-9])")
_OLD_IDENTITY = re.compile(r"(?<![A-Za-z0-9.])[1-9]\d{5}\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}(?![A-Za-z0-9.])")
_PHONE = re.compile(
    r"(?<![A-Za-z0-9._])(?<![A-Za-z0-9._]-)(?:(?:\+|00)86[\s\-]?)?1[3-9]\d(?:\d{8}|[\s\-]\d{4}[\s\-]\d{4})(?![A-Za-z0-9_]|[.\-]\d)"
    r"|(?<![\w.+])\+\d{1,3}[\s\-]?\(?\d{1,4}\)?(?:[\s\-]?\d{2,4}){2,4}(?!\w)"
    r"|(?<![\w.\-])(?:0\d{2,3}-|[(（]0\d{2,3}[)）]\s?)[2-9]\d{6,7}(?![\w]|[.\-]\d)"
)


def mask(text: str) -> str:
    """``text`` with place-holders for what tells a person or a secret. Masking a masked text changes nothing."""
    text = _PRIVATE_KEY.sub(SECRET, text)
    text = _LINK.sub(_mask_link, text)
    text = _KNOWN_KEY.sub(SECRET, text)
    text = _BEARER.sub(rf"\g<1>{SECRET}", text)
    text = _NAMED_SECRET.sub(_mask_named, text)
    text = _PASSWORD.sub(_keep_masked, text)
    text = _EMAIL.sub(EMAIL, text)
    text = _IDENTITY.sub(IDENTITY, text)
    text = _OLD_IDENTITY.sub(IDENTITY, text)
    return _PHONE.sub(PHONE, text)


def _mask_named(match: re.Match[str]) -> str:
    """A value without a digit is rather a word of the talk (``key: some_option_name``)."""
    return f"{match[1]}{match[2]}{SECRET}" if any(char.isdigit() for char in match[3]) else match[0]


def _keep_masked(match: re.Match[str]) -> str:
    return match.group() if match.group(2).startswith("[") else match.group(1) + SECRET


def _mask_link(match: re.Match[str]) -> str:
    """A link without login, without the key of a web hook, and without the values of its query that open something."""
    link = _LINK_LOGIN.sub(rf"\g<1>{SECRET}@", match.group())
    return _LINK_VALUE.sub(_mask_value, _mask_path(link))


def _mask_path(link: str) -> str:
    """Who knows the address of a web hook may post: its key stands in the path."""
    end = next((place for place, char in enumerate(link) if char in "?#"), len(link))
    parts = link[:end].split("/")
    is_hook = any(part in _HOOKS or part.startswith("hooks.") for part in parts)
    masked = [SECRET if is_hook and _HOOK_KEY.fullmatch(part) else f"bot{SECRET}" if _BOT_KEY.fullmatch(part) else part for part in parts]
    return "/".join(masked) + link[end:]


def _mask_value(pair: re.Match[str]) -> str:
    sign, name, value = pair.groups()
    return f"{sign}{name}={SECRET}" if _is_secret(name, value) else pair.group()


def _is_secret(name: str, value: str) -> bool:
    if not value or value == SECRET:
        return False
    return bool(_SECRET_NAME.search(name) or _RANDOM.fullmatch(value))
