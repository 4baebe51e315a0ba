"""Which bundle a GGUF file was made from: what it says, and whether that can be."""

from dataclasses import dataclass
from pathlib import Path

from medcode_serving.errors import MedcodeError


@dataclass(frozen=True)
class Origin:
    """A bundle's place in MEDCODE_HOME."""

    recipe: str
    version: str


def read_origin(gguf_file: Path) -> Origin | None:
    """Return where a GGUF file comes from; None if it does not say.

    Raises:
        MedcodeError: it is missing, cut off, or no GGUF file.
    """
    from medcode_assets.export.gguf_reader import open_gguf

    reader = open_gguf(gguf_file)
    recipe, version = (reader.get_field(f"medcode.{name}") for name in ("recipe", "bundle_version"))
    return None if recipe is None or version is None else Origin(recipe.contents(), version.contents())


def refuse_other_model(gguf_file: Path, merged: Path) -> None:
    """Raise MedcodeError if a GGUF file holds other tensors than a model: comparing their answers would mean nothing.

    Args:
        gguf_file: The file.
        merged: Folder of the model that it is said to be made from.
    """
    from medcode_assets.export.gguf import plan_tensors, read_config
    from medcode_assets.export.gguf_reader import open_gguf

    reader = open_gguf(gguf_file)
    kind = reader.get_field("general.type")
    if kind is not None and kind.contents() == "adapter":
        raise MedcodeError(f"{gguf_file}: an adapter, which was verified when it was written; name a model's file")
    found = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in reader.tensors}
    planned = {tensor.name: tensor.shape for tensor in plan_tensors(merged, read_config(merged), "f16")}
    other = sorted(name for name in found.keys() | planned.keys() if found.get(name) != planned.get(name))
    if other:
        raise MedcodeError(
            f"{gguf_file}: holds another model than the bundle: {len(other)} of {len(planned)} tensors are missing or "
            f"have another shape, {other[0]} for one; name its bundle with --bundle"
        )
