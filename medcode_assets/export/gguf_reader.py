"""GGUF files opened so that a cut one is an error and a real tokenizer takes no time; import it inside functions.

gguf's own reader takes a slice of the file for every token (16 s for Qwen2's 151,936, and again for its merges),
and a slice beyond the file's end is only a shorter one.
"""

import struct
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFReader, GGUFValueType

from medcode_serving.errors import MedcodeError

_STRING_LENGTH = struct.Struct("<Q")


def open_gguf(gguf_file: Path) -> GGUFReader:
    """Open a GGUF file for reading: its fields, and its tensors as maps into the file.

    Raises:
        MedcodeError: missing, not readable, cut anywhere, or no GGUF file.
    """
    try:
        reader = _Reader(gguf_file)
        needed = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=reader.data_offset)
        if len(reader.data) < needed + -needed % reader.alignment:  # writers pad the last tensor too
            raise ValueError
    except FileNotFoundError:
        raise MedcodeError(f"{gguf_file}: no such file; export it: medcode export") from None
    except OSError as error:
        raise MedcodeError(f"{gguf_file}: cannot be read: {error.strerror}; export it again") from None
    # What gguf, numpy and struct raise on a file that ends early or is none at all.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error):
        raise MedcodeError(f"{gguf_file}: truncated or no GGUF file; export it again") from None
    return reader


class _Reader(GGUFReader):
    """gguf's reader with two of its steps done otherwise; both are checked against it in the tests."""

    def _get(
        self, offset: int, dtype: Any, count: int = 1, override_order: Literal["I", "S", "<"] | None = None
    ) -> Any:
        found = super()._get(offset, dtype, count, override_order)
        if len(found) != int(count):
            raise ValueError("the file ends early")
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        item, count, start = self._get(orig_offs, "u4"), self._get(orig_offs + 4, "u8"), orig_offs + 12
        item_type = GGUFValueType(int(item[0]))
        types = [GGUFValueType.ARRAY, item_type]
        if item_type != GGUFValueType.STRING:
            values = self._get(start, self.gguf_scalar_to_np[item_type], int(count[0]))
            return 12 + values.nbytes, [item, count, values], [2], types
        buffer = self.data.data
        strings: list[memoryview] = []
        end = start
        for _ in range(int(count[0])):
            (length,) = _STRING_LENGTH.unpack_from(buffer, end)
            end += 8 + length
            strings.append(buffer[end - length : end])
        return end - orig_offs, [item, count, *strings], list(range(2, 2 + len(strings))), types
