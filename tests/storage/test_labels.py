from __future__ import annotations

import pytest

from core.errors import InputError
from storage.engine import Database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.questions import SqlQuestionLog
from tests.storage.samples import ask, message


async def test_labels_are_kept_in_order_and_can_be_taken_back(database: Database) -> None:
    labels, key = SqlLabels(database), message(1).key
    await SqlInbox(database).add([message(1)])
    await SqlQuestionLog(database).record(*ask(message(1)))
    first = await labels.add(key, "anna", LabelValue.NO)
    second = await labels.add(key, "anna", LabelValue.YES, "完整的问题")
    third = await labels.add(key, "ben", LabelValue.NOT_QUESTION)
    assert await labels.of_question(key) == [first, second, third]
    assert await labels.by_labeller("anna") == [first, second]
    assert await labels.remove(second.id)
    assert not await labels.remove(second.id)
    assert await labels.all() == [first, third]


async def test_a_label_for_a_question_that_is_gone_is_refused_clearly(database: Database) -> None:
    with pytest.raises(InputError, match="not in the log"):
        await SqlLabels(database).add("feishu:g1:m9", "anna", LabelValue.YES)
