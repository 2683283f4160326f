"""E, the yardstick: one epoch of the example that this project succeeds, in seconds, by the
example's own recipe.

    CIFAR10_DATA=… python benchmarks/example.py [--tiny]

The same network of 2,396,330 parameters; PIL images, mirrored with probability .5 and turned by up
to 15 degrees by torchvision, ToTensor, no normalization; a DataLoader without workers, batches of
128; Adam at its defaults; a loss over the test images at the end. torch's default allocator and
memory layout. It knows nothing of our training.
"""
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from cifar10_nbdev.data import Data
from cifar10_nbdev.device import pick_device
from cifar10_nbdev.model import CNN

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


def one_epoch(model: torch.nn.Module, train_dl: DataLoader, test_dl: DataLoader):
    "One epoch, and the loss over the test images."
    opt, device = torch.optim.Adam(model.parameters()), next(model.parameters()).device
    def loss(xb, yb): return F.cross_entropy(model(xb.to(device)), yb.to(device))
    for batch in train_dl:
        opt.zero_grad()
        loss(*batch).backward()
        opt.step()
    with torch.no_grad():
        for batch in test_dl: loss(*batch).item()


def epoch(data: Data, seed: int = 0, device: torch.device|str = 'cpu') -> float:
    "Seconds of one epoch, with its pass over the test images."
    torch.manual_seed(seed)
    turned = T.Compose([T.RandomHorizontalFlip(), T.RandomRotation(15), T.ToTensor()])
    train_dl = DataLoader(Pictures(data.train_x, data.train_y, turned), 128, shuffle=True)
    test_dl = DataLoader(Pictures(data.test_x, data.test_y, T.ToTensor()), 128)
    model = CNN().to(device)
    return timed(lambda: one_epoch(model, train_dl, test_dl))


if __name__ == '__main__':
    args = options(__doc__).parse_args()
    print(epoch(cifar10_or_tiny(args.tiny), device=pick_device()))
