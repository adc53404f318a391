"""From logits to text: caches, sampling, the one engine that everything that generates uses, and the language model
on top."""
