"""What is measured when a model is ready: baselines on the same split, the choice of docstrings, samples, and where
everything went.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from vesalius.data.shards import TokenShards
from vesalius.evals.baselines import baselines
from vesalius.evals.docstring_choice import docstring_choice
from vesalius.evals.samples import sample_report
from vesalius.infer.language_model import LanguageModel, Message
from vesalius.models.counts import count_bytes, count_flops, count_parameters
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe import EvalSection


def evaluate(life: Life) -> None:
    """Everything that [eval] asks for and that evals.json does not have yet."""
    section = life.recipe.eval
    if section is None:
        return
    measures: dict[str, Callable[[Life, EvalSection], None]] = {
        "comparing with baselines": _baselines,
        "asking which docstring is right": _choice,
        "answering questions": _answers,
    }
    for description, measure in measures.items():
        with life.timed("eval"), life.display.stage(description):
            measure(life, section)


def describe_model(life: Life) -> None:
    """Records sizes and costs, from the config alone: before training, so that an interrupted run has them too."""
    (model, _), training = life.made, life.recipe.tuning
    if training is None:
        return
    config, context = model.config, training.context
    rows = training.micro_batch_rows or training.batch_rows
    parameters = asdict(count_parameters(config))
    parameters.pop("attention_scores")
    life.run.add_evals(
        model={
            "config": config.to_dict(),
            "parameters": parameters,
            "flops": asdict(count_flops(config, context)),
            "bytes": asdict(count_bytes(config, batch_rows=rows, context=context, optimizer=training.optimizer)),
        }
    )


def _baselines(life: Life, section: EvalSection) -> None:
    if not section.baselines or not life.recipe.data.text or "xz" in life.results("bits_per_byte"):
        return
    _, tokenizer = life.made
    train, validation = (TokenShards(life.run.data, side, tokenizer) for side in ("train", "validation"))
    life.add("bits_per_byte", **baselines(train, validation, tokenizer))


def _choice(life: Life, section: EvalSection) -> None:
    if not section.choice_questions or not life.recipe.sft or life.results("docstring_choice"):
        return
    model, tokenizer = life.made
    fraction = life.recipe.data.validation_fraction
    result = docstring_choice(
        model.eval(), tokenizer, validation_fraction=fraction, n=section.choice_questions, device=life.device
    )
    life.run.add_evals(docstring_choice=result)


def sample_base(life: Life) -> None:
    """What the model writes before it is tuned: afterwards it is another model."""
    section = life.recipe.eval
    if section is not None and life.recipe.train is not None:
        with life.timed("eval"), life.display.stage("writing samples"):
            _sample(life, section, "train", section.prompts)


def _answers(life: Life, section: EvalSection) -> None:
    if stage := life.recipe.answering:
        _sample(life, section, stage, [[{"role": "user", "content": question}] for question in section.questions])


def _sample(life: Life, section: EvalSection, stage: str, prompts: Sequence[str | list[Message]]) -> None:
    before = life.run.read_evals().get("samples", [])
    if any(sample["stage"] == stage for sample in before):
        return
    lm = LanguageModel(*life.made)
    samples = sample_report(
        lm, prompts, stage=stage, max_tokens=section.sample_tokens, temperature=section.temperature, seed=0
    )
    life.run.add_evals(samples=before + samples)
