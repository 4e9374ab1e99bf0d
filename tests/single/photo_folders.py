"""Folders of photos for tests, and how they are read."""

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.folder_layout import Layout, read_layout
from horovod_flowers.runtime.errors import UserError


def put(*paths: Path) -> None:
    """A photo at each place."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), crc32(path.name.encode()) % 256, np.uint8)).save(path)


def classes(folder: Path, *names: str, images: int = 3, suffix: str = "jpg") -> None:
    put(*(folder / name / f"{number}.{suffix}" for name in names for number in range(images)))


def config(path: Path, **options: object) -> DataConfig:
    return DataConfig(source="folder", path=str(path), image_size=24, **options)  # type: ignore[arg-type]


def layout(path: Path, **options: object) -> Layout:
    return read_layout(config(path, **options))


def names(found: Layout) -> tuple[list[str], list[str], list[str]]:
    return tuple([photo.name for photo in part] for part in (found.training, found.validation, found.test))  # type: ignore[return-value]


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as refused:
        layout(path, **options)
    return str(refused.value)
