"""[panel]: what the model could do before it was adapted, and whether it still can."""

from typing import Annotated

from pydantic import Field, model_validator

from vesalius.core.recipes import Section
from vesalius.train.config import Count


class PanelSection(Section):
    """Measured before the first stage that adapts the model and after the last: the alignment tax (pipeline/panel).
    Twice as much text and half as many tasks took a model of 135 million parameters 25 seconds of one busy core.

    text              what bits per byte are of: names as in data.text, of which the held-out side is read
    text_bytes        so much of it, in pieces of many documents
    tasks             what is answered, each with the likeliest answer; one row for each name
    asked             held-out tasks of each name
    answer_tokens     of such an answer, at most
    choice_questions  about which of four docstrings is right (evals/docstring_choice); 0: not asked
    """

    text: list[str] = ["corpus:python"]
    text_bytes: Count = 8192
    tasks: list[str] = ["tasks:arithmetic?digits=1&operations=add"]
    asked: Count = 20
    answer_tokens: Count = 16
    choice_questions: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> "PanelSection":
        if not (self.text or self.tasks or self.choice_questions):
            raise ValueError("text, tasks and choice_questions are all empty: give one of them, or remove [panel]")
        return self
