"""K-quants: llama.cpp's own quantizer, out of the wheel `cyllama`, over an f16 GGUF file."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medcode_assets.export import quantizer
from medcode_assets.export.quantizations import Quantization, QuantizationName, quantization
from medcode_assets.export.tensors import read_quantization
from medcode_assets.writing import refuse_little_disk
from medcode_serving.errors import MedcodeError

_SOURCES = ("f16", "f32")
_LARGEST_BITS = 8.5  # q8_0's, which a K-quant falls back to


def quantize_gguf(
    f16: Path,
    output: Path,
    name: QuantizationName,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Quantize a GGUF file to a K-quant.

    Rows that do not divide by 256 get an older, larger type, as llama.cpp chooses; `card.fallen_back` counts them.

    Args:
        f16: The file to quantize, f16 or f32; `write_gguf` makes it.
        output: The file to write, with all metadata of `f16`; written aside and renamed.
        name: A K-quant.
        on_progress: Told (tensors done, tensors in all) before each tensor, and at the end.

    Returns:
        `output`.

    Raises:
        MedcodeError: no K-quant, no cyllama, a source that is missing, truncated or quantized already, not enough
            disk space, or what llama.cpp says.
    """
    wanted = quantization(name)
    if not wanted.by_llamacpp:
        raise MedcodeError(f"{name}: no K-quant; write_gguf writes it from the merged model")
    if importlib.util.find_spec("cyllama") is None:
        raise MedcodeError(f"{name} needs llama.cpp's quantizer: pip install 'medcode[assets]'")
    source = read_quantization(f16)
    if source.name not in _SOURCES:
        raise MedcodeError(f"{f16}: {source.name} is too coarse to make {name} of; name the model's f16 file")
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _refuse_full_disk(f16, output)
        with _quantized(f16, aside, output, wanted, on_progress):
            if read_quantization(aside) != wanted:  # and it is whole
                raise MedcodeError(f"{output}: llama.cpp wrote another number format than {name}; update cyllama")
            aside.replace(output)
    except OSError as error:
        raise MedcodeError(f"{output}: cannot be written: {error.strerror or error}; choose another folder") from error
    finally:
        aside.unlink(missing_ok=True)
    return output


def _refuse_full_disk(f16: Path, output: Path) -> None:
    from medcode_assets.export.gguf_reader import open_gguf

    reader = open_gguf(f16)
    needed = reader.data_offset + sum(
        tensor.n_bytes if len(tensor.shape) == 1 or tensor.shape[0] % 32 else tensor.n_elements * _LARGEST_BITS / 8
        for tensor in reader.tensors
    )
    refuse_little_disk(output.parent, needed, output.name)


@contextmanager
def _quantized(
    f16: Path, aside: Path, output: Path, wanted: Quantization, on_progress: Callable[[int, int], None] | None
) -> Iterator[None]:
    """Give `aside`, written by a child process that does not outlive this one and removes the file if this one ends."""
    import torch

    # As many threads as this process was given. -P: or the modules beside quantizer.py would hide gguf and others.
    arguments = (f16, aside, wanted.file_type, torch.get_num_threads())
    command = [sys.executable, "-P", quantizer.__file__, *map(str, arguments)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # or it would start a debugger
        ) as process,
    ):
        try:
            if not _finishes(process, on_progress):
                process.wait()
                log.seek(0)
                raise _failure(f16, output, process.returncode, log.read())
            yield
        finally:
            process.kill()


def _finishes(process: "subprocess.Popen[str]", on_progress: Callable[[int, int], None] | None) -> bool:
    """Pass the child's progress on; tell whether it came to its end."""
    assert process.stdout is not None
    for line in process.stdout:
        done, total = map(int, line.split())
        if on_progress is not None:
            on_progress(done, total)
        if done == total:
            return True
    return False


def _failure(f16: Path, output: Path, code: int, log: str) -> MedcodeError:
    """Say why the child process ended with `code`."""
    if "iostream error" in log:  # all that C++ streams tell of a full disk
        return MedcodeError(f"{output}: cannot be written to its end; make room or choose another folder")
    stopped = f"it was stopped by {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reason = lines[-1].removeprefix("llama_model_quantize: failed to quantize: ") if lines else stopped
    return MedcodeError(f"{f16}: llama.cpp does not quantize it: {reason}; export it again, or free memory")
