"""Unigram by hand: the lattice of a text's splits, the vocabulary that is read from it, and how one is learned."""
