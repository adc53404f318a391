"""One whole step of GRPO on SmolLM2-135M, rollout and update: ours and TRL's, from one run.

    python bench/policy.py [--rounds 3] [--prompts 8] [--group 8] [--max-tokens 32]          needs the extra `dev` (trl)

The same weights, problems of one and two digits, chat template, temperature of 1, rewards and AdamW, all weights
trained, float32, no reference model. TRL writes with transformers' `generate` and updates by its trainer; the two take
turns step by step, each on its own copy, so that a machine whose speed drifts treats them alike. Answers end where the
model ends them, so the tokens that each wrote are told; figures are medians over the steps after the first.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from steps import with_optimizer
from vesalius.align.policy.credit import GroupCredit, Scores
from vesalius.align.policy.episodes import Dialogue, Sampler
from vesalius.align.policy.kl import KLController
from vesalius.align.policy.objective import PolicyGradient
from vesalius.align.policy.rollouts import RolloutPlan, Rollouts
from vesalius.core.hardware import hardware_line
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks
from vesalius.hub.directory import save_model
from vesalius.models.transformer import Transformer
from vesalius.pipeline.policy import judge_of
from vesalius.pipeline.recipe_sections.policy import RewardsSection
from vesalius.pipeline.stages import open_start
from vesalius.tokenizers.tokenizer import Tokenizer

MODEL = "smollm2-135m-instruct"
CONTEXT = 256

JUDGE = judge_of(RewardsSection())
Step = Callable[[], float]
"""Takes a step -> the tokens that were written for it."""


def ours(model: Transformer, tokenizer: Tokenizer, tasks: list[Task], options: argparse.Namespace) -> Step:
    """The package's engine, rollouts and objective."""
    sampler = Sampler(model, tokenizer, Dialogue(max_tokens=options.max_tokens, context=CONTEXT))
    scores = Scores(policy=model, reference=None, kl=KLController(0.0))
    plan = RolloutPlan(prompts=options.prompts, group=options.group)
    rollouts, objective = (
        Rollouts(tasks, sampler, JUDGE, GroupCredit(scores=scores, compare="group"), plan),
        PolicyGradient(),
    )
    update = with_optimizer(model.train(), lambda: objective(model, next(rollouts))[0])

    def step() -> float:
        update()
        return rollouts.stats["length"] * options.prompts * options.group

    return step


def trl(
    saved: Path, tasks: list[Task], options: argparse.Namespace, between: Callable[[], None]
) -> list[tuple[float, float]]:
    """Seconds and written tokens of each of the peer's steps; `between` is called after each."""
    from datasets import Dataset  # the peers take seconds to import
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    taken: list[tuple[float, float]] = []

    def reward(completions: list, place: list[int], **_: object) -> list[float]:
        return JUDGE([tasks[number] for number in place], [said[0]["content"] for said in completions])

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            seconds = time.perf_counter() - self.start
            written = trainer._metrics["train"]["completions/mean_length"][-1] * options.prompts * options.group
            taken.append((seconds, written))
            between()

    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(saved, dtype="float32"), reward,
        GRPOConfig(
            output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=options.prompts * options.group, num_generations=options.group, beta=0.0,
            max_completion_length=options.max_tokens, temperature=1.0, max_steps=options.rounds + 1, loss_type="grpo",
            learning_rate=1e-4, lr_scheduler_type="constant", save_strategy="no", logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": task.messages, "place": i} for i, task in enumerate(tasks)]),
        processing_class=AutoTokenizer.from_pretrained(saved),
        callbacks=[Turns()],
    )  # fmt: skip
    trainer.train()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args()
    print(hardware_line())
    model, tokenizer = open_start(MODEL, lambda _: None)
    tasks = list(islice(read_tasks(["tasks:arithmetic"]), 200))
    mine: list[tuple[float, float]] = []
    step = ours(model, tokenizer, tasks, options)

    def take_turn() -> None:
        start = time.perf_counter()
        written = step()
        mine.append((time.perf_counter() - start, written))

    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, model.eval(), tokenizer)
        theirs = trl(Path(folder), tasks, options, take_turn)
    (seconds, tokens), (their_seconds, their_tokens) = (
        [statistics.median(column) for column in zip(*taken[1:], strict=True)] for taken in (mine, theirs)
    )
    print(
        f"{options.prompts} prompts x {options.group}   ours {seconds:.2f} s ({tokens:.0f} tokens written)   "
        f"trl {their_seconds:.2f} s ({their_tokens:.0f})   {their_seconds / seconds:.2f} x trl"
    )


if __name__ == "__main__":
    main()
