"""Constrained answers: what random logits write is what the grammar accepts, on every kind of vocabulary; masks are
those of an oracle that tries each token; hostile grammars are refused in bounded time and memory."""

import json
import re

import jsonschema
import pytest
import regex
import torch
from vocabularies import as_gguf, byte_level, bytes_only, sentencepiece_bpe

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.constrain import Constraint, ConstraintSpec, compile_constraint
from vesalius.infer.detokenize import Detokenizer

KINDS = ("bytes", "byte-level", "byte-level gguf", "sentencepiece", "sentencepiece gguf")


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    pieces = sentencepiece_bpe(tmp_path_factory.mktemp("sentencepiece"))
    assert pieces.drops_first_blank
    merges = byte_level()
    made = (bytes_only(), merges, as_gguf(merges), pieces, as_gguf(pieces))
    return dict(zip(KINDS, made, strict=True))


@pytest.fixture(params=KINDS)
def tokenizer(request, vocabularies):
    return vocabularies[request.param]


@pytest.fixture(scope="module")
def merges(vocabularies):
    return vocabularies["byte-level"]


def drawn(tokenizer, constraint: Constraint, seed: int, limit: int = 400) -> tuple[str, bool]:
    """An answer of random logits, and whether it ended by itself."""
    generator = torch.Generator().manual_seed(seed)
    text = Detokenizer(tokenizer)
    written = []
    for _ in range(limit):
        constraint.prepare()
        scores = constraint.apply(2 * torch.randn(tokenizer.vocab_size + 3, generator=generator))
        token = int(scores.softmax(-1).multinomial(1, generator=generator))
        constraint.accept(token)
        if token in tokenizer.eos_ids:
            return "".join([*written, text.close()]), True
        written.append(text.push(token))
    return "".join([*written, text.close()]), False


def answers(tokenizer, spec: ConstraintSpec, count: int, limit: int = 400) -> list[str]:
    """Those of `count` that ended by themselves; most have to."""
    constraint = compile_constraint(tokenizer, spec)
    found = [drawn(tokenizer, constraint.fork(), seed, limit) for seed in range(count)]
    ended = [text for text, whole in found if whole]
    assert len(ended) > count / 2
    return ended


EXPRESSIONS = [
    r"[ab]{2,5}c?",
    r"\d{4}-\d{2}-\d{2}",
    r"(red|green|blue)(, (red|green|blue)){0,3}",
    r"-?(0|[1-9][0-9]*)(\.[0-9]{1,4})?",
    r"[a-z]+@[a-z]{1,8}\.(com|org)",
    r"é[äöü]{1,3}🙂?",
    r"( ?the)+",
    r"[^\n]{0,10}",
    r"a/\w\s\S\D\W",
    r"",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_answer_matches_its_regular_expression(tokenizer, expression):
    for text in answers(tokenizer, ConstraintSpec(regex=expression), 12):
        assert re.fullmatch(expression, text, re.ASCII), text


SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1, 2]}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["yes", "no", 3, None, {"a": [1]}, 'quoted "é"']},
    "const": {"const": {"kind": "x", "n": [1, 2.5]}},
    "bounds": {"type": "integer", "minimum": -5, "exclusiveMaximum": 120},
    "number": {"type": "number", "minimum": 0.25, "maximum": 7.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 10_000},
    "nested arrays": {
        "type": "array",
        "maxItems": 3,
        "items": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer", "maximum": 99}},
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"enum": ["a", "b"]}],
        "items": False,
        "minItems": 2,
    },
    "any of": {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "boolean"}, {"type": "string", "maxLength": 3}]},
    "ref": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "v": {"enum": [0, 1]},
                    "kids": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["v"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$", "maxLength": 9},
    "format": {"type": "string", "format": "date"},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]},
            {"properties": {"b": {"enum": ["x"]}}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": {}, "b": {}},
    },
    "values": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_is_json_that_its_schema_accepts(tokenizer, name):
    validator = jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=jsonschema.FormatChecker())
    for text in answers(tokenizer, ConstraintSpec(json_schema=SCHEMAS[name]), 10):
        validator.validate(json.loads(text))


def test_an_answer_is_a_json_object(tokenizer):
    for text in answers(tokenizer, ConstraintSpec(json_object=True), 8, limit=1500):
        assert isinstance(json.loads(text), dict)


def test_blanks_in_json_do_not_go_on_without_end(merges):
    constraint = compile_constraint(merges, ConstraintSpec(json_schema={"type": "array", "items": {"enum": [1]}}))
    blanks = [t for t in range(merges.vocab_size) if merges.token_bytes(t) in (b" ", b"\n")]
    constraint.accept(merges.encode("[")[0])
    taken = 0
    while allowed := [token for token in blanks if constraint.allowed()[token]]:
        constraint.accept(allowed[-1])
        taken += 1
        assert taken < 100
    assert taken


LIST = 'start: "(" [item ("," item)*] ")"\nitem: WORD | start\nWORD: /[a-c]{1,2}/'


def is_list(text: str) -> bool:
    """Whether the grammar LIST accepts it: what stands innermost is rubbed out until nothing is left."""
    while (shorter := re.sub(r"\((([a-c]{1,2}|@)(,([a-c]{1,2}|@))*)?\)", "@", text)) != text:
        text = shorter
    return text == "@"


def test_an_answer_is_a_text_of_its_grammar(tokenizer):
    for text in answers(tokenizer, ConstraintSpec(lark=LIST), 30, limit=1000):
        assert is_list(text), text


CHOICES = ("yes", "yes, indeed", "no", "maybe \"so\" \\ or\nnot", "é🙂", " blank")  # fmt: skip


def test_an_answer_is_one_of_the_choices_and_every_one_can_be(tokenizer):
    assert set(answers(tokenizer, ConstraintSpec(choices=CHOICES), 60)) == set(CHOICES)


def test_an_answer_that_is_cut_short_is_the_beginning_of_one(merges):
    constraint = compile_constraint(merges, ConstraintSpec(regex=r"[ab]{50}"))
    for seed in range(20):
        text, whole = drawn(merges, constraint.fork(), seed, limit=10)
        assert not whole
        assert regex.fullmatch(r"[ab]{50}", text, partial=True)


ORACLE = [r"(ab|abc)*d?", r"the (cat|dog)( sees( a dog)?)?", r"[0-9]{2}(:[0-9]{2}){1,2}", r"a(a|b)*bb"]
"""ASCII only, so that the oracle can work on bytes."""


@pytest.mark.parametrize("expression", ORACLE)
@pytest.mark.parametrize("seed", range(3))
def test_the_allowed_tokens_are_those_after_which_the_text_can_become_a_match(tokenizer, expression, seed):
    dropped = b" " if tokenizer.drops_first_blank else b""

    def could_become_a_match(text: bytes) -> bool:
        return regex.fullmatch(expression.encode(), text.removeprefix(dropped), partial=True) is not None

    words = {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    for token in {*tokenizer.special_tokens.values(), tokenizer.unknown_id} - {None}:
        del words[token]
    constraint = compile_constraint(tokenizer, ConstraintSpec(regex=expression))
    generator, written = torch.Generator().manual_seed(seed), b""
    for _ in range(12):
        expected = torch.tensor(
            [t in words and could_become_a_match(written + words[t]) for t in range(tokenizer.vocab_size)]
        )
        assert constraint.finished == (not expected.any())
        going_on = expected.float()
        expected[list(tokenizer.eos_ids)] = re.fullmatch(expression.encode(), written.removeprefix(dropped)) is not None
        allowed = constraint.allowed()
        assert allowed.any()
        assert not (allowed & ~expected).any(), written
        # Where the next byte is no choice, the library leaves only the tokens that the tokenizer would write.
        next_bytes = {
            (written + words[t]).removeprefix(dropped)[len(written.removeprefix(dropped)) :][:1]
            for t in words
            if expected[t]
        }
        if constraint.complete or len(next_bytes) > 1:
            assert torch.equal(allowed, expected), written
        assert constraint.complete == bool(expected[tokenizer.eos_ids[0]])
        if constraint.finished:
            break
        token = int(going_on.multinomial(1, generator=generator))
        constraint.accept(token)
        written += words[token]


def test_a_blank_that_decoding_drops_stands_before_an_answer_that_may_begin_with_one(vocabularies):
    pieces = vocabularies["sentencepiece"]
    found = answers(pieces, ConstraintSpec(regex=" ?a"), 40)
    assert set(found) == {"a", " a"}


def test_a_vocabulary_without_end_tokens_says_when_nothing_can_follow():
    endless = bytes_only(special=())
    assert endless.eos_ids == ()
    constraint = compile_constraint(endless, ConstraintSpec(regex="ab?"))
    for byte, finished in ((97, False), (98, True)):
        assert not constraint.finished
        constraint.accept(byte)
        assert constraint.complete
        assert constraint.finished == finished
    with pytest.raises(VesaliusError, match="no token that goes on"):
        constraint.apply(torch.zeros(256))


def test_ids_that_only_pad_the_embedding_are_never_allowed(merges):
    constraint = compile_constraint(merges, ConstraintSpec(regex="[ab]+"))
    scores = constraint.apply(torch.zeros(merges.vocab_size + 70))
    assert scores[merges.vocab_size :].eq(-torch.inf).all()
    assert scores.isfinite().sum() == constraint.allowed().sum() > 1


def test_special_tokens_are_no_text_but_a_grammar_may_name_them(merges):
    opening = merges.special_tokens["<|im_start|>"]
    assert not compile_constraint(merges, ConstraintSpec(regex=r"[^x]+")).allowed()[opening]
    named = compile_constraint(merges, ConstraintSpec(lark='start: <|im_start|> "a"'))
    assert named.allowed().nonzero().tolist() == [[opening]]
    named.accept(opening)
    assert named.forced() == merges.encode("a")


def test_a_fork_goes_its_own_way(merges):
    first = compile_constraint(merges, ConstraintSpec(choices=("ab", "ac")))
    first.accept(merges.encode("a")[0])
    first.prepare()
    second = first.fork()
    first.accept(merges.encode("b")[0])
    second.accept(merges.encode("c")[0])
    assert first.finished
    assert second.finished
    assert second.allowed().nonzero().flatten().tolist() == list(merges.eos_ids)


def test_what_is_not_allowed_is_not_accepted_and_changes_nothing(merges):
    constraint = compile_constraint(merges, ConstraintSpec(choices=("ab",)))
    for token in (
        merges.encode("b")[0],
        merges.eos_ids[0],
        merges.special_tokens["<|im_start|>"],
        merges.vocab_size + 1,
    ):
        with pytest.raises(ValueError, match="is not allowed here"):
            constraint.accept(token)
    for token in (*merges.encode("ab"), merges.eos_ids[-1]):
        constraint.accept(token)
    with pytest.raises(ValueError, match="is not allowed here"):
        constraint.accept(merges.eos_ids[0])


def test_tokens_that_the_grammar_forces_are_told(tokenizer):
    constraint = compile_constraint(tokenizer, ConstraintSpec(choices=("see the cat", "sex dogs")))
    text, longest, detokenizer = "", 0, Detokenizer(tokenizer)
    while not constraint.finished:
        forced = constraint.forced()
        for token in forced or [int(constraint.allowed().nonzero()[0])]:
            constraint.accept(token)
            text += detokenizer.push(token)
        longest = max(longest, len(forced))
    assert text + detokenizer.close() in ("see the cat", "sex dogs")
    assert longest > 1


def test_forced_tokens_are_those_that_the_tokenizer_would_write(merges):
    ids = merges.encode("the cat sees a dog")
    constraint = compile_constraint(merges, ConstraintSpec(choices=("the cat sees a dog",)))
    assert constraint.forced() == ids
    constraint.accept(ids[0])
    assert constraint.forced() == ids[1:]
    assert compile_constraint(merges, ConstraintSpec(regex="[ab]c")).forced() == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"regex": "a(b"}, "cannot hold an answer to this: unclosed group"),
        ({"regex": "(?=a)b"}, "look-around, including look-ahead and look-behind, is not supported"),
        ({"lark": "start: nope"}, 'unknown name: "nope"'),
        ({"lark": "start: start"}, "NoExtension"),
        ({"lark": 'start: <|nope|> "a"'}, "unknown special token"),
        ({"json_schema": {"type": "objekt"}}, "objekt"),
        ({"json_schema": {"type": "object", "unevaluatedProperties": False}}, "unevaluatedProperties"),
        ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "Unsatisfiable"),
        ({"json_schema": {"$ref": "http://127.0.0.1:9/x.json"}}, "does not fetch"),
    ],
)
def test_why_a_grammar_cannot_be_taken_is_told_in_one_line(merges, spec, message):
    with pytest.raises(UserError, match=message) as caught:
        compile_constraint(merges, ConstraintSpec(**spec))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


RULES = "\n".join(f'r{i}: "a" r{i + 1} | "b"' for i in range(20_000))
HOSTILE = {
    "states without number": ConstraintSpec(json_schema={"multipleOf": 9_999_991, "type": "integer"}),
    "a deep stack": ConstraintSpec(lark=f'start: r0\n{RULES}\nr20000: "c"'),
    "repeated repetitions": ConstraintSpec(regex="((a{900}){900}){900}b"),
    "doubled terminals": ConstraintSpec(
        lark="start: T0\n" + "\n".join(f"T{i}: T{i + 1} T{i + 1}" for i in range(60)) + '\nT60: "c"'
    ),
    "a deep schema": ConstraintSpec(lark="start: %json " + '{"items":' * 5000 + "true" + "}" * 5000),
}


LONG = ("states without number", "repeated repetitions")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in HOSTILE]
)
def test_a_hostile_grammar_is_refused_or_fails_its_own_answer(merges, name):
    with pytest.raises(VesaliusError, match=r"cannot hold an answer to this|too much for the library"):
        drawn(merges, compile_constraint(merges, HOSTILE[name]), seed=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "got nothing to hold an answer to, expected one of: json_schema, json_object, regex"),
        ({"regex": "a", "choices": ("a",)}, "got regex and choices"),
        ({"json_schema": False}, "accepts nothing"),
        ({"json_schema": "{}"}, r"json_schema is '\{\}', expected a JSON Schema as a mapping"),
        ({"json_schema": {"enum": [{1}]}}, "json_schema is not JSON"),
        ({"json_schema": {"x-guidance": 3}}, "x-guidance in the schema is 3"),
        ({"choices": ()}, "choices is \\(\\), expected a tuple of texts"),
        ({"choices": ("a", "")}, "none of them empty"),
        ({"choices": ("\ud800",)}, "half a surrogate pair"),
        ({"regex": "a" * (1 << 20)}, "expected at most 1048576"),
        ({"lark": 3}, "lark is 3, expected a Lark grammar as text"),
    ],
)
def test_specifications_that_make_no_sense_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        ConstraintSpec(**spec)
