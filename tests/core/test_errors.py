"""Errors keep what they say on their way from another process."""

from __future__ import annotations

import pickle

import pytest

from core.errors import BackendError, ConfigError, DoujieError, InputError, SendError, StorageError
from core.gates.limits import PromptTooLongError


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("gate", "model", "x", "is not there", "Give another."),
        InputError("a.jsonl", "cannot be read", "Give another."),
        StorageError("sqlite://", "is locked", "Stop the other."),
        BackendError("llama_cpp", "failed", retry_after=3.0),
        PromptTooLongError("llama_cpp", 9, 4),
        SendError("feishu", "refused", permanent=True),
    ],
)
def test_an_error_is_the_same_in_another_process(error: DoujieError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy), copy.exit_code) == (type(error), str(error), vars(error), error.exit_code)
