"""What holding an answer to a grammar costs: masks beside the model's step, and what is saved where there is no choice.

    python bench/grammar.py [MODEL] [--rounds 5] [--answers 4]

Every grammar is asked for the same drawn answers in two ways, which take turns: with the tokens that it forces read in
the step of the token before them, as the engine does, and with a step for each. The answers must be the same. "mask" is
one token's by itself (median, and the longest); in the engine it is computed while the model runs. "free" is the rate
of an answer of as many tokens without a grammar.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from vesalius.core.hardware import hardware_line
from vesalius.infer.constrain import Constraint, compile_constraint
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.params import SamplingParams

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "first_name": {"type": "string", "maxLength": 12},
        "last_name": {"type": "string", "maxLength": 12},
        "year_of_birth": {"type": "integer", "minimum": 1900, "maximum": 2020},
        "current_occupation": {"enum": ["electrical engineer", "primary school teacher", "software developer"]},
        "is_currently_employed": {"type": "boolean"},
    },
    "required": ["first_name", "last_name", "year_of_birth", "current_occupation", "is_currently_employed"],
    "additionalProperties": False,
}
GRAMMARS: dict[str, dict[str, Any]] = {
    "a person": {"json_schema": PERSON},
    "a person, no blanks": {"json_schema": PERSON | {"x-guidance": {"whitespace_pattern": ""}}},
    "three people": {"json_schema": {"type": "array", "items": PERSON, "minItems": 3, "maxItems": 3}},
    "any JSON object": {"json_object": True},
    "a date and a number": {"regex": r"[0-9]{4}-[0-9]{2}-[0-9]{2}: -?[0-9]{1,6}(\\.[0-9]{1,4})?"},
    "words": {"regex": r"([a-z]{1,12} ){20}[a-z]+"},
}
PROMPT = [{"role": "user", "content": "Invent a person and write it down as JSON."}]


class Unforced(Constraint):
    """A grammar that never says that there is no choice."""

    def forced(self) -> list[int]:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=4)
    options = parser.parse_args()
    lm = LanguageModel.load(options.model)
    print(hardware_line())
    show_reading(lm)
    print(f"\n{'':22s}{'tokens':>8s}{'forced':>8s}{'steps':>7s}{'mask, ms':>15s}{'apply':>7s}{'forced()':>10s}"
          f"{'step each':>12s}{'forced':>9s}{'ratio':>7s}{'free':>8s}")  # fmt: skip
    for name, grammar in GRAMMARS.items():
        show(lm, name, SamplingParams(max_tokens=256, temperature=0.8, **grammar), options.rounds, options.answers)


def show_reading(lm: LanguageModel) -> None:
    """How long a grammar takes to be read."""
    times = []
    for bound in (2019, 2018, 2018):
        schema = PERSON | {
            "properties": PERSON["properties"] | {"year_of_birth": {"type": "integer", "maximum": bound}}
        }
        start = time.perf_counter()
        compile_constraint(lm.tokenizer, SamplingParams(json_schema=schema).constraint)
        times.append(time.perf_counter() - start)
    print(
        "a grammar is read in {:.3f} s the first time of all, {:.3f} s a new one, {:.5f} s a known one".format(*times)
    )


def show(lm: LanguageModel, name: str, params: SamplingParams, rounds: int, answers: int) -> None:
    """A line of the table."""
    each, forced, free = [], [], []
    for _ in range(rounds):
        plain, rate = answer(lm, params, answers, Unforced)
        each.append(rate)
        engine, rate = answer(lm, params, answers, Constraint)
        forced.append(rate)
        if engine.written != plain.written:
            raise SystemExit(f"{name}: forced tokens change the answers")
        free.append(answer(lm, replace(params, json_schema=None, json_object=False, regex=None), answers, None)[1])
    masks, applied, asked = ([1e3 * seconds for seconds in kind] for kind in times_of(lm, params, engine.written))
    tokens = sum(map(len, engine.written))
    base, rate = statistics.median(each), statistics.median(forced)
    print(
        f"{name:22s}{tokens:8d}{engine.stats.forced_tokens:8d}{engine.stats.steps:7d}"
        f"{f'{statistics.median(masks):.2f}, {max(masks):.1f}':>15s}{statistics.median(applied):7.2f}"
        f"{statistics.median(asked):10.3f}{base:12.1f}{rate:9.1f}{rate / base:6.2f}x{statistics.median(free):8.1f}"
    )


def answer(lm: LanguageModel, params: SamplingParams, answers: int, kind: type[Constraint] | None) -> tuple[Any, float]:
    """The engine that wrote these answers, one after the other, and its tokens/s."""
    engine: Any = Engine(lm.model, lm.tokenizer.eos_ids, EngineOptions(prefix_caching=False))
    engine.written, seconds, tokens = [], 0.0, 0
    for seed in range(answers):
        constraint = None
        if kind is not None:
            known = compile_constraint(lm.tokenizer, params.constraint)
            constraint = kind(known._vocabulary, known._matcher)
        steps = engine.stream(lm.prompt_ids(PROMPT), replace(params, seed=seed), constraint=constraint)
        ids = [next(steps).id]
        start = time.perf_counter()
        ids += [step.id for step in steps]
        seconds, tokens = seconds + time.perf_counter() - start, tokens + len(ids) - 1
        engine.written.append(ids)
    return engine, tokens / seconds


def times_of(lm: LanguageModel, params: SamplingParams, written: list[list[int]]) -> tuple[list[float], ...]:
    """Seconds of each token's mask, of applying it, and of asking what is forced."""
    scores = torch.randn(lm.config.vocab_size, generator=torch.Generator().manual_seed(0))
    masks, applied, asked = [], [], []
    for ids in written:
        constraint = compile_constraint(lm.tokenizer, params.constraint)
        for token in ids:
            masks.append(seconds_of(constraint.allowed))
            applied.append(seconds_of(constraint.apply, scores))
            asked.append(seconds_of(constraint.forced))
            constraint.accept(token)
    return masks, applied, asked


def seconds_of(call: Callable[..., object], *arguments: object) -> float:
    """How long it takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
