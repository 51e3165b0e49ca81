import json
from pathlib import Path

import pytest

from data.data_makers import folder, picture
from restore_vlm.data import Item, load_dataset
from restore_vlm.errors import UserError


def fails(match: str, source: Path | str, names: Path | None = None) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_dataset(source, names)
    assert "\n" not in str(caught.value)


# --- folders


def test_image_folder(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", {"big_dog": 2, "Cat": 1})
    picture(root / "Cat" / "deep" / "er" / "z.JPeG")
    picture(root / "Cat" / ".hidden" / "no.png")
    picture(root / ".cache" / "no.png")
    picture(root / "Cat" / "._0.png")
    (root / "Cat" / "notes.txt").write_text("no")
    dataset = load_dataset(str(root))
    assert (dataset.name, dataset.classes, dataset.split) == ("pets", ["Cat", "big_dog"], False)
    relative = [(item.path.relative_to(root).as_posix(), item.label) for item in dataset.train]
    assert relative == [
        ("Cat/0.png", 0),
        ("Cat/deep/er/z.JPeG", 0),
        ("big_dog/0.png", 1),
        ("big_dog/1.png", 1),
    ]
    assert dataset.test == dataset.val == []


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "TIFF"])
def test_extensions(tmp_path: Path, suffix: str) -> None:
    root = folder(tmp_path / "x", {"a": 1, "b": 1}, "." + suffix)
    assert len(load_dataset(root).train) == 2


def test_class_called_train_is_a_class(tmp_path: Path) -> None:
    assert load_dataset(folder(tmp_path / "x", {"car": 1, "train": 1})).classes == ["car", "train"]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folder(tmp_path: Path, val: str) -> None:
    root = tmp_path / "x"
    folder(root / "train", {"a": 3, "b": 2})
    folder(root / val, {"b": 1})
    folder(root / "test", {"a": 1, "b": 2})
    dataset = load_dataset(root)
    assert dataset.split and dataset.classes == ["a", "b"]
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == [5, 1, 3]
    assert dataset.val[0].label == 1


def test_split_without_val(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 1, "b": 1})
    folder(tmp_path / "test", {"a": 1, "b": 1})
    assert load_dataset(tmp_path).val == []


def test_split_folder_errors(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 1, "b": 1})
    fails("neither val nor test", tmp_path)
    folder(tmp_path / "test", {"a": 1, "c": 1})
    fails("'c'", tmp_path)
    folder(tmp_path / "test", {"b": 0})
    fails(r"test/b; remove it", tmp_path)
    folder(tmp_path / "val", {"a": 1})
    folder(tmp_path / "valid", {"a": 1})
    fails("valid are both the val", tmp_path)


def test_split_without_train(tmp_path: Path) -> None:
    folder(tmp_path / "val", {"a": 1, "b": 1})
    folder(tmp_path / "test", {"a": 1, "b": 1})
    fails("no train folder", tmp_path)


def test_folder_errors(tmp_path: Path) -> None:
    fails("There is no .*absent", tmp_path / "absent")
    fails("There is no ", "x" * 5000)
    fails("no images in", tmp_path)
    picture(tmp_path / "loose.png")
    fails("sort them into one folder per class", tmp_path)
    folder(tmp_path, {"a": 0})
    fails("sort them into one folder per class", tmp_path)
    folder(tmp_path, {"a": 1})
    fails("only one class, 'a'", tmp_path)
    folder(tmp_path, {"b": 1, "empty": 0})
    fails(r"empty; remove it", tmp_path)
    (tmp_path / "empty").rmdir()
    folder(tmp_path, {"big_dog": 1, "Big Dog": 1})
    fails("'Big Dog' and 'big_dog'", tmp_path)
    fails("is a file but no manifest", tmp_path / "loose.png")


# --- names


@pytest.fixture
def cats_dogs(tmp_path: Path) -> Path:
    return folder(tmp_path / "pets", {"n01": 1, "n02": 1})


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.txt", "house cat\nbig dog\n\n"),
        ("n.tsv", "n02\tbig dog\nn01\thouse cat\n"),
        ("n.tsv", "wnid\tnames\nn02\tbig dog\nn01\thouse cat\n"),
        ("n.csv", "folder,name\nn02,big dog\nn01,house cat\n"),
        ("n.json", '{"n02": "big dog", "n01": "house cat"}'),
    ],
)
def test_names(cats_dogs: Path, tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    assert load_dataset(cats_dogs, tmp_path / file).classes == ["house cat", "big dog"]


def test_classes_txt_in_the_folder_is_used(cats_dogs: Path, tmp_path: Path) -> None:
    (cats_dogs / "classes.txt").write_text("\ufeffcat\ndog")
    assert load_dataset(cats_dogs).classes == ["cat", "dog"]
    (tmp_path / "other.txt").write_text("x\ny")
    assert load_dataset(cats_dogs, tmp_path / "other.txt").classes == ["x", "y"]


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("n.txt", "cat", "1 names for 2 classes"),
        ("n.txt", "cat\nCat", "'cat' and 'Cat'"),
        ("n.txt", "a\na", "'a' and 'a'"),
        ("n.tsv", "n01\tcat", "no name for 'n02'"),
        ("n.tsv", "n01\tcat\nn02\tdog\nn03\tcow", "'n03'.*did you mean"),
        ("n.tsv", "n01\tcat\nn01\tdog", "twice"),
        ("n.tsv", "n01\tcat\nn02\t", "empty name"),
        ("n.tsv", "n01 cat\nn02\tdog", "line 1: 1 values"),
        ("n.csv", "n01,cat,x\n", "line 1: 3 values"),
        ("n.json", '{"n01": "cat"', "not JSON"),
        ("n.json", '{"n01": 3}', "not a mapping"),
    ],
)
def test_names_errors(cats_dogs: Path, tmp_path: Path, file: str, content: str, match: str) -> None:
    (tmp_path / file).write_text(content)
    fails(match, cats_dogs, tmp_path / file)


def test_names_unreadable(cats_dogs: Path, tmp_path: Path) -> None:
    fails("no file of class names", cats_dogs, tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes("Bär\nKuh".encode("latin-1"))
    fails("not UTF-8", cats_dogs, tmp_path / "latin.txt")


# --- manifests


def manifest(tmp_path: Path, name: str, content: str) -> Path:
    for i in range(4):
        picture(tmp_path / "images" / f"{i}.png", i)
    (tmp_path / name).write_text(content)
    return tmp_path / name


ROWS = [("images/0.png", "dog", "train"), ("images/1.png", "cat", "train"), ("images/2.png", "cat", "test")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "ndjson"])
def test_manifest(tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        content = "\ufeffpath, class,split,extra\r\n" + "".join(f"{p}, {c},{s},1\r\n" for p, c, s in ROWS)
    else:
        content = "\n".join(json.dumps({"path": p, "class": c, "split": s}) for p, c, s in ROWS) + "\n\n"
    dataset = load_dataset(manifest(tmp_path, f"m.{kind}", content))
    assert (dataset.name, dataset.classes, dataset.split) == ("m", ["cat", "dog"], True)
    assert dataset.train == [Item(tmp_path / "images/0.png", 1), Item(tmp_path / "images/1.png", 0)]
    assert dataset.test == [Item(tmp_path / "images/2.png", 0)]


@pytest.mark.parametrize("split", ["", ",split"])
def test_manifest_without_split(tmp_path: Path, split: str) -> None:
    end = "," if split else ""
    content = f"path,class{split}\nimages/0.png,a{end}\nimages/1.png,b{end}\n"
    dataset = load_dataset(manifest(tmp_path, "m.csv", content))
    assert not dataset.split and len(dataset.train) == 2


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("m.csv", "", "line 1: no column 'path'"),
        ("m.csv", "path,label\nimages/0.png,a", "line 1: no column 'class'"),
        ("m.csv", "path,class\n", "lists no images"),
        ("m.csv", "path,class\nimages/0.png,a\nimages/9.png,b", "m.csv, line 3: there is no file .*9.png"),
        ("m.csv", "path,class\nimages,a\n", "line 2: there is no file"),
        ("m.csv", "path,class\nimages/0.png,", "line 2: 'class' is empty"),
        ("m.csv", "path,class\n,a", "line 2: 'path' is empty"),
        ("m.csv", "path,class\nimages/0.png", "line 2: 1 values for 2 columns"),
        ("m.csv", 'path,class\nimages/0.png,"a', "line 2: not CSV"),
        ("m.csv", "path,class,split\nimages/0.png,a,dev", "line 2: unknown split 'dev'"),
        ("m.csv", "path,class,split\nimages/0.png,a,train\nimages/1.png,b,", "line 3: some rows"),
        ("m.csv", "path,class,split\nimages/0.png,a,train\nimages/1.png,b,test", "line 3: the class 'b'"),
        ("m.csv", "path,class\nimages/0.png,a", "only one class"),
        ("m.csv", "path,class\nimages/0.png,a\nimages/1.png,A", "'A' and 'a'"),
        ("m.jsonl", '{"path": "images/0.png", "class": "a"}\n{"path"', "m.jsonl, line 2: not a JSON object"),
        ("m.jsonl", "[1]", "line 1: not a JSON object"),
        ("m.jsonl", '{"path": "images/0.png"}', "line 1: no 'class'"),
        ("m.jsonl", '{"path": "images/0.png", "class": 3}', "line 1: 'class' is empty or not text"),
        ("m.jsonl", '{"path": "images/0.png", "class": "a", "split": 1}', "line 1: unknown split 1"),
    ],
)
def test_manifest_errors(tmp_path: Path, name: str, content: str, match: str) -> None:
    fails(match, manifest(tmp_path, name, content))


# --- benchmark layout


def benchmark(root: Path, split: object, images: str = "pics") -> Path:
    for i in range(4):
        picture(root / images / "A" / f"{i}.png", i)
    (root / "other").mkdir(exist_ok=True)
    (root / "split_zhou_Toy.json").write_text(json.dumps(split))
    return root


GOOD = {
    "train": [["A/1.png", 1, "the_b"], ["A/0.png", 0, "a"]],
    "val": [["A/2.png", 1, "the_b"]],
    "test": [["A/3.png", 0, "a"]],
}


@pytest.mark.parametrize("images", ["pics", "."])
def test_benchmark(tmp_path: Path, images: str) -> None:
    dataset = load_dataset(benchmark(tmp_path, GOOD, images))
    base = tmp_path / images / "A"
    assert (dataset.name, dataset.classes, dataset.split) == ("Toy", ["a", "the_b"], True)
    assert dataset.train == [Item(base / "1.png", 1), Item(base / "0.png", 0)]
    assert (dataset.val, dataset.test) == ([Item(base / "2.png", 1)], [Item(base / "3.png", 0)])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"test": [["A/9.png", 0, "a"], ["A/8.png", 0, "a"]]},
            "2 of the 5 images .* the first is .*pics/A/9.png",
        ),
        ({"train": [["B/1.png", 0, "a"]], "val": [], "test": [["B/2.png", 0, "a"]]}, "2 of the 2 .*B/1.png"),
        ({"train": [["A/1.png", 0, "a"], ["A/0.png", 0, "b"]]}, "label 0 is both 'a' and 'b'"),
        ({"train": [["A/1.png", 1, "the_b"], ["A/0.png", 3, "a"]]}, "label|not in 'train'"),
        (
            {"train": [["A/1.png", 1, "the_b"], ["A/1.png", 2, "a"]], "test": [["A/2.png", 2, "a"]]},
            "without gaps",
        ),
        ({"val": [["A/2.png", 2, "c"]]}, "'c' of 'val' is not in 'train'"),
        ({"train": [["A/1.png", "1", "b"]]}, "entry 0 of 'train'"),
        ({"train": []}, "not a split file"),
        ({"val": "x"}, "entry 0 of 'val'"),
    ],
)
def test_benchmark_errors(tmp_path: Path, change: dict, match: str) -> None:
    fails(match, benchmark(tmp_path, GOOD | change))


def test_benchmark_file_errors(tmp_path: Path) -> None:
    benchmark(tmp_path, GOOD)
    (tmp_path / "split_zhou_Toy.json").write_text("{")
    fails("is not JSON", tmp_path)
    (tmp_path / "split_zhou_Two.json").write_text("{}")
    fails("several splits", tmp_path)
