"""The page as text: what it says of finished, interrupted and nearly empty runs, and that nothing in it can act."""

import html
import json
import re
from pathlib import Path

import pytest
from markupsafe import escape

from vesalius.core.errors import VesaliusError
from vesalius.core.run_directory import RunDirectory
from vesalius.train.report import write_report

HOSTILE = "<script>alert('got in')</script>\" onmouseover=\"alert(1)"


def words(path: Path) -> str:
    """What a person reads: the page without style, script and tags, with single spaces."""
    text = re.sub(r"</?(em|b|strong|code)\b[^>]*>", "", path.read_text("utf-8"))
    bare = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(bare).split())


def test_headline_says_the_result_and_what_it_took_in_one_sentence(full_page: Path) -> None:
    assert (
        "1.42 bits per byte on text it never saw, 17 % below the best baseline: a model of 8.39 million parameters, "
        "made in 6 min 32 s on Intel Xeon Platinum 8481C with 2 threads."
    ) in words(full_page)


def test_finished_run_has_every_section(full_page: Path) -> None:
    text = full_page.read_text("utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Pretraining", "Instruction tuning", "Against the baselines", "Does it know what a function does?",
        "What it writes", "Where it all went", "What it read", "The recipe",
    ]  # fmt: skip
    assert "Unfinished" not in text


def test_guard_events_are_told_with_layer_and_batch(full_page: Path) -> None:
    text = words(full_page)
    assert "Step skipped at step 378: loss 9.62 is 21 robust deviations" in text
    assert "in model.layers.5.mlp.down_proj; batch: zipfile.py, tarfile.py and 14 more" in text
    assert "learning rate × 0.5" in text.replace("\u202f", " ")


def test_predictors_stand_from_worst_to_best(full_page: Path) -> None:
    table = re.search(r'<table class="bars">.*?</table>', full_page.read_text("utf-8"), re.DOTALL)
    assert table is not None
    names = re.findall(r'<th scope="row">(.*?)</th>', table[0])
    assert names == ["Uniform", "gzip", "Kneser-Ney 5-gram", "xz", "This model, tuned", "This model"]


def test_a_model_worse_than_a_baseline_is_said_to_be_worse(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.add_evals(bits_per_byte={"model": 2.2, "xz": 2.0})
    assert "2.20 bits per byte on text it never saw, 10 % above the best baseline: a model." in words(write_report(run))


def test_interrupted_run_says_where_it_stopped_and_what_is_not_measured(interrupted_page: Path) -> None:
    text = words(interrupted_page)
    assert "Unfinished run." in text
    assert "Interrupted at step 412 of pretraining, with 1.42 bits per byte on held-out text" in text
    assert (
        "Not measured, because the run was interrupted at step 412 of pretraining: "
        "bits per byte against the baselines, docstring choice, samples."
    ) in text


def test_run_of_three_steps_has_a_page(tiny_page: Path) -> None:
    text = words(tiny_page)
    assert "Interrupted at step 3 of pretraining, before its first validation." in text
    assert "Training loss fell from 9.00 to 8.70 nats per token." in text


def test_empty_directory_has_a_page(tmp_path: Path) -> None:
    text = words(write_report(RunDirectory.create(tmp_path / "run")))
    assert "Not begun: this run has written no measurements yet." in text
    assert "because the run was interrupted at its beginning" in text


@pytest.mark.parametrize(
    "section", ["hardware", "model", "corpus", "rates", "bits_per_byte", "docstring_choice", "samples"]
)
def test_any_section_of_the_evaluation_may_be_null(full_run: RunDirectory, tmp_path: Path, section: str) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.add_evals(**{**full_run.read_evals(), section: None})
    assert "The recipe" not in words(write_report(run))


def test_a_cut_off_evaluation_file_is_named(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.evals.write_text('{"hardware": "x')
    with pytest.raises(VesaliusError, match=r"evals\.json is not valid JSON"):
        write_report(run)
    assert not run.report.exists()


def test_text_of_the_run_is_never_markup(full_page: Path) -> None:
    text = full_page.read_text("utf-8")
    assert "<script>alert" not in text
    assert 'onmouseover="' not in text
    assert str(escape(HOSTILE)) in text  # it is there, as text


def test_names_of_stages_and_directories_are_never_markup(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "<b>run")
    run.log(kind="step", stage="</script><script>x()</script>", step=1, loss=1.0, tokens=8)
    text = write_report(run).read_text("utf-8")
    assert "<b>run" not in text
    assert "<script>x()" not in text


def test_readings_under_the_pointer_cannot_close_their_script(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.log(kind="step", stage="train", step=1, loss=1.0, tokens=8)
    run.log(kind="validation", stage="train", step=1, loss=1.5)
    text = write_report(run).read_text("utf-8")
    data = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == [[1, "1.00", "", "", "", "", "1.50"]]


def test_page_names_no_address_to_load_from(full_page: Path) -> None:
    text = full_page.read_text("utf-8")
    assert not re.findall(r"https?:|url\((?!#)|@import|src=|<iframe|<object", text)
    assert re.findall(r"<link[^>]*>", text) == ['<link rel="icon" href="data:,">']
    assert "default-src 'none'" in text


def test_page_is_small(full_page: Path) -> None:
    assert full_page.stat().st_size < 400_000


def test_the_same_records_give_the_same_page(full_run: RunDirectory, full_page: Path) -> None:
    before = full_page.read_bytes()
    assert write_report(full_run).read_bytes() == before
