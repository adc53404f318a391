"""The machine's line and rates are measured, not looked up."""

import subprocess
import sys

import torch

from vesalius.core.hardware import best_device, hardware_line, matmul_rate, peak_bytes, read_rate


def test_rates_are_plausible():
    assert 1e8 < matmul_rate(torch.float32, size=256, repeats=2) < 1e16
    assert 1e8 < read_rate(mebibytes=16) < 1e14


def test_the_line_names_processor_threads_and_torch():
    line = hardware_line()
    assert f"{torch.get_num_threads()} threads" in line
    assert torch.__version__ in line


def test_the_best_device_can_hold_a_tensor():
    assert torch.ones(1, device=best_device()).sum() == 1


def test_the_peak_is_this_process_alone_and_not_that_of_the_one_that_started_it():
    held = bytearray(2**30)
    program = "from vesalius.core.hardware import peak_bytes; print(peak_bytes())"
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert peak_bytes() > len(held) > child > 2**20
