"""Trains target or draft on the CPU: two workers of one thread, one step together, Muon for matrices and Adam for the rest.

    heph_training.py --layers 2 --out RUN --tokenizer T.json --begin EPOCH --end EPOCH [--until EPOCH] [--seq 256] [--rows 8] [--draft]
    heph_training.py --from TARGET.gguf DRAFT.gguf --out RUN --tokenizer TARGET.gguf --begin EPOCH --end EPOCH --seq 512 --draft

The learning rate follows the clock from `--begin` to `--end`; `--until` ends this phase early. A run resumes from `RUN/last.pt`, and a larger
`--layers` than the checkpoint's grows the model. With `--draft` the draft learns beside the target, from the target's own probabilities for the
same text, which cost nothing more. `--only-draft` holds the target still, and lets the draft learn alone. `--from` begins with the weights of files
that ship, as their codes stand for.

Weights and their momentum are 32-bit floats; forward and backward run on a bfloat16 copy, which on a CPU with AVX-512 BF16 takes a third of the
time. The clock may stand still for a while (a stopped process goes on where it was): a stop costs steps and nothing else.
"""
import argparse
import copy
import json
import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F

import corpus
import gguf_files
import llama

WORLD = 2
# The share of the run that keeps the full learning rate.
HOLD = 0.4
# What a token counts for that stood before in its row and is a rare word: the hero, a name, a thing that was asked for.
RECALL = 3.0


def orthogonal(g, steps=5):
    """The nearest half-orthogonal matrix by the quintic Newton-Schulz iteration of Muon (Jordan et al. 2024)."""
    x = (g / (g.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.T if tall else x).float()


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
    """Warm, hold, then fall in a line to almost nothing."""
    warm = min(1.0, (count + 1) / 20)
    return warm * (1.0 if fraction < HOLD else max(0.03, 1 - 0.97 * (fraction - HOLD) / (1 - HOLD)))


def recall_weights(ids, rare):
    """For every token after the first, `RECALL` if it is rare and stands earlier in its row, else one."""
    again = (ids[:, None, :] == ids[:, :, None]).tril(-1).any(-1)
    return torch.where(again & rare[ids], RECALL, 1.0)[:, 1:].flatten()


def rare_tokens(rows, vocab):
    """Which tokens make up less than a thousandth of the text each."""
    counts = torch.zeros(vocab)
    for _ in range(60):
        counts += torch.bincount(torch.tensor(rows.row()), minlength=vocab)
    return counts < counts.sum() * 1e-3


def soft_loss(logits, wanted, text, mix):
    """Cross-entropy against the target's probabilities, with a little of the text itself."""
    logs = logits.log_softmax(-1)
    return -(mix * (wanted * logs).sum(-1) + (1 - mix) * logs.gather(-1, text[:, None])[:, 0]).mean()


@torch.no_grad()
def held_out(target, draft, held):
    """The target's loss on held-out text, the draft's, and how often both would say the same next token."""
    x, y = held[:, :-1], held[:, 1:].flatten()
    wanted = target(x)[0].flatten(0, 1)
    result = {"held": F.cross_entropy(wanted, y).item()}
    if draft is not None:
        logits = draft(x)[0].flatten(0, 1)
        result |= {"draft_held": F.cross_entropy(logits, y).item(), "agree": (logits.argmax(-1) == wanted.argmax(-1)).float().mean().item()}
    return result


def restored(path, shape, shipped):
    """A model and what was saved beside it: from `path` if it is there, else from the `shipped` file, else new."""
    saved = torch.load(path, weights_only=False) if os.path.exists(path) else None
    if shipped and not saved:
        return gguf_files.read(shipped).train(), None
    model = llama.Llama(saved["shape"] if saved else shape)
    if saved:
        model.load_state_dict(saved["model"])
    return model, saved


def save(path, model, optimizer, step, tokens):
    torch.save({"shape": model.shape, "model": model.state_dict(), "optimizer": optimizer.state(), "step": step, "tokens": tokens}, path + ".next")
    os.replace(path + ".next", path)


def work(rank, a):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    dist.init_process_group("gloo", init_method=f"file://{a.out}/meet-{os.getppid()}", rank=rank, world_size=WORLD)
    tokenizer = gguf_files.tokenizer_of(a.tokenizer)
    first_target, first_draft = a.first or (None, None)
    target, saved = restored(f"{a.out}/last.pt", llama.Shape(**{**llama.TARGET.__dict__, "layers": a.layers or llama.TARGET.layers}), first_target)
    if a.layers and a.layers != target.shape.layers:
        target = llama.grown(target, a.layers)
    learners = [] if a.only_draft else [(target, Optimizer(target, rank, a.muon_lr, a.adam_lr), f"{a.out}/last.pt", saved)]
    draft = None
    if a.draft or a.only_draft:
        draft, draft_saved = restored(f"{a.out}/draft.pt", llama.DRAFT, first_draft)
        learners.append((draft, Optimizer(draft, rank, a.muon_lr, a.draft_lr), f"{a.out}/draft.pt", draft_saved))
    for _, optimizer, _, s in learners:
        if s:
            optimizer.load(s["optimizer"])
    first = learners[0][3]
    step, tokens = (first["step"], first["tokens"]) if first else (0, 0)
    rows = corpus.Rows(tokenizer, a.seq, f"train {rank} {step} {a.seq}", a.stories)
    held_rows = corpus.Rows(tokenizer, 512, "held out")
    held = torch.tensor([held_rows.row() for _ in range(6)])
    rare = rare_tokens(corpus.Rows(tokenizer, 512, "rare"), target.shape.vocab)
    log = open(f"{a.out}/log.jsonl", "a") if rank == 0 else None
    fast = {id(m): copy.deepcopy(m).bfloat16() for m in (target, draft) if m is not None}
    params = [p for learner in learners for p in fast[id(learner[0])].parameters()]
    began = saved_at = time.time()
    average = None
    while True:
        clock = torch.tensor([time.time()], dtype=torch.float64)
        dist.broadcast(clock, 0)
        now = clock.item()
        fraction = (now - a.begin) / (a.end - a.begin)
        done = now >= min(a.until or a.end, a.end)
        if done or now - saved_at > 180:
            saved_at = now
            if rank == 0:
                for model, optimizer, path, _ in learners:
                    save(path, model, optimizer, step, tokens)
                found = held_out(target, draft, held)
                print("held-out", found, flush=True)
                log.write(json.dumps({"step": step, "tokens": tokens, "seconds": now - a.begin, "layers": target.shape.layers} | found) + "\n")
                log.flush()
        if done:
            dist.barrier()
            return
        ids = torch.tensor([rows.row() for _ in range(a.rows)])
        x, y = ids[:, :-1], ids[:, 1:].flatten()
        losses = []
        with torch.set_grad_enabled(not a.only_draft):
            logits = fast[id(target)](x)[0].flatten(0, 1).float()
        if not a.only_draft:
            weights = recall_weights(ids, rare)
            losses.append((F.cross_entropy(logits, y, reduction="none") * weights).sum() / weights.sum())
        if draft is not None:
            losses.append(soft_loss(fast[id(draft)](x)[0].flatten(0, 1).float(), logits.detach().softmax(-1), y, a.mix))
        sum(losses).backward()
        flat = torch.cat([p.grad.flatten().float() for p in params] + [torch.stack(losses).detach()])
        dist.all_reduce(flat)
        flat /= WORLD
        at, norms = 0, []
        for model, optimizer, _, _ in learners:
            size = sum(p.numel() for p in model.parameters())
            norms.append(flat[at: at + size].norm().item())
            flat[at: at + size] *= min(1.0, 2.0 / (norms[-1] + 1e-6))
            for p in model.parameters():
                p.grad = flat[at: at + p.numel()].view_as(p)
                at += p.numel()
            optimizer.step(schedule(fraction, optimizer.count) * min(1.0, (time.time() - began) / 60 if model is draft else 1.0))
            with torch.no_grad():
                for quick, exact in zip(fast[id(model)].parameters(), model.parameters()):
                    quick.copy_(exact)
                    quick.grad = None
        step, tokens = step + 1, tokens + WORLD * a.rows * a.seq
        if rank == 0:
            average = flat[at:].clone() if average is None else 0.9 * average + 0.1 * flat[at:]
            if step % 5 == 0:
                entry = dict(zip((["loss"] if not a.only_draft else []) + ["draft_loss"], average.tolist()))
                log.write(json.dumps({"step": step, "tokens": tokens, "seconds": now - a.begin, "layers": target.shape.layers} | entry) + "\n")
                log.flush()
                print(step, tokens, {k: round(v, 3) for k, v in entry.items()}, [round(n, 2) for n in norms], f"{time.time() - now:.1f} s, {100 * fraction:.0f}%", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--layers", type=int)
    p.add_argument("--out", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--begin", type=float, required=True)
    p.add_argument("--end", type=float, required=True)
    p.add_argument("--until", type=float)
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--rows", type=int, default=8)
    p.add_argument("--stories", type=float, default=corpus.STORY_SHARE)
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=0.003)
    p.add_argument("--draft-lr", type=float, default=0.006)
    p.add_argument("--draft", action="store_true")
    p.add_argument("--only-draft", action="store_true")
    p.add_argument("--from", dest="first", nargs=2, metavar="GGUF")
    p.add_argument("--mix", type=float, default=0.9)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.multiprocessing.start_processes(work, (a,), nprocs=WORLD, start_method="fork")


if __name__ == "__main__":
    main()
