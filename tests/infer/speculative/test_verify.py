"""Verification: the tokens are those of plain decoding where nothing or a guess is drawn, and of its distribution
where the draft was drawn; with processors, constraints, end tokens and trees."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infer.speculative.written import text, write
from scipy import stats
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import Adjuster, draw, process
from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import EMPTY, Draft
from vesalius.infer.speculative.verify import distribution, write_along

V = 6
PROMPT = [2, 4, 4]


class Chain:
    """A language: the scores of the next token depend on the last one only."""

    def __init__(self, seed: int, sharpness: float = 1.5) -> None:
        self.table = sharpness * torch.randn(V, V, generator=torch.Generator().manual_seed(seed))

    def logits(self, last: int, draft: Draft = EMPTY) -> Tensor:
        """What a model that reads the last token and the draft gives: (1 + n, V)."""
        return self.table[[last, *draft.tokens]]


class Never:
    """A constraint: no token twice in a row, and `forbidden` never."""

    def __init__(self, last: int, forbidden: int) -> None:
        self.last, self.forbidden = last, forbidden

    def prepare(self) -> None: ...

    def apply(self, scores: Tensor) -> Tensor:
        return scores.index_fill(-1, torch.tensor([self.last, self.forbidden]), -math.inf)

    def accept(self, token: int) -> None:
        assert token not in (self.last, self.forbidden)
        self.last = token

    def fork(self) -> "Never":
        return Never(self.last, self.forbidden)


def step(model: Chain, sequence: Sequence, draft: Draft = EMPTY, eos: tuple[int, ...] = ()) -> list[int]:
    """One step -> the nodes that stood."""
    before = sequence.length
    path = write_along(draft, model.logits(last(sequence), draft), sequence, partial(write, eos_ids=eos))
    new = sequence.tokens(before, sequence.length)
    assert [draft.tokens[node] for node in path] == new[: len(path)]
    assert len(new) == len(path) + (sequence.error is None)
    return path


def last(sequence: Sequence) -> int:
    return sequence.tokens(sequence.length - 1, sequence.length)[0]


def written(model: Chain, sequence: Sequence, count: int, drafts=lambda sequence: EMPTY, eos=()) -> list[int]:
    """`count` tokens, several a step where the drafts are right."""
    while len(sequence.ids) < count and sequence.error is None and sequence.finish_reason is None:
        step(model, sequence, drafts(sequence), eos)
    return sequence.ids[:count]


def plainly(model: Chain, count: int, **settings) -> list[int]:
    """The tokens of plain greedy decoding."""
    return written(model, text(PROMPT, SamplingParams(**settings), vocab_size=V), count)


def random_tree(seed: int, size: int) -> Draft:
    """Distinct siblings, as whoever proposes from a list of candidates makes them."""
    generator = torch.Generator().manual_seed(seed)
    tokens, parents, taken = [], [], set()
    for node in range(size):
        parent = int(torch.randint(-1, node, (), generator=generator)) if node else -1
        token = int(torch.randint(V, (), generator=generator))
        if (parent, token) not in taken:
            taken.add((parent, token))
            tokens.append(token)
            parents.append(parent)
        else:
            break
    return Draft(tokens, parents)


PROCESSED = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 3},
    {"temperature": 1.2, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "typical_p": 0.7},
    {"repetition_penalty": 1.4},
    {"temperature": 1.0, "presence_penalty": 0.8, "frequency_penalty": 0.4},
    {"temperature": 1.0, "logit_bias": {1: 1.5, 3: -100.0}},
    {"no_repeat_ngram_size": 3},
    {"temperature": 1.0, "bad_words_ids": ((4, 1), (0,))},
    {"temperature": 1.0, "min_tokens": 6},
]


@pytest.mark.parametrize("options", PROCESSED, ids=str)
@pytest.mark.parametrize("constrained", [False, True])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), size=st.integers(0, 9))
def test_what_guesses_lead_to_is_what_plain_decoding_writes_to_the_token(options, constrained, seed, size):
    params, model = SamplingParams.of(seed=seed, max_tokens=12, **options), Chain(seed)

    def outcome(drafts) -> tuple[list[int], str]:
        constraint = Never(PROMPT[-1], seed % V) if constrained else None
        generator = torch.Generator().manual_seed(seed)
        sequence = text(PROMPT, params, generator=generator, constraint=constraint, vocab_size=V, eos_ids=(5,))
        tokens = written(model, sequence, 12, drafts, eos=(5,))
        return tokens, str(sequence.error) if len(sequence.ids) < 12 else ""

    assert outcome(lambda s: random_tree(seed + s.length, size)) == outcome(lambda s: EMPTY)


def test_the_right_guess_is_kept_whole_and_one_token_more_is_given():
    model, sequence = Chain(3), text(PROMPT, SamplingParams(top_logprobs=2), vocab_size=V)
    plain = plainly(model, 6)
    assert step(model, sequence, Draft.chain(plain[:5])) == [0, 1, 2, 3, 4]
    assert sequence.ids == plain
    logprobs = model.table.log_softmax(-1)[[PROMPT[-1], *plain[:5]]]
    assert [s.logprob for s in sequence.steps] == pytest.approx(
        logprobs.gather(1, torch.tensor([plain]).T)[:, 0].tolist()
    )
    assert [list(s.top_logprobs) for s in sequence.steps] == logprobs.topk(2).indices.tolist()


def test_the_branch_that_is_right_is_kept_wherever_it_stands():
    model, sequence = Chain(3), text(PROMPT, vocab_size=V)
    first, second, third = plainly(model, 3)
    wrong = (first + 1) % V
    assert step(model, sequence, Draft([wrong, second, first, wrong, second], [-1, 0, -1, 2, 2])) == [2, 4]
    assert sequence.ids == [first, second, third]


def test_nothing_comes_behind_an_end_token():
    model, sequence = Chain(3), text(PROMPT, vocab_size=V)
    plain = plainly(model, 6)
    assert step(model, sequence, Draft.chain(plain[:5]), eos=(plain[0],)) == []
    assert sequence.ids == plain[:1]


def test_tokens_before_one_that_the_settings_forbid_are_given_and_then_the_error():
    params = SamplingParams(no_repeat_ngram_size=1)  # six tokens, two of them in the prompt: four are left
    model, sequence = Chain(3), text(PROMPT, params, vocab_size=V)
    plain = plainly(model, 4, no_repeat_ngram_size=1)
    assert step(model, sequence, Draft.chain(plain)) == [0, 1, 2, 3]
    assert sequence.ids == plain
    assert isinstance(sequence.error, UserError)
    assert "none is left" in str(sequence.error)


def test_weights_that_are_broken_are_told_in_a_drawn_draft_too():
    model, sequence = Chain(3), text(PROMPT, SamplingParams(temperature=1.0), vocab_size=V)
    model.table[:] = math.nan
    step(model, sequence, Draft.chain([1], torch.full((1, V), 1 / V)))
    assert "not finite" in str(sequence.error)


def drawn(model: Chain, last: int, params: SamplingParams, generator: torch.Generator, shape: list[int]) -> Draft:
    """A tree with shape[d] siblings at depth d, each drawn from another language without the siblings before it."""
    tokens: list[int] = []
    parents: list[int] = []
    rows: list[Tensor] = []
    level = [(-1, last)]
    for width in shape:
        below = []
        for parent, token in level:
            q = process(model.table[token], params).softmax(-1)
            for _ in range(min(width, int((q > 0).sum()))):
                chosen = int(draw(q, generator))
                below.append((len(tokens), chosen))
                tokens.append(chosen)
                parents.append(parent)
                rows.append(q)
                q = q.index_fill(-1, torch.tensor(chosen), 0.0)
                q = q / q.sum()
        level = below
    return Draft(tokens, parents, torch.stack(rows))


PENALISED = {"temperature": 2.0, "top_p": 0.9, "presence_penalty": 1.0, "repetition_penalty": 1.2}


@pytest.mark.parametrize(
    ("shape", "options", "constrained"),
    [
        ([1], {"temperature": 1.0}, False),
        ([1, 1], {"temperature": 0.6, "top_k": 3}, False),
        ([2, 1], PENALISED, False),
        ([3, 2], {"temperature": 1.0}, True),
        ([1, 1], PENALISED, True),
        ([2, 2], {"temperature": 1.0, "logit_bias": {1: 2.0}, "no_repeat_ngram_size": 2}, False),
    ],
    ids=str,
)
def test_the_first_two_tokens_have_the_distribution_of_plain_sampling_when_the_draft_was_drawn(
    shape, options, constrained
):
    """Chi-square over all pairs against the exact probabilities; the draws are seeded, so it passes always or never."""
    runs, model, other = 1500, Chain(1), Chain(2, sharpness=1.0)
    params, generator = SamplingParams.of(**options), torch.Generator().manual_seed(0)
    counts = torch.zeros(V, V)
    kept = 0
    for _ in range(runs):
        constraint = Never(PROMPT[-1], 5) if constrained else None
        sequence = text(PROMPT, params, generator=generator, constraint=constraint, vocab_size=V)
        while len(sequence.ids) < 2:
            kept += len(step(model, sequence, drawn(other, last(sequence), params, generator, shape)))
        counts[sequence.ids[0], sequence.ids[1]] += 1
    assert kept > runs / 5
    expected = runs * joint(model, params, constrained)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    rare = seen & (expected < 5)
    observed, predicted = counts[seen & ~rare].tolist(), expected[seen & ~rare].tolist()
    if rare.any():
        observed.append(float(counts[rare].sum()))
        predicted.append(float(expected[rare].sum()))
    assert len(observed) > 4
    scale = runs / sum(predicted)  # the sums differ by rounding, which scipy refuses
    assert stats.chisquare(observed, [value * scale for value in predicted]).pvalue > 0.001


def joint(model: Chain, params: SamplingParams, constrained: bool) -> Tensor:
    """The exact probabilities (V, V) of the first two tokens under plain sampling."""

    adjust = Adjuster(params, V, prompt_tokens=len(PROMPT))

    def p(ids: list[int]) -> Tensor:
        scores = adjust(model.table[ids[-1]], torch.tensor(ids))
        scores = Never(ids[-1], 5).apply(scores) if constrained else scores
        return process(scores, params).softmax(-1).double()

    table = torch.zeros(V, V, dtype=torch.float64)
    first = p(PROMPT)
    for a, b in itertools.product(range(V), repeat=2):
        if first[a] > 0:
            table[a, b] = first[a] * p([*PROMPT, a])[b]
    return table


def test_a_drawn_draft_of_a_greedy_sequence_is_kept_where_it_is_the_likeliest():
    model, sequence = Chain(3), text(PROMPT, vocab_size=V)
    plain = plainly(model, 2)
    step(model, sequence, Draft.chain(plain[:1], torch.full((1, V), 1 / V)))
    assert sequence.ids == plain


def test_more_is_kept_the_nearer_the_draft_is_to_the_model():
    """A token is kept with probability Σ min(p, q): Leviathan et al., theorem 3.5."""
    model, params, runs = Chain(1), SamplingParams(temperature=1.0), 1000
    for other in (Chain(1), Chain(2, sharpness=1.0)):
        generator = torch.Generator().manual_seed(0)
        sequences = [text(PROMPT, params, generator=generator, vocab_size=V) for _ in range(runs)]
        kept = sum(len(step(model, s, drawn(other, PROMPT[-1], params, generator, [1]))) for s in sequences)
        p, q = (chain.table[PROMPT[-1]].softmax(-1) for chain in (model, other))
        assert stats.binomtest(kept, runs, min(1.0, float(torch.minimum(p, q).sum()))).pvalue > 0.001


@pytest.mark.parametrize("options", [{"temperature": 0.8}, {"temperature": 1.0, "top_k": 2}, {"top_p": 0.5}])
def test_the_distribution_is_that_of_sampling(options):
    params = SamplingParams.of(**{"temperature": 1.0} | options)
    scores = torch.randn(700, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(distribution(scores, params), process(scores, params).softmax(-1), atol=1e-6, rtol=1e-5)
