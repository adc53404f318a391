"""What a student is trained with: a teacher beside it, what a teacher left on the disk, answers of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from vesalius.align.distill.hidden_matching import HiddenMatching, Matched, even_pairs
from vesalius.align.distill.objective import Distill
from vesalius.align.distill.on_policy import OnPolicyConversations, OnPolicyPlan
from vesalius.align.distill.teacher_table import TableFacts, TeacherTable, write_table
from vesalius.align.distill.top_k import DistillTopK, TaughtConversations
from vesalius.align.policy.episodes import Dialogue, Sampler
from vesalius.align.reference import weights_fingerprint
from vesalius.align.rows.encoding import Encoded, encode_conversations
from vesalius.data.conversation import Conversation
from vesalius.data.split import spread
from vesalius.models.transformer import Transformer
from vesalius.pipeline.conversations import in_epochs, packed, quick_batches
from vesalius.pipeline.left_out import tell_left_out
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.distill import DistillSection
from vesalius.pipeline.training import autocast_of
from vesalius.train.objectives import NextToken, Objective
from vesalius.train.training import BatchSource, TrainingBatch

SHORTEST = 16
"""Tokens of a conversation, about: so many of them fill the batches that are measured."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a student is trained with, and how it is measured on what was held out.

    module  what trains: the student, or a bundle with it
    """

    module: nn.Module
    batches: BatchSource
    objective: Objective
    held_out: Sequence[TrainingBatch]
    measure: Objective


def beside(
    life: Life,
    section: DistillSection,
    encoded: Encoded,
    train: list[Conversation],
    held_out: list[Conversation],
    teacher: Transformer,
) -> Lessons:
    """Lessons from a teacher that reads every batch too, of whatever the section asks for besides."""
    model, tokenizer = life.made
    objective, batches = Distill(teacher, section.numbers), packed(life, section, encoded)
    lessons = Lessons(
        module=model,
        batches=batches,
        objective=objective,
        held_out=quick_batches(life, section, held_out, tokens=section.measured_tokens),
        measure=objective,
    )
    if section.on_policy:
        dialogue = Dialogue(
            max_tokens=section.max_tokens, context=section.context, temperature=section.sampling_temperature
        )
        plan = OnPolicyPlan(share=section.on_policy, prompts=section.prompts, seed=section.seed)
        own = OnPolicyConversations(batches, train, Sampler(model, tokenizer, dialogue), plan)
        told = {"prompts that leave no room to answer": own.dropped} if own.dropped else {}
        tell_left_out(life, "on_policy", len(train) - len(own.dropped), told)
        lessons = replace(lessons, batches=own)
    if section.hidden_weight:
        pairs = even_pairs(model.config.num_hidden_layers, teacher.config.num_hidden_layers)
        matching = HiddenMatching(objective, section.hidden_weight, section.hidden_distance)
        bundle = Matched(model, teacher, pairs, seed=section.seed)
        lessons = replace(lessons, module=bundle, objective=matching)
    return lessons


def from_disk(
    life: Life, section: DistillSection, encoded: Encoded, held_out: list[Conversation], teacher: Transformer | None
) -> Lessons:
    """Lessons from tables: one for training, and one for what was held out, where there is a teacher to
    write it; else that is measured on its own tokens."""
    objective = DistillTopK(section.numbers)
    table = _table(life, section, encoded, teacher, life.run.data / "teacher")
    batches = TaughtConversations(packed(life, section, encoded), table)
    lessons = Lessons(module=life.made[0], batches=batches, objective=objective, held_out=[], measure=objective)
    count = max(1, section.measured_tokens // section.batch_tokens)
    if teacher is None or not held_out:
        plain = quick_batches(life, section, held_out, tokens=section.measured_tokens)
        return replace(lessons, held_out=plain, measure=NextToken())
    some = spread(held_out, count * section.batch_tokens // SHORTEST)
    others = encode_conversations(some, life.made[1], section.context)
    table = _table(life, section, others, teacher, life.run.data / "teacher-held-out")
    quick = TaughtConversations(in_epochs(section, others), table)
    return replace(lessons, held_out=[next(quick) for _ in range(count)])


def _table(
    life: Life, section: DistillSection, encoded: Encoded, teacher: Transformer | None, directory: Path
) -> TeacherTable:
    """The teacher's table for these conversations, written as far as it is not there; another's where it is stored."""
    model, tokenizer = life.made
    facts = TableFacts.of(
        encoded,
        tokenizer=tokenizer.fingerprint,
        vocab_size=model.config.vocab_size,
        top_k=section.top_k,
        temperature=section.temperature,
    )
    if teacher is None:
        return TeacherTable(Path(section.stored or ""), encoded, facts)
    with life.timed("teacher"), life.display.stage("asking the teacher", len(encoded)) as advance:
        write_table(
            teacher,
            encoded,
            replace(facts, teacher=weights_fingerprint(teacher)),
            directory,
            rows=section.batch_rows,
            context=section.context,
            dtype=autocast_of(life, section),
            on_progress=advance,
        )
    return TeacherTable(directory, encoded, facts)
