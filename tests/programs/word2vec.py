"""Skip-gram word vectors with negative sampling: subsampling, pairs, analogies by cosine similarity."""

from collections import Counter

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
text = """the king rules the land and the queen rules the land with the king while the dog and the cat sleep in the house
the man walks the dog and the woman feeds the cat the king is a man and the queen is a woman""".split()


class SkipGram(nn.Module):
    def __init__(self, vocab_size, emb_dimension):
        super().__init__()
        self.u_embeddings = nn.Embedding(vocab_size, emb_dimension)
        self.v_embeddings = nn.Embedding(vocab_size, emb_dimension)
        initrange = 1.0 / emb_dimension
        nn.init.uniform_(self.u_embeddings.weight.data, -initrange, initrange)
        nn.init.constant_(self.v_embeddings.weight.data, 0)

    def forward(self, pos_u, pos_v, neg_v):
        emb_u, emb_v = self.u_embeddings(pos_u), self.v_embeddings(pos_v)
        emb_neg_v = self.v_embeddings(neg_v)
        score = torch.sum(torch.mul(emb_u, emb_v), dim=1)
        score = torch.clamp(score, max=10, min=-10)
        score = -F.logsigmoid(score)
        neg_score = torch.bmm(emb_neg_v, emb_u.unsqueeze(2)).squeeze()
        neg_score = torch.clamp(neg_score, max=10, min=-10)
        neg_score = -torch.sum(F.logsigmoid(-neg_score), dim=1)
        return torch.mean(score + neg_score)


def main():
    rng = np.random.default_rng(0)
    counts = Counter(text)
    vocab = sorted(counts, key=lambda w: (-counts[w], w))
    word2id = {w: i for i, w in enumerate(vocab)}
    ids = [word2id[w] for w in text]
    pairs = [(ids[i], ids[j]) for i in range(len(ids)) for j in range(max(0, i - 2), min(len(ids), i + 3)) if i != j]
    frequency = torch.tensor([counts[w] for w in vocab], dtype=torch.float).pow(0.75)
    frequency /= frequency.sum()
    model = seeded(SkipGram(len(vocab), 8)).to(device)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.2)

    def train_step(u, v, negatives):
        optimizer.zero_grad()
        loss = model(u, v, negatives)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for start in range(0, 128, 16):
        u, v = torch.tensor(pairs[start : start + 16], dtype=torch.long, device=device).t().contiguous()
        negatives = torch.from_numpy(
            rng.choice(len(vocab), (16, 4), p=frequency.double().numpy() / frequency.double().sum().item())
        )
        losses.append(train_step(u, v, negatives.to(device)).item())

    vectors = F.normalize(model.u_embeddings.weight.detach(), dim=-1)
    query = vectors[word2id["king"]] - vectors[word2id["man"]] + vectors[word2id["woman"]]
    similarity = F.cosine_similarity(vectors, query.unsqueeze(0))
    best = similarity.topk(3)
    print([vocab[i] for i in best.indices.tolist()], best.values.shape == (3,))
    frozen = nn.Embedding.from_pretrained(vectors, freeze=True)
    bag = nn.EmbeddingBag.from_pretrained(vectors, mode="mean")
    sentence = torch.tensor([ids[:5], ids[5:10]], device=device)
    assert torch.allclose(bag(sentence), frozen(sentence).mean(1), atol=1e-6)
    return {"losses": losses, "similarity": similarity, "bag": bag(sentence), "trained": frozen.weight.requires_grad}
