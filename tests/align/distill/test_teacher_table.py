"""Tables that a kill cannot spoil, that are used only for what they were made of, and are not made twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from align.talks import CONTEXT, encoded_talks
from align.tiny_models import model_for

from vesalius.align.distill import teacher_table
from vesalius.align.distill.teacher_table import TableFacts, TeacherTable, write_table
from vesalius.align.rows.encoding import Encoded
from vesalius.core.errors import UserError
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer

K = 4


@pytest.fixture(scope="module")
def encoded(tokenizer: Tokenizer) -> Encoded:
    return encoded_talks(tokenizer)


@pytest.fixture(scope="module")
def teacher(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer, seed=1).eval()


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven conversations at a time, and the index told of each."""
    monkeypatch.setattr(teacher_table, "AT_ONCE", 7)
    monkeypatch.setattr(teacher_table, "SAVE_EVERY", 0.0)


def facts_of(encoded: Encoded, tokenizer: Tokenizer, /, **changes) -> TableFacts:
    settings = {"tokenizer": "t", "vocab_size": tokenizer.vocab_size, "top_k": K, "temperature": 1.0}
    return TableFacts.of(encoded, **settings | changes)


class KilledError(Exception):
    pass


def write(folder: Path, teacher: Transformer, encoded: Encoded, facts: TableFacts, *, kill_at: int = -1) -> list[int]:
    """-> what it told of its progress, up to the kill."""
    told: list[int] = []

    def tell(done: int) -> None:
        told.append(done)
        if done == kill_at:
            raise KilledError

    write_table(teacher, encoded, facts, folder, rows=2, context=CONTEXT, dtype=None, on_progress=tell)
    return told


def content(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("ids.bin", "logprobs.bin")]


def test_a_killed_table_goes_on_to_the_same_bytes(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    facts = facts_of(encoded, tokenizer)
    assert write(tmp_path / "whole", teacher, encoded, facts) == [7, 14, 21, 28, 30]
    with pytest.raises(KilledError):
        write(tmp_path / "cut", teacher, encoded, facts, kill_at=14)
    for name in ("ids.bin", "logprobs.bin"):  # what was written after the index said so, in the middle of a number
        with (tmp_path / "cut" / name).open("ab") as file:
            file.write(b"half")
    with pytest.raises(UserError, match="has 14 of 30 conversations: resume the run"):
        TeacherTable(tmp_path / "cut", encoded, facts)
    assert write(tmp_path / "cut", teacher, encoded, facts) == [21, 28, 30]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_finished_table_is_not_made_again(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    facts = facts_of(encoded, tokenizer)
    write(tmp_path, teacher, encoded, facts)
    before = content(tmp_path)
    assert write(tmp_path, teacher, encoded, facts) == []
    assert content(tmp_path) == before


@pytest.mark.parametrize("change", [{"tokenizer": "other"}, {"top_k": 3}, {"temperature": 2.0}])
def test_a_table_of_something_else_is_refused_and_made_anew(
    change: dict, tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    write(tmp_path, teacher, encoded, facts_of(encoded, tokenizer))
    other = facts_of(encoded, tokenizer, **change)
    [name] = change
    with pytest.raises(UserError, match=f"was made for {name} .*, got {change[name]}: use the same"):
        TeacherTable(tmp_path, encoded, other)
    assert write(tmp_path, teacher, encoded, other)[0] == 7
    assert TeacherTable(tmp_path, encoded, other).read([0])[0].shape[1] == other.top_k


def test_other_conversations_are_refused(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    write(tmp_path, teacher, encoded, facts_of(encoded, tokenizer))
    fewer = encoded_talks(tokenizer, 29)
    with pytest.raises(UserError, match="was made for conversations"):
        TeacherTable(tmp_path, fewer, facts_of(fewer, tokenizer))


def test_another_teacher_s_table_is_made_anew_but_may_be_read_by_who_does_not_know_it(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    facts = facts_of(encoded, tokenizer)
    write(tmp_path, teacher, encoded, replace(facts, teacher="one"))
    TeacherTable(tmp_path, encoded, facts)
    assert write(tmp_path, teacher, encoded, replace(facts, teacher="other"))[0] == 7


def test_a_directory_without_a_table_is_told(tmp_path: Path, encoded: Encoded, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="holds no teacher's table"):
        TeacherTable(tmp_path, encoded, facts_of(encoded, tokenizer))


@pytest.mark.parametrize("top_k", [0, 300])
def test_a_k_that_leaves_no_other_token_is_refused(top_k: int, encoded: Encoded, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=f"top_k = {top_k}: expected 1 to 299"):
        facts_of(encoded, tokenizer, top_k=top_k)


def test_the_rows_of_a_conversation_are_its_targets(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    facts = facts_of(encoded, tokenizer)
    write(tmp_path, teacher, encoded, facts)
    table = TeacherTable(tmp_path, encoded, facts)
    for number in range(len(encoded)):
        ids, logprobs = table.read([number])
        assert len(ids) == len(logprobs) == encoded.spans[number][1][1:].sum()
        assert (np.diff(logprobs[:, :K]) <= 0).all()
        np.testing.assert_allclose(np.exp(logprobs.astype(np.float64)).sum(1), 1, atol=1e-5)
