"The same with this library's loop and batches."
import sys

import torch

from cifar10_nbdev.core import keep_freed_memory
from cifar10_nbdev.data import cifar10, get_dls
from cifar10_nbdev.learner import Learner
from cifar10_nbdev.model import CNN

keep_freed_memory()
model = CNN().to(memory_format=torch.channels_last)
learn = Learner(model, get_dls(cifar10(sys.argv[1]), 128), torch.optim.AdamW(model.parameters(), lr=1e-3))
learn.fit(int(sys.argv[2]))
print(learn.history[-1])
