"""Results as tables for a person; programs take --json."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

_UNITS = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


def shortened(number: float) -> str:
    """Three significant digits with a letter.

    >>> shortened(5_836_032), shortened(512)
    ('5.84M', '512')
    """
    for size, letter in _UNITS.items():
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def print_info(facts: dict[str, Any], console: Console | None = None) -> None:
    """What `pipeline.measuring.describe` found."""
    console = console or Console()
    config = facts["config"]
    console.print(
        f"[bold]{facts['model']}[/bold]  {config['num_hidden_layers']} layers, width {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads ({config['num_key_value_heads']} key/value), "
        f"vocabulary {config['vocab_size']}, context {config['max_position_embeddings']}",
        highlight=False,
        soft_wrap=True,
    )
    if stored := facts.get("stored"):
        _print_stored(stored, console)
    parts = Table("part", "parameters", box=box.SIMPLE)
    active = facts["active_parameters"]
    if sparse := active != facts["parameters"]:
        parts.add_column("of them for a token")
    parts.add_column(f"FLOPs a token (context {facts['context']})")
    for part, flops in facts["flops_per_token"].items():
        used = [shortened(active[part])] if sparse else []
        parts.add_row(part.replace("_", " "), shortened(facts["parameters"][part]), *used, shortened(flops))
    console.print(parts)
    held = facts["bytes"]
    console.print(
        "training in float32: "
        + "  ".join(f"{name.replace('_', ' ')} {shortened(size)}B" for name, size in held.items())
        + f"\n(activations for 8 rows of {facts['context']} tokens, AdamW)",
        highlight=False,
        soft_wrap=True,
    )


def _print_stored(stored: dict[str, Any], console: Console) -> None:
    """Where a stored model is, and in which formats."""
    tokenizer = stored["tokenizer"]
    ends = ", ".join(tokenizer["end_tokens"]) or "none"
    console.print(
        f"{stored['container']}, {stored['architecture']}, {shortened(stored['bytes'])}B of weights\n{stored['path']}\n"
        f"tokenizer: {tokenizer['tokens']} tokens, {tokenizer['special_tokens']} of them special, ends at {ends}; "
        f"{'with' if tokenizer['chat_template'] else 'without'} a chat template",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    formats = Table("format", "tensors", "numbers", "bytes", "bits a number", box=box.SIMPLE)
    for name, entry in stored["formats"].items():
        numbers, size = entry["numbers"], entry["bytes"]
        bits = f"{8 * size / numbers:.2f}" if numbers else ""
        formats.add_row(name, str(entry["tensors"]), shortened(numbers), f"{shortened(size)}B", bits)
    console.print(formats)
    for key, value in stored["metadata"].items():
        console.print(f"{key} = {value}", highlight=False, markup=False, soft_wrap=True)


def print_exported(facts: dict[str, Any], console: Console | None = None) -> None:
    """What `vesalius export` wrote."""
    console = console or Console()
    formats = ", ".join(f"{count} × {name}" for name, count in facts["tensors"].items())
    console.print(
        f"{facts['path']}  {facts['architecture']}, {shortened(facts['bytes'])}B, tensors: {formats}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def print_speed(facts: dict[str, Any], console: Console | None = None) -> None:
    """What `pipeline.measuring.measure_speed_of` found."""
    console = console or Console()
    limits = facts["limits"]
    console.print(
        f"{facts['hardware']}\nlimits: float32 {shortened(limits['float32'])}FLOP/s, bfloat16 "
        f"{shortened(limits['bfloat16'])}FLOP/s, memory {shortened(limits['read'])}B/s\n"
        f"{facts['model']}: opened in {facts['load_seconds']:.2f} s, peak memory {shortened(facts['peak_bytes'])}B",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table("work", *(Column(name, justify="right") for name in ("tok/s", "ms", "limit", "%")), box=box.SIMPLE)
    for row in facts["speed"]:
        numbers = (f"{row['rate']:.1f}", f"{1e3 * row['seconds']:.1f}", f"{row['limit']:.0f}", f"{row['share']:.0%}")
        table.add_row(row["work"], *numbers)
    console.print(table)
    console.print(
        "ms: until a prompt's first token, or for each new token. limit: tok/s by what this machine computes (prompts) "
        "or reads from memory (new tokens) at best",
        highlight=False,
        soft_wrap=True,
    )


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """What `pipeline.measuring.measure` found."""
    console = console or Console()
    table = Table("measure", "result", box=box.SIMPLE)
    if measured := results.get("bits_per_byte"):
        table.add_row("bits per byte", f"{measured['bits_per_byte']:.4f}")
    for side, result in results.get("docstring_choice", {}).items():
        if isinstance(result, dict):
            table.add_row(
                f"docstring choice, {side} modules",
                f"{result['accuracy']:.1%} ± {result['standard_error']:.1%} of {result['n']} (chance 25%)",
            )
    console.print(table)
