"A loop as PyTorch's own tutorials write it."
import sys

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from cifar10_nbdev.model import CNN

root, nepochs = sys.argv[1], int(sys.argv[2])
to_tensor = [T.ToTensor(), T.Normalize((.4914, .4822, .4465), (.2470, .2435, .2616))]
moved = [T.RandomCrop(32, 2, padding_mode='reflect'), T.RandomHorizontalFlip()]
train = ImageFolder(f'{root}/train', T.Compose([*moved, *to_tensor]))
test = ImageFolder(f'{root}/test', T.Compose(to_tensor))
train = DataLoader(train, 128, shuffle=True, num_workers=2)
test = DataLoader(test, 128, num_workers=2)
model = CNN()
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(nepochs):
    model.train()
    for xb, yb in train:
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        correct = sum((model(xb).argmax(1) == yb).sum().item() for xb, yb in test)
    print(epoch, correct/len(test.dataset))
