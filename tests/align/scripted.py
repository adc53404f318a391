"""A writer that says what a test has written down for it, and notes what it was asked."""

from collections.abc import Callable

from vesalius.align.writer import Answer


class Scripted:
    """`say(messages, seed)` gives a text, or an `Answer`; `choice(text)` gives the probabilities of the choices."""

    def __init__(self, say: Callable, choice: Callable = lambda text: [0.5, 0.5]) -> None:
        self.say, self.choice = say, choice
        self.asked: list[list[dict[str, str]]] = []
        self.temperatures: list[float] = []

    def write(self, questions, *, temperature):
        self.asked += [question.messages for question in questions]
        self.temperatures.append(temperature)
        said = [self.say(question.messages, question.seed) for question in questions]
        return [answer if isinstance(answer, Answer) else Answer(answer, True) for answer in said]

    def choose(self, prompts, choices):
        return [self.choice(messages[-1]["content"]) for messages in prompts]
