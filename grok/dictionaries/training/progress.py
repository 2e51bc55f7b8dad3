"""Lines about a run in its log, on the screen, and in TensorBoard or Weights & Biases."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from grok.errors import GrokError


class Reporter(Protocol):
    """Takes the numbers of a step."""

    def tell(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Screen:
    """Prints a line a step, with tokens a second and the time that is left.

    Args:
        steps: of the run.
        first: steps that were done before.
        batch: tokens of a step.
    """

    def __init__(self, steps: int, first: int, batch: int) -> None:
        self._steps, self._first, self._batch = steps, first, batch
        self._began = time.perf_counter()

    def rate(self, step: int) -> float:
        """Tokens a second since this process began."""
        spent = max(time.perf_counter() - self._began, 1e-9)
        return (step - self._first) * self._batch / spent

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        rate = self.rate(step)
        left = (self._steps - step) * self._batch / max(rate, 1e-9)
        print(
            f"step {step:6d} of {self._steps}  loss {numbers['loss']:.4f}  "
            f"EV {numbers['ev']:.4f}  L0 {numbers['l0']:.2f}  dead {numbers['dead']:.1%}  "
            f"{rate:,.0f} tokens/s  {left / 60:.0f} min left",
            flush=True,
        )

    def close(self) -> None:
        """Nothing is held."""


class TensorBoard:
    """Event files that TensorBoard reads.

    Raises:
        GrokError: the package tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise GrokError(
                "--tensorboard needs the package tensorboardX: pip install tensorboardX."
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run in Weights & Biases.

    Raises:
        GrokError: the package wandb is not installed.
    """

    def __init__(self, project: str, settings: Mapping[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise GrokError("--wandb needs the package wandb: pip install wandb.") from error
        self._run: Any = wandb.init(
            project=project, config=dict(settings), dir=str(folder), id=folder.name, resume="allow"
        )

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def close_all(reporters: Sequence[Reporter]) -> None:
    """Closes each, whatever another does."""
    for one in reporters:
        try:
            one.close()
        except Exception as error:  # a logger's fault loses no dictionary
            print(f"{type(one).__name__}: {error}", file=sys.stderr)
