"""Five ways of judging and rewriting the questions of a group with one GGUF model, so that they can be run side by side.

Each keeps its own context over the same weights. ``judge`` and ``rewrite`` do for one question what that way does in a group; ``tokens`` counts what its language models have
read and written since they were opened.
"""

from __future__ import annotations

import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from core.antecedent_reader import AntecedentReader
from core.gates.cascade import UNCALIBRATED_THRESHOLD, CascadeGate
from core.gates.chat import PLAIN
from core.gates.factory import SHIPPED, UNTRAINED_PROMPT, open_reader
from core.gates.llama_cpp import LlamaCppModel
from core.gates.llama_engine import LlamaEngine
from core.gates.packaged import model_path
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration, sigmoid
from core.messages import Question
from core.ports import Prompt, Resolver
from core.prompts import GATE_PROMPTS, gate_prompt
from core.ranker import AntecedentRanker
from core.resolver import EditResolver
from core.resolver_prompts import rewrite_prompt

#: Earlier messages that the published gate and the unconditional rewrite read.
PUBLISHED_LINES = 11
#: Longest free answer, extracted option and rewrite, in tokens.
ANSWER_TOKENS, OPTION_TOKENS, REWRITE_TOKENS = 64, 8, 96
CONTEXT_TOKENS = 4096
_OPTIONS = ("不需要提取，信息完整", "需要提取", "不知道")


class Model:
    """A context of its own over a GGUF file, with the number of tokens that went through it."""

    def __init__(self, path: Path, adapter: Path | None, worker: ModelWorker, threads: int) -> None:
        self.engine = LlamaEngine(path, adapter, CONTEXT_TOKENS, threads)
        frame = self.engine.chat_frame(path.stem) if adapter is None else PLAIN
        self.port = LlamaCppModel(self.engine, worker, path.stem, adapter.name if adapter else "", frame)

    @property
    def decoded_tokens(self) -> int:
        return self.engine.decoded_tokens


class Way(ABC):
    """One way. ``rewrites``: whether it also rewrites; ``gates``: whether :meth:`judge` decides, rather than the rewrite that changes something."""

    name: str
    rewrites = True
    gates = True

    def __init__(self, *models: Model | AntecedentReader) -> None:
        self._models = models

    @property
    def tokens(self) -> int:
        return sum(model.decoded_tokens for model in self._models)

    @abstractmethod
    async def judge(self, question: Question) -> bool:
        """Whether the question needs resolution."""

    async def rewrite(self, question: Question) -> str | None:
        """The rewrite that the group would see; None for none."""
        return None


class Cascade(Way):
    """What doujie ships: the encoder head settles what is sure, the language model judges the rest by the logits of two tokens, the resolver accepts or refuses."""

    name = "cascade"

    def __init__(self, gate: CascadeGate, resolver: Resolver, *models: Model | AntecedentReader) -> None:
        super().__init__(*models)
        self._gate, self._resolver = gate, resolver
        self.stages: dict[str, int] = {}

    async def judge(self, question: Question) -> bool:
        (verdict,) = await self._gate.judge([question])
        self.stages[verdict.stage] = self.stages.get(verdict.stage, 0) + 1
        return verdict.needs_resolution

    async def rewrite(self, question: Question) -> str | None:
        return (await self._resolver.resolve(question)).rewrite


class LanguageModelAlone(Way):
    """The language model of the gate on every question, with the common prefix kept, or with every prompt read whole. ``logits``: of the questions, in order."""

    rewrites = False

    def __init__(self, model: Model, calibration: GateCalibration | None, prompt: str, *, keeps_prefix: bool) -> None:
        super().__init__(model)
        self.name = "language model, prefix kept" if keeps_prefix else "language model, whole prompts"
        self._model, self._calibration, self._prompt, self._keeps = model, calibration, prompt, keeps_prefix
        self.logits: list[float] = []

    async def judge(self, question: Question) -> bool:
        if not self._keeps:
            self._model.engine.forget()
        ((yes, no),) = await self._model.port.answer_logprobs([gate_prompt(question, question.glossary, self._prompt)], GATE_PROMPTS[self._prompt].answers)
        self.logits.append(yes - no)
        if self._calibration is None:
            return sigmoid(yes - no) >= UNCALIBRATED_THRESHOLD
        return self._calibration.combine(None, yes - no, len(question.text)) >= self._calibration.threshold


class Published(Way):
    """As published: the history as JSON and three options under shuffled letters, a free answer, a second completion that extracts the letter, string matching, then a rewrite by a
    third; no prompt shares anything with the one before. ``unreadable`` answers count as "no".
    """

    name = "published: two free answers"

    def __init__(self, model: Model, seed: int = 1) -> None:
        super().__init__(model)
        self._model, self._dice = model, random.Random(seed)
        self.unreadable = 0

    async def judge(self, question: Question) -> bool:
        options = list(_OPTIONS)
        self._dice.shuffle(options)
        shown = "\n".join(f"{letter}：{option}" for letter, option in zip(ascii_uppercase, options, strict=False))
        answer = await self._complete(f"{_instruction(question)}\n{shown}\n回答：", ANSWER_TOKENS)
        option = await self._complete(f"选项：\n{shown}\n有人这样回答：{answer}\n他选了哪一项？只写字母：", OPTION_TOKENS)
        letter = re.search("[ABC]", option)
        if letter is None:
            self.unreadable += 1
            return False
        return options[ascii_uppercase.index(letter.group())] == "需要提取"

    async def rewrite(self, question: Question) -> str | None:
        self._model.engine.forget()
        return await _condense(self._model, question)

    async def _complete(self, text: str, most: int) -> str:
        self._model.engine.forget()
        return (await self._model.port.generate(Prompt("", "", text), most)).text


class Unconditional(Way):
    """No gate: a generation rewrites every question with its history, as a history-aware retriever does before each retrieval. The instruction stays in the cache."""

    name = "unconditional rewrite"
    gates = False

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._model = model

    async def judge(self, question: Question) -> bool:
        return True

    async def rewrite(self, question: Question) -> str | None:
        return await _condense(self._model, question)


def _instruction(question: Question) -> str:
    names: dict[str, str] = {}

    def letter(sender: str) -> str:
        return names.setdefault(sender, ascii_uppercase[len(names) % 26])

    history = [{"sender": letter(line.sender), "text": line.text} for line in question.context[-PUBLISHED_LINES:]]
    return (
        f"下面是群聊的历史消息（JSON）：\n{json.dumps(history, ensure_ascii=False)}\n"
        f"{letter(question.sender)} 接着问：“{question.text}”\n这句话里是否有指代或省略，需要从历史消息里提取内容才能看懂？选择一项。"
    )


async def _condense(model: Model, question: Question) -> str | None:
    prompt = rewrite_prompt("rewrite-v1", question, question.context[-PUBLISHED_LINES:])
    return (await model.port.generate(prompt, REWRITE_TOKENS)).text.strip() or None


@dataclass(frozen=True, slots=True)
class Ways:
    """All ways, opened, and the parts that the cascade's curve is drawn from. ``calibration`` and ``head`` are None for another model than the shipped one."""

    cascade: Cascade
    alone: LanguageModelAlone
    whole: LanguageModelAlone
    published: Published
    unconditional: Unconditional
    calibration: GateCalibration | None
    head: EncoderHead | None
    worker: ModelWorker
    model: str

    @property
    def all(self) -> list[Way]:
        return [self.cascade, self.alone, self.whole, self.published, self.unconditional]


@asynccontextmanager
async def open_ways(model: str, threads: int) -> AsyncIterator[Ways]:
    """All ways over the GGUF file ``model``; "" is the packaged model with what is shipped for it. Raises ConfigError."""
    worker = ModelWorker()
    async with AsyncExitStack() as stack:
        stack.callback(worker.close)

        async def opened(path: Path, adapter: Path | None) -> Model:
            made = await worker.run(Model, path, adapter, worker, threads)
            stack.push_async_callback(made.port.close)
            return made

        path = model_path(model, "gate")
        adapter = SHIPPED / "gate" / "adapter.gguf" if not model else None
        calibration = GateCalibration.load(SHIPPED / "gate" / "calibration.json") if not model else None
        head = await worker.run(EncoderHead.load, SHIPPED / "gate" / "head.npz") if not model else None
        prompt = calibration.prompt if calibration else UNTRAINED_PROMPT
        gate, alone, whole = [await opened(path, adapter) for _ in range(3)]
        ranker = await worker.run(AntecedentRanker.load, SHIPPED / "resolver")
        reader = await worker.run(open_reader, threads)
        stack.push_async_callback(worker.run, reader.close)
        yield Ways(
            cascade=Cascade(CascadeGate(gate.port, head, calibration, worker, prompt=prompt), EditResolver(ranker, worker, reader=reader), gate, reader),
            alone=LanguageModelAlone(alone, calibration, prompt, keeps_prefix=True),
            whole=LanguageModelAlone(whole, calibration, prompt, keeps_prefix=False),
            published=Published(await opened(path, None)),
            unconditional=Unconditional(await opened(path, None)),
            calibration=calibration,
            head=head,
            worker=worker,
            model=path.name,
        )
