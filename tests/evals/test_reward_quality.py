"""The figures of a scoring model, against sklearn's and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, mean_squared_error

from vesalius.evals.reward_quality import pair_quality, score_quality, step_quality


def test_pairs() -> None:
    rewards, lengths = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [4.0, -1.0]]), np.ones((4, 2))
    found = pair_quality(rewards, lengths)
    assert (found["pairs"], found["accuracy"], found["margin"]) == (4, (1 + 0 + 0.5 + 1) / 4, 0.75)
    assert (found["reward"], found["reward_deviation"]) == (rewards.mean(), pytest.approx(rewards.std()))
    assert sum(found["margins"]["counts"]) == 4
    assert (found["margins"]["edges"][0], found["margins"]["edges"][-1]) == (-5.0, 5.0)
    assert [each["count"] for each in found["reliability"]] == [1, 1, 2]
    assert found["length_bias"]["pairs"] == 0


def test_margins_that_are_log_odds_are_calibrated() -> None:
    draw = np.random.default_rng(0)
    margins = draw.normal(size=20_000) * 2
    better = draw.random(20_000) < 1 / (1 + np.exp(-margins))
    signed = np.where(better, margins, -margins)
    honest, boasting = (
        pair_quality(np.stack([m, 0 * m], 1), np.ones((20_000, 2)))["calibration_error"] for m in (signed, 4 * signed)
    )
    assert honest < 0.015
    assert boasting > 0.1


def test_scores() -> None:
    rewards, scores = [1.0, 2.0, 4.0], [1.5, 2.0, 3.0]
    found = score_quality(rewards, scores)
    assert found["mean_squared_error"] == pytest.approx(mean_squared_error(scores, rewards))
    assert found["error_of_the_mean"] == pytest.approx(mean_squared_error(scores, [np.mean(scores)] * 3))
    assert found["correlation"] == pytest.approx(np.corrcoef(rewards, scores)[0, 1])


def test_steps() -> None:
    probabilities = [[0.9, 0.2], [0.8, 0.9], [0.4], [0.7, 0.6]]
    labels = [[True, False], [True, True], [True], [True, False]]
    found = step_quality(probabilities, labels)
    flat, truth = np.concatenate(probabilities) >= 0.5, np.concatenate(labels)
    assert found["accuracy"] == accuracy_score(truth, flat)
    assert (found["right_steps_found"] + found["wrong_steps_found"]) / 2 == pytest.approx(
        balanced_accuracy_score(truth, flat)
    )
    assert found["majority"] == 5 / 7
    assert (found["solutions"], found["steps"]) == (4, 7)
    assert found["solution_accuracy"] == 0.75  # 0.18, 0.72, 0.4 and 0.42 against wrong, right, right and wrong


def test_labels_of_one_kind_leave_the_other_unknown() -> None:
    assert step_quality([[0.9]], [[True]])["wrong_steps_found"] is None
