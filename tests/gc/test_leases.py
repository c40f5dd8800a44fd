"""What only one may do at a time, on both engines."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from gateway.core.database import Now, Query
from gateway.core.leases import LeaseLostError, Leases
from gateway.core.schema import leases as table
from tests.gc.conftest import EACH_ENGINE
from tests.support.passing import pass_time
from tests.support.peers import run

if TYPE_CHECKING:
    from gateway.config import DatabaseConfig
    from gateway.core.database import Database

pytestmark = EACH_ENGINE
NAME = "collect garbage"


@pytest.fixture
def leases(database: Database) -> Leases:
    """One worker's."""
    return Leases(database)


@pytest.fixture
def others(other_database: Database) -> Leases:
    """Another worker's."""
    return Leases(other_database)


async def test_what_is_held_nobody_else_takes(leases: Leases, others: Leases) -> None:
    """A lease is taken once, and again after it was given back."""
    holder = await leases.take(NAME, 10)
    assert holder is not None
    assert await others.take(NAME, 10) is None
    assert await leases.take(NAME, 10) is None
    await leases.release(NAME, holder)
    assert await others.take(NAME, 10) is not None


async def test_names_are_apart(leases: Leases, others: Leases) -> None:
    """One lease says nothing of another."""
    assert await leases.take("one", 10) is not None
    assert await others.take("two", 10) is not None


async def test_one_whose_time_is_over_is_taken(leases: Leases, others: Leases, database: Database) -> None:
    """A dead holder's lease is free after its time; the dead one can neither extend nor give it back then."""
    lost = await leases.take(NAME, 10)
    assert lost is not None
    await pass_time(database, 9)
    assert await others.take(NAME, 10) is None
    await pass_time(database, 2)
    assert await others.take(NAME, 10) is not None
    assert not await leases.extend(NAME, lost, 10)
    await leases.release(NAME, lost)
    assert await leases.take(NAME, 10) is None


async def test_an_extended_one_stays(leases: Leases, others: Leases, database: Database) -> None:
    """Who extends a lease holds it from then on."""
    holder = await leases.take(NAME, 10)
    assert holder is not None
    await pass_time(database, 9)
    assert await leases.extend(NAME, holder, 10)
    await pass_time(database, 9)
    assert await others.take(NAME, 10) is None


async def test_of_many_at_once_one_takes_it(leases: Leases, others: Leases) -> None:
    """Of twenty who want it at the same time one gets it."""
    wanting = [(leases, others)[number % 2].take(NAME, 10) for number in range(20)]
    assert sum(holder is not None for holder in await asyncio.gather(*wanting)) == 1


async def test_one_whose_time_is_over_is_taken_once(leases: Leases, others: Leases, database: Database) -> None:
    """Of twenty who want a dead one's lease one gets it."""
    await leases.take(NAME, 10)
    await pass_time(database, 11)
    wanting = [(leases, others)[number % 2].take(NAME, 10) for number in range(20)]
    assert sum(holder is not None for holder in await asyncio.gather(*wanting)) == 1


async def test_a_block_holds_it(leases: Leases, others: Leases) -> None:
    """While the block runs nobody else holds it; afterwards it is free, also where the block raised."""
    async with leases.held(NAME, 10) as mine, others.held(NAME, 10) as theirs:
        assert (mine, theirs) == (True, False)
    with pytest.raises(ZeroDivisionError):
        async with others.held(NAME, 10):
            raise ZeroDivisionError
    assert await leases.take(NAME, 10) is not None


async def test_a_block_extends_it(leases: Leases, others: Leases, database: Database) -> None:
    """A block that runs longer than the lease holds it all the same."""
    left = Query(select(table.c.held_until - Now()).where(table.c.name == NAME))
    async with leases.held(NAME, 3):
        await pass_time(database, 2)
        async with asyncio.timeout(20):
            while (await database.rows(left))[0][0] < 2000:  # noqa: ASYNC110 - nobody tells; milliseconds
                await asyncio.sleep(0.02)
        assert await others.take(NAME, 10) is None


async def test_a_block_that_lost_it_ends(leases: Leases, others: Leases, database: Database) -> None:
    """A block whose lease somebody else has taken is cancelled, and says so."""

    async def work() -> None:
        async with leases.held(NAME, 0.3):
            await pass_time(database, 1)
            assert await others.take(NAME, 10) is not None
            await asyncio.Event().wait()

    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(work(), 20)


async def test_a_timeout_of_the_block_is_its_own(leases: Leases) -> None:
    """What the block raises comes out as it is."""
    with pytest.raises(TimeoutError):
        async with leases.held(NAME, 10):
            raise TimeoutError


AHEAD = f"""
import asyncio, sys, time
real = time.time
time.time = lambda: real() + 600
from gateway.config import DatabaseConfig
from gateway.core.database import Database
from gateway.core.leases import Leases

async def main():
    database = Database(DatabaseConfig(url=sys.argv[1]))
    print(await Leases(database).take({NAME!r}, 10))
    await database.close()

asyncio.run(main())
"""


async def test_no_workers_clock_counts(leases: Leases, database_config: DatabaseConfig) -> None:
    """A worker whose clock is ahead by more than a lease lasts does not take it from the one that holds it."""
    assert await leases.take(NAME, 60) is not None
    url = database_config.url.get_secret_value()
    assert (await asyncio.to_thread(run, [sys.executable, "-c", AHEAD, url])).stdout == "None\n"
