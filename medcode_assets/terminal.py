"""Logger `terminal`: one line an asset, for people at a command line."""

import logging
import sys
import time

import dagster as dg


class _Lines(logging.Handler):
    """Turns Dagster's events into lines; everything else goes through from the chosen level on."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._least = level
        self._started: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", None) or {}
        event = meta.get("dagster_event")
        if event is None:
            if record.levelno >= self._least:
                # Without job, run and step, which Dagster puts before a message: the terminal shows one run.
                sys.stderr.write(f"    {meta.get('orig_message') or record.getMessage()}\n")
        elif event.event_type_value == "STEP_START":
            self._started[event.step_key] = time.monotonic()
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            sys.stderr.write(self._line(event) + "\n")
        elif event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed:
            sys.stderr.write(_failed_check(event) + "\n")

    def _line(self, event: dg.DagsterEvent) -> str:
        materialization = event.step_materialization_data.materialization
        metadata = {name: value.value for name, value in materialization.metadata.items()}
        seconds = time.monotonic() - self._started.get(event.step_key or "", time.monotonic())
        name = "/".join(materialization.asset_key.path)
        state = "unchanged" if metadata.get("unchanged") else f"{seconds:.1f} s"
        rows = metadata.get("dagster/row_count")
        return f"  {name:<24} {state:>10}" + (f"  {rows:>9,} rows" if isinstance(rows, int) else "")


def _failed_check(event: dg.DagsterEvent) -> str:
    check = event.asset_check_evaluation_data
    # A reason is a sentence of its own; other values need their names.
    found = ", ".join(
        _shown(value.value) if name == "reason" else f"{name} {_shown(value.value)}"
        for name, value in check.metadata.items()
    )
    return (
        f"    {check.severity.value.lower()}: check {check.check_name} of {check.asset_key.to_user_string()}: {found}"
    )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@dg.logger(config_schema={"level": dg.Field(str, default_value="WARNING")})
def terminal_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    """Print a line for every materialized asset; `level` is the least level of other messages."""
    logger = logging.Logger("medcode.terminal", level=logging.DEBUG)
    logger.addHandler(_Lines(logging.getLevelName(init_context.logger_config["level"])))
    return logger
