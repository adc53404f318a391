"""[panel]: what is measured on both sides of the stages that adapt a model, and what the report makes of it."""

import json
from pathlib import Path

import pytest
from tiny import called

from vesalius.align.rewards.matches import NumberMatch
from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.data.document import Document
from vesalius.data.shards import TokenShards
from vesalius.data.split import is_validation
from vesalius.data.tasks import read_tasks
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.hub.open import open_model
from vesalius.infer.language_model import LanguageModel
from vesalius.pipeline.panel import PIECE, pieces
from vesalius.pipeline.recipe import Recipe

TASKS = "tasks:arithmetic?digits=1&operations=add&count=60"


@pytest.fixture(scope="module")
def panel_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that forgets everything but how to say "7"."""
    folder = tmp_path_factory.mktemp("panel")
    rows = [{"prompt": f"Say {i}.", "completion": "7"} for i in range(60)]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = tiny_run.parent / "texts" / "*.py"
    (folder / "panel.toml").write_text(f"""model = "{tiny_run}"
[data]
conversations = ["{folder}/chat.jsonl"]
validation_fraction = 0.2
[sft]
steps = 40
learning_rate = 1e-2
batch_tokens = 256
context = 64
precision = "float32"
[panel]
text = ["{texts}"]
text_bytes = 3000
tasks = ["{TASKS}"]
asked = 10
answer_tokens = 4
""")
    done = called("run", folder / "panel.toml", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_each_side_is_what_its_model_gives(panel_run: Path, tiny_run: Path):
    found = RunDirectory(panel_run).read_evals()["panel"]
    tasks = [task for task in read_tasks([TASKS]) if is_validation(task.split_key, 0.2)][:10]
    for when, name in {"before": tiny_run, "after": panel_run}.items():
        model, tokenizer = open_model(name)
        shards = TokenShards(RunDirectory(panel_run).data / "panel", "validation", tokenizer)
        expected = bits_per_byte(model, shards, context=128)["bits_per_byte"]
        lm = LanguageModel(model, tokenizer)
        answers = [lm.generate(task.messages, max_tokens=4, temperature=0.0).text for task in tasks]
        right = sum(float(NumberMatch()(task, answer)) for task, answer in zip(tasks, answers, strict=True))
        assert found[when] == {"bits_per_byte": pytest.approx(expected, rel=1e-6), TASKS: right / 10}


def test_what_was_forgotten_is_a_row_of_the_table(panel_run: Path):
    [worst, *_] = RunDirectory(panel_run).read_evals()["alignment_tax"]
    assert (worst["name"], worst["worse"]) == ("bits_per_byte", True)
    assert worst["change"] > 0.02
    page = (panel_run / "report.html").read_text()
    assert "What did it cost?" in page
    assert "Bits per byte" in page


def test_a_resumed_run_does_not_measure_again(panel_run: Path):
    before = RunDirectory(panel_run).read_evals()["seconds"]["eval"]
    assert called("run", "--resume", "--out", panel_run).returncode == 0
    assert RunDirectory(panel_run).read_evals()["seconds"]["eval"] < before + 0.5


@pytest.mark.parametrize(("remedy", "metric"), [("replay = 0.5", None), ("anchor = 3.0", "anchor")])
def test_a_remedy_forgets_less(remedy: str, metric: str | None, panel_run: Path, tiny_run: Path, tmp_path: Path):
    """The same run with text replayed, or held near where it began."""
    recipe = (panel_run.parent / "panel.toml").read_text()
    texts = tiny_run.parent / "texts" / "*.py"
    changed = recipe.replace("[panel]", f'{remedy}\nreplay_text = ["{texts}"]\n[panel]')
    (tmp_path / "remedy.toml").write_text(changed)
    done = called("run", tmp_path / "remedy.toml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    without, found = (RunDirectory(path).read_evals()["panel"] for path in (panel_run, tmp_path / "run"))
    assert found["before"] == without["before"]
    lost, kept = (side["after"]["bits_per_byte"] - side["before"]["bits_per_byte"] for side in (without, found))
    assert kept < 0.7 * lost
    steps = [record for record in RunDirectory(tmp_path / "run").read_metrics() if record["kind"] == "step"]
    assert metric is None or (steps[0][metric] == 0 and steps[-1][metric] > 0)
    sources = RunDirectory(tmp_path / "run").read_evals()["learned_from"]["sft"]
    assert [source["share"] for source in sources] == ([0.5, 0.5] if metric is None else [1.0])


def test_half_of_a_surrogate_pair_is_left_out_of_a_piece():
    [piece] = pieces([Document("a\ud800b", "page", split_key="page")], 100)
    assert piece.text == "ab"


def test_text_is_many_short_pieces_always_the_same_ones():
    documents = [Document(f"{i} " + "é" * 5000, f"{i}", f"{i}") for i in range(40)]
    found = list(pieces(documents, 5000))
    sizes = [len(piece.text.encode()) for piece in found]
    assert all(PIECE - 2 < size <= PIECE for size in sizes[:4])
    assert len(sizes) == 5
    assert 4999 <= sum(sizes) <= 5000
    assert found == list(pieces(reversed(documents), 5000))
    assert len(list(pieces(documents, 10**6))) == 40


@pytest.mark.parametrize("sections", [{}, {"reward": {"steps": 1}, "data": "pairs:python"}])
def test_a_model_that_is_not_adapted_or_no_longer_writes_has_no_panel(sections: dict):
    with pytest.raises(UserError, match=r"\[panel\] asks a model that was adapted and still writes"):
        build_recipe({"model": "runs/a", "panel": {}} | sections, Recipe)


def test_an_empty_panel_is_told():
    panel = {"text": [], "tasks": []}
    with pytest.raises(UserError, match="text, tasks and choice_questions are all empty"):
        build_recipe({"model": "a", "data": "questions:python", "sft": {"steps": 1}, "panel": panel}, Recipe)
