"""From a configuration to running workers: one path for one worker and for many (gunicorn's arbiter, our worker).

The parent checks everything, makes the key and migrates the database before the first worker exists; workers share the
two listening sockets and are replaced when they die.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.workers.base import Worker as GunicornWorker
from prometheus_client.multiprocess import mark_process_dead

from gateway import app
from gateway.config import Address, Config, load, plugin_items
from gateway.core import database, keys, logs
from gateway.core.issuers import Issuers
from gateway.errors import ConfigError
from gateway.plugins import NoCache
from gateway.plugins.manager import check_sections

_HEARTBEAT: Final = 60
"""Seconds without a sign of life after which a worker is replaced."""


def check(path: Path, *, create: bool = False) -> Config:
    """Read the configuration at *path* and everything that it names. Raises ConfigError with every problem."""
    try:
        config = load(path)
    except ConfigError as error:
        raise ConfigError([*error.problems, *check_sections(plugin_items(path))]) from error
    wrong: list[str] = []
    signing = None
    if create or config.tokens.signing_key_file.exists():
        try:
            signing = keys.load(config.tokens, shared=config.database.shared, create=create)
        except ConfigError as error:
            wrong += error.problems
    elif config.database.shared:
        wrong.append(
            f"tokens.signing_key_file: {config.tokens.signing_key_file} is missing, and the database is shared"
        )
    try:
        Issuers(config.tokens.trusted_issuers)
    except ConfigError as error:
        wrong += error.problems
    try:
        parts = app.build(config, signing or keys.ephemeral(), NoCache())
        wrong += parts.plugins.check()
    except ConfigError as error:
        wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
    return config


def serve(path: Path) -> None:
    """Run the gateway until it is told to stop. Raises ConfigError before anything opens a socket."""
    logs.configure()
    config = check(path, create=True)
    for listen in (config.server.listen, config.admin.listen):
        _probe(listen)
    asyncio.run(database.migrate(config.database))
    _Application(config).run()


def _probe(listen: Address) -> None:
    """Say in one line that an address can't be had, instead of gunicorn's retries."""
    try:
        with socket.create_server((listen.host, listen.port), family=_family(listen)):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError([f"cannot listen on {listen}: {reason}"]) from error


def _family(listen: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in listen.host else socket.AF_INET


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": [str(self.config.server.listen), str(self.config.admin.listen)],
            "workers": self.config.server.workers,
            "worker_class": Worker,
            "graceful_timeout": int(self.config.server.drain.total_seconds()) + 5,
            "timeout": _HEARTBEAT,
            "loglevel": "warning",
            "control_socket_disable": True,
            "backlog": 1024,
            "child_exit": _forget,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Config:
        return self.config


def _forget(_server: object, worker: Any) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


class Worker(GunicornWorker):  # type: ignore[misc]
    """One process: an event loop that answers on the public and the admin socket."""

    def init_signals(self) -> None:
        """Leave signals to the event loop; until it runs, the default ends a worker that has nothing to lose yet."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Serve until told to stop."""
        # The arbiter takes a worker that ends before it is booted for one that can't start, and gives up.
        self.booted = False
        try:
            uvloop.run(self._serve())
        except ConfigError as error:
            for problem in error.problems:
                sys.stderr.write(f"{problem}\n")
            sys.exit(3)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, stopped.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)
        config: Config = self.app.config
        public, admin = (listener.sock for listener in self.sockets)
        async with app.serving(config, public, admin):
            self.booted = True
            heart = asyncio.create_task(self._beat(stopped))
            await stopped.wait()
        heart.cancel()

    async def _beat(self, stopped: asyncio.Event) -> None:
        """Show the arbiter that we live, also while draining; stop when it has gone."""
        while True:
            self.notify()
            if os.getppid() != self.ppid:
                stopped.set()
            await asyncio.sleep(1)
