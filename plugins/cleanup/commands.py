"""``registry-gateway cleanup``: look at what a policy would remove, run it now, confirm what it stopped at."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from rich.color import ColorSystem
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.style import Style

from gateway.plugins import (
    Applied,
    By,
    ConfigError,
    ExpirationPolicy,
    InvalidSettingError,
    Opener,
    Plan,
    PlannedTag,
    Project,
    RepositoryRecord,
)
from plugins.cleanup import rules
from plugins.cleanup.policies import Stopped
from plugins.cleanup.runs import HOW, BusyError, Outcome

if TYPE_CHECKING:
    from plugins.cleanup.plugin import Plugin

commands = typer.Typer(no_args_is_help=True, help="Plan, run and confirm container expiration policies.")

_HEAD: Final = ("tag", "image", "created", "size", "frees", "", "why")
_SHORT: Final = len("sha256:") + 12
_DECISIONS: Final = {True: ("remove", Style.parse("bold red")), False: ("keep", Style.parse("green"))}

ProjectPath = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's path, such as acme/app.")]
ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration file.")]
Repositories = Annotated[
    list[str] | None, typer.Option("--repository", help="Only this repository; may be given several times.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@commands.command()
def plan(
    ctx: typer.Context,
    project: ProjectPath,
    *,
    config: ConfigFile,
    repository: Repositories = None,
    as_json: AsJson = False,
) -> None:
    """Say of every tag whether the project's policy would remove it now, and by which rule. Nothing is changed."""
    policy, plans, waiting = asyncio.run(_planned(ctx.obj, project, config, repository))
    if as_json:
        document = {
            "project": project,
            "policy": rules.as_json(policy),
            "repositories": [one.as_json() for one in plans],
            "waiting": {name: one.id for name, one in waiting.items()},
        }
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    screen = Console()
    for one in plans:
        sys.stdout.write(
            f"{one.repository}\n{''.join(_table(one, colours=screen.is_terminal and not screen.no_color))}"
        )
        sys.stdout.write(f"{_total(one)}\n")
        if one.repository in waiting:
            sys.stdout.write(f"it waits: `registry-gateway cleanup confirm {project}` lets it go\n")
        sys.stdout.write("\n")
    if not policy.enabled:
        sys.stdout.write(f"The policy of {project} is not enabled: nothing of this happens by itself.\n")


@commands.command()
def run(
    ctx: typer.Context,
    project: ProjectPath,
    *,
    config: ConfigFile,
    repository: Repositories = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Remove nothing but what this plan, the output of `plan --json`, removes."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not stop at max_delete_percent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the project's policy now, whether it is due or not, and whether the gateway serves or not."""
    plans = None if plan_file is None else _read(plan_file)
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def watch(record: RepositoryRecord, state: Applied) -> None:
            if record.path not in bars:
                bars[record.path] = progress.add_task(record.path)
            progress.update(
                bars[record.path], total=state.planned, completed=state.removed + state.stayed + len(state.refused)
            )

        done = asyncio.run(_ran(ctx.obj, project, config, repository, plans=plans, force=yes, watch=watch))
    if as_json:
        sys.stdout.write(json.dumps([one.as_json() for one in done], indent=2) + "\n")
    else:
        for one in done:
            sys.stdout.write(f"{_outcome(one)}\n")
    wrong = [_problem(project, one) for one in done if one.status != "finished"]
    if wrong:
        raise ConfigError(wrong)


@commands.command()
def confirm(ctx: typer.Context, project: ProjectPath, *, config: ConfigFile, as_json: AsJson = False) -> None:
    """Allow what runs have stopped at: the plans that remove more than max_delete_percent lets go unasked."""
    confirmed = asyncio.run(_confirmed(ctx.obj, project, config))
    if as_json:
        sys.stdout.write(json.dumps({name: one.id for name, one in confirmed.items()}, indent=2) + "\n")
        return
    for name, one in confirmed.items():
        sys.stdout.write(f"{name}: {one.remove} of {one.total} tags will be removed, as planned at {one.at}\n")
    sys.stdout.write("A gateway that serves does it within seconds, or once its policy is run nowhere else.\n")


# -- what they do -------------------------------------------------------------------------------------


async def _planned(
    opener: Opener, path: str, config: Path, only: Sequence[str] | None
) -> tuple[ExpirationPolicy, list[Plan], Mapping[str, Stopped]]:
    async with opener.opened(config) as plugin:
        _, policy = await _found(plugin, path)
        records = await _chosen(plugin, path, only)
        try:
            plans = [await plugin.runs.plan(record, policy) for record in records]
        except InvalidSettingError as error:
            raise ConfigError([f"{path}: {error}"]) from error
        return policy, plans, await plugin.stopped.waiting([record.path for record in records])


async def _ran(
    opener: Opener,
    path: str,
    config: Path,
    only: Sequence[str] | None,
    **how: Any,
) -> Sequence[Outcome]:
    async with opener.opened(config) as plugin:
        project, policy = await _found(plugin, path)
        if not policy.enabled:
            raise ConfigError(
                [f"the cleanup policy of {path} is not enabled; `cleanup plan {path}` shows what it says"]
            )
        records = [record.path for record in await _chosen(plugin, path, only)]
        try:
            async with plugin.runs.alone(project.path.lower()):
                done: Sequence[Outcome] = await plugin.runs.run(
                    project, policy, By(getpass.getuser(), HOW), only=records, **how
                )
        except BusyError as error:
            raise ConfigError(
                [f"a gateway or another command runs the policy of {path} now; try again later"]
            ) from error
        return done


async def _confirmed(opener: Opener, path: str, config: Path) -> Mapping[str, Stopped]:
    async with opener.opened(config) as plugin:
        project, _ = await _found(plugin, path)
        records = await _chosen(plugin, path, None)
        by = getpass.getuser()
        confirmed: Mapping[str, Stopped] = await plugin.stopped.confirm([record.path for record in records], by)
        if not confirmed:
            raise ConfigError([f"{path}: nothing waits for a confirmation"])
        await plugin.runs.order(project, by, list(confirmed))
        return confirmed


async def _found(plugin: Plugin, path: str) -> tuple[Project, ExpirationPolicy]:
    project = await plugin.services.facts.project([path.lower()])
    if not isinstance(project, Project):
        raise ConfigError([f"there is no project {path}, as far as the gateway can see"])
    policy = await plugin.services.facts.expiration_policy(project)
    if policy is None:
        raise ConfigError([f"{path} has no cleanup policy"])
    return project, policy


async def _chosen(plugin: Plugin, path: str, only: Sequence[str] | None) -> Sequence[RepositoryRecord]:
    records = [one for one in await plugin.services.images.repositories_of([path.lower()]) if one.status is None]
    there = {record.path for record in records}
    wrong = [f"--repository: {path} has no repository {name}" for name in only or () if name not in there]
    if wrong:
        raise ConfigError(wrong)
    if not records:
        raise ConfigError([f"{path} has no repositories"])
    return [record for record in records if not only or record.path in only]


def _read(path: Path) -> Mapping[str, Mapping[str, str]]:
    """What a plan that was printed removes: by repository, tags and their digests."""
    try:
        document = orjson.loads(path.read_bytes())
        return {
            str(one["repository"]): {
                str(tag["name"]): str(tag["digest"]) for tag in one["tags"] if tag["decision"] == "remove"
            }
            for one in document["repositories"]
        }
    except OSError as error:
        raise ConfigError([f"--plan: cannot read {path}: {error.strerror}"]) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"--plan: {path} is no output of `cleanup plan --json`"]) from error


# -- how it reads -------------------------------------------------------------------------------------


def _table(found: Plan, *, colours: bool) -> Iterable[str]:
    """Lines of columns. A table of rich takes five seconds for ten thousand tags."""
    rows = [_row(tag) for tag in found.tags]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    yield _line(_HEAD, widths)
    shown = {
        remove: style.render(word.ljust(widths[5]), color_system=ColorSystem.STANDARD) if colours else word
        for remove, (word, style) in _DECISIONS.items()
    }
    for tag, row in zip(found.tags, rows, strict=True):
        yield _line((*row[:5], shown[tag.remove], row[6]), widths)


def _row(tag: PlannedTag) -> tuple[str, ...]:
    return (
        tag.name,
        tag.digest[:_SHORT],
        "" if tag.created_at is None else f"{tag.created_at:%Y-%m-%d %H:%M}",
        "" if tag.size is None else decimal(tag.size),
        decimal(tag.bytes) if tag.remove else "",
        _DECISIONS[tag.remove][0],
        # A pattern may hold anything, and a terminal obeys.
        "".join(letter if letter.isprintable() else "?" for letter in tag.why),
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"


def _total(found: Plan) -> str:
    cut = "; not all were looked at (max_list_size)" if found.cut else ""
    share = f"{len(found.removed)} of {len(found.tags)} tags ({found.percent:.0f} %)"
    return f"{share} would be removed, and {decimal(found.bytes)} be free after a collection of garbage{cut}"


def _outcome(done: Outcome) -> str:
    stayed = f", {done.stayed} left alone that moved meanwhile" if done.stayed else ""
    return f"{done.repository}: {done.removed} of {done.planned} planned tags removed{stayed}"


def _problem(project: str, done: Outcome) -> str:
    match done.status:
        case "stopped":
            remedy = f"`registry-gateway cleanup confirm {project}`, or run it with --yes"
            return f"{done.repository}: {done.planned} of {done.total} tags: {done.why}: {remedy}"
        case "unfinished":
            return f"{done.repository}: not all was done; run it again"
        case _:
            return f"{done.repository}: {done.why}"
