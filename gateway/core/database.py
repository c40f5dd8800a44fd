"""The engines under the metadata: how to connect, write, read and migrate on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import alembic.command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import BigInteger, Connection, Executable, Select, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoTurnError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from gateway.config import DatabaseConfig
from gateway.errors import ConfigError, ErrorCode, RegistryError

Rows = Sequence[tuple[Any, ...]]

_BUSY_WRITER: Final = 15.0
"""Seconds that a write waits for another process's write."""
_BUSY_READER: Final = 0.005
"""Seconds that a read may hold up the event loop before it moves to a thread."""
_TURN: Final = 60.0
"""Seconds that a write waits for its turn among this process's own."""
_SURVEYS: Final = 3
"""Surveys that one process runs at once: those of a collection of garbage take seconds, a page's shall not wait."""
_SURVEYED: Final = 1000
"""Rows of a survey that are taken in before others have their turn."""
_ADVISORY_LOCK: Final = 0x5267_4777
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Now(FunctionElement[int]):
    """Milliseconds since 1970 by the database's clock: one for all workers and replicas, whatever theirs say."""

    type = BigInteger()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_on_sqlite(*_: object, **__: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(Now, "postgresql")
def _now_on_postgresql(*_: object, **__: object) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


class Query:
    """A SELECT that is compiled once; its parameters are bound by name."""

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement

    @cached_property
    def on_sqlite(self) -> tuple[str, dict[str, Any]]:
        """The statement as SQLite reads it, and the values that are fixed in it."""
        compiled = self.statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


class Reader(Protocol):
    """Runs queries that see every commit that came before them, of any process."""

    async def rows(self, query: Query, parameters: Mapping[str, Any]) -> Rows:
        """All rows. Raises RegistryError (503) where the database can't answer."""
        ...

    async def survey(self, query: Query, parameters: Mapping[str, Any]) -> Rows:
        """All rows of a query that may take long; nobody else waits for it."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


class SqliteReader:
    """Reads on the event loop, on a connection that never writes and never holds a transaction open.

    A point query takes microseconds here and hundreds through a thread; one that would have to wait moves to a thread.
    """

    def __init__(self, path: Path) -> None:
        self._quick = _reading(path, _BUSY_READER)
        self._patient = _Idle(path, 1)
        self._surveying = _Idle(path, _SURVEYS)

    async def rows(self, query: Query, parameters: Mapping[str, Any]) -> Rows:
        """All rows."""
        sql, fixed = query.on_sqlite
        values = {**fixed, **parameters} if fixed else parameters
        try:
            return self._quick.execute(sql, values).fetchall()
        except sqlite3.OperationalError:
            # Busy (a checkpoint, a recovery) or really broken: the patient connection finds out.
            return await self._patient.rows(sql, values)
        except sqlite3.Error as error:
            raise unavailable() from error

    async def survey(self, query: Query, parameters: Mapping[str, Any]) -> Rows:
        """All rows, read in a thread."""
        sql, fixed = query.on_sqlite
        return await self._surveying.rows(sql, {**fixed, **parameters})

    async def close(self) -> None:
        """Close the connections."""
        for connection in (self._quick, *self._patient.connections, *self._surveying.connections):
            connection.close()


class _Idle:
    """Connections that read in threads, each one query at a time; who finds none idle waits."""

    def __init__(self, path: Path, number: int) -> None:
        self.connections = [_reading(path, _BUSY_WRITER) for _ in range(number)]
        self._idle: asyncio.LifoQueue[sqlite3.Connection] = asyncio.LifoQueue()
        for connection in self.connections:
            self._idle.put_nowait(connection)

    async def rows(self, sql: str, values: Any) -> Rows:
        connection = await self._idle.get()
        try:
            reading = asyncio.ensure_future(asyncio.to_thread(lambda: connection.execute(sql, values).fetchall()))
            try:
                return await asyncio.shield(reading)
            except asyncio.CancelledError:
                # The thread still uses the connection, which somebody may be about to close.
                connection.interrupt()
                await asyncio.wait((reading,))
                reading.exception()
                raise
            except sqlite3.Error as error:
                raise unavailable() from error
        finally:
            self._idle.put_nowait(connection)


def _reading(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


class EngineReader:
    """Reads through SQLAlchemy's pool, each query in autocommit, a survey by a cursor."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._surveying = engine

    async def rows(self, query: Query, parameters: Mapping[str, Any]) -> Rows:
        """All rows."""
        try:
            async with self._engine.connect() as connection:
                return [tuple(row) for row in await connection.execute(query.statement, dict(parameters))]
        except (SQLAlchemyError, OSError) as error:
            raise unavailable() from error

    async def survey(self, query: Query, parameters: Mapping[str, Any]) -> Rows:
        """All rows, some at a time: to take in many thousand at once would hold up the event loop."""
        try:
            async with self._surveying.connect() as connection:
                found = await connection.stream(query.statement, dict(parameters))
                return [tuple(row) async for some in found.partitions(_SURVEYED) for row in some]
        except (SQLAlchemyError, OSError) as error:
            raise unavailable() from error

    async def close(self) -> None:
        """Nothing of its own to close: the pool belongs to the database."""


class Database:
    """One worker's connections. Built inside the worker that uses them; never carried across a fork."""

    def __init__(self, config: DatabaseConfig) -> None:
        self._config = config
        self._engine = _engine(config)
        self.dialect = self._engine.dialect.name
        self._reader: Reader | None = None

    async def open(self) -> None:
        """Open the reading side. The schema has been migrated by then."""
        self._reader = EngineReader(self._engine) if self._config.shared else SqliteReader(self._config.sqlite_path)

    async def close(self) -> None:
        """Close every connection."""
        if self._reader is not None:
            await self._reader.close()
        await self._engine.dispose()

    async def rows(self, query: Query, **parameters: Any) -> Rows:
        """All rows of *query*. Raises RegistryError (503) where the database can't answer."""
        assert self._reader is not None
        return await self._reader.rows(query, parameters)

    async def survey(self, query: Query, **parameters: Any) -> Rows:
        """All rows of a *query* that may take long: no request waits for it."""
        assert self._reader is not None
        return await self._reader.survey(query, parameters)

    @asynccontextmanager
    async def write(self, *, durable: bool = True) -> AsyncIterator[Writer]:
        """One transaction: committed and durable when the block ends, undone when it raises.

        Not *durable*, it is atomic all the same, but a power cut may undo it with all that came after it: for what can
        be found out again. It does not wait for the disk, which beside a large upload takes a tenth of a second.
        """
        try:
            async with self._engine.execution_options(durable=durable).begin() as connection:
                if self._config.shared and not durable:
                    await connection.execute(text("SET LOCAL synchronous_commit TO off"))
                yield Writer(connection)
        except (DBAPIError, NoTurnError, OSError) as error:
            raise unavailable() from error


class Writer:
    """Statements inside one write transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, statement: Executable, parameters: Any = None) -> Rows:
        """Run *statement* and give its rows."""
        return [tuple(row) for row in await self._connection.execute(statement, parameters)]

    async def run(self, statement: Executable, parameters: Any = None) -> int:
        """Run *statement* and give the number of rows that it changed."""
        result = await self._connection.execute(statement, parameters)
        return int(result.rowcount)


def unavailable() -> RegistryError:
    """The refusal of a request that needs the database while it can't answer."""
    return RegistryError(
        ErrorCode.UNAVAILABLE, "the registry's database can't answer now, try again", headers={"Retry-After": "5"}
    )


def _engine(config: DatabaseConfig) -> AsyncEngine:
    url = config.url.get_secret_value()
    if config.shared:
        return create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=10, max_overflow=10, pool_pre_ping=True
        )
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{config.sqlite_path}",
        pool_size=1,
        max_overflow=0,
        pool_timeout=_TURN,
        connect_args={"timeout": _BUSY_WRITER},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        # pysqlite begins a transaction only before DML, so a read before it would not be protected: we begin ourselves.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        level = "FULL" if connection.get_execution_options().get("durable", True) else "NORMAL"
        if connection.info.get("synchronous") != level:
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.info["synchronous"] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def migrate(config: DatabaseConfig) -> None:
    """Bring the schema to this version, under a lock that other starting gateways respect.

    Raises ConfigError where the database can't be reached or was written by a newer gateway.
    """
    try:
        if not config.shared:
            config.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
        with _file_lock(config):
            engine = _engine(config)
            try:
                async with engine.begin() as connection:
                    if config.shared:
                        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                    await connection.run_sync(_upgrade)
            finally:
                await engine.dispose()
    except CommandError as error:
        problem = f"database.url: the database belongs to a newer version of the gateway ({error})"
        raise ConfigError([problem]) from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ConfigError([f"database.url: cannot open or migrate the database: {reason}"]) from error


@contextmanager
def _file_lock(config: DatabaseConfig) -> Iterator[None]:
    if config.shared:
        yield
        return
    with config.sqlite_path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _upgrade(connection: Connection) -> None:
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(_MIGRATIONS))
    settings.attributes["connection"] = connection
    alembic.command.upgrade(settings, "head")
