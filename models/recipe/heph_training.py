"""Trains target or draft on the CPU: two workers of one thread, one step together, Muon for matrices and Adam for the rest.

    heph_training.py --shape target --layers 2 --out RUN --tokenizer T.json --begin EPOCH --end EPOCH [--until EPOCH] [--seq 256] [--rows 8]

The learning rate follows the clock from `--begin` to `--end`; `--until` ends this phase early. A run resumes from `RUN/last.pt`, and a larger
`--layers` than the checkpoint's grows the model. `--teacher FILE` distils: soft labels of the teacher, mixed with the text's own.
"""
import argparse
import json
import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer

import corpus
import llama

WORLD = 2


def orthogonal(g, steps=5):
    """The nearest half-orthogonal matrix by the quintic Newton-Schulz iteration of Muon (Jordan et al. 2024)."""
    x = g / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.T if tall else x


class Optimizer:
    """Muon on the matrices of the layers, shared out among the workers; Adam on embedding and norms."""

    def __init__(self, model, rank, muon_lr, adam_lr):
        self.rank, self.muon_lr, self.adam_lr, self.count = rank, muon_lr, adam_lr, 0
        self.matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
        self.rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.first, self.second = [torch.zeros_like(p) for p in self.rest], [torch.zeros_like(p) for p in self.rest]

    @torch.no_grad()
    def step(self, scale):
        self.count += 1
        beta = min(0.95, 0.85 + 0.1 * self.count / 150)
        for i, (p, m) in enumerate(zip(self.matrices, self.momentum)):
            m.lerp_(p.grad, 1 - beta)
            if i % WORLD == self.rank:
                update = orthogonal(p.grad.lerp(m, beta))
                p.mul_(1 - 0.02 * self.muon_lr * scale)
                p.add_(update, alpha=-self.muon_lr * scale * max(1, p.shape[0] / p.shape[1]) ** 0.5)
        work = [dist.broadcast(p.data, i % WORLD, async_op=True) for i, p in enumerate(self.matrices)]
        for p, a, b in zip(self.rest, self.first, self.second):
            a.lerp_(p.grad, 0.1)
            b.lerp_(p.grad.square(), 0.05)
            step = (a / (1 - 0.9 ** self.count)) / ((b / (1 - 0.95 ** self.count)).sqrt() + 1e-10)
            p.add_(step, alpha=-self.adam_lr * scale)
        for w in work:
            w.wait()

    def state(self):
        return {"count": self.count, "momentum": self.momentum, "first": self.first, "second": self.second}

    def load(self, state):
        self.count = state["count"]
        for mine, theirs in ((self.momentum, state["momentum"]), (self.first, state["first"]), (self.second, state["second"])):
            if [m.shape for m in mine] == [t.shape for t in theirs]:
                for m, t in zip(mine, theirs):
                    m.copy_(t)


def schedule(fraction, count):
    """Warm, hold, then fall in a line to a twentieth."""
    warm = min(1.0, (count + 1) / 20)
    return warm * (1.0 if fraction < 0.45 else max(0.03, 1 - 0.97 * (fraction - 0.45) / 0.55))


def loss_of(model, teacher, ids, mix):
    x, y = ids[:, :-1], ids[:, 1:]
    logits = model(x)[0].flatten(0, 1)
    hard = F.cross_entropy(logits, y.flatten())
    if teacher is None:
        return hard, hard
    with torch.no_grad():
        wanted = teacher(x)[0].flatten(0, 1).softmax(-1)
    soft = -(wanted * logits.log_softmax(-1)).sum(-1).mean()
    return mix * soft + (1 - mix) * hard, hard


def work(rank, a):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    dist.init_process_group("gloo", init_method=f"file://{a.out}/meet-{os.getppid()}", rank=rank, world_size=WORLD)
    tokenizer = Tokenizer.from_file(a.tokenizer)
    shape = {"target": llama.TARGET, "draft": llama.DRAFT}[a.shape]
    last = torch.load(f"{a.out}/last.pt", weights_only=False) if os.path.exists(f"{a.out}/last.pt") else None
    model = llama.Llama(last["shape"] if last else llama.Shape(**{**shape.__dict__, "layers": a.layers or shape.layers}))
    if last:
        model.load_state_dict(last["model"])
    layers = a.layers or model.shape.layers
    if layers != model.shape.layers:
        model = llama.grown(model, layers)
    optimizer = Optimizer(model, rank, a.muon_lr, a.adam_lr)
    if last:
        optimizer.load(last["optimizer"])
    teacher = None
    if a.teacher:
        t = torch.load(a.teacher, weights_only=False)
        teacher = llama.Llama(t["shape"])
        teacher.load_state_dict(t["model"])
    step, tokens = (last["step"], last["tokens"]) if last else (0, 0)
    rows = corpus.Rows(tokenizer, a.seq, f"train {rank} {step} {a.seq}")
    held_rows = corpus.Rows(tokenizer, 512, "held out")
    held = torch.tensor([held_rows.row() for _ in range(8)])
    texts = torch.load(a.rows_file) if a.rows_file else None
    log = open(f"{a.out}/log.jsonl", "a") if rank == 0 else None
    saved = time.time()
    average, average_hard = 0.0, 0.0
    while True:
        clock = torch.tensor([time.time()], dtype=torch.float64)
        dist.broadcast(clock, 0)
        now = clock.item()
        fraction = (now - a.begin) / (a.end - a.begin)
        done = now >= min(a.until or a.end, a.end)
        if done or now - saved > 180:
            saved = now
            if rank == 0:
                with torch.no_grad():
                    held_loss = loss_of(model, None, held, 0)[1].item()
                print(f"held-out {held_loss:.4f}", flush=True)
                log.write(json.dumps({"step": step, "tokens": tokens, "seconds": now - a.begin, "held": held_loss, "layers": layers}) + "\n")
                log.flush()
                torch.save({"shape": model.shape, "model": model.state_dict(), "optimizer": optimizer.state(), "step": step, "tokens": tokens},
                           f"{a.out}/next.pt")
                os.replace(f"{a.out}/next.pt", f"{a.out}/last.pt")
        if done:
            dist.barrier()
            return
        if texts is not None and rows.rng.random() < 0.5:
            ids = texts[torch.randint(len(texts), (a.rows,), generator=torch.Generator().manual_seed(step * 2 + rank))][:, : a.seq + 1]
        else:
            ids = torch.tensor([rows.row() for _ in range(a.rows)])
        loss, hard = loss_of(model, teacher, ids, a.mix)
        loss.backward()
        params = list(model.parameters())
        flat = torch.cat([p.grad.flatten() for p in params] + [torch.stack([loss.detach(), hard.detach()])])
        dist.all_reduce(flat)
        flat /= WORLD
        norm = flat[:-2].norm().item()
        flat_grads = flat[:-2] * min(1.0, 2.0 / (norm + 1e-6))
        at = 0
        for p in params:
            p.grad.copy_(flat_grads[at: at + p.numel()].view_as(p))
            at += p.numel()
        optimizer.step(schedule(fraction, optimizer.count))
        model.zero_grad(set_to_none=False)
        step, tokens = step + 1, tokens + WORLD * a.rows * a.seq
        if rank == 0:
            average = flat[-2].item() if average == 0 else 0.9 * average + 0.1 * flat[-2].item()
            average_hard = flat[-1].item() if average_hard == 0 else 0.9 * average_hard + 0.1 * flat[-1].item()
            if step % 5 == 0:
                log.write(json.dumps({"step": step, "tokens": tokens, "seconds": now - a.begin, "loss": average_hard, "layers": layers}) + "\n")
                log.flush()
                print(f"{step} {tokens} loss {average:.3f} text {average_hard:.3f} norm {norm:.2f} {time.time() - now:.2f} s/step {100 * fraction:.0f}%", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shape", default="target")
    p.add_argument("--layers", type=int)
    p.add_argument("--out", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--begin", type=float, required=True)
    p.add_argument("--end", type=float, required=True)
    p.add_argument("--until", type=float)
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--rows", type=int, default=8)
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=0.003)
    p.add_argument("--teacher")
    p.add_argument("--mix", type=float, default=0.9)
    p.add_argument("--rows-file")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.multiprocessing.start_processes(work, (a,), nprocs=WORLD, start_method="fork")


if __name__ == "__main__":
    main()
