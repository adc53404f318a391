"""What a recipe may say: short forms, what needs what, and one line for what does not fit together."""

import pytest

from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.pipeline.recipe import Recipe, find_recipe, shipped_recipes

TRAIN = {"steps": 3}
FRESH = {"model": {"depth": 2}, "tokenizer": {}, "train": TRAIN, "data": {"text": ["a.txt"]}}


def recipe(**sections):
    return build_recipe(sections, Recipe)


def test_a_string_is_a_model_to_start_from_and_a_file_to_learn_from():
    short = recipe(model="runs/a", data="chat.jsonl", sft=TRAIN)
    assert short == recipe(model={"start": "runs/a"}, data={"conversations": ["chat.jsonl"]}, sft=TRAIN)
    assert recipe(**FRESH | {"data": "a.txt"}).data.text == ["a.txt"]


def test_a_fresh_model_has_room_for_the_context_and_the_named_changes():
    section = recipe(**FRESH | {"model": {"preset": "nano", "config": {"tie_word_embeddings": False}}}).model
    config = section.build(vocab_size=300, context=2048)
    assert (config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings) == (300, 2048, False)


def test_a_fresh_model_may_begin_with_conversations():
    found = recipe(**FRESH | {"train": None, "sft": TRAIN, "data": {"text": ["a.txt"], "conversations": ["a.jsonl"]}})
    assert found.tuning is found.sft


@pytest.mark.parametrize(
    ("section", "size"), [({}, 4096), ({"kind": "byte"}, 259), ({"kind": "unigram", "vocab_size": 700}, 700)]
)
def test_how_many_tokens_are_learned(section, size):
    assert recipe(**FRESH | {"tokenizer": section}).tokenizer.size == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {}}, r"\[train\] needs data.text"),
        ({"train": None, "sft": TRAIN, "data": {"conversations": ["a"]}}, r"\[tokenizer\] needs data.text"),
        ({"sft": TRAIN}, r"\[sft\] needs data.conversations"),
        ({"tokenizer": None}, r"a fresh model needs \[tokenizer\], and \[train\] or \[sft\]"),
        ({"model": {"start": "runs/a"}}, "keeps its own tokenizer"),
        ({"model": {"start": "runs/a", "depth": 2}}, "got start and depth, expected exactly one"),
        ({"model": {}}, "got none of them, expected exactly one of start, depth and preset"),
        ({"train": {}}, "got no budget, expected exactly one of steps, tokens and minutes"),
        ({"trian": TRAIN}, "unknown key 'trian', did you mean 'train'"),
        ({"data": {"text": ["a"], "validation_fraction": 1.0}}, "data.validation_fraction = 1.0: input should be less"),
    ],
)
def test_what_does_not_fit_together_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        recipe(**FRESH | changes)
    assert "\n" not in str(error.value)


def test_unknown_shapes_are_errors_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown preset 'mirco', did you mean 'micro'"):
        recipe(**FRESH | {"model": {"preset": "mirco"}}).model.build(300, 64)


def test_the_shape_may_have_sections_of_its_own():
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "dense_layers": [0]}
    config = recipe(**FRESH | {"model": {"depth": 2, "config": {"mixture": experts}}}).model.build(300, 64)
    assert config.mixture is not None
    assert (config.mixture.num_experts, config.mixture.dense_layers) == (4, (0,))


def test_recipes_are_found_by_name_and_by_path(tmp_path):
    by_name = find_recipe("quickstart", ["train.minutes=1.5"])
    assert by_name.train is not None
    assert by_name.train.minutes == 1.5
    (tmp_path / "mine.toml").write_text(shipped_recipes()["quickstart"].read_text())
    assert find_recipe(str(tmp_path / "mine.toml"), ["train.minutes=1.5"]) == by_name
