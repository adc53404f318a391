import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vesalius.core.errors import UserError, VesaliusError
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat_template import CHATML
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = ["def f(x):\n    return x\n", "Grüße, 世界! 🤖", "", " <|im_end|> "]


@pytest.fixture
def saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def edit_config(directory, **changes):
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer, text):
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_a_batch_is_every_text_by_itself(tokenizer):
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\udcff")) == "a\ufffd"
    assert tokenizer.encode_batch(["a\udcff"]) == [tokenizer.encode("a\ufffd")]


def test_special_tokens_come_from_text_only_when_asked_for(tokenizer):
    text = "<|im_start|>user<|im_end|><|endoftext|>"
    assert not set(tokenizer.encode(text)) & {0, 1, 2}
    assert not set(tokenizer.encode_batch([text])[0]) & {0, 1, 2}
    assert tokenizer.encode(text, allow_special=True) == [1, *tokenizer.encode("user"), 2, 0]
    assert not set(tokenizer.encode(text)) & {0, 1, 2}  # asking once changes nothing


def test_a_pickled_one_still_keeps_special_tokens_out_of_text(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301
    assert again.encode("<|im_end|>") == tokenizer.encode("<|im_end|>")
    assert again.fingerprint == tokenizer.fingerprint


def test_threads_may_mix_both_kinds(tokenizer):
    with ThreadPoolExecutor(4) as pool:
        kinds = [special for _ in range(50) for special in (True, False)]
        results = list(pool.map(lambda special: tokenizer.encode("<|im_end|>", allow_special=special), kinds))
    assert results == [[2] if special else tokenizer.encode("<|im_end|>") for special in kinds]


def test_decoding_leaves_special_tokens_out_where_asked(tokenizer):
    ids = [1, *tokenizer.encode("hi"), 2]
    assert tokenizer.decode(ids) == "<|im_start|>hi<|im_end|>"
    assert tokenizer.decode(ids, skip_special=True) == "hi"


def test_what_our_special_tokens_are_for(tokenizer):
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert tokenizer.bos_id == 0
    assert tokenizer.eos_ids == (0, 2)
    assert tokenizer.vocab_size == 700
    assert [tokenizer.token_bytes(token) for token in (0, 2)] == [b"<|endoftext|>", b"<|im_end|>"]


def test_no_such_token(tokenizer):
    with pytest.raises(VesaliusError, match="token 700 is not in this vocabulary, which ends at 699"):
        tokenizer.token_bytes(700)


def test_a_saved_one_opens_the_same(tokenizer, saved):
    again = Tokenizer.open(saved)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (again.bos_id, again.eos_ids, again.chat_template) == (0, (0, 2), CHATML)


def test_other_merges_have_another_fingerprint(tokenizer, documents):
    assert Tokenizer.from_bpe(train_bpe(documents, 699)).fingerprint != tokenizer.fingerprint


def test_saving_leaves_only_whole_files(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_the_library_loads_the_file_with_equal_ids(bpe, saved):
    peer = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    for text in TEXTS[:3]:
        assert peer.encode(text).ids == bpe.encode(text)


def test_transformers_loads_the_directory(tokenizer, saved):
    peer = AutoTokenizer.from_pretrained(saved)
    for text in TEXTS[:3]:
        assert peer(text)["input_ids"] == tokenizer.encode(text)
        assert peer.decode(tokenizer.encode(text)) == text
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 2, 0)
    assert peer.chat_template == CHATML


def test_what_transformers_saves_opens(tokenizer, saved, tmp_path):
    AutoTokenizer.from_pretrained(saved).save_pretrained(tmp_path / "theirs")
    theirs = Tokenizer.open(tmp_path / "theirs")
    assert theirs.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (theirs.bos_id, theirs.eos_ids, theirs.chat_template) == (0, (0, 2), CHATML)


def test_a_bare_tokenizer_file_opens(saved):
    (saved / "tokenizer_config.json").unlink()
    bare = Tokenizer.open(saved)
    assert bare.bos_id is None
    assert bare.chat_template is None
    with pytest.raises(UserError, match="no chat template"):
        bare.chat([{"role": "user", "content": "hi"}])


def test_special_tokens_may_be_configured_as_objects(saved):
    edit_config(saved, bos_token=None, eos_token={"content": "<|im_start|>", "lstrip": False})
    opened = Tokenizer.open(saved)
    assert opened.bos_id is None
    assert opened.eos_ids == (0, 1, 2)


def test_end_tokens_of_the_generation_config_count(saved):
    (saved / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert Tokenizer.open(saved).eos_ids == (0, 1, 2)
    (saved / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    assert Tokenizer.open(saved).eos_ids == (0, 1, 2)


def test_the_default_of_several_chat_templates(saved):
    edit_config(saved, chat_template=[{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}])
    assert Tokenizer.open(saved).chat_template == "b"


def test_a_template_in_its_own_file_comes_first(saved):
    (saved / "chat_template.jinja").write_text("c")
    assert Tokenizer.open(saved).chat_template == "c"


def test_truncation_and_padding_in_the_file_are_switched_off(tokenizer, saved):
    peer = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    peer.enable_truncation(3)
    peer.enable_padding(length=8)
    peer.save(str(saved / "tokenizer.json"))
    assert Tokenizer.open(saved).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_tokens_of_another_kind_of_vocabulary_have_no_bytes(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁word": 0, "[UNK]": 1}, "[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(VesaliusError, match="not byte-level"):
        Tokenizer.open(tmp_path).token_bytes(0)


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json in"):
        Tokenizer.open(tmp_path)


def test_a_broken_file(saved):
    (saved / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match="is not a tokenizer"):
        Tokenizer.open(saved)


def test_chat_is_the_text_that_asks_for_an_answer(tokenizer):
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.chat(messages) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
