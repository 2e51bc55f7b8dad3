"""A Hugging Face folder as a checkpoint: safetensors files, their index, `config.json`.

Tensors are found by name and read, or located, one at a time. Headers are checked against the
files' sizes, see `grok.checkpoints.safetensors`. Quantised matrices are known by what lies beside
them: scales in blocks (8 bits), or blocks and scales under names of their own (4 bits). This
module needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import ml_dtypes
import numpy as np

from grok.checkpoints.block_scales import FP4_BLOCK, BlockScaled, MicroScaled
from grok.checkpoints.model_files import CONFIG, FolderFiles
from grok.checkpoints.room import room
from grok.checkpoints.routing.names import check_n_layers, layers_prefix
from grok.checkpoints.safetensors import Entry, read_header
from grok.checkpoints.tensor_file import BFLOAT16
from grok.checkpoints.tensor_index import INDEX, read_json
from grok.checkpoints.tensor_offsets import ArrayLocation, TensorLocation, identity
from grok.checkpoints.tensor_spec import Stored
from grok.config import ModelConfig
from grok.errors import CheckpointError, plain

ONE_FILE = "model.safetensors"
FLOATS = {"F32": np.dtype("<f4"), "BF16": BFLOAT16, "F16": np.dtype("<f2")}
FP8, BYTES = "F8_E4M3", "U8"
DTYPES = {**FLOATS, FP8: np.dtype(ml_dtypes.float8_e4m3fn), BYTES: np.dtype("u1")}
SCALES_8, BLOCKS_4, SCALES_4 = "_scale_inv", "_blocks", "_scales"
NO_SCALE = 255  # the code of 4-bit values' scales that stands for no number


class SafetensorsFolder:
    """The tensors of a model in a folder; a `grok.checkpoints.tensor_spec.Checkpoint`.

    Args:
        folder: holds the files.
        config: of the model, read by its family.
        names: of all tensors of the model; others in the files are left alone.
        block: (rows, columns) that share a scale, where matrices are in 8 bits.
        packed: names of the tensors that are in 4 bits, in two tensors of their own each.

    Raises:
        CheckpointError: an index that makes no sense, or names a file outside the folder.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        names: Iterable[str],
        *,
        block: tuple[int, int] | None = None,
        packed: Iterable[str] = (),
    ) -> None:
        self.folder = self.tensor_folder = folder
        self.config = config
        self.paths = list(names)
        self._block, self._packed = block, frozenset(packed)
        self._files = FolderFiles(folder)
        self._headers: dict[str, dict[str, Entry]] = {}

    @property
    def tokenizer_file(self) -> Path | None:
        files = (self.folder / name for name in ("tokenizer.json", "tokenizer.model"))
        return next((file for file in files if file.is_file()), None)

    @cached_property
    def _file_of(self) -> dict[str, str]:
        """The file of each tensor."""
        if INDEX not in self._files.names():
            scales = [name + SCALES_8 for name in self.paths] if self._block else []
            stored = [one for name in self.paths for one in self._stored(name)]
            return dict.fromkeys([*stored, *scales], ONE_FILE)
        found = read_json(self._files, INDEX).get("weight_map")
        if not isinstance(found, dict):
            raise CheckpointError(
                f"{self.folder / INDEX}: no weight_map in it; expected names of tensors and files. "
                "Download the index again."
            )
        for name, file in found.items():
            if not isinstance(file, str) or Path(file).name != file or "\\" in file:
                raise CheckpointError(
                    f"{self.folder / INDEX}: '{plain(str(name), 80)}' is said to be in "
                    f"'{plain(str(file), 80)}'; expected the name of a file in the same folder. "
                    "Check where the folder comes from."
                )
        return dict(found)

    def missing(self) -> list[str]:
        """As `Checkpoint.missing`.

        Raises:
            CheckpointError: the files hold other layers than the config says.
        """
        self._check_n_layers()
        there = set(self._files.names())
        stored = (one for name in self.paths for one in self._stored(name))
        return [name for name in stored if self._file_of.get(name) not in there]

    def _check_n_layers(self) -> None:
        """Refuses a config whose number of layers is not that of the files."""
        names: Iterable[str] = self._file_of
        if INDEX not in self._files.names():
            if ONE_FILE not in self._files.names():
                return
            names = self._header(ONE_FILE)
        prefix = next(filter(None, map(layers_prefix, self.paths)), "")
        check_n_layers(str(self.folder / CONFIG), self.config.n_layers, names, prefix)

    def _stored(self, name: str) -> tuple[str, ...]:
        """The tensors that hold one of the model's."""
        return (name + BLOCKS_4, name + SCALES_4) if name in self._packed else (name,)

    def check_complete(self) -> None:
        missing = self.missing()
        if missing:
            file = self._file_of.get(missing[0])
            named = "a file in the index" if file is None else f"the file {plain(file, 80)}"
            raise CheckpointError(
                f"{self.folder}: {len(missing)} of {len(self.paths)} tensors are in no file that "
                f"is there, the first is {missing[0]}; expected {named} for it. Complete the "
                "download."
            )

    def file(self, name: str) -> Path:
        name = self._stored(name)[0]
        if name not in self._file_of:
            raise CheckpointError(
                f"{self.folder}: no file is said to hold the tensor {plain(name, 80)}; expected "
                "one. Check that config.json and the files are of one model."
            )
        return self.folder / self._file_of[name]

    def _header(self, file: str) -> dict[str, Entry]:
        """The tensors in a file."""
        if file not in self._headers:
            self._headers[file] = read_header(self._files.open(file))
        return self._headers[file]

    def _entry(self, name: str) -> Entry:
        file = self.file(name).name
        header = self._header(file)
        if name not in header:
            raise CheckpointError(
                f"{self.folder / file}: holds no tensor {plain(name, 80)}; expected it there. "
                "Download the file again."
            )
        entry = header[name]
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.folder / file} ({plain(name, 80)}): dtype {plain(entry.dtype, 20)}; "
                f"expected one of {', '.join(DTYPES)}. Get the model's own files again, or a copy "
                "in one of these."
            )
        return entry

    def locate(self, name: str) -> TensorLocation:
        entry, file = self._entry(name), self.file(name)
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{file} ({plain(name, 80)}): stored as {entry.dtype}, which is not read from "
                "disk piece by piece; expected floats. Load the model resident."
            )
        array = ArrayLocation(entry.shape, DTYPES[entry.dtype], False, entry.begin)
        return TensorLocation(file, array, None, identity(file, file.stat()))

    def parts(self, name: str) -> tuple[TensorLocation, ...]:
        """Where a tensor lies: its values, and after them the scales of quantized ones.

        Raises:
            CheckpointError: it cannot be found, or is stored in no way that is read.
        """
        if name in self._packed:
            stored = self._stored(name)
        elif self._entry(name).dtype == FP8:
            stored = (name, name + SCALES_8)
        else:
            stored = (name,)
        found = []
        for one in stored:
            entry, file = self._entry(one), self.file(one)
            array = ArrayLocation(entry.shape, DTYPES[entry.dtype], False, entry.begin)
            found.append(TensorLocation(file, array, None, identity(file, file.stat())))
        return tuple(found)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; of 4-bit values, of the matrix that they stand for.

        Raises:
            CheckpointError: it cannot be found.
        """
        shape = self.parts(name)[0].weight.shape
        if name not in self._packed or len(shape) != 4:
            return shape
        return (shape[0], shape[2] * FP4_BLOCK, shape[1])

    def whole(self, name: str, arrays: Sequence[np.ndarray]) -> Stored:
        """A tensor, or one expert's slice of it, of the values that `parts` located.

        Raises:
            CheckpointError: values that are not finite, or scales that do not fit them.
        """
        for array in arrays:
            self._check_finite(name, array)
        if name in self._packed:
            self._check_scales(name, arrays[1])
            return MicroScaled(*arrays)
        if len(arrays) == 2:
            return self._blocks_of(name, *arrays)
        return arrays[0]

    def read(self, name: str) -> Stored:
        if name in self._packed:
            return self._four_bits(name)
        values = self._values(name)
        if values.dtype == DTYPES[FP8]:
            return self._eight_bits(name, values)
        if values.dtype == DTYPES[BYTES]:
            raise CheckpointError(
                f"{self.file(name)} ({plain(name, 80)}): dtype {BYTES}; expected one of "
                f"{', '.join(FLOATS)}. The config names no format that is stored so."
            )
        return values

    def _values(self, name: str) -> np.ndarray:
        """The values of one tensor as they are stored, all of them finite."""
        entry = self._entry(name)
        values = room(entry.shape, DTYPES[entry.dtype])
        as_bytes = values.reshape(-1).view(np.uint8).data
        self._files.open(self.file(name).name).read_into(entry.begin, as_bytes)
        self._check_finite(name, values)
        return values

    def _check_finite(self, name: str, values: np.ndarray) -> None:
        bad = 0 if _all_finite(values) else _not_finite(values)
        if bad:
            raise CheckpointError(
                f"{self.file(name)} ({plain(name, 80)}): {bad} values are not finite; expected "
                "numbers. The file is damaged; get it again."
            )

    def _eight_bits(self, name: str, values: np.ndarray) -> BlockScaled:
        where = f"{self.file(name)} ({plain(name, 80)})"
        if self._block is None or values.ndim != 2:
            raise CheckpointError(
                f"{where}: 8-bit values of shape {list(values.shape)}; expected a matrix, and "
                "quantization_config with weight_block_size in config.json."
            )
        return self._blocks_of(name, values, self._values(name + SCALES_8))

    def _blocks_of(self, name: str, values: np.ndarray, scales: np.ndarray) -> BlockScaled:
        assert self._block is not None
        blocks = tuple(-(-n // b) for n, b in zip(values.shape, self._block, strict=True))
        if scales.shape != blocks or scales.dtype not in (np.float32, BFLOAT16):
            raise CheckpointError(
                f"{self.file(name + SCALES_8)} ({plain(name + SCALES_8, 80)}): {scales.dtype} of "
                f"shape {list(scales.shape)}; expected floats {list(blocks)}, one for each block "
                f"of {self._block[0]} × {self._block[1]}. Check that config.json belongs to it."
            )
        return BlockScaled(values.view(np.uint8), scales.astype(np.float32), self._block)

    def _four_bits(self, name: str) -> MicroScaled:
        blocks, scales = self._values(name + BLOCKS_4), self._values(name + SCALES_4)
        fits = blocks.ndim == 4 and blocks.shape[-1] == FP4_BLOCK // 2
        if (
            not fits
            or scales.shape != blocks.shape[:-1]
            or {blocks.dtype, scales.dtype} != {DTYPES[BYTES]}
        ):
            raise CheckpointError(
                f"{self.file(name + BLOCKS_4)} ({plain(name, 80)}): blocks "
                f"{list(blocks.shape)} and scales {list(scales.shape)}; expected bytes "
                f"[experts, columns, groups, {FP4_BLOCK // 2}] and a scale for each group. "
                "Check that config.json and the files are of one model."
            )
        self._check_scales(name, scales)
        return MicroScaled(blocks, scales)

    def _check_scales(self, name: str, scales: np.ndarray) -> None:
        """Refuses 4-bit values whose scale is the one code that is no number."""
        bad = int(np.count_nonzero(scales == NO_SCALE))
        if bad:
            name += SCALES_4
            raise CheckpointError(
                f"{self.file(name)} ({plain(name, 80)}): {bad} scales are not finite; expected "
                "powers of 2. The file is damaged; get it again."
            )


# The bits that are all set where a value is no finite number, from a float's exponent down.
_SPECIAL = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80, "float8_e4m3fn": 0x7F}


def _all_finite(values: np.ndarray) -> bool:
    """Whether all are, by the largest bits of either sign: nothing is put into memory for it."""
    special = _SPECIAL.get(values.dtype.name)
    if special is None or not values.size:
        return True
    bits = 8 * values.dtype.itemsize
    positive = values.view(f"i{values.dtype.itemsize}").max()
    negative = values.view(f"u{values.dtype.itemsize}").max()
    return bool(positive < special and negative < special + (1 << (bits - 1)))


def _not_finite(values: np.ndarray) -> int:
    """How many are not."""
    special = _SPECIAL[values.dtype.name]
    bits = values.view(f"u{values.dtype.itemsize}")
    return int(np.count_nonzero((bits & special) == special))
