"""From a docstring to one sentence that a person would say: "Return the sum" becomes "It returns the sum."

PEP 257 wants the first line of a docstring to be a summary, written as a command. Real docstrings wrap it, put a
signature before it, or have none. What is not plainly one sentence is refused, not repaired: a model that is tuned on
these sentences learns to talk from them.

Left out: the rest of the docstring, whose sentences lean on each other, on lists and on doctests.
"""

import re
from itertools import pairwise

SHORTEST, LONGEST = 15, 180
"""Bounds of a sentence in characters: a shorter one tells nothing ("Internal."), a longer one is a paragraph."""

_VERBS_LIST = """
    abort accept acquire activate add adjust allow append apply arrange ask assemble assert assign associate
    assume attach attempt become begin bind block bootstrap build byte-compile calculate call cancel capitalize
    cast change check choose clean clear clone close collapse collect combine compare compile complete compress
    compute concatenate configure connect construct convert copy count create customize deactivate decide
    declare decode decompress decrement define delegate delete describe deserialize destroy detach detect
    determine disable disassemble discard disconnect dispatch display divide do draw dump duplicate edit emit
    enable encode encrypt enqueue ensure enter enumerate escape establish estimate evaluate examine exchange
    execute exit expand express extend extract fail feed fetch fill finalize find finish flash flush fold follow
    force fork format generate get give grab guess handle hide identify implement import include increment
    indent indicate inhibit initialize initiate insert inspect install instruct interpret invalidate invert
    invoke isolate issue iterate join kill launch leave list load locate lock log lower make mark match merge
    mix modify move multiply normalize obtain open optimize override pad paint parse partition pause perform
    permit place pop prepare prepend preserve pretty-print prevent print process produce prompt provide push put
    quantize query quote raise read rearrange rebind recalculate receive recognize record redirect refactor
    reformat refresh register reinitialize release reload remember remove rename render repeat replace report
    represent request reschedule reset resize resolve restore resume retrieve return reverse rewind roll rotate
    round run save scan schedule scroll search seek select send separate serialize serve set show shuffle shut
    simulate skip sleep sort spawn specify split start stop store strip submit subtract sum summarize suspend
    swap switch take tell terminate test toggle tokenize transform translate traverse truncate try turn unbind
    undo unescape unlock unmap unpack unquote unregister unset update upgrade use validate verify visit wait
    wake walk work wrap write yield
"""
_NOUNS_TOO_LIST = """
    block call cast count display dump exchange exit feed fold handle import issue join list lock mark match
    move pause process push query quote record repeat report request reverse roll round select shift signal sum
    switch test turn use walk work
"""
_AFTER_A_VERB_LIST = """
    a all an and another any at by each every for from given how if in into it its more new one or our self some
    that the their this to two up what when whether which with your
"""
_VERBS = frozenset(_VERBS_LIST.split())
_NOUNS_TOO = frozenset(_NOUNS_TOO_LIST.split())
_AFTER_A_VERB = frozenset(_AFTER_A_VERB_LIST.split())
_DETERMINERS = frozenset(("a", "all", "an", "any", "it", "its", "the"))
_SECOND_VERB = re.compile(r"(,(?: and| or| then)?|\b(?:and|or|then)) (\w+)(?= (\S+))")
_BARE_VERB_BEFORE = re.compile(r"\b(?:to|can|could|may|must|should|will|would|not|n't)\b", re.IGNORECASE)

_STATEMENTS = {
    "Raised ": "It is raised ", "Called ": "It is called ", "Used ": "It is used ", "Same as ": "It is the same as ",
    "Like ": "It is like ", "Just like ": "It is just like ", "Equivalent to ": "It is equivalent to ",
}  # fmt: skip
_NOUN_PHRASE = re.compile(
    r"(?:An?|Abstract base class|Abstract class|Base class|Class|Subclass|Exception|Warning|Mixin|Context manager|"
    r"Wrapper|Decorator|Iterator|Container|Convenience function|Helper function|Function|Codec|Widget|Interface|"
    r"Shorthand|Shortcut|Alias) "
)
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|when|where|whether|if|as|what|how)\b")
_FINITE_VERB = re.compile(
    r"\b(?:is|are|was|has|have|can|will|may|must|should|does|represents|holds|contains|provides|defines|supports|"
    r"returns|describes|uses|wraps|gives|stores|keeps|allows|handles|specifies|implements)\b"
)

_SIGNATURE_LINE = re.compile(r"[\w.]+ ?\(.*\)( ?->.*)?")
_SIGNATURE_THEN_TEXT = re.compile(r"[\w.]+\([^)]*\)(?: -> [\w ]+)? --? (\w.*)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)[.!?](?=\s+[A-Z\"'`(*]|\s*$)")
_NEW_BLOCK = re.compile(r"\s|[-*+]\s|\d+[.)]\s|[@:]\w|[\w ]{1,20}:$")
_ROLE = re.compile(r":[\w:]+:`~?([^`<]+)`")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w+)\*(?![\w*])")
_NOT_PROSE = re.compile(
    r">>>|->|--| - |==|[|{}<>\\~^]|\.\.|https?:|\b_\w|overrid|^use |^don't |"
    r"\b(todo|fixme|xxx|copyright|internal|deprecated|obsolete|not implemented|not sure|"
    r"generated from|see|below|above|following|subclasses?)\b",
    re.IGNORECASE,
)


def first_sentence(docstring: str) -> str | None:
    """The first sentence of a docstring, in plain words; None where it has no clean one.

    >>> first_sentence("Serialize ``obj`` to a string\\n\\nIf ``skipkeys`` is true …")
    'Serialize `obj` to a string.'
    """
    paragraph = _first_paragraph(docstring)
    text = _plain(_unwrap(paragraph))
    end = _SENTENCE_END.search(text)
    sentence = text[: end.end()] if end else text.rstrip(".") + "."
    return sentence if _is_clean(sentence) else None


def as_statement(sentence: str) -> str:
    """A sentence of a docstring as an answer to "what does it do?"; unchanged where that cannot be done safely.

    >>> as_statement("Open the file and return its content.")
    'It opens the file and returns its content.'
    >>> as_statement("Base class of all encoders.")
    'It is a base class of all encoders.'
    >>> as_statement("True if the file is open.")
    'True if the file is open.'
    """
    for opening, statement in _STATEMENTS.items():
        if sentence.startswith(opening):
            return statement + sentence.removeprefix(opening)
    if _is_noun_phrase(sentence):
        noun = sentence[0].lower() + sentence[1:]
        return f"It is {noun if noun.startswith(('a ', 'an ')) else _with_article(noun)}"
    return _command_as_statement(sentence) or sentence


def _command_as_statement(sentence: str) -> str | None:
    words = sentence.split(" ")
    adverb = [words.pop(0).lower()] if words[0].endswith("ly") and len(words) > 2 else []
    command, following = words[0].lower(), words[1:2]
    verb = _THIRD_PERSONS.get(command, command)
    a_noun_perhaps = verb in _NOUNS_TOO and not _AFTER_A_VERB.issuperset(word.lower() for word in following)
    if verb not in _VERBS or a_noun_perhaps or following == ["of"]:
        return None
    rest = " ".join(words[1:])
    inflected = rest if command in _THIRD_PERSONS else _inflect_coordinated(rest)
    return None if inflected is None else " ".join(["It", *adverb, third_person(verb), inflected])


def _is_noun_phrase(sentence: str) -> bool:
    """Whether the sentence has no verb of its own: "A queue that is empty", not "A queue is empty"."""
    head = _RELATIVE.split(sentence, maxsplit=1)[0]
    return bool(_NOUN_PHRASE.match(sentence)) and not _FINITE_VERB.search(head)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def third_person(verb: str) -> str:
    """The form that follows "it".

    >>> [third_person(verb) for verb in ("copy", "pass", "display", "undo")]
    ['copies', 'passes', 'displays', 'undoes']
    """
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


_THIRD_PERSONS = {third_person(verb): verb for verb in _VERBS}


def _inflect_coordinated(rest: str) -> str | None:
    """What follows the first verb, "and return" as "and returns"; None where "to open and return" may be meant."""
    second_verbs = [match for match in _SECOND_VERB.finditer(rest) if _is_second_verb(match)]
    if ";" in rest or (second_verbs and _BARE_VERB_BEFORE.search(rest[: second_verbs[-1].start()])):
        return None
    return _SECOND_VERB.sub(
        lambda match: f"{match[1]} {third_person(match[2])}" if _is_second_verb(match) else match[0], rest
    )


def _is_second_verb(match: re.Match[str]) -> bool:
    """Whether "and set the …" is meant, rather than "… and set theory": an article follows, or the verb is no noun."""
    joint, word, following = match.groups()
    if joint == ",":
        return word in ("return", "raise")
    follows_first_verb = match.start() == 0
    takes_object = word in ("return", "raise") or following in _DETERMINERS or following[0] in "'`\""
    return word in _VERBS and (follows_first_verb or takes_object)


def _first_paragraph(docstring: str) -> str:
    """The first paragraph without the signature that C code and old modules put before it."""
    if match := _SIGNATURE_THEN_TEXT.match(docstring.partition("\n\n")[0]):
        return match[1][0].upper() + match[1][1:]
    lines = docstring.splitlines()
    while lines and (not lines[0].strip() or _SIGNATURE_LINE.fullmatch(lines[0])):
        lines.pop(0)
    return "\n".join(lines).partition("\n\n")[0]


def _unwrap(paragraph: str) -> str:
    """The lines joined, up to where a list, a heading or, after a short line, another sentence begins."""
    lines = paragraph.splitlines() or [""]
    joined = [lines[0]]
    for before, line in pairwise(lines):
        starts_anew = len(before) < 50 and re.match(r"[A-Z][a-z]", line)
        if _NEW_BLOCK.match(line) or starts_anew:
            break
        joined.append(line)
    return " ".join(" ".join(joined).split())


def _plain(text: str) -> str:
    """Without the marks of reStructuredText, except that names stay in backticks."""
    text = _ROLE.sub(r"`\1`", text.replace("``", "`"))
    return _EMPHASIS.sub(r"`\1`", text)


def _is_clean(sentence: str) -> bool:
    balanced = all(sentence.count(mark) % 2 == 0 for mark in '`"') and sentence.count("(") == sentence.count(")")
    return (
        SHORTEST <= len(sentence) <= LONGEST
        and sentence.count(" ") >= 2
        and sentence[0].isupper()
        and sentence.isprintable()
        and sentence.count("[") == sentence.count("]")
        and balanced
        and not sentence.endswith((":.", ",.", ";.", "?", "!"))
        and not _NOT_PROSE.search(sentence)
        and not any(word[0].isupper() and word.lower() in _VERBS for word in re.findall(r"(?<=\w )\w+", sentence))
    )
