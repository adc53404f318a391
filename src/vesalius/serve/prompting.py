"""From a conversation in a request to what the engine needs: ids, settings, a grammar, and who reads the answer.

Chats and responses say the same in two forms; both come here. Templates and grammars take milliseconds, and seconds
for a large prompt, so they are made in a thread beside the event loop.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vesalius.infer.constrain import ConstraintSpec, compile_constraint
from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.params import SamplingParams
from vesalius.infer.sequence import Constraint
from vesalius.serve.answers import Answers, Writing
from vesalius.serve.notes import current_notes
from vesalius.serve.protocol.messages import Message, Tool
from vesalius.serve.service import Served, Service
from vesalius.serve.tools.choice import check_tools, constraint_for
from vesalius.serve.tools.messages import for_template
from vesalius.serve.tools.parsing import AnswerParser

PROMPT_END = 16
"""Tokens at the end of a prompt that tell whether it has opened a thought."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a model is to go on with.

    tools     those that it is told of
    choice    which of them it is to call, as OpenAI's `tool_choice` says it
    parallel  whether it may call several at once
    options   other variables of the chat template
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    choice: Any = None
    parallel: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def offered(self) -> list[dict[str, Any]]:
        """The tools as the chat template reads them; none where none may be called."""
        if self.choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    def told(self) -> list[dict[str, Any]]:
        """The messages as the chat template reads them. UserError or ApiError for what cannot be told."""
        return for_template([message.as_told(place) for place, message in enumerate(self.messages)])


async def prompt_ids(served: Served, conversation: Conversation) -> list[int]:
    """What the model reads of a conversation."""
    return await asyncio.to_thread(
        served.lm.prompt_ids,
        conversation.told(),
        tools=conversation.offered or None,
        template_options=conversation.options,
    )


async def begin(
    service: Service, served: Served, conversation: Conversation, params: SamplingParams, *, n: int, patient: bool
) -> Answers:
    """Asks the engine for n answers to a conversation. UserError or ApiError where it is not accepted."""
    names = check_tools(conversation.offered)
    ids = await prompt_ids(served, conversation)
    note_prompt(service, served, ids)
    thinking = served.style.opens_thought(served.lm.tokenizer.decode(ids[-PROMPT_END:]))
    must_call = constraint_for(
        conversation.choice, conversation.offered, served.style, thinking=thinking, parallel=conversation.parallel
    )
    constraint = await compiled(served, must_call or params.constraint)
    ticket = await service.generate(
        served, [ids], params, n=n, constraint=constraint, patient=patient and not params.stop
    )
    if (
        params.constraint is not None and must_call is None
    ):  # the form is that of all that is written: no thought, no call
        return Answers(service, ticket, plain_writings(served, params, n), n=n)
    return Answers(service, ticket, [_writing(served, params, i, names, thinking=thinking) for i in range(n)], n=n)


async def compiled(served: Served, spec: ConstraintSpec | None) -> Constraint | None:
    """A constraint at the beginning of an answer; None where there is nothing to hold to."""
    return None if spec is None else await asyncio.to_thread(compile_constraint, served.lm.tokenizer, spec)


def plain_writings(served: Served, params: SamplingParams, count: int) -> list[Writing]:
    """Answers whose text is all content."""
    return [Writing(i, Detokenizer(served.lm.tokenizer, params.stop), None) for i in range(count)]


def note_prompt(service: Service, served: Served, ids: list[int]) -> None:
    """Puts a prompt down in the notes of the request."""
    notes = current_notes()
    notes.model = served.name
    notes.prompt_tokens += len(ids)
    if service.settings.log_prompts:
        notes.prompts.append(served.lm.tokenizer.decode(ids))


def _writing(served: Served, params: SamplingParams, place: int, names: list[str], *, thinking: bool) -> Writing:
    """An answer that is taken apart, where the model thinks or may call."""
    style, tokenizer = served.style, served.lm.tokenizer
    if style.thought is None and not (names and style.calls):
        return Writing(place, Detokenizer(tokenizer, params.stop), None)
    parser = AnswerParser(style, names, thinking=thinking)
    return Writing(place, Detokenizer(tokenizer, params.stop, style.shown), parser)
