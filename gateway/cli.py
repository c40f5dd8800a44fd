"""The command line: arguments in, one function called, errors out as one readable line each."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from pydantic import SecretStr, TypeAdapter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from gateway import __version__
from gateway.config import Config, Duration, load
from gateway.errors import ConfigError
from gateway.plugins import Credential
from gateway.plugins.manager import find, installed, sections

if TYPE_CHECKING:
    from gateway import commands

cli = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration file.")]


def _duration(text: str) -> timedelta:
    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValueError as error:
        raise typer.BadParameter("expected a duration such as 30s, 5m or 24h") from error


def _describe(progress: Progress, bar: TaskID, words: str) -> None:
    progress.update(bar, description=words)


@cli.callback()
def _version() -> None:
    """GitLab's access control and registry management in front of container registries.

    Plugins add commands under their own names, such as `cleanup`.
    """


@cli.command()
def serve(config: ConfigFile) -> None:
    """Run the gateway."""
    # Workers count into files of this folder; prometheus-client reads the variable when it is imported.
    folder = tempfile.mkdtemp(prefix="registry-gateway-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    from gateway import launcher  # noqa: PLC0415 - after the variable is set

    parent = os.getpid()
    try:
        launcher.serve(config)
    finally:
        if os.getpid() == parent:
            shutil.rmtree(folder, ignore_errors=True)


@cli.command("check-config")
def check_config(
    config: ConfigFile,
    show: Annotated[bool, typer.Option(help="Print the effective values, secrets masked.")] = False,  # noqa: FBT002
    schema: Annotated[bool, typer.Option(help="Print a JSON Schema for editors.")] = False,  # noqa: FBT002
) -> None:
    """Check a configuration and everything that it names."""
    from gateway import launcher  # noqa: PLC0415 - the engine is not needed for the other commands

    if schema:
        sys.stdout.write(json.dumps(_schema(), indent=2) + "\n")
        return
    checked = launcher.check(config)
    if show:
        sys.stdout.write(yaml.safe_dump(_effective(checked), sort_keys=False, allow_unicode=True))
    else:
        sys.stdout.write(f"{config}: good\n")


@cli.command()
def explain(
    wish: Annotated[
        Literal["pull", "push", "delete"], typer.Argument(metavar="pull|push|delete", help="What somebody wants to do.")
    ],
    image: Annotated[str, typer.Argument(help="The image, with or without host, tag and digest.")],
    *,
    config: ConfigFile = Path("config/development.yaml"),
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Ask for nobody.")] = False,
    user: Annotated[str | None, typer.Option("--user", help="Ask for whoever logs in by this username.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password or token from standard input.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why somebody may or may not pull, push or delete an image, and what would change the answer."""
    if anonymous == (user is not None) or password_stdin != (user is not None):
        raise ConfigError(["explain: say for whom: either --anonymous, or --user USERNAME --password-stdin"])
    credential = None
    if user is not None:
        credential = Credential(user, SecretStr(sys.stdin.read().removesuffix("\n").removesuffix("\r")))
    from gateway import explain as engine  # noqa: PLC0415 - the engine is not needed for the other commands

    found = asyncio.run(engine.explain(config, wish, image, credential))
    if as_json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
        return
    width = max(len(step.name) for step in found.steps)
    for step in found.steps:
        sys.stdout.write(f"{step.name:{width}}  {'ok' if step.passed else 'NO'}  {step.finding}\n")
    if found.remedy:
        sys.stdout.write(f"\nTo change the answer: {found.remedy}\n")


@cli.command()
def crawl(
    backends: Annotated[
        list[str] | None, typer.Argument(metavar="[BACKEND]...", help="Of these backends; of all that are registries.")
    ] = None,
    *,
    config: ConfigFile,
    repository: Annotated[
        list[str] | None, typer.Option("--repository", help="Only this repository; may be given several times.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Repositories that are read at the same time.")] = 4,
) -> None:
    """Record what an existing registry holds; again, to make the records true. Goes on where it was broken off."""
    from gateway import crawl as engine  # noqa: PLC0415 - the engine is not needed for the other commands

    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def tell(report: engine.Report, name: str) -> None:
            if report.backend not in bars:
                bars[report.backend] = progress.add_task(report.backend)
            words = f"{report.backend}: {name}"
            progress.update(bars[report.backend], description=words, completed=report.visited, total=report.listed)

        reports = asyncio.run(engine.crawl(config, backends or (), repository or (), at_once, tell))
    for report in reports:
        sys.stdout.write(f"{report.as_text()}\n")
    problems = [problem for report in reports for problem in report.failed]
    if problems:
        raise ConfigError(problems)


@cli.command()
def probe(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="The name of a backend that is a registry.")],
    *,
    config: ConfigFile,
    repository: Annotated[
        str, typer.Option("--repository", help="Ask about this repository; nothing in it is changed.")
    ] = "registry-gateway/probe",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out what the registry behind a backend can, and say what the gateway adds."""
    from gateway import crawl as engine  # noqa: PLC0415 - the engine is not needed for the other commands

    found = asyncio.run(engine.probe(config, backend, repository))
    if as_json:
        sys.stdout.write(json.dumps([asdict(item) for item in found], indent=2, ensure_ascii=False) + "\n")
        return
    table = Table("", "the registry", "", "the gateway adds")
    marks = {True: "ok", False: "NO", None: "-"}
    for item in found:
        # Not markup: the registry may say anything.
        table.add_row(item.name, Text(item.found), marks[item.good], item.added)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@cli.command()
def gc(
    backends: Annotated[
        list[str] | None, typer.Argument(metavar="[BACKEND]...", help="Of these backends; of all of them.")
    ] = None,
    *,
    config: ConfigFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would go.")] = False,
    grace: Annotated[
        timedelta | None,
        typer.Option(
            parser=_duration, metavar="DURATION", help="How long garbage is kept, such as 24h; as configured."
        ),
    ] = None,
    untagged: Annotated[
        bool | None,
        typer.Option("--untagged/--no-untagged", help="Also manifests that no tag leads to; as configured."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove what nothing refers to any more, while the gateway serves or while it doesn't."""
    from gateway import gc as engine  # noqa: PLC0415 - the engine is not needed for the other commands

    screen = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        wishes = engine.Wishes(dry_run=dry_run, grace=grace, untagged=untagged)
        tell = partial(_describe, progress, progress.add_task(""))
        found = asyncio.run(engine.collect(config, backends or (), wishes, tell))
    if as_json:
        document = {"reports": [report.as_json() for report in found.reports], "advice": dict(found.advice)}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        for report in found.reports:
            sys.stdout.write(f"{engine.as_text(report)}\n")
        for name, advice in found.advice.items():
            sys.stdout.write(f"{name}: {advice}\n")
    problems = [problem for report in found.reports for problem in report.failed]
    if problems:
        raise ConfigError(problems)


@cli.command()
def plugins(
    config: Annotated[Path | None, typer.Option("--config", help="Say which are enabled by this file.")] = None,
) -> None:
    """List the installed plugins: name, distribution, version, hooks, and whether they are enabled."""
    enabled = {item.use for item in load(config).plugins} if config else set()
    table = Table("name", "distribution", "version", "hooks", "enabled")
    failed = False
    for plugin in installed():
        try:
            hooks = ", ".join(hook.removeprefix("gateway_") for hook in plugin.hooks())
        except Exception as error:  # noqa: BLE001 - whatever a stranger's import raises is one row here
            hooks, failed = f"cannot be imported: {error!r}", True
        state = ("yes" if plugin.name in enabled else "no") if config else "-"
        table.add_row(plugin.name, plugin.distribution, plugin.version, hooks, state)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if failed:
        raise typer.Exit(1)


@cli.command()
def init(config: ConfigFile) -> None:
    """Make what a first start needs: a directory with a random root token, and a tiny image to push."""
    from gateway import quickstart  # noqa: PLC0415 - used once in a lifetime

    sys.stdout.write(quickstart.prepare(load(config)))


@cli.command()
def version() -> None:
    """Print the version."""
    sys.stdout.write(f"{__version__}\n")


def _effective(config: Config) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(config.model_dump_json(exclude={"plugins"}))
    classes, _ = find(config.plugins, installed())
    document["plugins"] = []
    for item in config.plugins:
        section = classes[item.use].Config.model_validate(dict(item.options))
        head: dict[str, Any] = {"use": item.use, "name": item.name}
        if item.repositories:
            head |= {"repositories": list(item.repositories)}
        document["plugins"].append(head | json.loads(section.model_dump_json()))
    return document


def _schema() -> dict[str, Any]:
    document = Config.model_json_schema()
    items = []
    for name, model in sections(installed()).items():
        item = model.model_json_schema()
        item["properties"] = {
            "use": {"const": name},
            "name": {"type": "string"},
            "repositories": {"type": "array", "items": {"type": "string"}},
            **item.get("properties", {}),
        }
        item["required"] = ["use", *item.get("required", [])]
        items.append(item)
    document["properties"]["plugins"] = {"type": "array", "items": {"anyOf": items}}
    return document


def _offer(word: str) -> commands.Opening | None:
    """Mount the commands that a plugin called *word* has, unless that is a command of our own."""
    from gateway import commands  # noqa: PLC0415 - the engine is not needed for the other commands

    offered = commands.of(word)
    if offered is None:
        return None
    cli.add_typer(offered, name=word)
    return commands.Opening(word)


def main() -> None:
    """Run a command. Exit status 0 only on success; 1 with one line for each problem."""
    try:
        word = next(iter(sys.argv[1:]), "-")
        own = {command.name or getattr(command.callback, "__name__", "") for command in cli.registered_commands}
        cli(obj=None if word.startswith("-") or word in own else _offer(word))
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem}\n")
        sys.exit(1)
