"""What a policy does when it is let loose: answers sampled by the one engine, and conversations with a tool.

    prompt → answer                                      one turn
    prompt → answer → what the tool says → answer → …    until the tool has nothing to say, a turn is cut off, or
                                                         `turns` are used up

The engine runs on the very modules that are trained: no copy, so what it computed before an update means nothing after
it, and its cache is emptied before each sampling. Within one, the prompt of a group is read once for all its answers,
and a later turn finds what the turns before it left in the cache.

An answer's ids are kept as they were sampled and never encoded again: the text may have other ids, of which the policy
knows nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from vesalius.align.writer import Messages, seed_of
from vesalius.core.errors import UserError
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.engine import Sequence as Turn
from vesalius.infer.intake import placement
from vesalius.infer.paged_cache import Sizes
from vesalius.infer.params import SamplingParams
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

Tool = Callable[[str], str | None]
"""What an assistant's turn says -> what the tool answers; None where it was not called."""


@dataclass(kw_only=True)
class Episode:
    """One conversation, from the prompt on.

    messages   the prompt
    seed       of its first turn; later ones take those that follow
    ids        of everything
    said       whether the policy sampled that token; its ends of turn are among them
    logprobs   the engine's, of what was sampled; 0 elsewhere
    answer     the text of the last turn, which is what is judged
    turns      how often the policy spoke
    truncated  whether it was cut off
    """

    messages: Messages
    seed: int
    ids: list[int] = field(default_factory=list)
    said: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    answer: str = ""
    turns: int = 0
    truncated: bool = False

    @property
    def length(self) -> int:
        """Tokens that the policy wrote."""
        return sum(self.said)

    def hear(self, ids: list[int]) -> None:
        """Takes in what somebody else says."""
        self.ids += ids
        self.said += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def say(self, turn: Turn, text: str) -> None:
        """Takes in a turn of the policy."""
        self.ids += turn.ids
        self.said += [True] * len(turn.ids)
        self.logprobs += [step.logprob for step in turn.steps]
        self.answer, self.truncated, self.turns = text, turn.finish_reason == "length", self.turns + 1


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """How episodes go: at most `turns` of at most `max_tokens` each, `context` tokens in all, and who answers in
    between.
    """

    max_tokens: int = 64
    context: int = 256
    temperature: float = 1.0
    tool: Tool | None = None
    turns: int = 1


class Sampler:
    """Samples episodes from a model by an engine of its own. `hit_rate` is the share of the last episodes' prompt
    tokens that were found instead of read."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, dialogue: Dialogue, *, running: int = 64) -> None:
        """`running`: turns that are written at once, at most."""
        self.model, self.tokenizer, self.dialogue = model, tokenizer, dialogue
        self.hit_rate = 0.0
        blocks = running * (dialogue.context // EngineOptions.block_size + 2)
        position = Sizes.of(model.config).bytes_a_position(placement(model)[1])
        room = blocks * EngineOptions.block_size * position
        self.engine = Engine(model, tokenizer.eos_ids, EngineOptions(max_running=running, cache_bytes=room))

    def prompt_ids(self, messages: Messages) -> list[int]:
        """What the policy reads first. UserError where the tokenizer has no chat template, or it refuses."""
        return encode_chat(self.tokenizer, messages, add_generation_prompt=True).ids

    def fits(self, messages: Messages) -> bool:
        """Whether a prompt leaves room for an answer."""
        return len(self.prompt_ids(messages)) < self.dialogue.context

    def sample(self, prompts: Sequence[Messages], n: int, seeds: Sequence[int]) -> list[list[Episode]]:
        """n episodes for each prompt, the same for the same weights and seeds.

        UserError for a prompt that leaves no room to answer, VesaliusError where the weights are not finite.
        """
        groups: list[list[Episode]] = []
        turns: dict[Turn, Episode] = {}
        asked, read_before = 0, self.engine.stats.read_tokens
        self.engine.blocks.clear()
        with evaluating(self.model):
            try:
                for messages, seed in zip(prompts, seeds, strict=True):
                    ids = self.prompt_ids(messages)
                    groups.append([Episode(messages=messages, seed=seed + i) for i in range(n)])
                    for episode in groups[-1]:
                        episode.hear(ids)
                    turns |= zip(self._begin(ids, seed, n), groups[-1], strict=True)
                while self.engine.has_work:
                    for turn in [turn for turn in self.engine.step() if turn.is_over]:
                        asked += len(turn.prompt)
                        turns |= self._go_on(turn, turns.pop(turn))
            finally:
                for turn in turns:
                    self.engine.cancel(turn)
        written = sum(episode.length - episode.turns for group in groups for episode in group)  # the last is not read
        self.hit_rate = 1 - (self.engine.stats.read_tokens - read_before - written) / max(1, asked)
        return groups

    def _begin(self, ids: list[int], seed: int, n: int) -> list[Turn]:
        room = min(self.dialogue.max_tokens, self.dialogue.context - len(ids))
        if room < 1:
            raise UserError(f"a prompt of {len(ids)} tokens leaves no room in the context of {self.dialogue.context}")
        return self.engine.add(
            ids, SamplingParams(max_tokens=room, temperature=self.dialogue.temperature, seed=seed), n=n
        )

    def _go_on(self, turn: Turn, episode: Episode) -> dict[Turn, Episode]:
        """Takes in a turn that is over -> the next one, where there is one."""
        if turn.error is not None:
            raise turn.error
        words = turn.ids[:-1] if turn.ids[-1] in self.engine.eos_ids else turn.ids
        episode.say(turn, self.tokenizer.decode(words))
        if self.dialogue.tool is None or episode.truncated or episode.turns == self.dialogue.turns:
            return {}
        reply = self.dialogue.tool(episode.answer)
        if reply is None:
            return {}
        heard = self._between(episode.messages, reply)
        if len(episode.ids) + len(heard) >= self.dialogue.context:
            episode.truncated = True
            return {}
        episode.hear(heard)
        return dict.fromkeys(self._begin(episode.ids, seed_of(episode.seed, episode.turns), 1), episode)

    def _between(self, messages: Messages, reply: str) -> list[int]:
        """What stands between a turn of the policy and its next one, where the tool says `reply`. UserError where the
        chat template has no place for a tool."""
        said = {"role": "assistant", "content": "."}
        chat = encode_chat(
            self.tokenizer, [*messages, said, {"role": "tool", "content": reply}], add_generation_prompt=True
        )
        if not any(chat.assistant_mask):
            raise UserError("cannot tell where a turn ends: put {% generation %} blocks into the chat template")
        return chat.ids[len(chat.ids) - chat.assistant_mask[::-1].index(True) :]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
