"""From files to batches: readers, corpora, the split, token shards, packing, loaders, conversations."""
