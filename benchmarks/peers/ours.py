"The same with this library's loop and batches, and the schedule that comes with them."
import sys

import torch

from cifar10_nbdev.cifar10 import load_cifar
from cifar10_nbdev.device import keep_freed_memory
from cifar10_nbdev.model import CNN
from cifar10_nbdev.recipe import make_learner

keep_freed_memory()
learn = make_learner(CNN(), load_cifar(sys.argv[1]))
learn.opt = torch.optim.AdamW(learn.model.parameters(), lr=1e-3)
learn.fit(int(sys.argv[2]))
print(learn.history[-1])
