"""A command that needs the training extra says so in one line."""

from __future__ import annotations

import pytest

from core.errors import InputError
from scripts.arguments import need


def test_a_missing_library_is_named_with_how_to_install_it() -> None:
    need("json")
    with pytest.raises(InputError, match=r"no_such_library\. pip install .*doujie\[train\]") as raised:
        need("json", "no_such_library")
    assert raised.value.exit_code == 2
    assert "json" not in str(raised.value)
