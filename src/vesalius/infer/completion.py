"""An answer: whole, and in the pieces of text in which it becomes certain."""

from collections.abc import Generator
from dataclasses import dataclass, field

from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.engine import Steps
from vesalius.infer.step import FinishReason, Step


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How many tokens went in and came out; the end token counts."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What was generated.

    text           without special tokens and without the stop text
    ids, logprobs  every token that was generated, the end token included, and the model's own log-probability of each
    finish_reason  "stop" or "length"; None where the caller left the stream before its end
    top_logprobs   for each token the likeliest ones in its place, best first, where `top_logprobs` was asked for
    score          of an answer that beam search found: what it was chosen by
    """

    text: str
    ids: list[int] = field(repr=False)
    logprobs: list[float] = field(repr=False)
    finish_reason: FinishReason | None
    usage: Usage
    top_logprobs: list[dict[int, float]] = field(default_factory=list, repr=False)
    score: float | None = None


class Stream:
    """Pieces of text as they become certain; `completion` is what there is so far. Dropped or closed, it ends the
    generation."""

    def __init__(self, steps: Steps | Generator[Step], detokenizer: Detokenizer, prompt_tokens: int) -> None:
        self._steps = steps
        self._detokenizer = detokenizer
        self._prompt_tokens = prompt_tokens
        self._text: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._top_logprobs: list[dict[int, float]] = []
        self._finish_reason: FinishReason | None = None
        self._ended = False

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> str:
        while not self._ended:
            step = next(self._steps, None)
            piece = self._read(step) if step is not None else ""
            if step is None or self._detokenizer.stopped:
                piece += self._detokenizer.close()
                self.close()
            if piece:
                self._text.append(piece)
                return piece
        raise StopIteration

    def close(self) -> None:
        """No more is wanted."""
        self._ended = True
        self._steps.close()

    def read(self) -> Completion:
        """Takes all pieces that are left: the whole answer."""
        for _ in self:
            pass
        return self.completion

    @property
    def completion(self) -> Completion:
        """Everything generated so far: the whole answer once the stream is used up."""
        return Completion(
            text="".join(self._text),
            ids=list(self._ids),
            logprobs=list(self._logprobs),
            top_logprobs=list(self._top_logprobs),
            finish_reason=self._finish_reason,
            usage=Usage(prompt_tokens=self._prompt_tokens, completion_tokens=len(self._ids)),
        )

    def _read(self, step: Step) -> str:
        """Notes one step and returns the text that became certain with it."""
        self._ids.append(step.id)
        self._logprobs.append(step.logprob)
        if step.top_logprobs:
            self._top_logprobs.append(step.top_logprobs)
        at_end_token = step.finish_reason == "stop"
        piece = "" if at_end_token else self._detokenizer.push(step.id)
        self._finish_reason = "stop" if self._detokenizer.stopped else step.finish_reason
        return piece
