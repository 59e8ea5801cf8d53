"""What a context holds, how many prompts at once, and how far it can be stretched."""

from __future__ import annotations

from core.errors import BackendError, ConfigError

#: Beyond this factor YaRN loses what it read (Peng et al. 2023, arXiv 2309.00071, go up to 32 with fine-tuning; without it up to about 8 is usable).
LONGEST_STRETCH = 8.0
#: Sequences of a llama.cpp context: a prompt, and what is decoded together with it.
SEQUENCES = 16


class PromptTooLongError(BackendError):
    """The prompt does not fit the context: the fault of the prompt, which says nothing about the back end's health."""

    def __init__(self, backend: str, tokens: int | None = None, context_tokens: int | None = None) -> None:
        """The counts are None where a server does not tell them."""
        size = "" if tokens is None else f" of {tokens} tokens"
        super().__init__(backend, f"a prompt{size} is longer than the context" + ("" if context_tokens is None else f" of {context_tokens}"))


def rope_factor(context_tokens: int, trained_tokens: int, *, scalable: bool, section: str) -> float:
    """By how much the positions of a model must be stretched to hold ``context_tokens``: 1 when it was trained with so many, or its training length (0) is unknown.

    :raises ConfigError: when the model has no rotary positions to stretch, or the factor is above :data:`LONGEST_STRETCH`.
    """
    if trained_tokens <= 0 or context_tokens <= trained_tokens:
        return 1.0
    factor = context_tokens / trained_tokens
    if not scalable or factor > LONGEST_STRETCH:
        longest = int(trained_tokens * LONGEST_STRETCH) if scalable else trained_tokens
        why = "its positions cannot be stretched further" if scalable else "it has no rotary positions that could be stretched"
        problem = f"prompts of {context_tokens} tokens do not fit the model, which was trained with {trained_tokens}: {why}"
        raise ConfigError(section, "context_tokens", None, problem, f"Set it so that context, instruction and question stay under {longest} tokens together.")
    return factor
