"""What an adapted model has lost: the same panel before the first stage that adapts it and after the last.

    bits per byte    of pieces of general text, which it did not learn from in this run
    tasks            the share of right answers, the likeliest one to each
    docstring choice the share of right choices about modules on the held-out side

evals.json has both sides in "panel" and the rows of the table in "alignment_tax". Everything is drawn by hashes, so a
resumed run measures the same things.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from vesalius.align.rewards.compose import build_reward, judge_many
from vesalius.align.writer import Question, Writer
from vesalius.core.errors import UserError
from vesalius.data.document import Document
from vesalius.data.documents import read_documents
from vesalius.data.shard_writing import write_held_out
from vesalius.data.shards import TokenShards
from vesalius.data.split import is_validation, shuffled, split_documents
from vesalius.data.tasks import read_tasks
from vesalius.evals.alignment_tax import alignment_tax, as_evals
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.evals.docstring_choice import docstring_choice
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.panel import PanelSection

PIECE = 1024
"""Bytes of one document, at most: many documents in little text."""

CONTEXT = 512
"""Tokens that a piece is read in at most."""


def panel_before(life: Life) -> None:
    """Measures the model as it is before it is adapted, if the recipe has [panel]."""
    _measure(life, "before")


def panel_after(life: Life) -> None:
    """Measures it again, and writes what it lost."""
    _measure(life, "after")
    if found := life.results("panel"):
        life.run.add_evals(alignment_tax=as_evals(alignment_tax(found["before"], found["after"])))


def _measure(life: Life, when: str) -> None:
    section = life.recipe.panel
    if section is None or when in life.results("panel"):
        return
    with life.timed("eval"), life.display.stage("measuring what it can do"):
        found = _bits_per_byte(life, section) | _solved(life, section) | _choice(life, section)
    life.add("panel", **{when: found})


def _bits_per_byte(life: Life, section: PanelSection) -> dict[str, float]:
    if not section.text:
        return {}
    (model, tokenizer), directory = life.made, life.run.data / "panel"
    if not (directory / "index.json").exists():
        directory.parent.mkdir(exist_ok=True)
        texts = (
            document
            for side, document in split_documents(read_documents(section.text), life.recipe.data.validation_fraction)
            if side == "validation"
        )
        write_held_out(pieces(texts, section.text_bytes), tokenizer, directory, specs=section.text)
    context = min(CONTEXT, model.config.max_position_embeddings)
    found = bits_per_byte(model, TokenShards(directory, "validation", tokenizer), context=context)
    return {"bits_per_byte": found["bits_per_byte"]}


def pieces(documents: Iterable[Document], total: int) -> Iterator[Document]:
    """The beginnings of documents, at most `PIECE` bytes of each and `total` bytes in all, in an order that hashes of
    the texts decide."""
    for piece in shuffled(_beginning(document, PIECE) for document in documents):
        piece = _beginning(piece, total)
        total -= len(piece.text.encode())
        if piece.text.strip():
            yield piece
        if not total:
            return


def _beginning(document: Document, size: int) -> Document:
    """As many whole characters as fit into so many bytes; half of a surrogate pair is none."""
    return replace(document, text=document.text[:size].encode("utf-8", "surrogatepass")[:size].decode(errors="ignore"))


def _solved(life: Life, section: PanelSection) -> dict[str, float]:
    """Of each name, the share of tasks that the likeliest answer solves. UserError where a name has none held out."""
    model, tokenizer = life.made
    writer, reward = Writer(model, tokenizer, max_tokens=section.answer_tokens), build_reward({"verified": 1.0})
    found = {}
    for name in section.tasks:
        fraction = life.recipe.data.validation_fraction
        held_out = (task for task in read_tasks([name]) if is_validation(task.split_key, fraction))
        tasks = list(islice(held_out, section.asked))
        if not tasks:
            raise UserError(f"{name} has no task on the held-out side: raise data.validation_fraction, or give more")
        answers = writer.write([Question(task.messages, 0) for task in tasks], temperature=0.0)
        verdicts = judge_many(reward, tasks, [answer.text for answer in answers])
        found[name] = sum(map(float, verdicts)) / len(tasks)
    return found


def _choice(life: Life, section: PanelSection) -> dict[str, float]:
    if not section.choice_questions:
        return {}
    model, tokenizer = life.made
    fraction, count = life.recipe.data.validation_fraction, section.choice_questions
    found = docstring_choice(model.eval(), tokenizer, validation_fraction=fraction, n=count, device=life.device)
    return {"docstring_choice": found["unseen"]["accuracy"]} if "unseen" in found else {}
