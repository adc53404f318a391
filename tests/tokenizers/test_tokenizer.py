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
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
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
        assert peer.encode(text, add_special_tokens=False).ids == bpe.encode(text)
        assert peer.encode(text).ids == [0, *bpe.encode(text)]


def test_transformers_loads_the_directory(tokenizer, saved):
    peer = AutoTokenizer.from_pretrained(saved)
    for text in TEXTS[:3]:
        assert peer(text)["input_ids"] == tokenizer.prompt_prefix + tokenizer.encode(text)
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


def test_end_tokens_of_the_models_config_count_where_no_other_file_names_them(saved):
    (saved / "config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert Tokenizer.open(saved).eos_ids == (0, 2, 5, 6)
    (saved / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    assert Tokenizer.open(saved).eos_ids == (0, 1, 2)


def test_ours_starts_a_text_with_the_document_boundary(tokenizer, saved):
    assert tokenizer.prompt_prefix == [0]
    assert Tokenizer.open(saved).prompt_prefix == [0]


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "bos_token": "<|im_start|>"}, [1]),
        ({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}, []),
        ({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "bos_token": None}, []),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}, [0]),  # tokenizer.json is asked
        ({"tokenizer_class": "Qwen2TokenizerFast"}, [0]),
    ],
)
def test_what_stands_before_a_text_of_other_models(saved, changes, prefix):
    edit_config(saved, **changes)
    assert Tokenizer.open(saved).prompt_prefix == prefix


def test_nothing_stands_before_a_text_where_tokenizer_json_says_so(saved):
    content = json.loads((saved / "tokenizer.json").read_text())
    (saved / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}))
    assert Tokenizer.open(saved).prompt_prefix == []


def without_prefix(saved, **config):
    """A tokenizer that puts nothing before a text."""
    content = json.loads((saved / "tokenizer.json").read_text())
    (saved / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}))
    edit_config(saved, **config)
    return saved


def test_a_document_begins_as_a_prompt_does(tokenizer):
    assert [tokenizer.document_boundary] == tokenizer.prompt_prefix


def test_where_a_prompt_begins_with_nothing_a_document_begins_with_the_end_of_text(saved):
    chat = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    opened = Tokenizer.open(without_prefix(saved, **chat))
    assert (opened.prompt_prefix, opened.bos_id, opened.document_boundary) == ([], 1, 0)


def test_without_an_end_of_text_it_begins_with_the_end_token_or_the_beginning(saved):
    without_prefix(saved, bos_token="<|im_start|>", eos_token="<|im_end|>")
    file = saved / "tokenizer.json"
    file.write_text(file.read_text().replace('"<|endoftext|>"', '"<other>"'))
    assert Tokenizer.open(saved).document_boundary == 2
    edit_config(saved, eos_token=None)
    assert Tokenizer.open(saved).document_boundary == 1
    edit_config(saved, bos_token=None)
    assert Tokenizer.open(saved).document_boundary is None


@pytest.fixture
def llama(train_sentencepiece, gguf_of):
    peer = train_sentencepiece("bpe", user_defined_symbols=["<tool>"])
    return tokenizer_from_gguf(gguf_of(peer, "llama", user_defined=["<tool>"])), peer


def test_bytes_of_sentencepieces_tokens(llama):
    tokenizer, peer = llama
    for text in ("Grüße 🤖\n\tself", "  x", "x<tool>y"):
        ids = tokenizer.encode(text)
        joined = b"".join(tokenizer.token_bytes(token) for token in ids).decode()
        assert joined == " " + text.replace("<tool>", "<tool> ")  # a blank again behind an added token
    assert tokenizer.token_bytes(peer.piece_to_id("<0x0A>")) == b"\n"
    assert tokenizer.token_bytes(1) == b"<s>"


def test_decoding_drops_the_first_blank_where_it_says_so(llama, tokenizer):
    for ours, drops in ((llama[0], True), (tokenizer, False)):
        ids = ours.encode("  self x")
        joined = b"".join(map(ours.token_bytes, ids)).decode()
        assert ours.drops_first_blank == drops
        assert ours.decode(ids) == (joined[1:] if drops else joined) == "  self x"


def test_bytes_of_unigram_tokens_without_bytes(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("▁a", -1.0)], 0))
    backend.decoder = tokenizers.decoders.Metaspace()
    assert Tokenizer(backend, {}).token_bytes(1) == b" a"


@pytest.mark.parametrize("special", [False, True])
def test_a_text_may_go_on_where_other_text_ended(llama, special):
    tokenizer, _ = llama
    for text in ("self <tool>x", "<tool>x", " x", "", "</s>self"):
        whole = tokenizer.encode("=" + text, allow_special=special)
        start = tokenizer.encode("=")
        if whole[: len(start)] == start:
            assert tokenizer.encode(text, allow_special=special, after="text") == whole[len(start) :]
    assert tokenizer.encode("self", after="added") == tokenizer.encode("self")  # which is where Llama puts a blank too


def test_after_changes_nothing_where_no_blanks_are_put(tokenizer):
    for after in ("nothing", "added", "text"):
        assert tokenizer.encode(TEXTS[0], after=after) == tokenizer.encode(TEXTS[0])


def test_special_tokens_that_merges_lead_to_are_still_text():
    vocab = {"<unk>": 0, "</s>": 1, "<": 2, "/": 3, "s": 4, ">": 5, "</": 6, "s>": 7, "▁": 8, "x": 9}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="<unk>"))
    backend.add_special_tokens(["<unk>", "</s>"])
    tokenizer = Tokenizer(backend, {})
    assert tokenizer.encode("x</s>x</s>") == [9, 6, 7, 9, 6, 7]
    assert tokenizer.encode_batch(["x", "x</s>"]) == [[9], [9, 6, 7]]
    assert tokenizer.encode("x</s>", allow_special=True) == [9, 1]
    assert tokenizer.encode("é") == [0]


def test_added_tokens_that_are_not_special_come_from_text(llama):
    tokenizer, peer = llama
    assert peer.piece_to_id("<tool>") in tokenizer.encode("a<tool>")
    assert "<tool>" not in tokenizer.special_tokens


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
