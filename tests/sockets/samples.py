"""Small plugins, and the means to load them as if distributions offered them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

from gateway.config import Config
from gateway.plugins import Backend, Decision, Model, Services, Verdict, hookimpl
from gateway.plugins.manager import ENTRY_POINTS, Installed, Plugins, load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.plugins import Access

TIMEOUT = "100ms"


class NoKeys(Model):
    """Nothing to configure."""


class Sample:
    """What every plugin has: a Config and a constructor."""

    Config: type[Model] = NoKeys

    def __init__(self, config: Model, services: Services) -> None:
        self.config = config
        self.services = services


class Store(Sample):
    """Offers a backend, so that a gateway can start."""

    @hookimpl
    def gateway_backends(self) -> Mapping[str, Backend]:
        """Offer one under the name of the item."""
        return {self.services.name: Mock(spec=Backend, metadata="truth")}


class Nothing(Sample):
    """Decides, and allows nobody anything."""

    @hookimpl
    async def gateway_authorize(self, accesses: Sequence[Access]) -> Decision:
        """Allow nothing."""
        return Decision(tuple(Verdict() for _ in accesses))


@dataclass(frozen=True, slots=True)
class Offered(Installed):
    """A plugin whose class is at hand."""

    plugin: type[Any]

    def load(self) -> type[Any]:
        """Give the class."""
        return self.plugin


def offered(name: str, plugin: type[Any], distribution: str = "samples") -> Offered:
    """Offer a class as a plugin of a distribution."""
    return Offered(name, distribution, "1.0", EntryPoint(name, "tests.sockets.samples:Sample", ENTRY_POINTS), plugin)


def services(name: str, facts: Plugins) -> Services:
    """Lend a plugin what it needs to be built."""
    return Services(name, facts, Mock(), Mock(), bytes(32))


def started(items: Sequence[Mapping[str, Any]], available: Sequence[Installed]) -> Plugins:
    """Load a configuration of these items."""
    config = Config.model_validate({"hook_timeout": TIMEOUT, "plugins": list(items)})
    return load(config, services, available)


def asked(*plugins: type[Any]) -> Plugins:
    """Load these plugins in this order, behind them a backend and an authorizer that allows nothing."""
    named = {f"p{number}": plugin for number, plugin in enumerate(plugins)} | {"store": Store, "nothing": Nothing}
    return started([{"use": name} for name in named], [offered(name, plugin) for name, plugin in named.items()])
