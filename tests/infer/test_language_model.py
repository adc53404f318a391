"""The language model: prompts, answers, streaming, scores, saving and loading."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import EngineOptions
from vesalius.infer.params import SamplingParams
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
IM_END = SPECIAL["<|im_end|>"]
QUESTION = [{"role": "user", "content": "Why?"}]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A random model over bytes: its text is full of cut characters."""
    tokenizer = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return LanguageModel(Transformer(config), tokenizer)


def always(lm: LanguageModel, token: int) -> LanguageModel:
    """The same tokenizer with a model that always says `token`: LayerNorm's bias is all that reaches the head."""
    model = Transformer(replace(lm.config, norm="layer", tie_word_embeddings=False))
    torch.nn.init.zeros_(model.model.norm.weight)
    torch.nn.init.ones_(model.model.norm.bias)
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.ones_(model.lm_head.weight[token])
    return LanguageModel(model, lm.tokenizer)


def test_a_text_prompt_starts_with_the_document_boundary(lm):
    assert lm.prompt_ids("ab") == [lm.tokenizer.bos_id, *lm.tokenizer.encode("ab")]


def test_messages_go_through_the_chat_template_up_to_where_the_answer_begins(lm):
    ids = lm.prompt_ids(QUESTION)
    assert ids == encode_chat(lm.tokenizer, QUESTION, add_generation_prompt=True).ids
    assert lm.tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_tools_and_options_reach_the_chat_template(lm):
    template = "{{ enable_thinking }}{{ tools[0].name if tools else '' }}{{ messages[0].content }}"
    told = Tokenizer(lm.tokenizer.backend, lm.tokenizer.config | {"chat_template": template})
    telling = LanguageModel(lm.model, told)
    asked = {"tools": [{"name": "clock"}], "template_options": {"enable_thinking": False}}
    ids = telling.prompt_ids(QUESTION, **asked)
    assert told.decode(ids) == "FalseclockWhy?"
    answers = [
        telling.generate(QUESTION, max_tokens=3, **asked),
        *telling.generate_many(QUESTION, 1, max_tokens=3, **asked),
    ]
    answers.append(telling.stream(QUESTION, max_tokens=3, **asked).read())
    assert [answer.usage.prompt_tokens for answer in answers] == [len(ids)] * 3
    with pytest.raises(UserError, match="enable_thought"):
        telling.generate(QUESTION, template_options={"enable_thought": False})
    with pytest.raises(UserError, match="got a text: give messages"):
        lm.generate("ab", tools=[{"name": "clock"}])


def test_special_tokens_in_the_users_text_are_only_text(lm):
    assert IM_END not in lm.prompt_ids("<|im_end|>")[1:]


def test_an_answer_tells_its_text_tokens_probabilities_and_counts(lm):
    answer = lm.generate("ab", max_tokens=20)
    assert len(answer.ids) == len(answer.logprobs) == answer.usage.completion_tokens == 20
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.total_tokens == 23
    assert answer.finish_reason == "length"
    assert answer.text == lm.tokenizer.decode(answer.ids, skip_special=True)


@settings(max_examples=25, deadline=None)
@given(prompt=st.text(max_size=8), seed=st.integers(0, 2**32))
def test_streamed_pieces_joined_are_the_generated_text(lm, prompt, seed):
    options = {"max_tokens": 12, "temperature": 1.5, "seed": seed}
    pieces = list(lm.stream(prompt, **options))
    answer = lm.generate(prompt, **options)
    assert "".join(pieces) == answer.text
    assert "" not in pieces


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_streamed_piece_ends_in_half_a_character(lm, seed):
    stream = lm.stream("é", max_tokens=30, temperature=2.0, seed=seed)
    pieces = list(stream)
    special = set(SPECIAL.values())
    data = b"".join(lm.tokenizer.token_bytes(i) for i in stream.completion.ids if i not in special)
    assert "".join(pieces) == data.decode("utf-8", "replace")


def test_a_stream_that_is_left_has_the_answer_so_far(lm):
    stream = lm.stream("ab", max_tokens=30)
    first = next(stream)
    assert stream.completion.text == first
    assert stream.completion.finish_reason is None
    assert 1 <= stream.completion.usage.completion_tokens < 30


FORMS = [
    ({"regex": "[a-f]{3,9}"}, lambda text: re.fullmatch("[a-f]{3,9}", text)),
    ({"choices": ["yes", "no"]}, lambda text: text in ("yes", "no")),
    ({"json_schema": {"type": "integer", "maximum": 99}}, lambda text: int(text) < 100),
    ({"json_schema": '{"enum": ["a"]}'}, lambda text: text == '"a"'),
    ({"grammar": 'start: "x" | "(" start ")"'}, lambda text: re.fullmatch(r"\(*x\)*", text)),
]


@pytest.mark.parametrize(("form", "fits"), FORMS)
def test_an_answer_has_the_form_that_was_asked_for(lm, form, fits):
    answers = [
        lm.generate("ab", temperature=1.0, seed=2, **form),
        lm.stream(QUESTION, temperature=1.0, seed=3, **form).read(),
        *lm.generate_many("ab", 3, temperature=1.0, seed=4, **form),
    ]
    for answer in answers:
        assert fits(answer.text) or answer.finish_reason == "length"
    assert any(answer.finish_reason == "stop" for answer in answers)
    assert lm.generate("ab", max_tokens=2, regex="[a-f]{3,9}").finish_reason == "length"


def test_a_model_without_end_tokens_ends_where_the_form_is_complete(lm):
    tokenizer = Tokenizer.from_bpe(BPE({bytes([b]): b for b in range(256)}, [], {}))
    model = Transformer(replace(lm.config, vocab_size=256))
    answer = LanguageModel(model, tokenizer).generate("ab", choices="yes")
    assert (answer.text, len(answer.ids), answer.finish_reason) == ("yes", 3, "stop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "a(b"}, "unclosed group"),
        ({"regex": "a", "choices": ["b"]}, "got regex and choices"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": False}, "accepts nothing"),
        ({"json_object": "yes"}, "json_object = 'yes', expected True or False"),
        ({"regex": "a", "num_beams": 2}, "num_beams = 2 with an answer of a given form"),
        ({"choices": ["ab"], "logit_bias": {100: -float("inf"), 97 + 3: -float("inf")}}, "together forbid all"),
    ],
)
def test_forms_that_cannot_be_kept_are_refused(lm, options, message):
    with pytest.raises(UserError, match=message):
        lm.generate("ab", **options)


def test_a_stop_text_ends_the_answer_and_is_not_in_it(lm):
    whole = lm.generate("ab", max_tokens=40).text
    stop = whole[5:8]
    answer = lm.generate("ab", max_tokens=40, stop=stop)
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens < 40


def test_an_answer_ends_at_the_end_of_its_turn(lm):
    answer = always(lm, IM_END).generate(QUESTION)
    assert (answer.text, answer.ids, answer.finish_reason) == ("", [IM_END], "stop")


def test_equal_seeds_give_equal_answers(lm):
    first, second, other = (lm.generate("ab", temperature=1.0, seed=seed).ids for seed in (4, 4, 5))
    assert first == second != other


def test_scores_are_the_logprobs_of_what_was_generated(lm):
    answer = lm.generate("ab", max_tokens=20)
    scores = lm.score(lm.prompt_ids("ab") + answer.ids)
    assert scores[-20:] == pytest.approx(answer.logprobs, abs=1e-4)
    assert len(scores) == 22


def test_logits_have_the_shape_of_the_ids(lm):
    V = lm.config.vocab_size
    assert lm.logits([1, 2, 3]).shape == (3, V)
    batch = lm.logits(torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert batch.shape == (2, 3, V)
    torch.testing.assert_close(batch[0], lm.logits([1, 2, 3]), atol=1e-5, rtol=1e-5)


def test_bad_words_are_not_written(lm):
    word = re.search(r"[!-~]{2}", lm.generate("ab", max_tokens=40).text).group()
    assert word not in lm.generate("ab", max_tokens=40, bad_words=word).text


def test_a_bad_word_is_banned_in_both_spellings(lm):
    params = lm._params({"bad_words": "a", "bad_words_ids": [[9, 8]]})
    assert params.bad_words_ids == ((9, 8), tuple(lm.tokenizer.encode("a")), tuple(lm.tokenizer.encode(" a")))


def test_top_logprobs_come_with_the_answer(lm):
    answer = lm.generate("ab", max_tokens=5, top_logprobs=2)
    assert [len(top) for top in answer.top_logprobs] == [2] * 5
    assert [next(iter(top)) for top in answer.top_logprobs] == answer.ids  # greedy
    assert lm.generate("ab", max_tokens=5).top_logprobs == []


def test_an_answer_of_beam_search_is_as_likely_as_the_greedy_one_or_likelier(lm):
    options = {"max_tokens": 12, "length_penalty": 0.0}
    greedy, best = lm.generate("ab", max_tokens=12), lm.generate("ab", num_beams=6, **options)
    assert best.score == pytest.approx(sum(best.logprobs), abs=1e-4)
    assert sum(best.logprobs) >= sum(greedy.logprobs) - 1e-4
    assert best.text == lm.tokenizer.decode(best.ids, skip_special=True)
    assert greedy.score is None


def test_beams_are_many_answers_best_first(lm):
    answers = lm.generate_many("ab", 3, num_beams=4, max_tokens=8)
    assert [answer.ids for answer in answers] == [
        beam.ids for beam in lm.engine.beams(lm.prompt_ids("ab"), SamplingParams(num_beams=4, max_tokens=8))
    ][:3]
    assert answers[0].score >= answers[1].score >= answers[2].score


def test_many_answers_are_drawn_with_one_seed_after_another(lm):
    answers = lm.generate_many("ab", 3, temperature=1.0, seed=5, max_tokens=8)
    assert [a.ids for a in answers] == [
        lm.generate("ab", temperature=1.0, seed=seed, max_tokens=8).ids for seed in (5, 6, 7)
    ]


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (0, {}, "n = 0, expected"),
        (2, {}, "at temperature 0 are all the same"),
        (3, {"num_beams": 2}, "n = 3 answers of num_beams = 2"),
    ],
)
def test_numbers_of_answers_that_make_no_sense_are_refused(lm, n, options, message):
    with pytest.raises(UserError, match=message):
        lm.generate_many("ab", n, **options)


def test_a_conversation_goes_on_from_what_was_read(lm):
    stream = lm.stream(QUESTION, max_tokens=6)
    messages = [*QUESTION, {"role": "assistant", "content": stream.read().text}, {"role": "user", "content": "So?"}]
    before = lm.engine.stats.cached_tokens
    later = lm.stream(messages, max_tokens=6).read()
    assert lm.engine.stats.cached_tokens - before > len(lm.prompt_ids(QUESTION)) - lm.engine.blocks.size
    assert later.ids == LanguageModel(lm.model, lm.tokenizer).generate(messages, max_tokens=6).ids


def test_beam_search_cannot_be_streamed(lm):
    with pytest.raises(UserError, match="cannot be streamed"):
        lm.stream("ab", num_beams=2)


def test_recommended_settings_are_saved_and_do_not_change_what_generate_does(lm, tmp_path):
    recommending = LanguageModel(lm.model, lm.tokenizer, {"temperature": 0.7, "top_p": 0.9})
    recommending.save(tmp_path / "model")
    published = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert published["do_sample"] is True
    assert LanguageModel.load(tmp_path / "model").generation_defaults == {"temperature": 0.7, "top_p": 0.9}
    assert recommending.generate("ab", max_tokens=8).ids == lm.generate("ab", max_tokens=8).ids
    assert lm.generation_defaults == {}


@pytest.mark.parametrize("ids", [[], [-1], [10_000]])
def test_ids_outside_the_vocabulary_are_refused(lm, ids):
    with pytest.raises(UserError, match="expected token ids from 0 to 258"):
        lm.logits(ids)


def test_a_prompt_longer_than_the_context_is_refused_at_once(lm):
    with pytest.raises(UserError, match=r"201 tokens.*context is 128"):
        lm.stream("a" * 200)


def test_an_unknown_option_is_an_error(lm):
    with pytest.raises(TypeError, match="temprature"):
        lm.generate("ab", temprature=1.0)


def test_a_saved_model_loads_with_the_same_answers(lm, tmp_path):
    lm.save(tmp_path / "model")
    loaded = LanguageModel.load(tmp_path / "model")
    assert loaded.config == lm.config
    assert all(map(torch.equal, loaded.model.state_dict().values(), lm.model.state_dict().values()))
    ours, theirs = lm.generate(QUESTION), loaded.generate(QUESTION)
    assert (theirs.text, theirs.ids, theirs.finish_reason) == (ours.text, ours.ids, ours.finish_reason)
    assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-5)  # mapped weights are aligned otherwise


def test_end_tokens_that_only_the_checkpoint_names_end_an_answer(lm, tmp_path):
    end = lm.generate("ab", max_tokens=1).ids[0]
    lm.save(tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": end}))
    assert LanguageModel.load(tmp_path / "model").generate("ab").finish_reason == "stop"


def test_a_model_that_may_take_less_memory_than_it_has_weights_answers_the_same(lm):
    model = Transformer(lm.config)
    options = EngineOptions(weight_bytes=sum(p.nbytes for p in model.parameters()) - 1)
    smaller = LanguageModel(model, lm.tokenizer, options=options)
    assert smaller.model.model.layers.offloaded
    assert smaller.generate("ab", max_tokens=20).ids == lm.generate("ab", max_tokens=20).ids
    with pytest.raises(UserError, match=r"weight_bytes = 10, but the embedding and the head take"):
        LanguageModel(Transformer(lm.config), lm.tokenizer, options=EngineOptions(weight_bytes=10))


def test_opening_a_model_does_not_load_torchs_compiler():
    """It takes 90 MB and most of a second, and a chat has no use for it."""
    told = subprocess.run(
        [sys.executable, "-c", "import sys, vesalius.infer.language_model; print('torch._dynamo' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "False"
