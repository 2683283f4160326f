"""shapes10 as runs ask for it, drawn once for all programs of `forked`, since it takes a second. In
one thread, since a process that has computed with several cannot be forked."""
import functools

import torch

from cifar10_nbdev import data

data.make_shapes = functools.cache(data.make_shapes)
n = torch.get_num_threads()
torch.set_num_threads(1)
data.shapes10()
torch.set_num_threads(n)
