"""The machine's line and rates are measured, not looked up."""

import torch

from vesalius.core.hardware import best_device, hardware_line, matmul_rate, read_rate


def test_rates_are_plausible():
    assert 1e8 < matmul_rate(torch.float32, size=256, repeats=2) < 1e16
    assert 1e8 < read_rate(mebibytes=16) < 1e14


def test_the_line_names_processor_threads_and_torch():
    line = hardware_line()
    assert f"{torch.get_num_threads()} threads" in line
    assert torch.__version__ in line


def test_the_best_device_can_hold_a_tensor():
    assert torch.ones(1, device=best_device()).sum() == 1
