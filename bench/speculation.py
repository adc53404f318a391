"""What speculation gains on this machine: texts to edit, where the answer repeats the prompt, and free ones.

    python bench/speculation.py [MODEL] [--speculation NAME …] [--tasks edit free] [--rounds 3] [--most 7]

Every candidate answers the same prompts greedily on one engine of its own; rounds take turns, so that a machine whose
speed drifts treats all alike. "tok/s" counts the tokens after the first of each answer, by the clock; "closed form" is
(1 - α^(γ+1)) / ((1 - α)(γc + 1)) with the measured acceptance α, draft length γ and cost c of a drafted token, and
"drafting" the speed-up of the steps that drafted, by the clock, which it predicts. Answers that are not token for token
those of plain decoding are an error.
"""

import argparse
import statistics
import time

from vesalius.core.hardware import hardware_line
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.params import SamplingParams

CODE = '''import json


def load_users(path):
    """Read the users from a JSON file."""
    with open(path) as file:
        users = json.load(file)
    return [user for user in users if user["active"]]


def count_by_country(users):
    """How many users live in each country."""
    counts = {}
    for user in users:
        country = user["country"]
        counts[country] = counts.get(country, 0) + 1
    return counts


def print_report(users):
    """Print the countries, the largest first."""
    counts = count_by_country(users)
    for country, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{country}: {count}")
'''
PROSE = """The library opens at nine in the morning and closes at six in the evening. Vistors can borrow up to five \
books for three weeks. If a book is late, the reader pays ten cents for each day. Children under twelve need a card \
that is sined by a parent. The reading room on the second floor is quite, and there are twenty desks with lamps. On \
saturdays the library shows films for families in the small hall, and on Sundays it is closed."""
LETTER = """Dear Mr. Miller, thank you for your letter of March 3. We are hapy to tell you that your order has been \
sent today. It shuld arrive within five working days. If anything is mising or damaged, please call our office or \
write to us. We have also added a small gift for your daughter. We hope to see you again soon. Sincerely, Anna Brown"""
TASKS = {
    "edit": [
        f"Fix the grammar and spelling of the following text:\n\n{PROSE}",
        f"Rewrite this text so that it is about a museum and not a library:\n\n{PROSE}",
        f"Proofread this letter and return the corrected letter:\n\n{LETTER}",
        f"Add type hints to this Python code. Answer with the complete code.\n\n```python\n{CODE}```",
        "Rename the function `count_by_country` to `count_countries` in this Python code. "
        f"Answer with the complete code.\n\n```python\n{CODE}```",
    ],
    "free": [
        "Write a short story about a lighthouse keeper who finds a bottle on the beach.",
        "What should I think of when I plan a garden?",
        "Explain how a bicycle stays upright.",
    ],
}


class Candidate:
    """One way to decode, and what it took for each task."""

    def __init__(self, lm: LanguageModel, name: str | None, most: int) -> None:
        self.lm, self.name, self.most = lm, name or "plain", most
        self.rates: dict[str, list[float]] = {task: [] for task in TASKS}
        self.reports: dict[str, object] = {}
        self.answers: dict[str, list[list[int]]] = {}
        self._options = EngineOptions(speculation=name, speculated=most, prefix_caching=False)

    def round(self, task: str, prompts: list[list[int]], tokens: int) -> None:
        """Answers the prompts of a task once."""
        engine = Engine(self.lm.model, self.lm.tokenizer.eos_ids, self._options)
        count, seconds, self.answers[task] = 0, 0.0, []
        for ids in prompts:
            steps = engine.stream(ids, SamplingParams(max_tokens=tokens))
            answer = [next(steps).id]
            started = time.perf_counter()
            answer += [step.id for step in steps]
            seconds, count = seconds + time.perf_counter() - started, count + len(answer) - 1
            self.answers[task].append(answer)
        self.rates[task].append(count / seconds)
        if engine.speculation is not None:
            self.reports[task] = engine.speculation.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--speculation", nargs="*", default=["ngram", "early_exit:6"])
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    lm = LanguageModel.load(options.model)
    candidates = [Candidate(lm, name, options.most) for name in (None, *options.speculation)]
    print(hardware_line())
    for task in options.tasks:
        prompts = [lm.prompt_ids([{"role": "user", "content": text}]) for text in TASKS[task]]
        for _ in range(options.rounds):
            for candidate in candidates:
                candidate.round(task, prompts, options.tokens)
        tell(task, candidates)


def tell(task: str, candidates: list[Candidate]) -> None:
    """The table of one task."""
    plain = candidates[0]
    base = statistics.median(plain.rates[task])
    tokens = sum(map(len, plain.answers[task]))
    print(f"\n{task}: {len(plain.answers[task])} answers, {tokens} tokens; plain {base:.1f} tok/s")
    print(f"  {'':16s}{'tok/s':>8s}{'speed-up':>10s}{'α':>7s}{'γ':>6s}{'c':>7s}{'closed form':>13s}{'drafting':>10s}")
    for candidate in candidates[1:]:
        if candidate.answers[task] != plain.answers[task]:
            raise SystemExit(f"{candidate.name} answers {task} otherwise than plain decoding")
        rate, r = statistics.median(candidate.rates[task]), candidate.reports[task]
        print(
            f"  {candidate.name:16s}{rate:8.1f}{rate / base:9.2f}x{r.alpha:7.2f}{r.gamma:6.1f}{r.cost:7.3f}"
            f"{r.predicted:12.2f}x{r.measured:9.2f}x"
        )


if __name__ == "__main__":
    main()
