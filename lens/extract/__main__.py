"""The routers of a model, as the `.npz` that every analysis starts from.

    python -m lens.extract --checkpoint DIR --output routers.npz
    python -m lens.extract --safetensors DIR_OR_FILE --output routers.npz
    python -m lens.extract --gguf FILE --output routers.npz
    python -m lens.extract --hub xai-org/grok-1 --output routers.npz

Of a Grok-1-format checkpoint's files only the router of each layer and the scale of the norm
that feeds it are opened: 128 of Grok-1's 770, 14 MB of 318 GB. The others need
not be there. Other models' safetensors files are read by byte ranges, see
`lens.extract.safetensors`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from grok.checkpoints.grok1 import open_checkpoint
from grok.checkpoints.routing.names import LAYOUTS
from grok.checkpoints.routing.settings import FAMILIES
from lens.errors import LensError
from lens.extract.grok1 import extract_routers, needed_paths
from lens.extract.safetensors import extract_safetensors
from lens.routers.caveats import caveats
from lens.routers.router_set import SCORES, RouterSet, save_routers

INTERRUPTED = 130  # what a shell expects of a command that SIGINT ended


def _check_output(output: Path) -> None:
    """Refuse a place that cannot take the file, before anything is read."""
    if output.is_dir():
        raise LensError(f"{output}: this is a folder; expected the name of a file to write.")
    if output.suffix != ".npz":
        raise LensError(f"{output}: expected a name that ends in .npz.")
    if output.exists() and not output.is_file():
        raise LensError(f"{output}: this is no ordinary file, so it is not replaced.")
    folder = output.parent
    if not folder.is_dir():
        raise LensError(
            f"{output}: there is no folder {folder} to write it in. "
            "Make it first, or choose another."
        )
    if not os.access(folder, os.W_OK):
        raise LensError(f"{output}: the folder {folder} cannot be written. Choose another.")


def _report(done: int, total: int, what: str) -> None:
    end = "\n" if done == total else ""
    print(f"\rReading routers: {done} of {total} {what}", end=end, file=sys.stderr, flush=True)


def summary(routers: RouterSet, n_bytes: int, n_files: int | None = None) -> str:
    """One line on what was read."""
    n_layers, d_model, n_experts = routers.routers.shape
    norms = "without" if routers.norm_scales is None else "with"
    biases = "" if routers.biases is None else ", with biases"
    files = "" if n_files is None else f" from {n_files} files"
    return (
        f"{n_layers} layers of routers [{d_model}, {n_experts}], top {routers.top_k}, "
        f"{routers.score}, {norms} norm scales{biases}; {n_bytes:,} bytes read{files}; "
        f"SHA-256 {routers.sha256}"
    )


def _cost(path: Path, norms: bool) -> tuple[int, int]:
    """Bytes and files that extraction reads."""
    checkpoint = open_checkpoint(path)
    files = [checkpoint.file(name) for name in needed_paths(checkpoint, norms)]
    return sum(file.stat().st_size for file in files), len(files)


def _from_hub(options: argparse.Namespace, on_terminal: bool) -> tuple[RouterSet, str]:
    """The routers of a repository, and one line on what was read."""
    from lens.extract.hub import extract_from_hub, shown

    def progress(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\rFetching: {shown(done, total)}   ", end=end, file=sys.stderr, flush=True)

    routers, fetched = extract_from_hub(
        options.hub,
        revision=options.revision or "main",
        norms=not options.no_norms,
        top_k=options.top_k,
        score=options.score,
        progress=progress if on_terminal else None,
    )
    said = summary(routers, fetched.n_bytes, fetched.n_files)
    return routers, f"{said}; commit {fetched.revision}"


def _from_gguf(options: argparse.Namespace) -> tuple[RouterSet, int]:
    """The routers in a GGUF file, and the bytes of tensors that were read."""
    from lens.extract.gguf import extract_gguf

    return extract_gguf(
        options.gguf, norms=not options.no_norms, top_k=options.top_k, score=options.score
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    families = "; ".join(layout.families for layout in LAYOUTS)
    parser = argparse.ArgumentParser(
        prog="python -m lens.extract",
        description="Reads the routers of a model and writes them as one .npz.",
        epilog=f"Layouts of safetensors files that are known: {families}.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="Grok-1-format: the folder that holds ckpt-0, or ckpt-0 itself",
    )
    source.add_argument(
        "--safetensors",
        type=Path,
        metavar="DIR_OR_FILE",
        help="another model: the folder of its safetensors files and config.json, or one file",
    )
    source.add_argument(
        "--gguf",
        type=Path,
        metavar="FILE",
        help="another model as llama.cpp runs it: its GGUF file, or one of its parts",
    )
    source.add_argument(
        "--hub",
        metavar="OWNER/NAME",
        help="on the Hugging Face Hub: of a checkpoint in Grok-1's format only the routers' and "
        "norms' files are fetched (xai-org/grok-1: 14.2 MB), of safetensors files their byte "
        "ranges; a token is taken from HF_TOKEN",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of --hub (default: main)"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the .npz to write"
    )
    parser.add_argument(
        "--no-norms",
        action="store_true",
        help="leave out the scales of the norms before the routers (where only the routers' files "
        "were downloaded); of safetensors they are read for families that are known: "
        f"{', '.join(sorted(kind for kind, family in FAMILIES.items() if family.norm))}",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        metavar="N",
        help="experts a token of another model (default: what its files say)",
    )
    parser.add_argument(
        "--score",
        choices=SCORES,
        help="what turns logits into gates (default: what config.json or its model_type says, else "
        "sigmoid if the routers have correction biases, softmax if not)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 when something was refused."""
    options = _options(arguments)
    on_terminal = sys.stderr.isatty()
    started = False

    def progress(done: int, total: int) -> None:
        nonlocal started
        started = done < total
        _report(done, total, "files" if options.safetensors is None else "tensors")

    try:
        _check_output(options.output)
        shown = progress if on_terminal else None
        if options.hub is None and options.revision is not None:
            raise LensError("--revision is for --hub alone; leave it out.")
        if options.safetensors is not None:
            routers, n_bytes = extract_safetensors(
                options.safetensors,
                norms=not options.no_norms,
                top_k=options.top_k,
                score=options.score,
                progress=shown,
            )
            said = summary(routers, n_bytes)
        elif options.gguf is not None:
            routers, n_bytes = _from_gguf(options)
            said = summary(routers, n_bytes)
        elif options.hub is not None:
            routers, said = _from_hub(options, on_terminal)
        else:
            if options.top_k is not None or options.score is not None:
                raise LensError(
                    "--top-k and --score are for other models' files alone; leave them out."
                )
            routers = extract_routers(
                options.checkpoint, norms=not options.no_norms, progress=shown
            )
            said = summary(routers, *_cost(options.checkpoint, not options.no_norms))
        save_routers(routers, options.output)
    except LensError as error:
        if started:
            print(file=sys.stderr)
        print(f"Nothing was written. {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    print(f"{options.output}: {said}")
    print(f"Source: {routers.source}")
    for sentence in caveats(routers):
        print(sentence)
    return 0


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:  # at once: Python would wait for files that are on their way
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
