"""Dagster assets of a recipe up to its tokens: examples, base_model, tokens."""

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from tqdm import tqdm

from medcode_assets.artifacts import making, stands
from medcode_assets.config import DataSettings, ModelSettings, Settings
from medcode_assets.evaluation.plots import BARS_TO_LIMIT, length_histogram
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import picture, query_table, table_metadata
from medcode_assets.partitions import check_each_version
from medcode_assets.progress import advance
from medcode_assets.recipes.fitting import chosen_base
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.training.tokens import build_tokens, length_bars, longest_completion, refuse_no_room
from medcode_assets.warehouse import Built, fingerprint
from medcode_serving.base_models import resolve_base_model

if TYPE_CHECKING:
    import duckdb


def examples_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """Which codes are asked, and the answer to each note."""

    @dg.asset(
        key=[recipe.name, "examples"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=recipe.sources,
        kinds={"duckdb", "sql"},
        code_version="1",
    )
    @launched_with("examples", settings)
    def examples(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Codes of the task (`labels`), and for each admission its gold codes and the answer that training teaches."""
        with warehouse.connect(context) as con:
            data = read(config, "data", DataSettings)
            built = recipe.build_examples(con, data, rebuild=config.drop_existing)
            preview = (
                "SELECT split, count(*) AS examples, avg(len(gold)) AS codes_per_example, "
                "sum(len(gold) - len(answer)) / sum(len(gold)) AS share_unknown_to_training "
                f"FROM {recipe.name}.examples GROUP BY split ORDER BY examples DESC"
            )
            labels = con.execute(
                f"SELECT count(*) FILTER (frequency > 0), count(*) FILTER (frequency = 0) FROM {recipe.name}.labels"
            ).fetchall()[0]
            return dg.MaterializeResult(
                metadata={
                    **table_metadata(con, built, preview),
                    "codes": labels[0],
                    "codes_unknown_to_training": labels[1],
                },
                data_version=dg.DataVersion(built.fingerprint),
            )

    return examples


def base_model_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """Which base model is fine-tuned, and where its files are."""

    @dg.asset(
        key=[recipe.name, "base_model"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        kinds={"huggingface"},
        code_version="1",
    )
    @launched_with("base_model", settings)
    def base_model(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """The base model: the embedded one, a local folder, or a Hugging Face id, downloaded once."""
        model = read(config, "model", ModelSettings)
        local = resolve_base_model(
            model.base, home.base_models, revision=model.revision, added_tokens=recipe.added_tokens
        )
        chosen: dict[str, Any] = {"id": local.id, "revision": local.revision, "path": str(local.path.resolve())}
        if local.added_tokens:
            chosen["added_tokens"] = list(local.added_tokens)
        made_from = fingerprint(**chosen)
        target = home.artifact(recipe.name, context.partition_key, "base_model")
        unchanged = stands(target, made_from)
        if not unchanged:
            with making(target, made_from) as (_, facts):
                facts.update(chosen)
        weights = sum(file.stat().st_size for file in local.path.glob("*.safetensors"))
        return dg.MaterializeResult(
            metadata={
                "id": local.id,
                "revision": local.revision,
                "path": dg.MetadataValue.path(local.path),
                "weights_megabytes": round(weights / 1e6, 1),
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(made_from),
        )

    return base_model


def tokens_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """Examples as token ids, back in DuckDB."""

    @dg.asset(
        key=[recipe.name, "tokens"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "examples"], [recipe.name, "base_model"]],
        kinds={"duckdb", "huggingface"},
        code_version="2",
        check_specs=[
            check_each_version(
                dg.AssetKey([recipe.name, "tokens"]),
                "no_note_dropped",
                "Every example with an answer has tokens: a long note is shortened, never left out.",
                blocking=True,
                partitions=recipe.partitions,
            )
        ],
    )
    @launched_with("tokens", settings)
    def tokens(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Prompts and completions as token ids; notes that are too long are shortened, and counted."""
        from transformers import AutoConfig

        from medcode_serving.engines.transformers import load_tokenizer

        base = chosen_base(home.artifact(recipe.name, context.partition_key, "base_model"), recipe.name)
        max_prompt_tokens = read(config, "data", DataSettings).max_prompt_tokens
        bar = tqdm(desc="tokenizing", unit="note", delay=1)
        with warehouse.connect(context) as con, bar:
            positions = AutoConfig.from_pretrained(base.path, local_files_only=True).max_position_embeddings
            built = build_tokens(
                con,
                recipe.name,
                load_tokenizer(base.path),
                recipe.for_base(base).prompt,
                max_prompt_tokens=max_prompt_tokens,
                base_revision=base.revision,
                rebuild=config.drop_existing,
                on_progress=partial(advance, bar),
            )
            refuse_no_room(max_prompt_tokens, longest_completion(con, recipe.name), positions, base.id)
            return dg.MaterializeResult(
                metadata=_tokens_metadata(con, recipe.name, built, max_prompt_tokens),
                data_version=dg.DataVersion(built.fingerprint),
                check_results=[_no_note_dropped(con, recipe.name)],
            )

    return tokens


def _tokens_metadata(
    con: "duckdb.DuckDBPyConnection", recipe: str, built: Built, max_prompt_tokens: int
) -> dict[str, Any]:
    table = f"{recipe}.tokens"
    preview = (
        "SELECT split, count(*) AS examples, sum(len(prompt_ids)) AS prompt_tokens, "
        "sum(len(completion_ids)) AS completion_tokens, "
        "count(*) FILTER (truncated) AS shortened "
        f"FROM {table} GROUP BY split ORDER BY examples DESC"
    )
    shortened, share = con.execute(
        f"SELECT count(*) FILTER (truncated), coalesce(1 - sum(len(prompt_ids)) / sum(whole_length), 0.0) FROM {table}"
    ).fetchall()[0]
    sections = (
        f"SELECT section, count(*) AS notes_cut FROM (SELECT unnest(cut_sections) AS section FROM {table}) "
        "GROUP BY section ORDER BY notes_cut DESC, section"
    )
    bars, quantiles = length_bars(con, recipe, max_prompt_tokens, BARS_TO_LIMIT)
    return {
        **table_metadata(con, built, preview),
        "notes_shortened": shortened,
        "share_of_tokens_cut": share,
        "sections_cut": query_table(con, sections),
        "prompt_lengths": picture(length_histogram(bars, quantiles, max_prompt_tokens), "prompt lengths"),
    }


def _no_note_dropped(con: "duckdb.DuckDBPyConnection", recipe: str) -> dg.AssetCheckResult:
    dropped, examples = con.execute(
        f"SELECT count(*) FILTER (coalesce(len(prompt_ids), 0) = 0), count(*) FROM {recipe}.examples "
        f"LEFT JOIN {recipe}.tokens USING (example_id) WHERE len(answer) > 0"
    ).fetchall()[0]
    return dg.AssetCheckResult(passed=dropped == 0, metadata={"wrong": dropped, "of": examples})
