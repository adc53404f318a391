"""One DPO step of a model of SmolLM2-135M's shape: ours and TRL's, from one run.

    python bench/preference.py [--kind pairs:python|longer] [--rounds 5] [--pairs 8] [--layers 30]
                                                                                  needs the extra `dev` (trl, peft)

LoRA of rank 16 on all linear layers, the reference without the adapter, AdamW and clipping at 1, the same pairs for
both, in float32. TRL gets the batch as its collator pads it and computes its loss; ours gets it in packed rows.
Candidates take turns in each round, so that a machine whose speed drifts treats them alike; figures are medians over
rounds. Two kinds of pairs: as long as those of pairs:python, and longer ones, whose prompts are as long as an answer.
"""

import argparse
import tempfile

import numpy as np

from steps import ALPHA, RANK, SHAPE, Step, median_seconds, with_optimizer
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.align.preference.objective import Preference
from vesalius.align.reference import reference_of
from vesalius.align.rows.answer_rows import Item, Layout, item_length, lay_out
from vesalius.align.rows.packing import pack
from vesalius.core.hardware import hardware_line
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

BETA, CONTEXT = 0.1, 512
LENGTHS = {"pairs:python": ((40, 60), (5, 30)), "longer": ((64, 192), (64, 192))}
"""From and to which length in tokens, evenly: prompts, answers."""


def draw_pairs(count: int, kind: str) -> list[Item]:
    """Pairs of random tokens."""
    generator = np.random.default_rng(0)
    of_prompt, of_answer = LENGTHS[kind]

    def tokens(span: tuple[int, int]) -> np.ndarray:
        return generator.integers(3, SHAPE["vocab_size"], generator.integers(*span))

    def answer() -> tuple[np.ndarray, np.ndarray]:
        ids = tokens(of_answer)
        return ids, np.ones(len(ids), bool)

    return [Item(tokens(of_prompt), (answer(), answer())) for _ in range(count)]


def ours(shape: dict, pairs: list[Item]) -> tuple[Step, int]:
    """The package's model, LoRA, rows and objective."""
    model = Transformer(ModelConfig(**shape))
    add_lora(model, LoraConfig(lora_r=RANK, lora_alpha=ALPHA))
    layout = Layout(rows=1, context=CONTEXT, shared=True)
    lengths = [item_length(len(p.prompt), [len(ids) for ids, _ in p.answers], layout) for p in pairs]
    rows = [[pairs[number] for number in row] for row in pack(range(len(pairs)), lengths, CONTEXT)]
    batch, objective = lay_out(rows, layout, padding=0, source="drawn"), Preference(reference=reference_of(model))
    return with_optimizer(model.train(), lambda: objective(model, batch)[0]), batch.tokens.numel()


def trl(shape: dict, pairs: list[Item]) -> tuple[Step, int]:
    """The peer: DPOTrainer with PEFT's LoRA, its collator and its loss."""
    from datasets import Dataset  # the peers take seconds to import
    from peft import LoraConfig as PeftConfig
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, "<unk>"))
    trainer = DPOTrainer(
        LlamaForCausalLM(LlamaConfig(**shape)),
        args=DPOConfig(
            output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True, bf16=False, beta=BETA, max_length=None,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
        ),
        peft_config=PeftConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
    )  # fmt: skip
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    ids = [(pair.prompt, *(answer for answer, _ in pair.answers)) for pair in pairs]
    batch = trainer.data_collator([{name: i.tolist() for name, i in zip(columns, three, strict=True)} for three in ids])
    model = trainer.model.train()
    return with_optimizer(model, lambda: trainer.compute_loss(model, dict(batch))), batch["input_ids"].numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=LENGTHS, default="pairs:python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    options = parser.parse_args()
    print(hardware_line())
    shape, pairs = SHAPE | {"num_hidden_layers": options.layers}, draw_pairs(options.pairs, options.kind)
    (our_step, our_tokens), (their_step, their_tokens) = ours(shape, pairs), trl(shape, pairs)
    mine, theirs = median_seconds({"ours": our_step, "trl": their_step}, options.rounds).values()
    print(
        f"{options.kind}, {options.pairs} pairs   ours {mine:.2f} s ({our_tokens} tokens)   trl {theirs:.2f} s "
        f"({their_tokens} tokens)   {theirs / mine:.2f} x trl"
    )


if __name__ == "__main__":
    main()
