"""A Hugging Face folder as a checkpoint: safetensors files, their index, `config.json`.

Tensors are found by name and read, or located, one at a time. Headers are checked against the
files' sizes, see `grok.checkpoints.safetensors`. This module needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from grok.checkpoints.model_files import FolderFiles
from grok.checkpoints.safetensors import ITEM_BYTES, Entry, read_header
from grok.checkpoints.tensor_file import BFLOAT16
from grok.checkpoints.tensor_index import INDEX, read_json
from grok.checkpoints.tensor_offsets import ArrayLocation, TensorLocation, identity
from grok.config import ModelConfig
from grok.errors import CheckpointError, plain

ONE_FILE = "model.safetensors"
DTYPES = {"F32": np.dtype("<f4"), "BF16": BFLOAT16}


class SafetensorsFolder:
    """The tensors of a model in a folder; a `grok.checkpoints.tensor_spec.Checkpoint`.

    Args:
        folder: holds the files.
        config: of the model, read by its family.
        names: of all tensors of the model; others in the files are left alone.

    Raises:
        CheckpointError: an index that makes no sense, or names a file outside the folder.
    """

    def __init__(self, folder: Path, config: ModelConfig, names: Iterable[str]) -> None:
        self.folder = self.tensor_folder = folder
        self.config = config
        self.paths = list(names)
        self._files = FolderFiles(folder)
        self._headers: dict[str, dict[str, Entry]] = {}

    @property
    def tokenizer_file(self) -> Path | None:
        file = self.folder / "tokenizer.model"
        return file if file.is_file() else None

    @cached_property
    def _file_of(self) -> dict[str, str]:
        """The file of each tensor."""
        if INDEX not in self._files.names():
            return dict.fromkeys(self.paths, ONE_FILE)
        found = read_json(self._files, INDEX).get("weight_map")
        if not isinstance(found, dict):
            raise CheckpointError(
                f"{self.folder / INDEX}: no weight_map in it; expected names of tensors and files."
            )
        for name, file in found.items():
            if not isinstance(file, str) or Path(file).name != file or "\\" in file:
                raise CheckpointError(
                    f"{self.folder / INDEX}: '{plain(str(name), 80)}' is said to be in "
                    f"'{plain(str(file), 80)}'; expected the name of a file in the same folder."
                )
        return dict(found)

    def missing(self) -> list[str]:
        there = set(self._files.names())
        return [name for name in self.paths if self._file_of.get(name) not in there]

    def check_complete(self) -> None:
        missing = self.missing()
        if missing:
            raise CheckpointError(
                f"{self.folder}: {len(missing)} of {len(self.paths)} tensors are in no file that "
                f"is there, the first is {missing[0]}. Complete the download."
            )

    def file(self, name: str) -> Path:
        if name not in self._file_of:
            raise CheckpointError(
                f"{self.folder}: no file is said to hold the tensor {plain(name, 80)}; expected "
                "one. Check that config.json and the files are of one model."
            )
        return self.folder / self._file_of[name]

    def _entry(self, name: str) -> Entry:
        file = self.file(name).name
        if file not in self._headers:
            self._headers[file] = read_header(self._files.open(file))
        if name not in self._headers[file]:
            raise CheckpointError(
                f"{self.folder / file}: holds no tensor {plain(name, 80)}; expected it there. "
                "Download the file again."
            )
        entry = self._headers[file][name]
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.folder / file} ({plain(name, 80)}): dtype {plain(entry.dtype, 20)}; "
                f"expected one of {', '.join(DTYPES)}."
            )
        return entry

    def locate(self, name: str) -> TensorLocation:
        entry, file = self._entry(name), self.file(name)
        array = ArrayLocation(entry.shape, DTYPES[entry.dtype], False, entry.begin)
        return TensorLocation(file, array, None, identity(file, file.stat()))

    def read(self, name: str) -> np.ndarray:
        entry = self._entry(name)
        n_bytes = entry.end - entry.begin
        assert n_bytes % ITEM_BYTES[entry.dtype] == 0  # the header was checked
        raw = self._files.open(self.file(name).name).read(entry.begin, n_bytes)
        values = np.frombuffer(raw, DTYPES[entry.dtype]).reshape(entry.shape)
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise CheckpointError(
                f"{self.file(name)} ({plain(name, 80)}): {bad} values are not finite. The file is "
                "damaged; get it again."
            )
        return values
