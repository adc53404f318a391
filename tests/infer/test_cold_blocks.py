"""Blocks that went to a file come back as they were, with exact counts, and never where they do not belong."""

import errno
import os

import pytest
import torch
from engine_models import tiny_model

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.engine import Engine, EngineOptions, Sequence
from vesalius.infer.params import SamplingParams

GENERATOR = torch.Generator().manual_seed(5)
TEXTS = [torch.randint(61, (41,), generator=GENERATOR).tolist() for _ in range(3)]
BLOCKS = 24
"""Of four positions: a context of 96 tokens, or one text and a part of the next."""


def engine_of(kind: str = "grouped", *, cold: int, file: object = None, **options) -> Engine:
    """Memory for 24 blocks, and a file for `cold` of them."""
    model = tiny_model(kind)
    size = Engine(model, options=EngineOptions(block_size=4, **options)).pool.block_bytes
    rest = {"block_size": 4, "cache_bytes": BLOCKS * size, **options}
    named = None if file is None else str(file)
    return Engine(model, options=EngineOptions(cold_bytes=cold * size, cold_file=named, **rest))


def ask(engine: Engine, prompt: list[int], tokens: int = 6) -> Sequence:
    return engine.run(engine.add(prompt, SamplingParams(max_tokens=tokens))[0])


def answers(engine: Engine, order=(0, 1, 2, 0, 1, 2)) -> list[tuple[list[int], int]]:
    made = [ask(engine, TEXTS[i]) for i in order]
    return [(sequence.ids, sequence.cached_tokens) for sequence in made]


@pytest.mark.parametrize("kind", ["grouped", "window", "latent"])
@pytest.mark.parametrize("cache_dtype", ["model", "bfloat16", "int8"])
def test_a_text_begins_with_what_went_to_the_file_and_answers_as_if_it_had_stayed(kind, cache_dtype, tmp_path):
    expected = answers(engine_of(kind, cold=0, cache_dtype=cache_dtype, prefix_caching=False))
    engine = engine_of(kind, cold=100, file=tmp_path, cache_dtype=cache_dtype)
    found = answers(engine)
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    assert [cached for _, cached in found] == [0, 0, 0, 40, 40, 40]  # 10 of 41 tokens' blocks, the last token is read
    assert engine.stats.cached_tokens == 120
    assert engine.blocks.used == 0


def test_what_came_from_the_file_and_what_was_still_in_memory_are_counted_apart(tmp_path):
    engine = engine_of(cold=100, file=tmp_path)
    for text in TEXTS:
        ask(engine, text)
    # 46 positions of each text were read: 11 full blocks of each of three, of which 24 and the room to write stay.
    in_memory = engine.blocks.find(None, TEXTS[0][:40])[0]
    engine.blocks.release(in_memory)
    assert 0 < len(in_memory) < 10
    before = engine.stats.read_tokens
    assert ask(engine, TEXTS[0], tokens=1).cached_tokens == 40
    assert engine.stats.cold_tokens == 40 - 4 * len(in_memory)
    assert engine.stats.read_tokens - before == 1


def test_the_longest_unused_makes_room_in_the_file(tmp_path):
    engine = engine_of(cold=5, file=tmp_path)
    for text in TEXTS:
        ask(engine, text)
    tier = engine.blocks._below
    assert len(tier) == 5
    assert tier._space.free == 0
    before = list(tier._tickets)
    while list(tier._tickets) == before:
        engine.blocks.allocate()
    assert list(tier._tickets)[:4] == before[1:]


def test_a_file_with_room_for_one_block_gives_what_it_can(tmp_path):
    engine = engine_of(cold=1, file=tmp_path)
    expected = [ids for ids, _ in answers(engine_of(cold=0))]
    found = answers(engine)
    assert [ids for ids, _ in found] == expected
    assert engine.blocks.used == 0


def test_without_a_free_block_nothing_comes_back_and_nothing_changes(tmp_path):
    engine = engine_of(cold=100, file=tmp_path)
    for text in TEXTS:
        ask(engine, text)
    tier, blocks = engine.blocks._below, engine.blocks
    content = next(iter(tier._tickets))
    held = [blocks.allocate() for _ in range(blocks.available)]
    before = list(tier._tickets)
    assert tier.take_back(blocks, content.parent, content.tokens) == ([], [])
    assert (list(tier._tickets), blocks.used) == (before, BLOCKS)
    blocks.release(held[:1])
    (block,), (again,) = tier.take_back(blocks, content.parent, content.tokens)
    assert (block, again) == (held[0], content)


def test_blocks_come_back_to_the_bit_and_only_for_their_own_text(tmp_path):
    engine = engine_of(cold=100, file=tmp_path)
    ask(engine, TEXTS[0])
    first = engine.blocks.find(None, TEXTS[0])[0]
    kept = engine.pool.read(first)
    engine.blocks.release(first)
    ask(engine, TEXTS[1])
    ask(engine, TEXTS[2])
    # The second block's own tokens behind another beginning are another text.
    assert ask(engine, [60, *TEXTS[0][1:]]).cached_tokens == 0
    ask(engine, TEXTS[0], tokens=1)
    again = engine.blocks.find(None, TEXTS[0])[0]
    for part, expected in zip(engine.pool.read(again), kept, strict=True):
        assert torch.equal(part, expected)


def test_a_text_comes_back_at_once_up_to_where_it_is_in_memory(tmp_path):
    engine = engine_of(cold=100, file=tmp_path)
    ask(engine, TEXTS[0])
    tier, blocks = engine.blocks._below, engine.blocks
    held, chain = blocks.find(None, TEXTS[0])
    blocks.release(held)
    blocks.release([blocks.allocate() for _ in range(blocks.available)])
    assert tier.take_back(blocks, None, TEXTS[0][:23])[1] == chain[:5]
    assert tier.take_back(blocks, None, TEXTS[0]) == ([], [])
    assert tier.take_back(blocks, chain[4], TEXTS[0][20:])[1] == chain[5:10]


def test_clearing_empties_the_file_too(tmp_path):
    engine = engine_of(cold=100, file=tmp_path)
    for text in TEXTS:
        ask(engine, text)
    engine.blocks.clear()
    assert len(engine.blocks._below) == 0
    assert ask(engine, TEXTS[0]).cached_tokens == 0
    assert engine.stats.cold_tokens == 0


def test_a_reading_of_the_whole_text_takes_nothing_from_the_file(tmp_path):
    engine = engine_of(cold=100, file=tmp_path)
    for text in TEXTS:
        ask(engine, text)
    scored = engine.run(engine.score(TEXTS[0]))
    assert len(scored.logprobs) == 40
    assert engine.stats.cold_tokens == 0


def test_the_file_has_its_name_or_none_and_takes_its_room_at_once(tmp_path):
    engine = engine_of(cold=10, file=tmp_path / "cold")
    size = 10 * engine.pool.block_bytes
    assert (tmp_path / "cold").stat().st_size == size
    assert (tmp_path / "cold").stat().st_blocks * 512 >= size
    (tmp_path / "nameless").mkdir()
    engine_of(cold=10, file=tmp_path / "nameless")
    assert not list((tmp_path / "nameless").iterdir())


def test_a_full_disk_is_told_in_one_line_before_anything_is_computed(tmp_path, monkeypatch):
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(VesaliusError, match=r"no room for \d+ bytes of keys and values \(File too large\)"):
        Engine(tiny_model(), options=EngineOptions(cold_bytes=1 << 62, cold_file=str(tmp_path)))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(VesaliusError, match=r"\(No space left on device\): ask for fewer") as caught:
        engine_of(cold=10, file=tmp_path / "cold")
    assert "\n" not in str(caught.value)


def test_less_than_a_block_and_less_than_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match="cold_bytes = 10, but a block takes"):
        Engine(tiny_model(), options=EngineOptions(cold_bytes=10, cold_file=str(tmp_path)))
    with pytest.raises(UserError, match="cold_bytes = -1"):
        EngineOptions(cold_bytes=-1)


def test_without_prefix_caching_there_is_no_file(tmp_path):
    engine_of(cold=10, file=tmp_path / "cold", prefix_caching=False)
    assert not (tmp_path / "cold").exists()
