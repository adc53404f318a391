"""What was measured twice, the worst loss first."""

import pytest

from vesalius.core.errors import UserError
from vesalius.evals.alignment_tax import alignment_tax, as_evals


def test_a_loss_is_a_change_in_the_wrong_direction_and_the_worst_comes_first() -> None:
    before = {"arithmetic_accuracy": 0.5, "pretraining_bits_per_byte": 1.0, "docstring_accuracy": 0.4, "old": 1.0}
    after = {"arithmetic_accuracy": 0.75, "pretraining_bits_per_byte": 1.1, "docstring_accuracy": 0.2, "new": 1.0}
    rows = alignment_tax(before, after)
    assert [(row.name, row.worse) for row in rows] == [
        ("docstring_accuracy", True),
        ("pretraining_bits_per_byte", True),
        ("arithmetic_accuracy", False),
    ]
    assert [row.change for row in rows] == [pytest.approx(change) for change in (-0.5, 0.1, 0.5)]
    assert as_evals(rows)[0] == {
        "name": "docstring_accuracy", "before": 0.4, "after": 0.2, "change": pytest.approx(-0.5), "worse": True,
    }  # fmt: skip


def test_from_nothing_there_is_no_relative_change() -> None:
    [row] = alignment_tax({"accuracy": 0.0}, {"accuracy": 0.2})
    assert (row.change, row.worse) == (None, False)


def test_nothing_in_common_is_told() -> None:
    with pytest.raises(UserError, match="nothing was measured both before and after: a against b"):
        alignment_tax({"a": 1.0}, {"b": 1.0})
