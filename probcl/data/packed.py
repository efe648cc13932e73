"""Image files packed into one array, decoded all at once."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = ["decode_image", "decode_packed"]

_BLOCK = 64  # images decoded by a thread at a time


def decode_image(content: bytes, mode: str = "RGB") -> Image.Image:
    """Decode the content of an image file.

    Args:
        content: A JPEG file, a PNG file or another that PIL knows.
        mode: ``RGB`` or ``L``, into which the image is converted.

    Raises:
        ValueError: If the content is no image, or has more than eight bits in a channel.
        Exception: Whatever PIL's decoders raise where the content is damaged or incomplete.
    """
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # its message names the buffer
        raise ValueError("it is no image file that PIL knows") from None
    with image:
        if image.mode.startswith(("I", "F")):  # PIL would clip such values to 255
            raise ValueError(f"its pixels are {image.mode!r}, not of 8 bits: convert it")
        return image.convert(mode)


def decode_packed(jpeg: np.ndarray, offset: np.ndarray) -> Tensor:
    """Decode images of one size from the concatenation of their files.

    Args:
        jpeg: JPEG or PNG files one after another, bytes of type ``uint8``, shape ``(bytes,)``.
        offset: Where each file begins, and where the last one ends, integers that increase, shape
            ``(N + 1,)``.

    Returns:
        Colour images of type ``uint8``, shape ``(N, 3, height, width)``.

    Raises:
        ValueError: If an array has another type or shape, an offset is out of range or does not
            increase, an image cannot be decoded or has another size than the first.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (8, 6), "red").save(file, "PNG")
        >>> content = np.frombuffer(file.getvalue() * 2, np.uint8)
        >>> decode_packed(content, np.array([0, len(content) // 2, len(content)])).shape
        torch.Size([2, 3, 6, 8])
    """
    offset = _checked_offset(jpeg, offset)
    first = _decoded(jpeg, offset, 0)
    images = np.empty((len(offset) - 1, *first.shape), np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + _BLOCK, len(images))):
            image = _decoded(jpeg, offset, index)
            if image.shape != first.shape:
                raise ValueError(
                    f"images must all have one size, got {_size(first)} at index 0 and "
                    f"{_size(image)} at index {index}: resize them."
                )
            images[index] = image

    with ThreadPoolExecutor() as threads:  # PIL's decoders release the interpreter's lock
        for _ in threads.map(fill, range(0, len(images), _BLOCK)):
            pass  # an error of a thread is raised here
    return torch.from_numpy(images)


def _checked_offset(jpeg: np.ndarray, offset: np.ndarray) -> np.ndarray:
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        raise ValueError(
            f"jpeg must hold bytes of type uint8 in one dimension, got {jpeg.dtype} of shape "
            f"{jpeg.shape}: concatenate the files."
        )
    if offset.dtype.kind not in "iu" or offset.ndim != 1 or len(offset) < 2:
        raise ValueError(
            "offset must hold N + 1 integers for N >= 1 images, got "
            f"{offset.dtype} of shape {offset.shape}: give where each file begins, and the end."
        )
    offset = offset.astype(np.int64)
    short = np.flatnonzero(np.diff(offset) <= 0)
    if len(short):
        index = int(short[0])
        raise ValueError(
            f"offset must increase, got {offset[index]} at index {index} and {offset[index + 1]} "
            "after it: no image file is empty."
        )
    if offset[0] < 0 or offset[-1] > len(jpeg):
        raise ValueError(
            f"offset must be in 0..{len(jpeg)}, the length of jpeg, got {offset[0]}.."
            f"{offset[-1]}: the file is incomplete, or the offsets belong to another."
        )
    return offset


def _decoded(jpeg: np.ndarray, offset: np.ndarray, index: int) -> np.ndarray:
    """Return the pixels of an image, shape ``(3, height, width)``."""
    content = jpeg[offset[index] : offset[index + 1]].tobytes()
    try:
        return np.asarray(decode_image(content)).transpose(2, 0, 1)
    except Exception as error:  # decoders raise whatever their parsers meet
        raise ValueError(
            f"jpeg: the image at index {index} cannot be decoded ({error}): repair or remove it."
        ) from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[2]}"
