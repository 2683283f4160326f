"The same in Lightning."
import sys

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from cifar10_nbdev.model import CNN


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = CNN()

    def training_step(self, batch, i):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, i):
        xb, yb = batch
        self.log('accuracy', (self.model(xb).argmax(1) == yb).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


if __name__ == '__main__':
    root, nepochs = sys.argv[1], int(sys.argv[2])
    to_tensor = [T.ToTensor(), T.Normalize((.4914, .4822, .4465), (.2470, .2435, .2616))]
    moved = [T.RandomCrop(32, 2, padding_mode='reflect'), T.RandomHorizontalFlip()]
    train = ImageFolder(f'{root}/train', T.Compose([*moved, *to_tensor]))
    test = ImageFolder(f'{root}/test', T.Compose(to_tensor))
    train = DataLoader(train, 128, shuffle=True, num_workers=2)
    test = DataLoader(test, 128, num_workers=2)
    L.Trainer(max_epochs=nepochs).fit(Classifier(), train, test)
