"""A loop written by hand for a transformer: batches are dictionaries, the model gives its loss, weights decay by group."""

import math
import sys
from types import SimpleNamespace

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader


class TinyClassifier(nn.Module):
    """Reads an image as 64 tokens of 17 values."""

    def __init__(self, width=16):
        super().__init__()
        self.embedding = nn.Embedding(17, width)
        self.position = nn.Parameter(torch.randn(64, width) * 0.02)
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.classifier = nn.Linear(width, 10)

    def forward(self, input_ids, labels=None):
        hidden = self.layer(self.embedding(input_ids) + self.position)
        logits = self.classifier(hidden.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def collate(features):
    return {
        "input_ids": torch.stack([feature["input_ids"] for feature in features]),
        "labels": torch.tensor([feature["label"] for feature in features]),
    }


torch.manual_seed(4)
images, labels = load_digits(return_X_y=True)
examples = [
    {"input_ids": torch.tensor(image).long(), "label": int(label)}
    for image, label in zip(images, labels, strict=True)
]
train_dataloader = DataLoader(examples[:480], shuffle=True, collate_fn=collate, batch_size=32)
eval_dataloader = DataLoader(examples[1500:], collate_fn=collate, batch_size=99)
model = TinyClassifier()
no_decay = ("bias", "norm1.weight", "norm2.weight")
grouped = [
    {"params": [p for n, p in model.named_parameters() if not n.endswith(no_decay)], "weight_decay": 0.01},
    {"params": [p for n, p in model.named_parameters() if n.endswith(no_decay)], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(grouped, lr=5e-3)
epochs = 2
total_steps = epochs * len(train_dataloader)
lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: max(0.0, 0.5 * (1 + math.cos(math.pi * step / total_steps)))
)

for epoch in range(epochs):
    model.train()
    for batch in train_dataloader:
        batch = {k: v.to("cpu") for k, v in batch.items()}
        outputs = model(**batch)
        outputs.loss.backward()
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    model.eval()
    correct = 0
    for batch in eval_dataloader:
        with torch.no_grad():
            outputs = model(**batch)
        correct += (outputs.logits.argmax(dim=-1) == batch["labels"]).sum().item()
    print(f"epoch {epoch}: accuracy {correct / 297:.4f} of {len(eval_dataloader.dataset)}")

torch.save(model.state_dict(), sys.argv[1])
