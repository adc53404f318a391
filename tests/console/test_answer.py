"""One answer on standard output, and the verbs that print it."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from vesalius.cli import app
from vesalius.console.answer import facts, print_answer, shown
from vesalius.core.errors import UserError
from vesalius.infer.completion import Completion, Usage
from vesalius.infer.language_model import LanguageModel
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

USAGE = Usage(prompt_tokens=2, completion_tokens=2)
ANSWER = Completion(text="é\x1b[2J", ids=[5, 6], logprobs=[-0.5, -1.0], finish_reason="stop", usage=USAGE)


class Scripted:
    """Stands where a language model does, and says two pieces."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def generate(self, prompt: Any, **options: Any) -> Completion:
        self.asked.append(("generate", prompt, options))
        return ANSWER

    def stream(self, prompt: Any, **options: Any) -> list[str]:
        self.asked.append(("stream", prompt, options))
        return ["é", "\x1b[2J"]


def test_an_answer_is_printed_as_it_is_into_a_pipe(capsys):
    print_answer(Scripted(), "x")  # type: ignore[arg-type]
    assert capsys.readouterr().out == "é\x1b[2J\n"


def test_control_characters_never_reach_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_answer(Scripted(), "x")  # type: ignore[arg-type]
    assert capsys.readouterr().out == "é\ufffd[2J\n"
    assert shown("a\tb\nc") == "a\tb\nc"


def test_beam_search_is_not_streamed(capsys):
    lm = Scripted()
    print_answer(lm, "x", num_beams=3)  # type: ignore[arg-type]
    assert lm.asked == [("generate", "x", {"num_beams": 3})]
    assert capsys.readouterr().out == "é\x1b[2J\n"


def test_json_says_everything(capsys):
    print_answer(Scripted(), "x", as_json=True)  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out) == {
        "text": "é\x1b[2J",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }


def test_json_has_tokens_and_score_where_there_are_any():
    told = {"top_logprobs": [{5: -0.5}, {7: -0.9}], "score": -0.75}
    more = facts(Completion(**vars(ANSWER) | told))
    assert more["tokens"][1] == {"id": 6, "logprob": -1.0, "top_logprobs": {7: -0.9}}
    assert more["score"] == -0.75


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model over bytes, in a directory."""
    special = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer.from_bpe(BPE({bytes([b]): b + len(special) for b in range(256)}, [], special))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("model")
    LanguageModel(Transformer(config), tokenizer, {"temperature": 1.0}).save(folder / "model")
    return str(folder / "model")


def run(*arguments: str, stdin: str | None = None) -> Any:
    """The command line in this process: what the verbs raise, `main` would print."""
    return CliRunner().invoke(app, arguments, input=stdin)


def test_generate_takes_any_setting_and_answers_messages(model):
    plain = json.loads(run("generate", model, "Hi", "--max-tokens", "6", "--json").stdout)
    settings = ("--set", "num_beams=3", "--set", "max_tokens=5")
    beams = json.loads(run("generate", model, "-", "--chat", *settings, "--json", stdin="Hi").stdout)
    assert plain["usage"]["completion_tokens"] == 6
    assert beams["usage"]["completion_tokens"] <= 5
    assert beams["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 10  # the template's words
    assert beams["score"] < 0


def test_generate_prints_what_json_says(model):
    told = json.loads(run("generate", model, "Hi", "--max-tokens", "9", "--json").stdout)
    assert run("generate", model, "Hi", "--max-tokens", "9").stdout == told["text"] + "\n"


def test_generate_is_greedy_whatever_the_model_recommends(model):
    first, second = (run("generate", model, "Hi", "--max-tokens", "9").stdout for _ in range(2))
    assert first == second


def test_chat_answers_each_line_as_json(model):
    done = run("chat", model, "--json", "--max-tokens", "4", "--set", "top_k=5", stdin="Hi\nYou\n")
    assert [json.loads(line)["usage"]["completion_tokens"] <= 4 for line in done.stdout.splitlines()] == [True, True]


@pytest.mark.parametrize("verb", [["generate", "MODEL", "hello"], ["chat", "MODEL"]])
@pytest.mark.parametrize(
    ("change", "message"),
    [("repetition_penalti=1.1", "did you mean 'repetition_penalty'"), ("top_p=2", "top_p = 2, expected")],
)
def test_the_verbs_refuse_a_setting_that_is_wrong(model, verb, change, message):
    done = run(*[model if word == "MODEL" else word for word in verb], "--set", change, stdin="")
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)


def test_who_guesses_ahead_changes_no_answer(model):
    plain = run("generate", model, "Hi Hi Hi", "--max-tokens", "40").stdout
    for name in ("ngram", "early_exit:1", f"draft:{model}"):
        assert run("generate", model, "Hi Hi Hi", "--max-tokens", "40", "--speculation", name).stdout == plain
    chats = [
        run("chat", model, "--set", "temperature=0", *more, stdin="Hi\nYou\n")
        for more in ([], ["--speculation", "ngram"])
    ]
    assert chats[0].stdout == chats[1].stdout
    refused = run("chat", model, "--speculation", "n-gram", stdin="")
    assert isinstance(refused.exception, UserError)
