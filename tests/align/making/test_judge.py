"""A judge's verdict is one of the allowed texts, its probability that of the model, and no place is favoured."""

import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score

from vesalius.align.making import judge as judge_module
from vesalius.align.making.judge import Comparison, Judge, agreement
from vesalius.align.making.judge_prompts import PAIRWISE, POINTWISE, JudgePrompt, transcript
from vesalius.core.errors import UserError
from vesalius.data.preference import Pair
from vesalius.infer.language_model import LanguageModel
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_bpe(train_bpe([PAIRWISE.user + POINTWISE.user + PAIRWISE.system + " much better"], 290))


def language_model(context: int = 1024) -> LanguageModel:
    sizes = {
        "vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "initializer_range": 0.4, "tie_word_embeddings": False, "max_position_embeddings": context,
    }  # fmt: skip
    return LanguageModel(Transformer(ModelConfig.from_dict(sizes), seed=3), TOKENIZER)


def pair(number: int, *, exchanged: bool = False) -> Pair:
    texts = (f"number {number}", f"the letter {number}")
    answers = tuple([{"role": "assistant", "content": text}] for text in texts)
    chosen, rejected = answers[::-1] if exchanged else answers
    return Pair([{"role": "user", "content": f"Which {number}?"}], chosen, rejected, f"pair {number}", str(number))


def by_hand(lm: LanguageModel, messages: list[dict[str, str]], verdicts: tuple[str, ...]) -> torch.Tensor:
    """Softmax over the whole probability of each verdict's tokens after the prompt."""
    ids, totals = lm.prompt_ids(messages), []
    for verdict in verdicts:
        spelled = TOKENIZER.encode(verdict, after="text")
        logprobs = lm.logits(ids + spelled).log_softmax(-1)
        totals.append(sum(logprobs[len(ids) - 1 + i, token] for i, token in enumerate(spelled)))
    return torch.stack(totals).softmax(0)


VERDICTS = [
    PAIRWISE,
    JudgePrompt(name="words", system="", user=PAIRWISE.user, verdicts=("the first", "the second one")),
]


@pytest.mark.parametrize("prompt", VERDICTS, ids=["letters", "words"])
def test_the_probability_is_that_of_the_verdicts_tokens_in_both_orders(prompt: JudgePrompt) -> None:
    lm = language_model()
    pairs = [pair(i) for i in range(3)]
    found = Judge(lm, "tiny").compare(pairs, prompt)
    for each, comparison in zip(pairs, found, strict=True):
        a, b = each.chosen[0]["content"], each.rejected[0]["content"]
        straight, exchanged = (
            by_hand(lm, prompt.messages(each.prompt, first=first, second=second), prompt.verdicts)
            for first, second in ((a, b), (b, a))
        )
        assert comparison.probability == pytest.approx(float(straight[0] + exchanged[1]) / 2, abs=1e-5)
        assert all(letter in prompt.verdicts for letter in comparison.verdicts)


def test_exchanging_the_answers_exchanges_the_probability() -> None:
    """Whatever place the model favours, the order in which a pair is given does not count."""
    judge = Judge(language_model(), "tiny")
    given, exchanged = (judge.compare([pair(i, exchanged=way) for i in range(3)]) for way in (False, True))
    for one, other in zip(given, exchanged, strict=True):
        assert one.probability + other.probability == pytest.approx(1, abs=1e-5)
        assert one.verdicts == other.verdicts[::-1]


def test_the_written_letter_is_the_likelier_one() -> None:
    lm = language_model()
    [found] = Judge(lm, "tiny").compare([pair(1)])
    a, b = pair(1).chosen[0]["content"], pair(1).rejected[0]["content"]
    straight = by_hand(lm, PAIRWISE.messages(pair(1).prompt, first=a, second=b), PAIRWISE.verdicts)
    assert found.verdicts[0] == PAIRWISE.verdicts[int(straight.argmax())]


def test_a_mark_is_the_mean_under_the_probabilities() -> None:
    lm, prompt = language_model(), [{"role": "user", "content": "Which?"}]
    found = Judge(lm, "tiny").rate([("a", prompt, "the letter"), ("b", prompt, "number")])
    for rating, answer in zip(found, ("the letter", "number"), strict=True):
        probabilities = by_hand(lm, POINTWISE.messages(prompt, answer=answer), POINTWISE.verdicts)
        assert rating.mark == pytest.approx(float((probabilities * torch.arange(1, 6)).sum()), abs=1e-4)
        assert rating.verdict in POINTWISE.verdicts
        assert rating.provenance["prompt"]["name"] == "pointwise"


def test_few_at_a_time_judge_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair(i) for i in range(5)]
    whole = Judge(language_model(), "tiny").compare(pairs)
    monkeypatch.setattr(judge_module, "AT_ONCE", 4)
    parts = Judge(language_model(), "tiny").compare(pairs)
    assert [each.probability for each in parts] == pytest.approx([each.probability for each in whole], abs=1e-5)


def test_provenance_tells_judge_and_prompt() -> None:
    principle = JudgePrompt(**{**PAIRWISE.__dict__, "criterion": "Prefer the kinder answer."})
    [found] = Judge(language_model(), "tiny").compare([pair(1)], principle)
    assert found.provenance["judge"] == "tiny"
    assert found.provenance["prompt"]["criterion"] == "Prefer the kinder answer."
    assert found.provenance["prompt"]["user"] == PAIRWISE.user


def test_what_is_longer_than_the_judges_context_is_told_by_name() -> None:
    long = Pair(pair(1).prompt, [{"role": "assistant", "content": "letter " * 400}], pair(1).rejected, "p.jsonl:3", "k")
    with pytest.raises(UserError, match=r"p\.jsonl:3: judging it takes \d+ tokens, and the judge reads 512 at most"):
        Judge(language_model(512), "tiny").compare([long])


def test_braces_and_marks_in_answers_are_text() -> None:
    odd = Pair(pair(1).prompt, [{"role": "assistant", "content": "{question} {x}"}], pair(1).rejected, "p", "k")
    [message] = [m for m in PAIRWISE.messages(odd.prompt, first="{question} {x}", second="b") if m["role"] == "user"]
    assert "[Answer A]\n{question} {x}\n" in message["content"]
    Judge(language_model(), "tiny").compare([odd])


def test_a_comparison_needs_two_verdicts() -> None:
    with pytest.raises(ValueError, match="a comparison has two verdicts, got 5"):
        Judge(language_model(), "tiny").compare([pair(1)], POINTWISE)


def test_agreement_is_accuracy_and_cohens_kappa_over_both_orders() -> None:
    provenance = {"prompt": {"verdicts": ["A", "B"]}}
    cases = [(0.9, ("A", "B")), (0.6, ("A", "A")), (0.2, ("B", "A")), (0.7, ("A", "B")), (0.55, ("B", "B"))]
    found = agreement(
        [Comparison(name="", probability=p, verdicts=letters, provenance=provenance) for p, letters in cases]
    )
    prefers = [p > 0.5 for p, _ in cases]
    both_orders = [*prefers, *(not first for first in prefers)]
    truth = [True] * 5 + [False] * 5
    assert found.accuracy == accuracy_score([True] * 5, prefers)
    assert found.kappa == pytest.approx(cohen_kappa_score(truth, both_orders))
    assert (found.consistent, found.first) == (0.6, 0.5)
    with pytest.raises(UserError, match="there are no comparisons"):
        agreement([])


def test_a_dialogue_is_told_with_who_speaks() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2?"},
    ]
    assert transcript(turns) == "User: Hi\n\nAssistant: Yes?\n\nUser: 2?"
