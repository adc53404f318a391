"""One Transformer that every stage shares, the sizes it comes in, and what each size costs."""
