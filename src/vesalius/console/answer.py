"""One answer on standard output: piece by piece as it becomes certain, or as JSON for programs.

A model's output is not trusted with the terminal: control characters are shown and never obeyed. In a file or a pipe
they are kept, as they are part of the text.
"""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, Unpack

from vesalius.infer.completion import Completion
from vesalius.infer.language_model import LanguageModel, Message
from vesalius.infer.params import SamplingOptions, SamplingParams

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_answer(
    lm: LanguageModel, prompt: str | Sequence[Message], *, as_json: bool = False, **options: Unpack[SamplingOptions]
) -> None:
    """Generates and prints. Beam search knows its answer only at the end. UserError as of `LanguageModel.generate`."""
    if as_json:
        print(json.dumps(facts(lm.generate(prompt, **options))))
        return
    searching = SamplingParams.of(**options).num_beams > 1
    show = shown if sys.stdout.isatty() else str
    for piece in [lm.generate(prompt, **options).text] if searching else lm.stream(prompt, **options):
        print(show(piece), end="", flush=True)
    print()


def facts(answer: Completion) -> dict[str, Any]:
    """What JSON says of an answer: text, finish_reason, usage; its tokens where the likeliest ones were asked for; its
    score where beam search found it."""
    said: dict[str, Any] = {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": vars(answer.usage) | {"total_tokens": answer.usage.total_tokens},
    }
    if answer.top_logprobs:
        steps = zip(answer.ids, answer.logprobs, answer.top_logprobs, strict=True)
        said["tokens"] = [{"id": i, "logprob": logprob, "top_logprobs": top} for i, logprob, top in steps]
    return said | ({} if answer.score is None else {"score": answer.score})


def shown(text: str) -> str:
    """The text with a mark in place of each control character but tabs and line ends.

    >>> shown("a\\x1b[2Jb")
    'a\ufffd[2Jb'
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
