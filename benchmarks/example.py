"""E, the yardstick: one epoch of the example that this project succeeds, by its own recipe, in seconds. `python benchmarks/example.py`

The same network of 2,396,330 parameters; PIL images, mirrored with probability .5 and turned by up to 15 degrees by torchvision, ToTensor, no normalisation; a DataLoader
without workers, batches of 128; Adam at its defaults; a loss over the test images at the end. torch's default allocator and memory layout. It knows nothing of our training.
"""
import sys, time

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from cifar10_nbdev.data import Data, cifar10
from cifar10_nbdev.model import CNN


class Pictures(Dataset):
    "Images as torchvision's own CIFAR10 keeps them: an array, of which each becomes a PIL image when it is asked for."
    def __init__(self, x, y, transform): self.x, self.y, self.transform = x.permute(0, 2, 3, 1).contiguous().numpy(), y.tolist(), transform
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.transform(Image.fromarray(self.x[i])), self.y[i]


def epoch(data: Data, seed: int = 0) -> float:
    "Seconds of one epoch, with its pass over the test images."
    torch.manual_seed(seed)
    train = DataLoader(Pictures(data.train_x, data.train_y, T.Compose([T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor()])), 128, shuffle=True)
    test = DataLoader(Pictures(data.test_x, data.test_y, T.ToTensor()), 128)
    model = CNN()
    opt = torch.optim.Adam(model.parameters())
    start = time.perf_counter()
    for xb, yb in train:
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()
    with torch.no_grad():
        for xb, yb in test: F.cross_entropy(model(xb), yb)
    return time.perf_counter() - start


if __name__ == '__main__': print(epoch(cifar10(None, lambda line: print(line, file=sys.stderr))))
