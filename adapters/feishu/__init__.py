"""Feishu (and Lark) groups, by lark-oapi over a long connection, or by a webhook."""
