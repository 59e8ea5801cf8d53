"""A responder in a house whose answer service a test commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.answering import OpenAiChat
from core.events import QuestionResolved
from core.messages import Question
from core.responder import ReplyRules, Responder
from storage.outbox import QueuedReply
from tests.adapters.manual_clock import eventually
from tests.core.answer_server import AnswerServer
from tests.core.house import House, resolution, verdict

RESOLVED = "怎么把 mmpose 部署到 TX2？"


@dataclass
class Scene:
    house: House
    server: AnswerServer
    responder: Responder
    number: int = 0
    asked: list[Question] = field(default_factory=list)

    async def ask(self, text: str = "怎么把它部署到 TX2？", *, sender: str = "u1", rewrite: str | None = RESOLVED, needs: bool = True, wait: bool = True) -> Question:
        """A member asks, and the pipeline is through with it."""
        self.number += 1
        await self.house.clock.advance(0.001)
        line, asked = self.house.message(900, "mmpose 真好用", sender="u9"), self.house.message(self.number, text, sender=sender)
        await self.house.inbox.add([line, asked])
        question = self.house.question(asked, (line,))
        await self.publish(question, rewrite, needs=needs, wait=wait)
        return question

    async def publish(self, question: Question, rewrite: str | None = RESOLVED, *, needs: bool = True, wait: bool = True) -> None:
        await self.house.bus.publish(QuestionResolved(question, verdict(0.9 if needs else 0.1), resolution(rewrite) if needs else None))
        await self.house.bus.drain()
        if wait:
            await self.responder.drain()

    async def settle(self) -> None:
        """Let every attempt at a reply have its time."""
        await eventually(lambda: self.responder.waiting == 0, tick=lambda: self.house.clock.advance(1))

    async def replied(self, question: Question) -> QueuedReply | None:
        return await self.house.outbox.get(f"reply:{question.id}")


async def open_scene(house: House, server: AnswerServer, **rules: object) -> Scene:
    answers = OpenAiChat(server.url, "qwen", timeout=1.0)
    responder = Responder(house.bus, house.delivery, house.groups, house.store, ReplyRules(**rules), answers, clock=house.clock)  # type: ignore[arg-type]
    await responder.start()
    return Scene(house, server, responder)


async def resolved_in_an_earlier_run(house: House, number: int, text: str = "怎么把它部署到 TX2？", *, needs: bool = True) -> Question:
    """What the log holds of a question whose process died before it was replied to."""
    question = await house.ask(number, text, sender=f"u{number}")
    await house.log.judged(question.id, verdict(0.9 if needs else 0.1))
    if needs:
        await house.log.resolved(question.id, resolution(RESOLVED))
    return question
