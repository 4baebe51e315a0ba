"""From settings to what answers: the bundle that they name, verified, with the engine that they ask for."""

from medcode_serving.bundle import Bundle, latest_bundle, open_bundle
from medcode_serving.engines.linear import LinearEngine
from medcode_serving.engines.loading import SharedBases, load_engine, load_linear
from medcode_serving.errors import MedcodeError
from medcode_serving.predictor import Predictor
from medcode_serving.settings import InferenceSettings


def load_predictor(
    settings: InferenceSettings,
    recipe: str | None = None,
    version: str | None = None,
    shared_bases: SharedBases | None = None,
) -> Predictor:
    """Open and verify a bundle, and load the engine that the settings ask for.

    Args:
        settings: Which engine, and where bundles lie.
        recipe: Whose bundle; None: the first one of the settings.
        version: Which bundle of the recipe; None: the one that LATEST, or `model.bundle`, names.
        shared_bases: Base models that several adapters share; None: the engine loads its own.

    Raises:
        MedcodeError: no bundle is published, it was changed, or its engine cannot be loaded.
    """
    recipe = recipe or settings.model.recipes[0]
    bundles = settings.home / "bundles"
    if version is not None:
        bundle = open_bundle(bundles / recipe / version)
    elif settings.model.bundle is not None and recipe == settings.model.recipes[0]:
        bundle = open_bundle(settings.model.bundle)
    else:
        bundle = latest_bundle(bundles, recipe)
    if bundle.path != settings.model.bundle:
        _refuse_other_name(bundle, recipe)
    engine = load_engine(bundle, settings, settings.home / "base_models", shared_bases)
    linear = engine if isinstance(engine, LinearEngine) else load_linear(bundle)
    falls_back = settings.model.fallback == "linear" and linear is not engine
    return Predictor(bundle, engine, settings.generation, linear, falls_back=falls_back, writing=settings.writing)


def _refuse_other_name(bundle: Bundle, recipe: str) -> None:
    """Refuse a bundle that lies where another one is looked for: answers would name one that LATEST does not.

    Raises:
        MedcodeError: it is of another recipe, or its folder has not its version's name.
    """
    manifest = bundle.manifest
    if manifest.recipe != recipe:
        raise MedcodeError(f"{bundle.path}: a bundle of recipe {manifest.recipe!r}; put it below {manifest.recipe}/")
    if manifest.version != bundle.path.name:
        raise MedcodeError(
            f"{bundle.path}: bundle.json says version {manifest.version!r}; give the folder that name, or publish anew"
        )
