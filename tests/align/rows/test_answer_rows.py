"""Answers in rows: where each stands, what it sees, and that a shared prompt changes nothing but the places taken."""

import dataclasses

import numpy as np
import pytest
import torch

from vesalius.align.rows.answer_rows import Item, Layout, can_share_prompts, item_length, lay_out
from vesalius.align.rows.answers import AnswerBatch, answer_logprobs
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHARED, REPEATED = (Layout(rows=2, context=24, shared=shared) for shared in (True, False))


def answer(*ids: int, silent: int = 0) -> tuple[np.ndarray, np.ndarray]:
    said = np.ones(len(ids), bool)
    said[:silent] = False
    return np.array(ids), said


ITEMS = [
    [Item(np.array([1, 2, 3]), (answer(4, 5, 6), answer(7, 8))), Item(np.array([9]), (answer(10), answer(11, 12)))],
    [Item(np.array([13, 14, 15, 16]), (answer(17, 18, 19, silent=1), answer(20)))],
]


def rows(layout: Layout) -> AnswerBatch:
    return lay_out(ITEMS, layout, padding=0, source="here")


def test_a_shared_prompt_is_written_once_but_for_its_last_token() -> None:
    batch = rows(SHARED)
    assert batch.tokens[0, :11].tolist() == [1, 2, 3, 4, 5, 3, 7, 9, 9, 11, 0]
    assert batch.positions[0, :11].tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 0, 1, 0]
    assert batch.targets[0, :11].tolist() == [IGNORE, IGNORE, 4, 5, 6, 7, 8, 10, 11, 12, IGNORE]
    assert batch.answer[0, :11].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 0]
    assert batch.counts == (4, 2)
    assert batch.weight == 6


def test_a_repeated_prompt_stands_before_every_answer() -> None:
    batch = rows(REPEATED)
    assert batch.tokens[0, :13].tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 7, 9, 9, 11, 0]
    assert batch.positions[0, :13].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 1, 0]


def test_what_others_say_inside_an_answer_is_no_target() -> None:
    batch = rows(SHARED)
    assert batch.targets[1, :8].tolist() == [IGNORE, IGNORE, IGNORE, IGNORE, 18, 19, 20, IGNORE]


@pytest.mark.parametrize("layout", [SHARED, REPEATED])
def test_the_length_of_an_item_is_what_it_takes(layout: Layout) -> None:
    for row, items in zip(rows(layout).targets, ITEMS, strict=True):
        length = sum(item_length(len(i.prompt), [len(ids) for ids, _ in i.answers], layout) for i in items)
        assert (row[length - 1] != IGNORE, row[length:].unique().tolist()) == (True, [IGNORE])


@pytest.mark.parametrize("layout", [SHARED, REPEATED])
@pytest.mark.parametrize("changes", [{}, {"position": "learned"}, {"qk_norm": "head", "num_key_value_heads": 2}])
def test_an_answer_has_the_log_probability_that_it_has_alone(layout: Layout, changes) -> None:
    """float32: the same sums, blocked differently."""
    model = Transformer(ModelConfig(**SIZES, **changes)).eval()
    batch = rows(layout)
    found = answer_logprobs(model, batch)
    expected, lengths = [], []
    for item in (item for items in ITEMS for item in items):
        for ids, said in item.answers:
            whole = torch.tensor([*item.prompt, *ids])
            log_p = model(whole[None])[0].log_softmax(-1)[:-1].gather(1, whole[1:, None])[len(item.prompt) - 1 :, 0]
            expected.append(log_p[torch.tensor(said)].sum())
            lengths.append(float(said.sum()))
    torch.testing.assert_close(found.sums, torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert found.lengths.tolist() == lengths


def test_parts_have_the_answers_of_their_rows() -> None:
    batch = dataclasses.replace(rows(SHARED), reference=torch.arange(6.0))
    model = Transformer(ModelConfig(**SIZES)).eval()
    whole = answer_logprobs(model, batch)
    parts = batch.split(1)
    assert [part.weight for part in parts] == [4, 2]
    assert [part.reference.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    torch.testing.assert_close(torch.cat([answer_logprobs(model, part).sums for part in parts]), whole.sums)
    torch.testing.assert_close(torch.cat([answer_logprobs(model, part).lengths for part in parts]), whole.lengths)


@pytest.mark.parametrize(
    ("changes", "shareable"),
    [
        ({}, True),
        ({"position": "none"}, True),
        ({"position": "alibi"}, False),
        ({"sliding_window": 4}, False),
        ({"rope_scaling": {"kind": "dynamic", "factor": 2.0}}, False),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0}}, True),
    ],
)
def test_prompts_are_shared_only_where_places_in_the_row_mean_nothing(changes, shareable: bool) -> None:
    assert can_share_prompts(ModelConfig.from_dict(SIZES | changes)) == shareable
