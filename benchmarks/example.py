"""E, the yardstick: one epoch of the example that this project succeeds, in seconds, by the
example's own recipe.

    CIFAR10_DATA=… python benchmarks/example.py [--slices 10] [--tiny]

The same network of 2,396,330 parameters; PIL images, mirrored with probability .5 and turned by up
to 15 degrees by torchvision, ToTensor, no normalization; a DataLoader without workers, batches of
128; Adam at its defaults; a loss over the test images at the end. torch's default allocator and
memory layout. It knows nothing of our training or our networks, so that E stays the same when they
change.
"""
import math, sys
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from cifar10_nbdev.data import Data
from cifar10_nbdev.device import pick_device

from common import cifar10_or_tiny, options, timed


class Pictures(Dataset):
    "Images as torchvision's CIFAR10 keeps them: an array, each made a PIL image when asked for."
    def __init__(self, x: Tensor, y: Tensor, transform: T.Compose):
        self.x = x.permute(0, 2, 3, 1).contiguous().numpy()
        self.y = y.tolist()
        self.transform = transform

    def __len__(self): return len(self.x)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.x[i])), self.y[i]


def block(ni: int, nf: int) -> list[nn.Module]:
    "Two convolutions of 3×3, then the maximum of 2×2 pixels."
    return [nn.Conv2d(ni, nf, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(nf),
            nn.Conv2d(nf, nf, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(nf), nn.MaxPool2d(2)]


def network() -> nn.Sequential:
    "The example's network, as torch initializes it."
    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.Flatten(),
                         nn.Dropout(.5), nn.Linear(2048, 1024), nn.ReLU(),
                         nn.Dropout(.2), nn.Linear(1024, 10))


class Example:
    "The example's training, a part of an epoch at a time."
    def __init__(self, data: Data, seed: int = 0, device: torch.device|str = 'cpu'):
        torch.manual_seed(seed)
        turned = T.Compose([T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor()])
        self.train_dl = DataLoader(Pictures(data.train_x, data.train_y, turned), 128, shuffle=True)
        self.test_dl = DataLoader(Pictures(data.test_x, data.test_y, T.ToTensor()), 128)
        self.device, self.model = device, network().to(device)
        self.opt = torch.optim.Adam(self.model.parameters())
        self.train, self.test = repeated(self.train_dl), repeated(self.test_dl)

    def loss(self, xb: Tensor, yb: Tensor) -> Tensor:
        "The loss of a batch."
        return F.cross_entropy(self.model(xb.to(self.device)), yb.to(self.device))

    def advance(self, n_train: int, n_test: int):
        "Train on some batches, then compute the loss of some of the test images."
        for batch in islice(self.train, n_train):
            self.opt.zero_grad()
            self.loss(*batch).backward()
            self.opt.step()
        with torch.no_grad():
            for batch in islice(self.test, n_test): self.loss(*batch).item()

    def slice(self, n: int) -> float:
        "Seconds of an epoch, with its pass over the test images, by the n-th part of it."
        batches = len(self.train_dl), len(self.test_dl)
        part = [math.ceil(length/n) for length in batches]
        return timed(lambda: self.advance(*part))*sum(batches)/sum(part)


def repeated(batches: DataLoader) -> Iterator:
    "Batches of one epoch after the other."
    while True: yield from batches


def main():
    parser = options(__doc__)
    parser.add_argument('--slices', type=int, metavar='N',
                        help='for each line on stdin, measure an N-th of an epoch')
    args = parser.parse_args()
    example = Example(cifar10_or_tiny(args.tiny), device=pick_device())
    if not args.slices: return print(example.slice(1))
    example.advance(3, 3)   # to warm up
    print('ready', flush=True)
    for _ in sys.stdin: print(example.slice(args.slices), flush=True)


if __name__ == '__main__': main()
