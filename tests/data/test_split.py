import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.data import split
from vesalius.data.document import Document
from vesalius.data.split import is_validation, shuffled, split_documents, split_items


def documents_of(*texts: str) -> list[Document]:
    return [Document(text, f"file {i}", split_key=text) for i, text in enumerate(texts)]


def sides(documents: list[Document], fraction: float) -> dict[str, str]:
    return {document.text: side for side, document in split_documents(documents, fraction)}


def test_the_split_of_a_key_is_the_same_for_ever():
    keys = ["abc", "csv", "json", "os.path", "topic:LAMBDAS", "é", "\ud800"]

    assert [key for key in keys if is_validation(key, 0.3)] == ["json", "os.path", "topic:LAMBDAS", "\ud800"]


def test_the_fraction_is_kept_within_sampling_error():
    share = sum(is_validation(str(i), 0.1) for i in range(10_000)) / 10_000

    assert share == pytest.approx(0.1, abs=0.012)  # four standard errors


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_only_adds_validation(key, one, other):
    low, high = sorted((one, other))

    assert is_validation(key, low) <= is_validation(key, high)


@given(st.permutations([str(i) for i in range(30)]), st.integers(20, 30))
def test_adding_or_moving_documents_leaves_the_others_where_they_were(texts, kept):
    everything = sides(documents_of(*texts), 0.5)

    assert sides(documents_of(*texts[:kept]), 0.5) == {text: everything[text] for text in texts[:kept]}


def test_a_single_book_gives_its_end_to_validation():
    lines = [f"line {i}\n" for i in range(100)]

    (train_side, train), (validation_side, validation) = split_documents(documents_of("".join(lines)), 0.1)

    assert (train_side, validation_side) == ("train", "validation")
    assert train.text + validation.text == "".join(lines)
    assert train.text.endswith("\n")
    assert len(validation.text) / len("".join(lines)) == pytest.approx(0.1, abs=0.02)


def test_no_more_than_a_limit_is_held_in_memory_while_a_side_is_empty(monkeypatch):
    monkeypatch.setattr(split, "_LARGEST_HELD_BACK", 10)
    taken: list[Document] = []

    split_documents((taken.append(document) or document for document in documents_of(*["123456"] * 9)), 0.001)

    assert len(taken) == 2


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(UserError, match="validation_fraction must lie between 0 and 1"):
        split_documents([], fraction)


def test_items_of_one_key_stay_on_one_side_in_their_order():
    items = documents_of(*(str(i % 20) for i in range(60)))
    train, held_out = split_items(items, 0.3, "documents")
    assert sorted(train + held_out, key=items.index) == items
    assert not {item.split_key for item in train} & {item.split_key for item in held_out}
    assert all(is_validation(item.split_key, 0.3) for item in held_out)


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(UserError, match=r"all 1 pairs fell to validation at validation_fraction = 0\.9.*more pairs"):
        split_items(documents_of("os.path"), 0.9, "pairs")


def test_the_order_of_hashes_does_not_depend_on_the_order_before():
    documents = documents_of("a", "b", "c", "d", "\ud800")

    found = shuffled(documents)

    assert found == shuffled(reversed(documents)) != documents
    assert sorted(d.text for d in found) == [d.text for d in documents]
