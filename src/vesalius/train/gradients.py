"""From a batch to the gradients of its mean loss: micro-batches, their norms, clipping."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from vesalius.train.training import Training, TrainingBatch


def accumulate_gradients(run: Training, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Leaves the gradients in the parameters and returns loss and metrics, none of them waited for.

    Each micro-batch counts by its number of targets, so the result is that of the whole batch at once, and not the mean
    of means.
    """
    rows = run.config.micro_batch_rows
    parts = batch.split(rows) if rows else [batch]
    loss, metrics = torch.zeros((), device=run.device), defaultdict[str, Tensor | float](float)
    weight = batch.weight
    for part in parts:
        share = part.weight / weight
        if share:
            with run.precision.autocast():
                part_loss, part_metrics = run.loss_of(run.model, part.to(run.device))
            (part_loss * (share * (run.scaler.scale if run.scaler else 1.0))).backward()
            loss = loss + part_loss.detach() * share
            for name, value in part_metrics.items():
                metrics[name] = metrics[name] + value.detach() * share
    if run.scaler:
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(run.scaler.scale)
    return loss, {name: torch.as_tensor(value, device=run.device) for name, value in metrics.items()}


def gradient_norms(model: nn.Module) -> Tensor:
    """(P,) the norm of each parameter's gradient, 0 where it has none."""
    nothing = torch.zeros((), device=next(model.parameters()).device)
    return torch.stack([nothing if p.grad is None else torch.linalg.vector_norm(p.grad) for p in model.parameters()])


def clip_gradients(run: Training, grad_norm: float) -> None:
    """Shortens the gradient to `clip_norm`, then limits its entries to ±`clip_value`, where these are set."""
    clip_norm, clip_value = run.config.clip_norm, run.config.clip_value
    if clip_norm is not None and grad_norm > clip_norm:
        torch.nn.utils.clip_grads_with_norm_(
            run.model.parameters(), clip_norm, torch.tensor(grad_norm, device=run.device)
        )
    if clip_value is not None:
        torch.nn.utils.clip_grad_value_(run.model.parameters(), clip_value)
