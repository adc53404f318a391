"""The stage in which a student learns from a teacher: beside it, or from what the teacher left on the disk."""

from collections.abc import Mapping

from torch import nn

from vesalius.adapt.depth import with_layers
from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.data.split import spread
from vesalius.evals.answers import answer_perplexity
from vesalius.hub.directory import save_model
from vesalius.hub.open import open_model
from vesalius.hub.unpacking import is_quantised
from vesalius.models.counts import count_parameters
from vesalius.models.transformer import Transformer
from vesalius.pipeline.conversations import encode_training, split_conversations
from vesalius.pipeline.evaluation import describe_model
from vesalius.pipeline.lessons import beside, from_disk
from vesalius.pipeline.life import Life
from vesalius.pipeline.training import autocast_of, mean_metrics, throughput, train_module
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.callbacks import Validation


def prepare_student(life: Life) -> None:
    """Makes sure, before anything takes long, that the teacher can teach the model, and takes layers out of this where
    [distill] wants a shallower student."""
    section = life.recipe.distill
    if section is None:
        return
    if section.teacher is not None:
        open_teacher(life, section.teacher, section.context)
    if not section.keep_layers:
        return
    layers = life.made[0].config.num_hidden_layers
    life.model = with_layers(life.made[0], section.keep_layers)
    life.display.say(f"the student begins with {section.keep_layers} of {layers} layers")
    describe_model(life)


def distill(life: Life) -> None:
    """Learns from the teacher, if the recipe has [distill]; some conversations are held out."""
    section, (model, tokenizer) = life.recipe.distill, life.made
    if section is None:
        return
    train, held_out = split_conversations(life)
    encoded = encode_training(life, "distill", section, train)
    teacher = None if section.teacher is None else open_teacher(life, section.teacher, section.context)
    if teacher is not None:
        _describe_teacher(life, teacher, held_out)
    if section.top_k:
        lessons = from_disk(life, section, encoded, held_out, teacher)
    else:
        assert teacher is not None, "the section was checked"
        lessons = beside(life, section, encoded, train, held_out, teacher)

    def measure(_: nn.Module) -> Mapping[str, float]:
        return mean_metrics(model.eval(), lessons.measure, lessons.held_out, autocast_of(life, section))

    if "before" not in life.results("distill"):
        life.add("distill", divergence=section.divergence, before=measure(model))
    watchers = [Validation(section.validate_every, measure), throughput(life, model, section)]
    train_module(life, "distill", section, lessons.module, lessons.batches, lessons.objective, watchers)
    save_model(life.run.model, model.eval(), tokenizer)
    if "after" not in life.results("distill"):
        life.add("distill", after=measure(model))


def open_teacher(life: Life, name: str, context: int) -> Transformer:
    """The teacher, frozen and where the student is. UserError where it cannot teach this student."""
    model, tokenizer = life.made
    teacher, its_tokenizer = open_model(name)
    check_vocabulary(name, its_tokenizer, tokenizer)
    ours, theirs = model.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise UserError(
            f"the teacher {name} has logits for {theirs} tokens, the student for {ours}: they must be as many"
        )
    if (limit := teacher.config.max_position_embeddings) < context:
        raise UserError(f"distill.context is {context}, but the teacher {name} reads at most {limit} tokens: lower it")
    return (teacher if is_quantised(teacher) else teacher.to(life.device)).eval().requires_grad_(False)


def check_vocabulary(name: str, teacher: Tokenizer, student: Tokenizer) -> None:
    """UserError where a token of one is another token of the other."""
    theirs, ours = (tokenizer.backend.get_vocab() for tokenizer in (teacher, student))
    if theirs != ours:
        differ = sum(theirs.get(text) != number for text, number in ours.items())
        raise UserError(
            f"the teacher {name} has another tokenizer than the student: {differ} of the student's {len(ours)} tokens "
            "are not the same; what it thinks of the next token can be learned only with the same tokens"
        )


def _describe_teacher(life: Life, teacher: Transformer, held_out: list[Conversation]) -> None:
    """How large it is, and how well it answers what was held out: the student's mark."""
    if "teacher" in life.results("distill"):
        return
    section, parameters = life.recipe.eval, count_parameters(teacher.config).total
    facts: dict[str, float] = {"parameters": parameters}
    if section is not None and section.answers:
        with life.timed("eval"), life.display.stage("measuring the teacher"):
            facts |= answer_perplexity(teacher, life.made[1], spread(held_out, section.answers))
    life.add("distill", teacher=facts, parameters=count_parameters(life.made[0].config).total)
