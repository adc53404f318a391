"""Learning from pairs or ratings of answers without a reward model: DPO and its kin, KTO."""
