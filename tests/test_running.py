"""``nomul run``: images to a network in Verilator, and one sentence for what is wrong."""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nomul.boards.board import LinkKind
from nomul.boards.ports import LinePort
from nomul.build import BuildFolder, open_build
from nomul.cli import main
from nomul.compiler.errors import DataError
from nomul.compiler.layers import Flatten, Input
from nomul.compiler.network import Network
from nomul.compiler.quantize.datasets import load as load_data
from nomul.compiler.storage import load
from nomul.compiler.values import Ints, Levels
from nomul.images import load_files
from nomul.running import simulated_board
from nomul.sim.golden import run as golden

Run = Callable[..., tuple[int, str, str]]
DIGITS = Path(__file__).parents[1] / "examples" / "zoo" / "digits_pow2_3bit.nomul"


@pytest.fixture(scope="module")
def digits() -> Network:
    return load(DIGITS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the digits network."""
    folder = tmp_path_factory.mktemp("run") / "build"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("sys.argv", ["nomul", "build", str(DIGITS), "--vectors", "2", "-o",
                                   str(folder)])
        main()
    assert not stop.value.code
    return folder


@pytest.fixture(scope="module")
def line(built: Path) -> Iterator[LinePort]:
    """The build in Verilator, compiled once for all tests."""
    with simulated_board(open_build(built)) as port:
        yield port


@pytest.fixture
def simulated(line: LinePort, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nomul run` takes the ``line`` that is there, and leaves it open."""

    class Kept:
        def __init__(self, _built: BuildFolder, _link: LinkKind) -> None: ...

        def __enter__(self) -> LinePort:
            return line

        def __exit__(self, *_error: object) -> None: ...

    monkeypatch.setattr("nomul.running.simulated_board", Kept)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are made; short names in tables and sentences."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def codes_of(values: Any, network: Network) -> Ints:
    """Codes of pixels, by another way than the product's: the nearest level, the upper of two."""
    levels = network.input.levels
    numbers = np.asarray(values)[..., np.newaxis] / 256
    away = abs(numbers - levels.values * 2.0 ** levels.exponent)
    return np.asarray(away.shape[-1] - 1 - away[..., ::-1].argmin(axis=-1))


def classes(out: str) -> list[int]:
    """Of the table of single images."""
    return [int(row[1]) for row in re.findall(r"^│ *(\d+) │ *(\d+) │", out, re.MULTILINE)]


def refused(result: tuple[int, str, str], *words: str) -> None:
    """The command ended with code 2 and one sentence that holds ``words``."""
    code, _, err = result
    assert code == 2
    assert err.startswith("nomul: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


def misused(result: tuple[int, str, str], sentence: str) -> None:
    """The command ended with code 2, how it is used, and ``sentence``."""
    code, out, err = result
    assert code == 2 and not out
    assert err.startswith("Usage: nomul run") and err.rstrip().endswith(f"Error: {sentence}"), err


@pytest.mark.cocotb
def test_pictures_and_arrays(run: Run, built: Path, digits: Network, folder: Path,
                             simulated: None) -> None:
    sent = pixels(9, seed=1)
    for number in range(2):
        Image.fromarray(sent[number, ..., 0]).save(f"{number}.png")
    Image.fromarray(np.repeat(sent[2], 3, axis=2)).save("2.bmp")  # grey, in colours
    np.save("3.npy", codes_of(sent[3:5], digits))
    np.savez("5.npz", images=codes_of(sent[5:9], digits), labels=np.arange(4))
    due = golden(digits, codes_of(sent, digits)).classes.tolist()
    files = ["0.png", "1.png", "2.bmp", "3.npy", "5.npz"]
    code, out, err = run("run", built, "--simulate", *files)
    assert (code, err) == (0, "")
    assert classes(out) == due
    assert "digits on the simulated board" in out and "accuracy" not in out
    assert re.search(r"9 images, [\d,]+\.\d a second; frames damaged on the line 0, refused 0", out)

    code, out, _ = run("run", built, "--simulate", "5.npz", "--images", 3)
    share = np.mean(np.array(due[5:8]) == np.arange(3))
    assert code == 0 and classes(out) == due[5:8]
    assert f"accuracy {100 * share:.2f} %" in out

    np.savez("pixels.npz", images=sent, labels=due)
    np.save("pixels.npy", sent.astype(np.int64))
    for name, said in (("pixels.npz", "accuracy 100.00 %"), ("pixels.npy", "9 images")):
        code, out, _ = run("run", built, "--simulate", "--pixels", name)
        assert code == 0 and classes(out) == due and said in out


@pytest.mark.cocotb
@pytest.mark.train
def test_a_data_set(run: Run, built: Path, digits: Network, simulated: None) -> None:
    data = load_data("digits")
    index = data.test[:40]
    got = golden(digits, data.images[index]).classes
    # What the network was trained on is the default; many images are counted by their classes.
    for more in ((), ("--data", "digits")):
        code, out, _ = run("run", built, "--simulate", *more, "--images", 40)
        assert code == 0
        assert f"accuracy {100 * (got == data.labels[index]).mean():.2f} %" in out
        rows = dict(re.findall(r"^│ *(\d+) │ *(\d+) │", out, re.MULTILINE))
        assert rows == {str(label): str((got == label).sum()) for label in set(got.tolist())}


@pytest.mark.cocotb
def test_the_whole_command_simulates(run: Run, built: Path, digits: Network, folder: Path) -> None:
    sent = pixels(1, seed=2)
    Image.fromarray(sent[0, ..., 0]).save("one.png")
    code, out, _ = run("run", built, "--simulate", "one.png")
    assert code == 0 and classes(out) == golden(digits, codes_of(sent, digits)).classes.tolist()


def note(built: Path, network: Network, **boards: Any) -> None:
    """Write what `nomul synth` would, of boards by name."""
    targets = {name: {"board": facts} for name, facts in boards.items()}
    (built / "synth.json").write_text(json.dumps({
        "network": network.digest, "targets": {"ice40-hx8k": {}, **targets}}))


@pytest.mark.cocotb
def test_a_board_at_a_port(run: Run, built: Path, digits: Network, folder: Path, line: LinePort,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int, float]] = []

    class Port:
        closed = False
        read, write = line.read, line.write

        def close(self) -> None:
            self.closed = True

    port = Port()

    def open_port(name: str, baud: int, *, timeout: float) -> Any:
        opened.append((name, baud, timeout))
        port.closed = False
        return port

    monkeypatch.setattr("nomul.boards.ports.open_port", open_port)
    sent = codes_of(pixels(2, seed=3), digits)
    np.save("two.npy", sent)
    note(built, digits, icebreaker={"baud": 1_000_000, "clock_mhz": 40.5})
    code, out, _ = run("run", built, "--port", "COM5", "two.npy")
    assert code == 0 and port.closed and "digits on icebreaker" in out
    assert classes(out) == golden(digits, sent).classes.tolist()

    note(built, digits, icebreaker={"baud": 1_000_000, "clock_mhz": 40.5},
         orangecrab={"baud": 115_200, "clock_mhz": 1e-4})
    refused(run("run", built, "--port", "COM5", "two.npy"),
            "holds bitstreams for icebreaker, orangecrab; say with --board")
    code, out, _ = run("run", built, "--port", "COM5", "two.npy", "--board", "orangecrab",
                       "--baud", 9600)
    assert code == 0 and port.closed and "digits on orangecrab" in out
    (name, baud, soon), (_, asked, later) = opened
    assert (name, baud, asked) == ("COM5", 1_000_000, 9600)
    # A slow line and a slow clock are waited for: 100 bytes, and 2,048 cycles of 10 ms.
    assert 1 < soon < 1.1 and later > 1 + 0.1 + 20

    class Silent(Port):
        def read(self, size: int = 1) -> bytes:
            return b""

    port = Silent()
    refused(run("run", built, "--port", "COM5", "two.npy", "--board", "icebreaker"),
            "board must answer request QUERY, but does not answer")
    assert port.closed


@pytest.mark.cocotb
def test_a_simulated_board_with_spi(run: Run, built: Path, digits: Network, folder: Path) -> None:
    sent = codes_of(pixels(3, seed=8), digits)
    np.save("three.npy", sent)
    code, out, err = run("run", built, "--simulate", "--link", "spi", "three.npy")
    assert (code, err) == (0, "")
    assert classes(out) == golden(digits, sent).classes.tolist()
    assert "frames damaged on the line 0, refused 0" in out


@pytest.mark.parametrize(("link", "port", "kind", "other"), [
    ("spi", "/dev/ttyUSB1", "SPI (/dev/spidevB.C or ftdi://...)", "uart"),
    ("uart", "/dev/spidev0.0", "a serial port", "spi"),
    ("uart", "ftdi://ftdi:232h/1", "a serial port", "spi")])
def test_ports_of_another_link_are_refused(run: Run, built: Path, digits: Network, folder: Path,
                                           link: str, port: str, kind: str, other: str) -> None:
    np.save("two.npy", codes_of(pixels(2, seed=3), digits))
    note(built, digits, icebreaker={"link": link, "baud": 1_000_000, "clock_mhz": 40.5})
    refused(run("run", built, "--port", port, "two.npy"),
            f"port '{port}' must be {kind}, as the bitstream for icebreaker has it",
            f"nomul synth --link {other}")


def test_a_port_that_cannot_be_opened(run: Run, built: Path, digits: Network, folder: Path) -> None:
    np.save("two.npy", codes_of(pixels(2, seed=3), digits))
    note(built, digits, icebreaker={"baud": 1_000_000, "clock_mhz": 40.5})
    refused(run("run", built, "--port", "/dev/nomul-none", "two.npy"),
            "port '/dev/nomul-none' must be a serial port that can be opened")
    note(built, digits, icebreaker={"link": "spi", "baud": 5_000_000, "clock_mhz": 40.5})
    refused(run("run", built, "--port", "ftdi://nomul", "two.npy"),
            "port 'ftdi://nomul' must be an FTDI chip that can be opened")


@pytest.mark.parametrize(("content", "words"), [
    (None, ("must hold a bitstream for a board", "nomul synth", "--board NAME")),
    ({"network": "0" * 64, "targets": {"icebreaker": {"board": {}}}},
     ("must hold a bitstream for a board",)),
    ({"network": "DIGEST", "targets": {"ice40-up5k": {}}}, ("must hold a bitstream",)),
    ({"network": "DIGEST", "targets": {"icebreaker": {"board": {"baud": 9600}}}},
     ("synth.json' must be whole", "clock_mhz", "nomul synth")),
    ({"network": "DIGEST", "targets": []}, ("synth.json' must be whole",)),
    ({"network": "DIGEST", "targets": {"icebreaker": 3}}, ("synth.json' must be whole",)),
    ([], ("synth.json' must be whole",)),
], ids=["none", "another network", "chips", "a fact missing", "a list", "a number", "no facts"])
def test_builds_without_a_bitstream(run: Run, built: Path, digits: Network, folder: Path,
                                    content: Any, words: tuple[str, ...]) -> None:
    np.save("two.npy", codes_of(pixels(2, seed=3), digits))
    (built / "synth.json").unlink(missing_ok=True)
    if content is not None:
        (built / "synth.json").write_text(json.dumps(content).replace("DIGEST", digits.digest))
    refused(run("run", built, "--port", "COM5", "two.npy"), *words)
    note(built, digits, icebreaker={"baud": 1_000_000, "clock_mhz": 40.5})
    refused(run("run", built, "--port", "COM5", "two.npy", "--board", "ulx3s-12f"),
            "must hold a bitstream for ulx3s-12f", "--board ulx3s-12f")


def test_bad_arguments(run: Run, built: Path, folder: Path) -> None:
    either = "give either --port, where the board is, or --simulate"
    misused(run("run", built), either)
    misused(run("run", built, "--port", "COM5", "--simulate"), either)
    misused(run("run", built, "--simulate", "--data", "digits", "one.png"),
            "give either images or --data")
    misused(run("run", built, "--simulate", "--pixels", "--data", "mine.npz"),
            "--pixels belongs to images in files; give some too")
    for option in (("--board", "icebreaker"), ("--baud", 9600)):
        misused(run("run", built, "--simulate", *option),
                "--board and --baud belong to --port; leave them out")
    misused(run("run", built, "--port", "COM5", "--link", "spi"),
            "--link belongs to --simulate; leave it out")
    refused(run("run", folder / "none", "--simulate"), "must hold a build", "nomul build")
    refused(run("run", built, "--simulate", "--data", "imagenet"), "'imagenet' must be")


def save_text(path: Path) -> None:
    path.write_text("no picture")


def save_cut(path: Path) -> None:
    Image.fromarray(pixels(1, seed=4)[0, ..., 0]).save(path)
    path.write_bytes(path.read_bytes()[:60])


def save_deep(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(path)


@pytest.mark.parametrize(("name", "make", "options", "words"), [
    ("none.png", lambda path: None, (), ("picture 'none.png' must exist",)),
    ("none.npy", lambda path: None, (), ("data file 'none.npy' must exist",)),
    ("none.npz", lambda path: None, ("--pixels",), ("data file 'none.npz' must exist",)),
    ("wide.png", lambda path: Image.new("L", (9, 8)).save(path), (),
     ("picture 'wide.png' must have 8 x 8 pixels for network 'digits', not 9 x 8", "resize it")),
    ("text.png", save_text, (), ("picture 'text.png' must be a whole picture",)),
    ("cut.png", save_cut, (), ("picture 'cut.png' must be a whole picture",)),
    ("folder", Path.mkdir, (), ("picture 'folder' must be a whole picture",)),
    ("deep.png", save_deep, (), ("picture 'deep.png' must have 8 bits a channel, not mode I;16",)),
    ("wide.npy", lambda path: np.save(path, np.zeros((2, 9, 8, 1), int)), (),
     ("images must have shape [images, 8, 8, 1]", "not [2, 9, 8, 1]")),
    ("wide.npy", lambda path: np.save(path, np.zeros((2, 9, 8, 1), int)), ("--pixels",),
     ("images must have shape [images, 8, 8, 1]",)),
    ("bright.npy", lambda path: np.save(path, np.full((1, 8, 8, 1), 16)), (),
     ("must hold the input codes 0 to 15", "not 16")),
    ("bright.npy", lambda path: np.save(path, np.full((1, 8, 8, 1), 256)), ("--pixels",),
     ("must hold pixels of 0 to 255",)),
    ("real.npy", lambda path: np.save(path, np.zeros((1, 8, 8, 1))), ("--pixels",),
     ("must hold pixels of 0 to 255",)),
    ("real.npy", lambda path: np.save(path, np.zeros((1, 8, 8, 1))), (), ("must be integers",)),
    ("empty.npy", lambda path: np.save(path, np.zeros((0, 8, 8, 1), int)), (),
     ("must hold at least one image",)),
    ("empty.npy", lambda path: np.save(path, np.zeros((0, 8, 8, 1), int)), ("--pixels",),
     ("must hold at least one image",)),
    ("names.npz", lambda path: np.savez(path, pictures=np.zeros(1)), ("--pixels",),
     ("must hold an array named images",)),
    ("labels.npz", lambda path: np.savez(path, images=np.zeros((2, 8, 8, 1), int), labels=[1]),
     ("--pixels",), ("labels must be 2 integers",)),
    ("text.npz", save_text, (), ("must be a whole .npz or .npy file",)),
])
def test_bad_images(run: Run, built: Path, folder: Path, name: str,
                    make: Callable[[Path], object], options: tuple[str, ...],
                    words: tuple[str, ...]) -> None:
    make(Path(name))
    refused(run("run", built, "--simulate", *options, name), *words)


def test_a_picture_may_be_cut_anywhere(digits: Network, folder: Path) -> None:
    for kind in ("png", "bmp", "gif", "jpg"):
        Image.fromarray(pixels(1, seed=5)[0, ..., 0]).save(f"whole.{kind}")
        whole = Path(f"whole.{kind}").read_bytes()
        for length in range(0, len(whole), 1 + len(whole) // 50):
            Path(f"cut.{kind}").write_bytes(whole[:length])
            try:
                load_files([Path(f"cut.{kind}")], digits)
            except DataError as error:
                assert "must be a whole picture" in str(error)


def tiny(channels: int, levels: Levels) -> Network:
    """No more than an input of 2 by 1 pixels."""
    return Network(name="tiny", layers=(
        Input(name="pixels", shape=(2, 1, channels), levels=levels),
        Flatten(name="flat", inputs=("pixels",))))


@pytest.mark.parametrize(("levels", "codes"), [
    (Levels.uniform(256, exponent=-8), [0, 7, 8, 24, 127, 128, 255]),
    (Levels.uniform(16, exponent=-4), [0, 0, 1, 2, 8, 8, 15]),
    (Levels.uniform(2, exponent=-1), [0, 0, 0, 0, 1, 1, 1]),
])
def test_pixels_become_the_nearest_codes(levels: Levels, codes: list[int], folder: Path) -> None:
    values = np.array([0, 7, 8, 24, 127, 128, 255], np.uint8)
    network = tiny(1, levels)
    images = np.stack([values, values[::-1]], axis=1)[:, :, np.newaxis, np.newaxis]
    np.save("a.npy", images)
    loaded = load_files([Path("a.npy")], network, pixels=True)
    assert loaded.codes[:, 0, 0, 0].tolist() == codes
    np.testing.assert_array_equal(codes_of(images, network), loaded.codes)
    Image.fromarray(images[3, ..., 0]).save("b.png")
    np.testing.assert_array_equal(load_files([Path("b.png")], network).codes, loaded.codes[3:4])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_of_pictures(channels: int, folder: Path) -> None:
    network = tiny(channels, Levels.uniform(256, exponent=-8))
    values = np.arange(2 * channels, dtype=np.uint8).reshape(2, 1, channels) * 30
    Image.fromarray(values if channels > 1 else values[..., 0]).save("a.png")
    loaded = load_files([Path("a.png"), Path("a.png")], network)
    np.testing.assert_array_equal(loaded.codes, np.stack([values, values]))
    assert (loaded.source, loaded.labels) == ("a.png, a.png", None)


def test_channels_that_no_picture_has(folder: Path) -> None:
    network = tiny(2, Levels.uniform(4))
    Image.new("L", (1, 2)).save("a.png")
    with pytest.raises(DataError, match="cannot be an image of 2 channels, which"):
        load_files([Path("a.png")], network)


def test_labels_are_known_only_if_all_are(digits: Network, folder: Path) -> None:
    codes = codes_of(pixels(3, seed=6), digits)
    np.savez("a.npz", images=codes, labels=[1, 2, 3])
    np.save("b.npy", codes)
    both = load_files([Path("a.npz"), Path("a.npz")], digits)
    assert both.labels is not None and both.labels.tolist() == [1, 2, 3, 1, 2, 3]
    assert load_files([Path("a.npz"), Path("b.npy")], digits).labels is None
