"""Does the model know what a function does? It picks the right description among four, by likelihood.

"What does `json.dumps` do?" is asked through the chat template, and each of four answers is scored by

    log p(answer | question) - log p(answer | "What does it do?")

the pointwise mutual information of answer and question (Brown et al. 2020, arXiv:2005.14165, section 2.4; Holtzman et
al. 2021, arXiv:2104.08315). Plain likelihood would mostly ask which answer is short and common: "It returns a string."

Chance is 1/4 by construction, not only on average: four members share their four descriptions, so whoever ignores the
question picks the same one four times and is right once. The four are of one kind (function, method), of four
modules, and of nearly the same length.

Seen modules are those whose source is on the training side of the split, unseen ones those on the validation side. A
description that stands word for word on the other side too is asked on neither.

Left out: classes and properties, whose answers say what they are by their form alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vesalius.data.python_corpus import python_members
from vesalius.data.python_questions import Topic, purpose_question, python_topics
from vesalius.data.split import is_validation
from vesalius.tokenizers.chat import ChatIds, encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

CHOICES = 4
NEUTRAL_QUESTION = "What does it do?"

_ROWS = 32  # sequences scored at once
_KINDS = ("function", "method")

Model = Callable[[Tensor, Tensor | None], Tensor]
"""tokens (B, T), positions (B, T) or None -> logits (B, T, V)."""


@dataclass(frozen=True)
class Quartet:
    """Four questions that share their four answers: answer i is the right one for question i."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


def docstring_choice(
    model: Model,
    tokenizer: Tokenizer,
    topics: Iterable[Topic] | None = None,
    *,
    validation_fraction: float,
    n: int = 200,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Accuracy on at most `n` questions each about seen and about unseen modules, with the chance level.

    `topics` are those of the standard library unless given; finding them takes some seconds. `model` should be in
    evaluation mode. Returns {"seen": {"accuracy", "n", "standard_error"}, "unseen": {…}, "chance": 0.25}; a side is
    left out where it has not enough members for two quartets.
    """
    topics = python_topics(python_members()) if topics is None else topics
    sides = choose_quartets(topics, validation_fraction, n=n, seed=seed)
    results = {
        side: score_quartets(model, tokenizer, quartets, device)
        for side, quartets in sides.items()
        if len(quartets) > 1
    }
    return {**results, "chance": 1 / CHOICES}


def choose_quartets(
    topics: Iterable[Topic], validation_fraction: float, *, n: int, seed: int
) -> dict[str, list[Quartet]]:
    """At most `n` // 4 quartets for "seen" and for "unseen", decided by hashes of the names and the seed."""
    sides: dict[str, list[Topic]] = {"seen": [], "unseen": []}
    for topic in topics:
        if topic.member.kind in _KINDS:
            side = "unseen" if is_validation(topic.member.split_key, validation_fraction) else "seen"
            sides[side].append(topic)
    seen, unseen = ({topic.statement for topic in side} for side in sides.values())
    askable = {name: [topic for topic in side if topic.statement not in seen & unseen] for name, side in sides.items()}
    return {name: _form_quartets(side, seed)[: n // CHOICES] for name, side in askable.items()}


def score_quartets(
    model: Model, tokenizer: Tokenizer, quartets: Sequence[Quartet], device: str = "cpu"
) -> dict[str, float]:
    """Accuracy over all questions of two quartets or more.

    The standard error is that of the quartets' accuracies, because the four answers to one quartet hang together
    (clustered standard errors: Miller 2024, arXiv:2411.00640).
    """
    dialogues = [
        (question, answer)
        for quartet in quartets
        for question in (*quartet.questions, NEUTRAL_QUESTION)
        for answer in quartet.answers
    ]
    flat = answer_log_likelihoods(model, tokenizer, dialogues, device)
    scores = np.array(flat).reshape(len(quartets), CHOICES + 1, CHOICES)  # (quartets, questions and neutral, answers)
    chosen = (scores[:, :CHOICES] - scores[:, CHOICES:]).argmax(-1)  # (quartets, questions)
    accuracies = (chosen == np.arange(CHOICES)).mean(-1)  # (quartets,)
    error = accuracies.std(ddof=1) / len(quartets) ** 0.5
    return {"accuracy": float(accuracies.mean()), "n": chosen.size, "standard_error": float(error)}


@torch.inference_mode()
def answer_log_likelihoods(
    model: Model, tokenizer: Tokenizer, dialogues: Sequence[tuple[str, str]], device: str = "cpu"
) -> list[float]:
    """log p(answer and its end of turn | question) in nats for each (question, answer), summed over the tokens."""
    chats = [
        encode_chat(tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        for question, answer in dialogues
    ]
    by_length = sorted(range(len(chats)), key=lambda number: len(chats[number].ids))  # little padding in each batch
    scores = [0.0] * len(chats)
    for start in range(0, len(chats), _ROWS):
        numbers = by_length[start : start + _ROWS]
        for number, score in zip(numbers, _score([chats[n] for n in numbers], model, device), strict=True):
            scores[number] = score
    return scores


def _score(chats: Sequence[ChatIds], model: Model, device: str) -> list[float]:
    longest = max(len(chat.ids) for chat in chats)
    tokens = torch.zeros(len(chats), longest, dtype=torch.int64)  # (B, T): no answer sees the padding to its right
    answered = torch.zeros(len(chats), longest, dtype=torch.bool)  # (B, T)
    for row, chat in enumerate(chats):
        tokens[row, : len(chat.ids)] = torch.tensor(chat.ids)
        answered[row, : len(chat.ids)] = torch.tensor(chat.assistant_mask)
    tokens, answered = tokens.to(device), answered.to(device)
    said = answered[:, 1:]
    logits = model(tokens, None)[:, :-1]  # (B, T - 1, V)
    log_likelihoods = -F.cross_entropy(logits[said], tokens[:, 1:][said], reduction="none")  # of all rows, end to end
    return torch.zeros(said.shape, device=device).masked_scatter(said, log_likelihoods).sum(1).tolist()


def _form_quartets(topics: Sequence[Topic], seed: int) -> list[Quartet]:
    """Quartets of neighbours in length, in an order that the seed decides; who finds no three partners is left over."""
    quartets: list[list[Topic]] = []
    for kind in _KINDS:
        unfinished: list[list[Topic]] = []
        of_kind = [topic for topic in topics if topic.member.kind == kind]
        for topic in sorted(of_kind, key=lambda topic: (len(topic.statement), _draw(topic.name, seed))):
            quartet = next((quartet for quartet in unfinished if _fits(topic, quartet)), None)
            if quartet is None:
                unfinished.append([topic])
                continue
            quartet.append(topic)
            if len(quartet) == CHOICES:
                unfinished.remove(quartet)
                quartets.append(quartet)
    quartets.sort(key=lambda quartet: _draw(quartet[0].name, seed))
    return [
        Quartet(tuple(map(purpose_question, quartet)), tuple(topic.statement for topic in quartet))
        for quartet in quartets
    ]


def _fits(topic: Topic, quartet: list[Topic]) -> bool:
    return all(
        topic.member.split_key != other.member.split_key and topic.statement.lower() != other.statement.lower()
        for other in quartet
    )


def _draw(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).digest()
