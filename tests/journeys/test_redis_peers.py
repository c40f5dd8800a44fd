"""The Redis servers that tests run beside the gateway: they start, answer, fail as told, and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel as SentinelClient

from tests.support.peers import accepts, eventually
from tests.support.redis import (
    MASTER_NAME,
    Cluster,
    RedisServer,
    RefusedError,
    Sentinel,
    TlsRedis,
    command,
    dump,
)
from tests.support.redis import cluster as running_cluster
from tests.support.redis import redis as running_redis
from tests.support.redis import sentinel as running_sentinel
from tests.support.redis import tls_redis as running_tls_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run one plain server for all tests; keys of one test are there in the next."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[TlsRedis]:
    """Run a server with TLS and an account."""
    with running_tls_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Sentinel]:
    """Run a master and a replica under three sentinels."""
    with running_sentinel(tmp_path / "redis") as watching:
        yield watching


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Run a cluster of three masters."""
    with running_cluster(tmp_path / "redis") as joined:
        yield joined


def ends(*servers: RedisServer) -> None:
    """Stop servers and see them gone."""
    for server in servers:
        server.stop()
        assert not server.running
        assert not accepts(server.port)


def test_plain(redis_server: RedisServer) -> None:
    """A plain server answers, and shows every kind of value as bytes."""
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.ping()
        client.set("plain:string", b"\x00\r\n\xff")
        client.hset("plain:hash", mapping={"field": "value"})
        client.rpush("plain:list", "a", "b")
        client.sadd("plain:set", "member")
        client.zadd("plain:zset", {"member": 1})
        client.xadd("plain:stream", {"field": "value"}, id="1-1")
    assert {key: value for key, value in dump(redis_server.port).items() if key.startswith(b"plain:")} == {
        b"plain:string": b"\x00\r\n\xff",
        b"plain:hash": b"field\nvalue",
        b"plain:list": b"a\nb",
        b"plain:set": b"member",
        b"plain:zset": b"member\n1",
        b"plain:stream": b"1-1\nfield\nvalue",
    }


def test_ends_and_comes_back(tmp_path: Path) -> None:
    """A server hangs and goes on, and after a stop or a kill comes back empty on its port."""
    with running_redis(tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
            server.pause()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.resume()
            assert client.ping()
        for end in (server.stop, server.kill):
            command(server.port, "SET", "key", "value")
            end()
            assert not server.running
            assert not accepts(server.port)
            server.start()
            assert server.dump() == {}
        server.pause()
    assert not server.running
    assert not accepts(server.port)


def test_tls(tls_redis: TlsRedis) -> None:
    """A server with TLS answers its account within the prefix, and nobody in plain text, nameless or beyond it."""
    with redis.Redis.from_url(tls_redis.url, ssl_ca_certs=str(tls_redis.ca_file)) as client:
        assert client.ping()
        assert client.set("registry-gateway:key", "value")
        assert client.publish("registry-gateway:channel", "message") == 0
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("key", "value")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.publish("channel", "message")
    assert tls_redis.dump() == {b"registry-gateway:key": b"value"}
    nameless = tls_redis.url.replace(f"{tls_redis.user}:{tls_redis.password}@", "")
    with (
        redis.Redis.from_url(nameless, ssl_ca_certs=str(tls_redis.ca_file)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    with pytest.raises((OSError, RefusedError)):
        command(tls_redis.port, "PING")
    ends(tls_redis)


def test_sentinel(sentinel: Sentinel) -> None:
    """Sentinels name the master and promote its replica when it is killed."""
    addresses = [(one.address.split(":")[0], one.port) for one in sentinel.sentinels]
    assert sentinel.url == "redis+sentinel://{}:{},{}:{},{}:{}/mymaster/0".format(*sum(addresses, ()))
    watching = SentinelClient(addresses)
    found = watching.discover_master(MASTER_NAME)
    assert found == ("127.0.0.1", sentinel.master.port)
    with watching.master_for(MASTER_NAME) as client:
        assert client.ping()
        client.set("key", "value")
        eventually(lambda: sentinel.replica.dump() == {b"key": b"value"}, "the replica has the key")
        sentinel.master.kill()
        eventually(lambda: sentinel.current == sentinel.replica.port, "the replica is promoted", within=40)
        assert client.get("key") == b"value"
        assert client.set("key", "another")
    for one in watching.sentinels:
        one.close()
    ends(sentinel.replica, *sentinel.sentinels)


def test_cluster(cluster: Cluster) -> None:
    """A cluster's nodes answer and share the keys between them."""
    nodes = [ClusterNode("127.0.0.1", node.port) for node in cluster.nodes]
    with RedisCluster(startup_nodes=nodes) as client:
        assert client.ping(target_nodes=RedisCluster.ALL_NODES)
        for number in range(64):
            client.set(f"key-{number}", number)
    assert cluster.dump() == {b"key-%d" % number: b"%d" % number for number in range(64)}
    assert all(node.dump() for node in cluster.nodes)
    ends(*cluster.nodes)
