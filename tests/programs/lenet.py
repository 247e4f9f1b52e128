"""LeNet on tiny digits with a DataLoader, as the first tutorial has it."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from seeded import seeded
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4
classes = ("zero", "one", "two", "three")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 3 * 3, 32)
        self.fc2 = nn.Linear(32, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), (1, 1))
        x = F.avg_pool2d(x, 2)
        x = x.view(-1, self.num_flat_features(x))
        return self.fc2(F.relu(self.fc1(x)))

    def num_flat_features(self, x):
        num_features = 1
        for s in x.size()[1:]:
            num_features *= s
        return num_features


def train(model, loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(data), dim=1), target)
        loss.backward()
        optimizer.step()
        if batch_idx % 2 == 0:
            done, share = batch_idx * len(data), 100.0 * batch_idx / len(loader)
            print(f"Train Epoch: {epoch} [{done}/{len(loader.dataset)} ({share:.0f}%)]\tLoss: {loss.item():.4f}")


def test(model, loader):
    model.eval()
    test_loss, correct = 0, 0
    correct_pred, total_pred = {c: 0 for c in classes}, {c: 0 for c in classes}
    with torch.no_grad():
        for data, target in loader:
            data, target = data.to(device), target.to(device)
            output = F.log_softmax(model(data), dim=1)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
            for label, prediction in zip(target, pred):
                correct_pred[classes[label]] += int(label == prediction)
                total_pred[classes[label]] += 1
    print(f"Average loss: {test_loss / len(loader.dataset):.4f}, Accuracy: {correct}/{len(loader.dataset)}")
    for name, count in correct_pred.items():
        print(f"Accuracy for class: {name:5s} is {100 * float(count) / total_pred[name]:.1f} %")
    return test_loss


def main():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, 80))
    images = torch.from_numpy(rng.standard_normal((80, 1, 20, 20)).astype(np.float32)) * 0.3
    for i, label in enumerate(labels):
        images[i, 0, label * 4 : label * 4 + 4] += 1.0
    images = (images - images.mean()) / images.std()
    model = seeded(Net()).to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    kwargs = {"num_workers": 0, "pin_memory": False}
    train_loader = DataLoader(TensorDataset(images[:64], labels[:64]), batch_size=16, shuffle=False, **kwargs)
    test_loader = DataLoader(TensorDataset(images[64:], labels[64:]), batch_size=10)
    losses = []
    for epoch in range(1, 4):
        train(model, train_loader, optimizer, epoch)
        losses.append(test(model, test_loader))
    return {"losses": losses, "conv1": model.conv1.weight, "fc2": model.fc2.bias}
