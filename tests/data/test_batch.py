import torch

from vesalius.data.batch import IGNORE, Batch


def batch_of(rows: int, with_positions: bool = True) -> Batch:
    tokens = torch.arange(rows * 3).reshape(rows, 3)
    positions = torch.arange(3).expand(rows, 3) if with_positions else None
    return Batch(tokens=tokens, targets=tokens + 1, positions=positions, source="here")


def test_weight_counts_only_targets_with_a_loss():
    batch = batch_of(2)
    batch.targets[0, :2] = IGNORE

    assert batch.weight == 4


def test_splitting_keeps_rows_in_order_and_loses_none():
    batch = batch_of(5)

    parts = batch.split(2)

    assert [len(part.tokens) for part in parts] == [2, 2, 1]
    for field in ("tokens", "targets", "positions"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(batch, field))


def test_splitting_keeps_the_source_and_missing_positions():
    parts = batch_of(3, with_positions=False).split(2)

    assert [part.positions for part in parts] == [None, None]
    assert {part.source for part in parts} == {"here"}


def test_moving_to_a_device_moves_every_tensor():
    moved = batch_of(2).to("meta")

    assert {moved.tokens.device.type, moved.targets.device.type, moved.positions.device.type} == {"meta"}
