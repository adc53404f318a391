"""Numbers as machines hold them: small floats bit by bit, sums that lose nothing, and where training breaks."""
