"""The mathematics under language models, by hand in NumPy: information, counting, compression, autograd, floats."""
