"""Stages that make data: what they leave in a run, what the next stage trains on, and how they go on after a kill."""

import json
from pathlib import Path

import pytest
import torch
from align.scripted import Scripted
from pipeline.silent import Silent
from tiny_server import byte_tokenizer, tiny_lm

from vesalius.align.making.journal import work_through
from vesalius.align.making.rejection import BestOfN
from vesalius.align.rewards.verdict import Verdict
from vesalius.align.writer import Writer
from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.recipes import build_recipe
from vesalius.data.preferences import read_pairs
from vesalius.data.tasks import read_tasks
from vesalius.hub.directory import save_model
from vesalius.hub.open import open_model
from vesalius.pipeline import making
from vesalius.pipeline.recipe import Recipe
from vesalius.pipeline.run import run_recipe

SFT = {"steps": 2, "batch_tokens": 512, "context": 256, "precision": "float32", "checkpoint_every": 0}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A random model over bytes."""
    torch.manual_seed(0)
    lm, folder = tiny_lm(byte_tokenizer()), tmp_path_factory.mktemp("start")
    save_model(folder / "model", lm.model, lm.tokenizer)
    return folder / "model"


def recipe(start: Path, **sections) -> Recipe:
    return build_recipe({"model": str(start), **sections}, Recipe)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def solves(messages, seed) -> str:
    """Solves sums whose first number is even."""
    left, sign, right = messages[-1]["content"].split("?")[0].removeprefix("What is ").split()
    value = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__}[sign](int(left), int(right))
    return f"It is {value}." if int(left) % 2 == 0 else "No idea."


def scripted(monkeypatch, say, choice=lambda text: [0.8, 0.2] if "answer 1" in text else [0.5, 0.5]) -> list[Scripted]:
    """Puts scripted writers in the place of those that ask the model -> those that were made."""
    made: list[Scripted] = []

    def writer(*_, **__) -> Scripted:
        made.append(Scripted(say, choice))
        return made[-1]

    monkeypatch.setattr(making, "Writer", writer)
    return made


def test_best_answers_are_made_trained_on_and_reported(start, tmp_path, monkeypatch):
    scripted(monkeypatch, solves)
    made = recipe(start, data="tasks:arithmetic?digits=1", best_of_n={"limit": 40, "together": 7}, sft=SFT)
    run = run_recipe(made, tmp_path / "run", Silent())
    every, kept = rows(run.made / "best_of_n.all.jsonl"), rows(run.made / "best_of_n.jsonl")
    assert len(every) == 40
    assert kept == [row for row in every if row["kept"]]
    assert all(row["messages"][-1]["content"].startswith("It is ") for row in kept)
    evals = run.read_evals()
    told = evals["made"]["best_of_n"]
    assert (told["rows"], told["kept"]) == (40, len(kept))
    assert told["dropped"] == {"no answer is good enough": 40 - len(kept)}
    assert 0.2 < evals["verified"]["before"] < 0.8
    assert evals["verified"]["after"] == evals["verified"]["before"]  # the script does not learn
    steps = [record for record in run.read_metrics() if record["kind"] == "step"]
    assert [record["step"] for record in steps] == [1, 2]
    page = run.report.read_text()
    assert "What it made to learn from" in page
    assert f"{len(kept)} of 40" in page
    assert "Does it solve what it has not seen?" in page


def test_held_out_tasks_are_not_sampled(start, tmp_path, monkeypatch):
    writers = scripted(monkeypatch, solves)
    data = {"tasks": ["tasks:arithmetic?digits=1&count=100"], "validation_fraction": 0.3}
    run_recipe(recipe(start, data=data, best_of_n={"checked": 100}), tmp_path / "run", Silent())
    tried, checked = (
        {
            asked[0]["content"]
            for writer in writers
            if (writer.temperatures == [0.0]) == greedy
            for asked in writer.asked
        }
        for greedy in (False, True)
    )
    assert len(checked) > 10
    assert not tried & checked
    assert len(tried | checked) == 100


def test_reasons_of_star_are_trained_on(start, tmp_path, monkeypatch):
    scripted(monkeypatch, solves)
    run = run_recipe(
        recipe(start, data="tasks:arithmetic?digits=1", star={"limit": 20}, sft=SFT), tmp_path / "run", Silent()
    )
    kept = rows(run.made / "star.jsonl")
    assert kept
    assert all(len(row["messages"]) == 2 for row in kept)
    assert (run.model / "model.safetensors").exists()


def test_a_constitution_makes_revisions_and_then_pairs(start, tmp_path, monkeypatch):
    scripted(monkeypatch, lambda messages, seed: f"answer {seed % 100}", lambda text: [0.5 + len(text) % 7 / 20, 0.4])
    made = recipe(start, constitution={"limit": 8, "least": 0.5}, sft=SFT)
    run = run_recipe(made, tmp_path / "run", Silent())
    revisions, pairs = rows(run.made / "revisions.jsonl"), rows(run.made / "principle_pairs.jsonl")
    assert len(revisions) == 8
    assert {row["model"] for row in revisions} == {str(start)}
    assert {row["model"] for row in pairs} == {f"{start} as this run has tuned it"}
    assert set(run.read_evals()["made"]) == {"revisions", "principle_pairs"}


DPO = {"steps": 2, "batch_tokens": 1024, "context": 512, "precision": "float32", "sampled": 0}


def numbered(messages, seed) -> str:
    return f"answer {seed}"


def prefers(text: str) -> list[float]:
    """Likes the answer with the smaller number."""
    first, second = (int(part.split()[0]) for part in text.split("answer ")[1:3])
    return [0.9, 0.1] if first < second else [0.1, 0.9]


def test_a_constitution_goes_all_the_way_to_preferences_and_again_after_a_stop(start, tmp_path, monkeypatch):
    made = recipe(start, constitution={"limit": 12, "together": 5}, sft=SFT, dpo=DPO, data={"validation_fraction": 0.3})
    scripted(monkeypatch, numbered, prefers)
    whole = run_recipe(made, tmp_path / "whole", Silent())
    assert {record["stage"] for record in whole.read_metrics()} == {"sft", "dpo"}
    pairs = list(read_pairs([str(whole.made / "principle_pairs.jsonl")]))
    facts = whole.read_evals()["dpo"]
    assert (len(pairs), facts["pairs"] + facts["held_out"]) == (12, 12)
    assert all(float(pair.chosen[0]["content"][7:]) < float(pair.rejected[0]["content"][7:]) for pair in pairs)

    asked = 0

    def stops(text: str) -> list[float]:
        nonlocal asked
        asked += 1
        if asked == 15:
            raise KeyboardInterrupt
        return prefers(text)

    scripted(monkeypatch, numbered, stops)
    with pytest.raises(VesaliusError, match="stopped"):
        run_recipe(made, tmp_path / "cut", Silent())
    assert len(rows(tmp_path / "cut" / "made" / "principle_pairs.all.jsonl")) == 5
    scripted(monkeypatch, numbered, prefers)
    cut = run_recipe(made, tmp_path / "cut", Silent(), resume=True)
    assert (cut.made / "principle_pairs.all.jsonl").read_bytes() == (
        whole.made / "principle_pairs.all.jsonl"
    ).read_bytes()
    losses = [[r["loss"] for r in run.read_metrics() if r["kind"] == "step"] for run in (whole, cut)]
    assert losses[0] == losses[1]


def test_pairs_are_pairs_that_the_reader_of_pairs_reads(start, tmp_path, monkeypatch):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n{"prompt": "How?"}\n')
    scripted(monkeypatch, lambda messages, seed: f"answer {seed}", lambda text: [1 / 6 + len(text) % 3 / 9] * 6)
    monkeypatch.setattr("vesalius.align.making.self_rewarding.mean_mark", lambda shares: next(marks))
    marks = iter([1.0, 2.0, 3.0, 4.0] * 2)
    made = recipe(start, data=str(tmp_path / "prompts.jsonl"), self_rewarding={})
    run = run_recipe(made, tmp_path / "run", Silent())
    pairs = list(read_pairs([str(run.made / "self_rewarding.jsonl")]))
    assert [pair.prompt[0]["content"] for pair in pairs] == ["Why?", "How?"]
    assert all(pair.chosen != pair.rejected for pair in pairs)


def test_nothing_of_use_is_an_error_that_says_where_to_look(start, tmp_path, monkeypatch):
    scripted(monkeypatch, lambda messages, seed: "No idea.")
    with pytest.raises(VesaliusError, match=r"none of 5 rows of best_of_n is of use .*best_of_n.all.jsonl"):
        run_recipe(recipe(start, data="tasks:words", best_of_n={"limit": 5}), tmp_path / "run", Silent())


def test_stopped_while_it_makes_data_it_goes_on_to_the_same(start, tmp_path, monkeypatch):
    made = recipe(
        start, data="tasks:arithmetic?digits=1", best_of_n={"limit": 20, "together": 4, "checked": 0}, sft=SFT
    )
    scripted(monkeypatch, solves)
    whole = run_recipe(made, tmp_path / "whole", Silent())
    calls = 0

    def stops(messages, seed):
        nonlocal calls
        calls += 1
        if calls == 45:
            raise KeyboardInterrupt
        return solves(messages, seed)

    scripted(monkeypatch, stops)
    with pytest.raises(VesaliusError, match="stopped"):
        run_recipe(made, tmp_path / "cut", Silent())
    assert len(rows(tmp_path / "cut" / "made" / "best_of_n.all.jsonl")) == 8
    assert not (tmp_path / "cut" / "made" / "best_of_n.jsonl").exists()
    writers = scripted(monkeypatch, solves)
    cut = run_recipe(made, tmp_path / "cut", Silent(), resume=True)
    assert sum(len(writer.asked) for writer in writers) == (20 - 8) * 4
    assert (cut.made / "best_of_n.jsonl").read_bytes() == (whole.made / "best_of_n.jsonl").read_bytes()
    losses = [[r["loss"] for r in run.read_metrics() if r["kind"] == "step"] for run in (whole, cut)]
    assert losses[0] == losses[1]


def test_a_model_s_own_answers_are_the_same_after_a_stop(start, tmp_path):
    """With the engine: what was asked before does not change what is answered."""

    def work() -> BestOfN:
        writer = Writer(*open_model(start), max_tokens=8)
        return BestOfN(writer=writer, reward=lambda task, text: Verdict(len(text) / 100, ""), model="m", samples=3)

    tasks = list(read_tasks(["tasks:arithmetic?count=9"]))
    whole = work_through(tmp_path / "whole.jsonl", tasks, work(), together=2)
    done = (tmp_path / "whole.jsonl").read_bytes().split(b"\n")[:5]
    (tmp_path / "cut.jsonl").write_bytes(b"\n".join(done)[:-3])
    assert work_through(tmp_path / "cut.jsonl", tasks, work(), together=2) == whole
    assert len({sample["text"] for row in whole for sample in row["samples"]}) > 20


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"best_of_n": {}}, "need data.tasks"),
        ({"star": {}}, "need data.tasks"),
        ({"self_rewarding": {}}, "needs data.prompts"),
        ({"star": {"wher": "last"}, "data": "tasks:words"}, "did you mean 'where'"),
        ({"self_rewarding": {"samples": 1}, "data": "questions:python"}, "self_rewarding.samples"),
        ({"constitution": {"least": 0.4}}, "constitution.least"),
        ({"sft": SFT}, "needs data.conversations"),
    ],
)
def test_a_recipe_that_lacks_what_a_stage_needs_is_told(start, sections, message):
    with pytest.raises(UserError, match=message):
        recipe(start, **sections)


def test_what_a_recipe_names_is_looked_for_before_anything_is_computed(start, tmp_path):
    for sections, message in (
        ({"constitution": {"file": "none.toml"}}, "no constitution at"),
        ({"star": {}, "data": "tasks:word"}, "did you mean 'tasks:words'"),
        ({"self_rewarding": {}, "data": "none.jsonl"}, "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            run_recipe(recipe(start, **sections), tmp_path / "run", Silent())
        assert not (tmp_path / "run").exists()
