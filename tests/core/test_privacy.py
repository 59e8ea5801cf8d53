from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.privacy import mask


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("打我电话13812345678", "打我电话[电话]"),
        ("138 1234 5678 或 +86-13912345678", "[电话] 或 [电话]"),
        ("座机 010-62345678", "座机 [电话]"),
        ("call +1 415 555 0132 now", "call [电话] now"),
        ("手机-13812345678，座机 (010)62345678", "手机-[电话]，座机 [电话]"),
        ("身份证 11010519491231002X", "身份证 [身份证号]"),
        ("老证 110105491231002", "老证 [身份证号]"),
        ("发到 zhang.san+x@example.com.cn 吧", "发到 [邮箱] 吧"),
        ("用 sk-abcdefghijklmnop1234 试试", "用 [密钥] 试试"),
        ("ghp_abcdefghijklmnop1234 失效了", "[密钥] 失效了"),
        ("api_key=9f86d081884c7d659a2feaa0c55ad015", "api_key=[密钥]"),
        ('{"app_secret": "Zm9vYmFyMTIzNDU2Nzg5MA=="}', '{"app_secret": "[密钥]"}'),
        ("Authorization: Bearer abc.def-ghi_123456", "Authorization: Bearer [密钥]"),
        ("密码是hunter2! 别外传", "密码是[密钥] 别外传"),
        ("密码是：hunter2，the password is: hunter2", "密码是：[密钥]，the password is: [密钥]"),
        ("密钥为：9f86d081884c7d65", "密钥为：[密钥]"),
        ("密码是什么？the password is required", "密码是什么？the password is required"),
        ("https://host/a?token=abc123&page=2", "https://host/a?token=[密钥]&page=2"),
        ("https://user:secret@host/a", "https://[密钥]@host/a"),
        ("https://oss.cn/f.png?x=1&v=AbCdEf0123456789AbCdEf0123", "https://oss.cn/f.png?x=1&v=[密钥]"),
        ("往 https://open.feishu.cn/open-apis/bot/v2/hook/1a2b3c4d-1234-5678-9abc-def012345678 发", "往 https://open.feishu.cn/open-apis/bot/v2/hook/[密钥] 发"),
        ("https://hooks.slack.com/services/T00000000/B00000000/abcdefghijklmnopqrst1234", "https://hooks.slack.com/services/T00000000/B00000000/[密钥]"),
        ("https://api.telegram.org/bot123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11/getMe", "https://api.telegram.org/bot[密钥]/getMe"),
        ("https://pan.baidu.com/s/1abcDEF 提取码: ab12", "https://pan.baidu.com/s/1abcDEF 提取码: [密钥]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- ok", "[密钥] ok"),
    ],
)
def test_what_tells_a_person_or_a_secret_is_masked(text: str, expected: str) -> None:
    assert mask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709 之后就挂了",
        "cuda 12.4.131 和 torch 2.13.0 配吗",
        "报错 0x7ffd13812345678 怎么办",
        "git clone git@github.com:open-mmlab/mmpose.git",
        "2026-03-01 09:00:00 开始报错 1772355600123",
        "max_tokens: 4096 够吗，key 怎么设",
        "https://github.com/open-mmlab/mmdeploy/issues/2312?page=2",
        "@张三 token 怎么算",
        "https://github.com/open-mmlab/mmdeploy/commit/da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "https://docs.github.com/en/webhooks/using-webhooks/creating-webhooks",
    ],
)
def test_technical_talk_stays(text: str) -> None:
    assert mask(text) == text


@given(st.text(alphabet="a1@.:/-=&?sk token密码 138\n", max_size=80))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert mask(mask(text)) == mask(text)


@pytest.mark.parametrize("piece", ["a", "1", "a.", "138 ", "http://a:", "key=", "+1 2", "@", "http://hook/", "bot1:", "-----BEGIN PRIVATE KEY-----"])
def test_long_texts_take_no_quadratic_time(piece: str) -> None:
    started = time.process_time()
    mask(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 1.0
