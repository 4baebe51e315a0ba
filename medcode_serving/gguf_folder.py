"""A folder of GGUF files, in a bundle's gguf/ or delivered elsewhere: what is in it, and which file serves.

manifest.json       `GgufManifest`
medcode-icd-<bundle version>-Q4_K_M.gguf, ...   one a number format
tokenizer/          the base model's tokenizer files, byte for byte
README.md, Modelfile, LICENSE...    what goes with them; codes.gbnf where answers are codes
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

GGUF_MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
SERVED_FIRST = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "f16", "bf16", "f32")
"""Which file serves where nobody chose: q8_0 loses next to nothing and is half of f16's size."""

EXPORT = "medcode export"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GgufFile(_Frozen):
    """One exported model."""

    file: str = Field(pattern=r"^[^/\\.][^/\\]*$", description="Its name in the folder.")
    quantization: str = Field(description="Its number format, as in q4_k_m.")
    sha256: str
    size_bytes: int
    verification: dict[str, Any] = Field(description="How far it is from the merged model, as measured at the export.")
    verified_on: str = Field(default="", description="sha256 of the sample and the limits that it was held against.")


class GgufManifest(_Frozen):
    """The contents of manifest.json."""

    schema_version: int = 1
    recipe: str
    version: str = Field(description="The bundle's.")
    made_from: dict[str, str] = Field(default_factory=dict, description="All that the files depend on.")
    files: tuple[GgufFile, ...]
    others: dict[str, str] = Field(description="sha256 of every other file, by its path relative to the folder.")

    def choose(self, quantization: str | None) -> GgufFile:
        """Return the file of a number format, or the one that is served where nobody chose.

        Raises:
            MedcodeError: there is none of that format.
        """
        by_name = {file.quantization: file for file in self.files}
        wanted = [quantization.lower()] if quantization else [*SERVED_FIRST, *by_name]
        for name in wanted:
            if name in by_name:
                return by_name[name]
        have = ", ".join(by_name) or "none"
        raise MedcodeError(
            f"bundle {self.version} has no GGUF file {quantization or ''}".rstrip()
            + f" (it has {have}); make it: {EXPORT} --quantization {quantization or 'q8_0'}"
        )


def read_gguf_manifest(folder: Path) -> GgufManifest:
    """Read a GGUF folder's manifest.json; its files are not looked at.

    Raises:
        MedcodeError: there is none, or another medcode wrote it.
    """
    file = folder / GGUF_MANIFEST
    try:
        return GgufManifest.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise MedcodeError(f"{file}: missing; export the bundle first: {EXPORT}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
        raise MedcodeError(f"{file}: not as this medcode writes it; export anew: {EXPORT}") from None


def verify_folder(folder: Path) -> GgufManifest:
    """Read a GGUF folder's manifest and compare every file with its checksum.

    What somebody put beside them does not matter, but in tokenizer/: transformers reads whatever it knows there, and
    an added_tokens.json changes how notes are split.

    Returns:
        The manifest.

    Raises:
        MedcodeError: as `read_gguf_manifest`; or names the first file that is missing or changed, or too much in
            tokenizer/.
    """
    manifest = read_gguf_manifest(folder)
    expected = {file.file: file.sha256 for file in manifest.files} | manifest.others
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    # Names first: a missing file is told before gigabytes are read.
    for name in sorted(expected.keys() - found.keys()):
        raise MedcodeError(f"{folder / name}: missing; export anew: {EXPORT}")
    for name in sorted(found.keys() - expected.keys()):
        if name.startswith(f"{TOKENIZER}/"):
            raise MedcodeError(f"{folder / name}: no file of this export; remove it")
    for name, sha256 in sorted(expected.items()):
        if file_sha256(found[name]) != sha256:
            raise MedcodeError(f"{folder / name}: changed since its export; export anew: {EXPORT}")
    return manifest
