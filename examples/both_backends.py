"""Train on the bundled digits; the same script runs on NumPy and on CuPy: `python both_backends.py cuda`."""

import sys

import deepcore as dc
from deepcore import nn

dc.use_backend(sys.argv[1] if len(sys.argv) > 1 else "auto")
dc.manual_seed(0)
train, test = dc.data.digits("train", flatten=True), dc.data.digits("test", flatten=True)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = dc.optim.Adam(model.parameters(), lr=0.003)
loss = nn.CrossEntropyLoss()
for _ in range(20):
    for images, labels in dc.data.DataLoader(train, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()
images, labels = test.tensors
right = (model(images).argmax(1) == labels).float().mean().item()
print(f"backend {images.backend}: {right:.1%} of {len(test)} test digits right")
