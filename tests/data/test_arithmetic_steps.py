"""Made sums: every step's label is what Python's own arithmetic says of it."""

import re

from vesalius.data.arithmetic_steps import arithmetic_solutions

SUM = re.compile(r"(\d+) \+ (\d+) = (-?\d+)")


def test_labels_say_whether_a_step_follows_and_is_right() -> None:
    for solution in arithmetic_solutions(300):
        terms = [int(number) for number in re.findall(r"\d+", solution.prompt[0]["content"])]
        total = terms[0]
        for step, label, term in zip(solution.steps, solution.labels, terms[1:], strict=False):
            parts = SUM.fullmatch(step)
            assert parts is not None
            first, second, result = map(int, parts.groups())
            assert label == ((first, second, result) == (total, term, total + term))
            total = result
        if all(solution.labels):
            assert total == sum(terms)


def test_a_solution_ends_at_its_first_mistake_and_half_have_one() -> None:
    solutions = list(arithmetic_solutions(300))
    assert all(all(solution.labels[:-1]) for solution in solutions)
    assert [solution.labels[-1] for solution in solutions] == [True, False] * 300


def test_the_seed_decides_all() -> None:
    first, same, other = (list(arithmetic_solutions(40, seed)) for seed in (1, 1, 2))
    assert first == same != other


def test_solutions_of_one_sum_stay_on_one_side() -> None:
    solutions = list(arithmetic_solutions(50))
    assert all(a.split_key == b.split_key for a, b in zip(solutions[::2], solutions[1::2], strict=True))
