"""Automatic differentiation by hand: a scalar engine to read in one sitting, and a tensor engine that trains.

`scalar.py` is the idea. `operation.py`, `graph.py` and `tensor.py` are the same for arrays; the operations stand by
theme in `elementwise`, `shaping`, `reducing`, `products`, `indexing` and `normalising`; `nn`, `optim` and `mini_gpt`
are built on them.

>>> import numpy as np
>>> from vesalius.foundations.autograd.tensor import Tensor
>>> x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.data.tolist()
[2.0, 4.0, 6.0]
"""
