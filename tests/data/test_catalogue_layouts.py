"""Every layout, read from a miniature copy of it."""

import json
from pathlib import Path

import pytest

from data.catalogue_makers import MAKERS, WNIDS, lines, make, publish_counts
from restore_vlm.data import load_dataset, sample
from restore_vlm.data.catalogue import (
    DATASETS,
    check_dataset,
    dataset_entry,
    find,
    load_catalogued,
    recognise,
)
from restore_vlm.data.catalogue.imagenet import class_names_by_folder, wnids
from restore_vlm.data.catalogue.loading import read_rows
from restore_vlm.errors import UserError

EXPECTED = {  # classes by label, images of train, val and test
    "imagenet": (["tench", "goldfish", "missile", "missile"], (12, 0, 8)),
    "caltech101": (["face", "leopard", "motorbike", "accordion", "airplane"], (16, 6, 10)),
    "oxford_pets": (["abyssinian", "american_bulldog", "great_pyrenees"], (12, 3, 9)),
    "stanford_cars": (
        ["2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2012 Audi TT RS Coupe"],
        (6, 3, 9),
    ),
    "oxford_flowers": (["pink primrose", "hard-leaved pocket orchid", "canterbury bells"], (9, 3, 5)),
    "food101": (["apple_pie", "baklava"], (5, 2, 4)),
    "fgvc_aircraft": (["707-320", "727-200", "An-12 Cub"], (4, 4, 4)),
    "sun397": (["abbey", "outdoor apartment_building", "indoor apse"], (9, 3, 9)),
    "dtd": (["banded", "blotchy", "zigzagged"], (9, 3, 6)),
    "eurosat": (["Annual Crop Land", "Highway or Road", "Sea or Lake"], (9, 4, 6)),
    "ucf101": (["Apply_Eye_Makeup", "Handstand_Pushups", "Yo_Yo"], (12, 3, 9)),
    "imagenetv2": (["tench", "goldfish", "missile", "missile"], (0, 0, 8)),
    "imagenet_sketch": (["tench", "goldfish", "missile", "missile"], (0, 0, 12)),
    "imagenet_a": (["goldfish", "missile"], (0, 0, 6)),
    "imagenet_r": (["tench", "goldfish", "missile"], (0, 0, 9)),
}


def fails(match: str, name: str, root: Path) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_catalogued(name, root)
    assert "\n" not in str(caught.value)


def test_all_fifteen() -> None:
    assert list(MAKERS) == list(DATASETS) == list(EXPECTED)
    assert [e.folder for e in DATASETS.values()] == [
        "imagenet", "caltech-101", "oxford_pets", "stanford_cars", "oxford_flowers", "food-101",
        "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101", "imagenetv2", "imagenet-sketch",
        "imagenet-adversarial", "imagenet-rendition",
    ]  # fmt: skip
    for entry in DATASETS.values():
        assert entry.template.count("{}") == 1 and entry.manual and entry.licence
        assert all("{" not in step for step in entry.instructions(Path("DATA")))
        assert entry.for_test_only == (entry.name.startswith("imagenet") and entry.name != "imagenet")
        assert bool(entry.split) == bool(entry.split_step(Path("DATA")))
        for item in entry.downloads:
            assert item.checksum or item.optional
            assert len(item.checksum.partition(":")[2]) in {0, 32, 64}


@pytest.mark.parametrize("name", MAKERS)
def test_layout(tmp_path: Path, name: str) -> None:
    folder = make(name, tmp_path)
    classes, counts = EXPECTED[name]
    for _ in range(2):  # the second time from the split file that the first has made
        dataset = load_catalogued(name, tmp_path)
        assert (dataset.name, dataset.classes, dataset.split) == (name, classes, True)
        assert (len(dataset.train), len(dataset.val), len(dataset.test)) == counts
        items = dataset.train + dataset.val + dataset.test
        assert len({item.path for item in items}) == len(items) and all(item.path.is_file() for item in items)
        assert (folder / DATASETS[name].split).is_file() == bool(DATASETS[name].split)
    assert load_dataset(folder).classes == classes
    assert [i.path for i in load_dataset(folder).test] == [i.path for i in dataset.test]


@pytest.mark.parametrize("name", MAKERS)
def test_check_of_a_whole_layout(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(name, tmp_path)
    publish_counts(monkeypatch, name, read_rows(DATASETS[name], folder, keep=False))
    before = sorted(folder.rglob("*"))
    defects = check_dataset(name, tmp_path).defects
    if DATASETS[name].split:
        assert len(defects) == 1 and f"no {DATASETS[name].split}" in defects[0]
        load_catalogued(name, tmp_path)
    else:
        assert defects == []
        assert sorted(folder.rglob("*")) == before
    checked = check_dataset(name, tmp_path)
    assert checked.defects == []
    assert ("made here" in str(checked.notes)) == bool(DATASETS[name].split)


@pytest.mark.parametrize("name", MAKERS)
def test_load_dataset_without_split_file(tmp_path: Path, name: str) -> None:
    folder = make(name, tmp_path)
    assert recognise(folder) is DATASETS[name]
    assert load_dataset(folder).classes == EXPECTED[name][0]


def test_few_shot_sample_is_drawn_from_it(tmp_path: Path) -> None:
    make("eurosat", tmp_path)
    drawn = sample(load_catalogued("eurosat", tmp_path), 2, seed=1)
    assert [item.label for item in drawn.train] == [0, 0, 1, 1, 2, 2]


def test_items_follow_the_published_lists(tmp_path: Path) -> None:
    folder = make("fgvc_aircraft", tmp_path)
    dataset = load_catalogued("FGVCAircraft", tmp_path)
    listed = [line.split()[0] for line in (folder / "images_variant_val.txt").read_text().splitlines()]
    assert [item.path.stem for item in dataset.val] == listed
    assert [item.label for item in dataset.val] == [1, 0, 2, 0]
    make("sun397", tmp_path)
    assert [i.label for i in load_catalogued("sun397", tmp_path).test] == [2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_docs_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "| `" in line]
    assert [row[0].strip("`") for row in rows] == list(DATASETS)
    for row, entry in zip(rows, DATASETS.values(), strict=True):
        assert row[1] == f"`{entry.folder}`" and entry.split in row[3]
        counts = [int(cell.replace(",", "").replace("-", "0")) for cell in row[4:8]]
        assert counts == list(vars(entry.counts).values())
        assert row[8] == (entry.size or "by hand") and bool(entry.size) == bool(entry.downloads)


def test_names(tmp_path: Path) -> None:
    for name in ("dtd", "OxfordPets", "Flowers102", "caltech-101", "imagenet-adversarial", "ImageNet-R"):
        assert dataset_entry(name).name in DATASETS
    with pytest.raises(UserError, match="'caltech11'; did you mean 'caltech101'"):
        dataset_entry("caltech11")


def test_find(tmp_path: Path) -> None:
    make("dtd", tmp_path)
    make("ucf101", tmp_path)
    make("oxford_pets", tmp_path)
    (tmp_path / "ucf101" / "ucfTrainTestlist" / "testlist01.txt").unlink()
    (tmp_path / "food-101").mkdir()
    load_catalogued("oxford_pets", tmp_path)
    states = find(tmp_path)
    assert list(states) == list(DATASETS)
    assert states["imagenet"].state == "absent"
    assert (states["food101"].state, states["food101"].detail) == ("incomplete", "no images")
    assert states["ucf101"].detail == "no ucfTrainTestlist/testlist01.txt"
    assert states["dtd"].detail == "no split_zhou_DescribableTextures.json; one is made at first use"
    assert (states["oxford_pets"].state, states["oxford_pets"].detail) == ("ready", "split made here")
    with pytest.raises(UserError, match="There is no folder"):
        find(tmp_path / "absent")


def test_missing(tmp_path: Path) -> None:
    fails("There is no folder .*absent", "dtd", tmp_path / "absent")
    fails(r"no folder .*/dtd; get it with: restore-vlm datasets fetch dtd --root", "dtd", tmp_path)
    fails("fetch stanford_cars --root .* tells how", "stanford_cars", tmp_path)
    (tmp_path / "dtd").mkdir()
    fails("there is no images in .*/dtd; get it", "dtd", tmp_path)


def test_half_downloaded(tmp_path: Path) -> None:
    folder = make("dtd", tmp_path)
    load_catalogued("dtd", tmp_path)
    (folder / "images/zigzagged/image_0003.jpg").unlink()
    (folder / "images/banded/image_0001.jpg").unlink()
    fails("2 of 18 images are absent, the first is .*datasets check .* --dataset dtd", "dtd", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "match"),
    [
        ("oxford_pets", "annotations/test.txt", "Abyssinian_1 1", "test.txt, line 1 is not a name and"),
        ("oxford_pets", "annotations/test.txt", "A_1 1 1 1\nB_1 x 1 1", "test.txt, line 2 is not"),
        ("sun397", "Testing_01.txt", "/b/bar/x.jpg", "line 1: 'b/bar' is not in ClassName.txt"),
        ("ucf101", "ucfTrainTestlist/classInd.txt", "one ApplyEyeMakeup", "line 1 is not a number"),
        ("ucf101", "ucfTrainTestlist/testlist01.txt", "Nap/v.avi", "'Nap' is not in classInd.txt"),
        ("fgvc_aircraft", "images_variant_val.txt", "123 Zeppelin", "'Zeppelin' is not in variants.txt"),
        ("oxford_flowers", "cat_to_name.json", "[1]", "does not map labels to names"),
        ("oxford_flowers", "cat_to_name.json", '{"1": "a", "2": "b"}', "no name for the label 3"),
        ("oxford_flowers", "imagelabels.mat", "not MATLAB", "imagelabels.mat cannot be read"),
        ("stanford_cars", "devkit/cars_train_annos.mat", "", "cars_train_annos.mat cannot be read"),
        ("imagenet", "classnames.txt", "n01440764", "line 1 is not a folder and its class name"),
        ("imagenet", "classnames.txt", "n2 b\nn1 a", "not sorted by folder"),
        ("imagenet", "classnames.txt", "n1 a\nn1 b", "line 2 names a folder twice"),
        ("imagenet_a", "classnames.txt", "n1 a\nn2 b", "Unknown class folder of .*n01443537"),
        ("imagenetv2", "classnames.txt", "n1 a\nn2 b\nn3 c\nn4 d\nn5 e", "no folder 4"),
        ("dtd", "images/lone/a.jpg", "x", "'lone' has 1 images, too few"),
    ],
)
def test_damaged_labels(tmp_path: Path, name: str, file: str, content: str, match: str) -> None:
    folder = make(name, tmp_path)
    lines(folder / file, content)
    fails(match, name, tmp_path)
    assert not list(folder.glob("split_zhou_*"))


def test_imagenet_folders(tmp_path: Path) -> None:
    folder = make("imagenet", tmp_path)
    for image in (folder / "images/val/n01440764").iterdir():
        image.unlink()
    fails("No images in .*val/n01440764", "imagenet", tmp_path)
    (folder / "images/val/n01440764").rmdir()
    fails("train and .*val differ", "imagenet", tmp_path)
    for image in (folder / "images/val").glob("*/*"):
        image.rename(folder / "images/val" / image.name)
    for wnid in WNIDS:
        if (folder / "images/val" / wnid).is_dir():
            (folder / "images/val" / wnid).rmdir()
    fails("No class folders .n01440764, n01443537, .* sort the images", "imagenet", tmp_path)


def test_imagenet_names_without_the_file(tmp_path: Path) -> None:
    folder = make("imagenet_r", tmp_path)
    (folder / "classnames.txt").unlink()
    assert load_catalogued("imagenet_r", tmp_path).classes == ["tench", "goldfish", "missile"]
    names = class_names_by_folder(folder)
    assert (len(names), names["n03126707"], names["n02012849"]) == (1000, "construction crane", "crane bird")
    lines(tmp_path / "imagenet" / "classnames.txt", *(f"{wnid} x{wnid}" for wnid in WNIDS))
    assert load_catalogued("imagenet_r", tmp_path).classes == ["xn01440764", "xn01443537", "xn04008634"]


def test_wnids() -> None:
    from timm.data import ImageNetInfo

    assert wnids() == ImageNetInfo("imagenet-1k").label_names() == sorted(wnids())


def test_split_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = make("dtd", tmp_path)
    load_catalogued("dtd", tmp_path)
    file = folder / DATASETS["dtd"].split
    good = json.loads(file.read_text())
    del good["sha256"]
    for path in ("../secret.jpg", "/etc/passwd", "banded/../../x.jpg", "C:\\x.jpg", "\\\\host\\x.jpg"):
        file.write_text(json.dumps({**good, "test": [*good["test"], [path, 0, "banded"]]}))
        fails("entry 6 of 'test'.* leads out of the folder of images", "dtd", tmp_path)
        with pytest.raises(UserError, match="leads out"):
            load_dataset(folder)
