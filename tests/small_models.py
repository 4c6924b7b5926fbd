"""Tiny trained classifiers for the attacks' tests; nothing of the project's own models is needed."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from attacks._keyed import sample_keys


class SmallNet(nn.Module):
    """A convolutional net with a state that attacks could disturb: batch statistics, dropout, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, float (1797, 1, 8, 8) in [0, 1], half of the pixels exactly 0, and labels."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


@cache
def _trained_state() -> dict[str, Tensor]:
    images, labels = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNet()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(8):
            for chosen in torch.randperm(1200).split(64):
                loss = F.cross_entropy(model(images[chosen]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.state_dict()


def trained_net() -> SmallNet:
    """Return a freshly built net, in eval mode, with the weights of one short training."""
    model = SmallNet()
    model.load_state_dict({name: tensor.clone() for name, tensor in _trained_state().items()})
    return model.eval()


def some_images(count: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return images the net was not trained on, their labels and keys."""
    images, labels = digits()
    return images[1200 : 1200 + count], labels[1200 : 1200 + count], sample_keys(0, [str(i) for i in range(count)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()
