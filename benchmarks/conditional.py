"""Peak memory of CoCoOp on ViT-B/16: one test batch at 1000 classes, one training step at fewer.

    python benchmarks/conditional.py [--test 1000] [--train 51] [--images 4]

Random weights, fp32, the published recipe. Every image has prompts of its own for every class; they are
encoded in chunks under a memory budget. Each line is a process of its own, its peak that of the whole
process (Linux and macOS only).
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import sys
import time

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from restore_vlm.backbone import Backbone
from restore_vlm.method import Losses, PromptedModel, load_recipe
from restore_vlm.runtime.memory import freed_memory_kept


def measure(kind: str, classes: int, count: int) -> tuple[float, float]:
    """Seconds and peak GB of one test batch or training step on ``count`` images."""
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16-quickgelu")
    backbone = Backbone(clip, open_clip.get_tokenizer("ViT-B-16"), "ViT-B-16", PreprocessCfg(size=224))
    model = PromptedModel(backbone, load_recipe("cocoop"), IMAGENET_CLASSNAMES[:classes])
    images, began = torch.randn(count, 3, 224, 224), time.perf_counter()
    if kind == "test":
        with torch.inference_mode():
            model.eval().scorer()(images)
    else:
        with freed_memory_kept():
            sum(Losses(model.config, model)(model, images, torch.arange(count))[1].values()).backward()
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--test", type=int, default=1000, help="classes")
    parser.add_argument("--train", type=int, default=51, help="classes")
    parser.add_argument("--images", type=int, default=4, help="of the test batch; training takes one")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for kind, classes, count in (("test", args.test, args.images), ("train", args.train, 1)):
        with context.Pool(1) as pool:
            seconds, peak = pool.apply(measure, (kind, classes, count))
        print(f"{kind}: {classes} classes, {count} images: {seconds:.1f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
