"""Carries out what the guard decides about a bad step: find the culprit, skip or go back, tell everybody."""

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.train.anomalies import Fault
from vesalius.train.diagnosis import Culprit, find_culprit, watch_forward
from vesalius.train.training import Training, TrainingBatch


def recover(run: Training, fault: Fault, batch: TrainingBatch, norms: Tensor) -> None:
    """Leaves the run ready for its next step. norms (P,): the gradient norms of the bad one.

    VesaliusError where going back was tried as often as allowed, or where there is nothing to go back to.
    """
    if fault.kind == "gradient" and run.scaler and run.scaler.back_off():
        run.optimizer.zero_grad()  # float16 finding its scale is no fault
        return
    culprit = _diagnose(run, fault, batch, norms)
    run.optimizer.zero_grad()
    decision = run.guard.decide(broken_weights=culprit.broken_weights)
    if decision == "skip":
        run.emit_guard("skip", fault.reason, layer=culprit.layer, batch=batch.source)
        return
    if decision == "rollback" and any(callback.on_rollback(run) for callback in run.callbacks):
        run.lr_scale *= run.config.guard.rate_factor
        run.emit_guard("rollback", fault.reason, layer=culprit.layer, batch=batch.source)
        return
    run.emit_guard("warning", f"giving up: {fault.reason}", layer=culprit.layer, batch=batch.source)
    tried = (
        f"after going back {run.guard.rollbacks} times" if decision == "give up" else "and no checkpoint to go back to"
    )
    raise VesaliusError(
        f"training cannot recover: in step {run.step + 1} {fault.reason}{_where(culprit, batch)}, {tried}; "
        "look at the batch that is named, lower train.learning_rate, or use precision float32"
    )


def _diagnose(run: Training, fault: Fault, batch: TrainingBatch, norms: Tensor) -> Culprit:
    culprit = find_culprit(fault, run.model, norms, run.guard.usual_norms)
    if culprit is not None:
        return culprit
    rows = run.config.micro_batch_rows
    with torch.no_grad(), run.precision.autocast(), watch_forward(run.model) as found:
        for part in batch.split(rows) if rows else [batch]:
            run.objective(run.model, part.to(run.device))
    return Culprit(found[0] if found else "")


def _where(culprit: Culprit, batch: TrainingBatch) -> str:
    layer = f" at {culprit.layer}" if culprit.layer else ""
    return f"{layer} on the batch {batch.source}" if batch.source else layer
