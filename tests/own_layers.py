"""A program for several workers, see test_workers. Of these networks with layers of one's own, some
are trained together, and compared with what the first worker trains alone, and some are refused."""
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from cifar10_nbdev.core import UserError
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.params import command
from cifar10_nbdev.recipe import Recipe, make_learner
from cifar10_nbdev.workers import Workers, join


class Own(nn.Module):
    "A network whose middle is a layer, or a function, that gets N×512, or whatever `shape` is."
    def __init__(self, middle, *shape):
        super().__init__()
        self.conv, self.middle, self.head = nn.Conv2d(3, 8, 4, 4), middle, nn.Linear(512, 10)
        self.shape = shape or (512,)

    def forward(self, x):
        x = F.relu(self.conv(x)).reshape(len(x), *self.shape)
        return self.head(self.middle(x).flatten(1))


class Experts(nn.Module):
    "Some images go through this one of 40 layers, and some through that one."
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(512, 512) for _ in range(40))

    def forward(self, x):
        which, y = x[:, :40].argmax(1), torch.zeros_like(x)
        for i in which.unique():
            rows, = torch.where(which == i)
            y = y.index_put((rows,), self.experts[i](x[rows]))
        return x + y


def parametrized():
    norm = nn.BatchNorm1d(512)
    parametrize.register_parametrization(norm, 'weight', nn.Softplus())
    return norm


def drop(x): return F.dropout(x, .2)


TRAINED = dict(   # name -> a function that makes the network
    norm=lambda: Own(nn.BatchNorm1d(512)),
    cumulative=lambda: Own(nn.BatchNorm1d(512, momentum=None)),
    no_affine=lambda: Own(nn.BatchNorm2d(8, affine=False), 8, 8, 8),
    no_statistics=lambda: Own(nn.BatchNorm2d(8, track_running_stats=False), 8, 8, 8),
    volumes=lambda: Own(nn.BatchNorm3d(2), 2, 4, 8, 8),
    parametrized=lambda: Own(parametrized()),
    channels=lambda: Own(nn.Dropout2d(.3), 8, 8, 8),
    experts=lambda: Own(Experts()))
REFUSED = dict(
    functional=lambda: Own(drop),
    rrelu=lambda: Own(nn.RReLU()),
    alpha=lambda: Own(nn.AlphaDropout(.1)),
    statistics=lambda: Own(nn.InstanceNorm2d(8, track_running_stats=True), 8, 8, 8),
    attention=lambda: Own(nn.TransformerEncoderLayer(8, 2, 8, .1), 64, 8))
data = shapes10((250, 70))   # the last of three batches is smaller


def trained(make, *cbs):
    "A learner after two epochs."
    torch.manual_seed(0)
    recipe = Recipe(batch_size=100, lr=.01, dropout_end=None)
    learn = make_learner(make(), data, recipe, cbs=cbs)
    learn.fit(2)
    return learn


def difference(a, b):
    "By how much two learners' losses, weights and statistics differ at most."
    losses = [abs(row[k] - other[k]) for row, other in zip(a.history, b.history)
              for k in ('train_loss', 'test_loss')]
    tensors = zip(a.model.state_dict().values(), b.model.state_dict().values())
    return max(*losses, *((t - other).abs().max().item() for t, other in tensors))


def say(line): print(f'{line}\n', end='', flush=True)   # in one piece, since two workers speak


@command
def main(argv):
    "Train all networks, and end as a run does whose network is refused."
    rank, world = join()
    for name, make in TRAINED.items():
        together = trained(make, Workers(rank, world))
        if not rank: say(f'{name}: {difference(together, trained(make)):.1e}')
    for name, make in REFUSED.items():
        began = time.time()
        try: trained(make, Workers(rank, world))
        except UserError as e:
            say(f'worker {rank}, {name}: {time.time() - began:.1f} s, {e}')
    trained(REFUSED['rrelu'], Workers(rank, world))


main()
