"""llama.cpp's quantizer in a process of its own, because llama.cpp ends its process where a file is broken.

`quantize_gguf` runs this file with the paths of source and output, llama.cpp's number of the file type and a number of
threads; it imports nothing else of this project. Standard output gets "tensors done, tensors in all" in lines, the
last when the output is complete; standard error what went wrong. The parent holds standard input open: when that ends,
this process removes the output, unless it was renamed, and ends too.
"""

import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TextIO

_ERROR = 4  # ggml_log_level
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


class _Log:
    """What llama.cpp logs: one line a tensor before it is quantized, and errors."""

    tensors = 0

    def __call__(self, level: int, text: str) -> None:
        if match := _TENSOR.match(text):
            self.tensors = int(match[2])
            _tell(sys.stdout, f"{int(match[1]) - 1} {self.tensors}")
        elif level == _ERROR:
            _tell(sys.stderr, text.strip())


def main(source: str, output: str, file_type: str, threads: str) -> None:
    """Quantize a file and wait for the parent, or exit with 1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C reaches the parent too, which decides
    parent = threading.Thread(target=_end_with_parent, args=(Path(output),), daemon=True)
    parent.start()
    from cyllama.llama import llama_cpp

    log = _Log()
    llama_cpp.set_log_callback(log)
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype = int(file_type)
    parameters.nthread = int(threads)
    try:
        llama_cpp.model_quantize(source, output, parameters)
    except RuntimeError:  # llama.cpp has logged why
        sys.exit(1)
    _tell(sys.stdout, f"{log.tensors} {log.tensors}")
    parent.join()


def _tell(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def _end_with_parent(output: Path) -> None:
    while os.read(0, 1):
        pass
    output.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
