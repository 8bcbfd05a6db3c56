"""`latentbank eval`: a suite through the real pipeline, every control, and a report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from core.cli.output import console
from core.cli.up import prepare_base
from core.errors import InvalidRequest
from core.evaluation.suite import draw, read_suite
from core.settings import Settings


def evaluate(
    suite: Annotated[Path, typer.Argument(help="The suite, JSON Lines; docs/evaluation.md says its form.")],
    json_path: Annotated[Path, typer.Option("--json", help="Where the results go; a report (.md) goes beside them.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many documents, drawn with the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep the bank there, and reuse what is in it; else it is made anew.")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Also write the gate's features of all pairs, .npz.")] = None,
) -> None:
    """Distil a suite's documents, ask its questions under every condition, and report with intervals."""
    if json_path.suffix == ".md" or json_path.is_dir():
        raise InvalidRequest(f"--json takes a file that is not {json_path}; the report goes beside it as .md.")
    drawn = draw(read_suite(suite), limit, seed)
    out = console()
    settings = Settings()
    prepare_base(settings, out)
    # Imported late: they bring torch, and `latentbank --help` must not wait for it.
    from core.cli.evaluate_run import run
    from core.cli.evaluate_screen import show
    from core.evaluation.features_file import write_features
    from core.evaluation.report import write_report
    from core.evaluation.results import write_json

    try:
        with _data_dir(settings, data_dir) as directory:
            outcome, results = run(settings, drawn, directory, seed, out)
    except KeyboardInterrupt:
        out.print("stopped")
        raise typer.Exit(130) from None
    write_json(json_path, results)
    write_report(json_path.with_suffix(".md"), results, outcome.judgements, outcome.made)
    if features is not None:
        write_features(features, outcome.judgements)
    show(out, results)
    out.print(f"\n{json_path} and {json_path.with_suffix('.md')} are written.", markup=False)


@contextmanager
def _data_dir(settings: Settings, kept: Path | None) -> Iterator[Path]:
    """A directory for truth and objects; the prepared base model is shared with other runs."""
    directory = kept.absolute() if kept else Path(tempfile.mkdtemp(prefix="latentbank-eval-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "bases").exists():
            (directory / "bases").symlink_to(settings.base_dir.resolve(), target_is_directory=True)
        yield directory
    finally:
        if kept is None:
            shutil.rmtree(directory, ignore_errors=True)
