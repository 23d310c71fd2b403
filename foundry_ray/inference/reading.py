"""Images from files, in the form that a model takes: uint8 (N, C, H, W), raw pixels. Nothing is resized, because that would change the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord, DataError

if TYPE_CHECKING:
    import numpy as np

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_MODES = {1: "L", 3: "RGB"}


def read_images(source: Path, input_shape: tuple[int, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the rows, and their pixels.

    Args:
        source: An image, a folder (read recursively, in the order of the names), or a .npy file.
        input_shape: (channels, height, width) that the model takes; colour is converted to grey, or grey to colour.

    Raises:
        DataError: `source` does not exist or holds no images, or the model takes something else.
        BadRecord: A file is unreadable or has another size.
    """
    import numpy as np

    if len(input_shape) != 3:
        got = ", ".join(map(str, input_shape))
        raise DataError(f"the model takes rows of shape ({got}), wanted (channels, height, width).", hint="images are for models of images.")
    image_shape = input_shape
    if not source.exists():
        raise DataError(f"{source} does not exist.", hint="name an image, a folder of images, or a .npy file.")
    if source.suffix == ".npy":
        images_NCHW = _array(source, image_shape)
        return tuple(f"{source.name}[{row}]" for row in range(len(images_NCHW))), images_NCHW
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"{source} holds no images, wanted {', '.join(_SUFFIXES)}.", hint="name an image, a folder of images, or a .npy file.")
    names = tuple(str(path.relative_to(source)) if source.is_dir() else path.name for path in paths)
    return names, np.stack([_image(path, image_shape) for path in paths])


def _array(path: Path, image_shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    try:
        images: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadRecord(f"{path} is no readable .npy file: {error}.", hint="write it with numpy.save.", source=str(path)) from error
    if images.ndim == 3 and image_shape[0] == 1:
        images = images[:, None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != image_shape or len(images) == 0:
        wanted = f"uint8 of shape (N, {', '.join(str(size) for size in image_shape)}) with N >= 1"
        raise BadRecord(f"{path} is {images.dtype} of shape {images.shape}, wanted {wanted}.", hint="store raw pixels 0..255.", source=str(path))
    return np.ascontiguousarray(images)


def _image(path: Path, image_shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError("reading images needs Pillow, which is not installed.", hint="pip install 'foundry-ray[images]'") from error
    channels, height, width = image_shape
    if channels not in _MODES:
        raise DataError(f"the model takes {channels} channels, wanted 1 or 3 for image files.", hint="give it a .npy file.")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(_MODES[channels]), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadRecord(f"{path} is no readable image: {error}.", hint="replace the file.", source=str(path)) from error
    if pixels.shape[:2] != (height, width):
        got = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise BadRecord(f"{path} is {got} pixels, wanted {height} x {width}.", hint="resize it first.", source=str(path))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
