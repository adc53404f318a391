"""The page: text from the template, style and script put inside it, so that the file needs nothing but itself.

Everything that a run wrote is escaped by Jinja; only our drawings, style and script go in as they are. The page also
forbids itself, by its content security policy, to load anything and to run any script but the one whose hash it names.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vesalius.core.files import atomic_write
from vesalius.core.run_directory import RunDirectory
from vesalius.train.report.findings import findings
from vesalius.train.report.headline import headline, key_figures
from vesalius.train.report.reading import Run, read_run
from vesalius.train.report.samples import LEVELS, samples
from vesalius.train.report.sections import accuracies, baselines, corpus, missing, rates, spendings
from vesalius.train.report.stages import stage_section

HERE = Path(__file__).parent


def write_report(run: RunDirectory) -> Path:
    """Draws what the run has written so far into its report.html, atomically, and says where that is.

    VesaliusError where evals.json is not JSON or the disk is full; a missing or partial record is no error.
    """
    atomic_write(run.report, render(run))
    return run.report


def render(run: RunDirectory) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("vesalius.train.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return environment.get_template("report.html.jinja").render(
        **contents(read_run(run)),
        style=Markup((HERE / "report.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def contents(run: Run) -> dict[str, Any]:
    """Everything that the template names of a run."""
    return {
        "run": run,
        "headline": headline(run),
        "figures": key_figures(run),
        "stages": [section for stage in run.stages if (section := stage_section(stage))],
        "baselines": baselines(run),
        "accuracies": accuracies(run),
        "chance": run.amounts("docstring_choice").get("chance", 0.25),
        "findings": findings(run),
        "samples": samples(run),
        "levels": [label for _, label in LEVELS],
        "spendings": spendings(run),
        "corpus": corpus(run),
        "rates": rates(run),
        "missing": missing(run),
    }
