import io
import json

import open_clip
import pytest
import torch
from PIL import Image

from restore_vlm import demo
from restore_vlm.backbone import load_backbone
from restore_vlm.data import load_dataset
from restore_vlm.evaluation import harmonic_mean

ASSETS = demo.PHOTOS.parent


def runs(method: str, pairs: list[tuple[float, float]]) -> list[dict]:
    return [
        {"method": method, "seed": s, "base": b, "novel": n, "hm": harmonic_mean(b, n), "seconds": 2.0 * s}
        for s, (b, n) in enumerate(pairs, start=1)
    ]


def test_summary_is_mean_and_spread() -> None:
    row = demo._summary("maple", runs("maple", [(0.2, 0.4), (0.4, 0.4)]))
    assert row["base"] == pytest.approx(0.3)
    assert row["base_spread"] == pytest.approx(0.2 / 2**0.5)
    assert row["novel_spread"] == 0
    assert row["seconds"] == 3
    assert demo._summary("clip", runs("clip", [(0.2, 0.4)]))["base_spread"] is None


def test_table_and_picture(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        demo._summary("clip", runs("clip", [(0.2, 0.25)])),
        demo._summary("restore", runs("restore", [(0.4, 0.3), (0.5, 0.3)])),
    ]
    demo.show(rows, 2)
    text = capsys.readouterr().out
    assert "restore" in text
    assert "45.0 ± 7.1" in text
    figure = demo.picture(rows)
    shown = {(r["method"], r["classes"].split(":")[0]): (r["value"], r["low"]) for r in figure.numbers.rows}
    assert shown["restore", "base"] == pytest.approx((45, 45 - 100 * 0.1 / 2**0.5))
    assert shown["clip", "novel"] == (25, None)
    image = Image.open(io.BytesIO(figure.png()))
    assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_bundled_photos() -> None:
    data = load_dataset(demo.PHOTOS)
    assert (len(data.classes), len(data.train), len(data.test)) == (40, 40 * 16, 40 * 34)
    assert sum(p.stat().st_size for p in demo.PHOTOS.rglob("*.webp")) < 8e6


def test_bundled_clip_loads_in_plain_open_clip() -> None:
    folder = ASSETS / "tiny-clip"
    assert (folder / "open_clip_model.safetensors").stat().st_size < 20e6
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["image_size"] == 64
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    photos = [Image.open(p) for p in sorted((demo.PHOTOS / "test").rglob("*.webp"))[::200]]
    images = torch.stack([transform(p) for p in photos])
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a photo of a school bus.", "a photo of a wok."])
    backbone = load_backbone("tiny")
    prompts = backbone.text.tokenize(["a photo of a school bus.", "a photo of a wok."])
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.image(images)[0], model.encode_image(images), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(backbone.text(prompts)[0], model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert 14 < model.logit_scale.exp() <= 100
