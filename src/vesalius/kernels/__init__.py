"""Operations, each a readable reference plus faster implementations of the same mathematics (contract 5, "Pairs")."""
