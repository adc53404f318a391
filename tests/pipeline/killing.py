"""A run that is killed in the middle and goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny import called

from vesalius.core.run_directory import RunDirectory


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in RunDirectory(run).read_metrics() if record["kind"] == "step"]


def losses_after_a_kill(recipe: Path, run: Path, *, steps: int) -> list[float]:
    """Of a run of so many steps that gets SIGKILL after its fifth and is resumed."""
    command = [sys.executable, "-m", "vesalius.cli", "run", str(recipe), "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(losses(run)) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= len(losses(run)) < steps
    done = called("run", "--out", run, "--resume")
    assert done.returncode == 0, done.stderr
    return losses(run)
