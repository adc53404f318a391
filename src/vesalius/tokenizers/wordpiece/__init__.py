"""WordPiece by hand: BERT's vocabulary, and how one is learned."""
