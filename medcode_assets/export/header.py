"""The fields of a GGUF file's header against those that an export of the merged model would have."""

import tempfile
from pathlib import Path

from medcode_assets.export.gguf import header_of, write_header
from medcode_assets.export.metadata import ModelMetadata
from medcode_serving.errors import MedcodeError

_OF_THE_QUANTIZER = {
    "general.file_type",  # the file's own number format, by which its tensors are compared
    "general.quantization_version",  # of the llama.cpp that wrote the blocks
}
"""Fields that llama.cpp's quantizer sets; it copies all others (it adds `quantize.*` for an importance matrix only,
which export does not use)."""
_OF_THE_READER = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
"""What gguf's reader lists beside the fields."""
_ARCHITECTURE = "general.architecture"
_OF_THE_EXPORTER = ("general.", "medcode.", "quantize.", "tokenizer.chat_template")
"""What a file that another program made says in its own way; but not its architecture."""


def changed_fields(gguf_file: Path, merged: Path, metadata: ModelMetadata | None) -> tuple[str, ...]:
    """Compare every field of a GGUF file's header, byte for byte, with what `write_gguf` writes there.

    Nothing else sees a context length, or a token that no compared text has.

    Args:
        gguf_file: The exported file, in any of `QUANTIZATIONS`.
        merged: The merged model's folder.
        metadata: What the file must say about itself; None: a foreign export, of which only hyperparameters and
            tokenizer are compared.

    Returns:
        Names of the fields that are missing, not the model's, of another type or value, sorted.

    Raises:
        MedcodeError: either of the two cannot be read, or the model cannot be exported.
    """
    found = _fields(gguf_file)
    expected = _expected(merged, metadata or ModelMetadata("", ""))
    names = (found.keys() | expected.keys()) - _OF_THE_QUANTIZER
    if metadata is None:
        names = {name for name in names if name == _ARCHITECTURE or not name.startswith(_OF_THE_EXPORTER)}
    return tuple(sorted(name for name in names if found.get(name) != expected.get(name)))


def _expected(merged: Path, metadata: ModelMetadata) -> dict[str, list[bytes]]:
    """Return the fields of a header without tensors, written as `write_gguf` writes it."""
    writer = header_of(merged, "f16", metadata)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "header.gguf")
            try:
                write_header(writer, file)
            finally:
                writer.close()
            return _fields(file)
    except OSError as error:
        raise MedcodeError(
            f"{tempfile.gettempdir()}: cannot be written: {error.strerror or error}; make room or set TMPDIR"
        ) from error


def _fields(gguf_file: Path) -> dict[str, list[bytes]]:
    """Return each field's name, type and value as the file holds them; an array's values are one part or many."""
    from medcode_assets.export.gguf_reader import open_gguf

    fields = open_gguf(gguf_file).fields
    return {
        name: [part.tobytes() for part in field.parts] for name, field in fields.items() if name not in _OF_THE_READER
    }
