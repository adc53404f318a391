from hypothesis import given
from hypothesis import strategies as st

from vesalius.data.duplicates import SeenTexts


@given(st.lists(st.lists(st.text("ab", max_size=3), max_size=8), max_size=12))
def test_it_tells_new_from_old_as_a_set_does(calls):
    seen, reference = SeenTexts(), set()
    for texts in calls:
        expected = []
        for text in texts:
            expected.append(text not in reference)
            reference.add(text)

        assert seen.add(texts) == expected


def test_ten_thousand_texts_cost_eight_bytes_each_in_a_few_runs():
    seen = SeenTexts()
    for start in range(0, 10_000, 10):
        seen.add([str(i) for i in range(start, start + 10)])

    assert sum(run.nbytes for run in seen._runs) == 80_000
    assert len(seen._runs) <= 14  # log2 of 10,000
