"""Redis as operators run it: alone, behind TLS and an ACL, watched by sentinels, or as a cluster."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
import signal
import socket
import ssl
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.peers import Peer, PeerError, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

Reply: TypeAlias = "bytes | int | list[Reply] | None"

HOST = "127.0.0.1"
SLOTS = 16384
MASTER_NAME = "mymaster"
PREFIX = "registry-gateway:"

# An end does not wait for replicas, of which a test may have stopped one.
SETTINGS = """
bind 127.0.0.1
port {port}
dir "{folder}"
save ""
appendonly no
shutdown-timeout 0
repl-diskless-sync-delay 0
rdb-del-sync-files yes
"""

TLS_SETTINGS = """
port 0
tls-port {port}
tls-cert-file "{folder}/certificate.pem"
tls-key-file "{folder}/key.pem"
tls-ca-cert-file "{folder}/ca.pem"
tls-auth-clients no
user default off
user {user} on >{password} +@all ~{prefix}* &{prefix}*
"""

# Not below 1000 ms: a sentinel connects at most once a second, so that after a failover it would take the new master
# for dead before it has connected to it, and go back to the old one, empty as that is.
SENTINEL_SETTINGS = """
bind 127.0.0.1
port {port}
dir "{folder}"
sentinel monitor {name} 127.0.0.1 {watched} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 2000
"""

# Without a port of its own the cluster's bus takes the port plus 10000, which outgoing connections may hold.
CLUSTER_SETTINGS = """
cluster-enabled yes
cluster-config-file nodes.conf
cluster-port {bus}
cluster-announce-ip 127.0.0.1
cluster-node-timeout 2000
"""


class RefusedError(RuntimeError):
    """Redis answered a command with an error."""


@dataclass(frozen=True)
class Login:
    """What a server asks of those who connect."""

    user: str
    password: str
    ca_file: Path


class Connection:
    """A connection that speaks RESP, as little of it as tests need."""

    def __init__(self, port: int, login: Login | None = None, *, within: float = 5) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=within)
        try:
            if login:
                context = ssl.create_default_context(cafile=login.ca_file)
                self._socket = context.wrap_socket(self._socket, server_hostname=HOST)
            self._input = self._socket.makefile("rb")
            if login:
                self.command("AUTH", login.user, login.password)
        except BaseException:
            self._socket.close()
            raise

    def command(self, *words: str | bytes | int) -> Reply:
        """Send one command and give its answer."""
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)]
        self._socket.sendall(b"".join(parts))
        return self._reply()

    def _reply(self) -> Reply:
        line = self._input.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RefusedError(rest.decode())
        if kind == b"+":
            return rest
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(number)]
        content = self._input.read(number + 2)
        if len(content) != number + 2:
            raise ConnectionResetError("Redis closed the connection")
        return content[:-2]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._input.close()
        self._socket.close()


def command(port: int, *words: str | bytes | int, login: Login | None = None) -> Reply:
    """Send one command over a connection of its own and give its answer."""
    with Connection(port, login) as connection:
        return connection.command(*words)


# How to read all of a key, by its type; {} is the key.
_READ: dict[bytes, tuple[bytes, ...]] = {
    b"string": (b"GET", b"{}"),
    b"hash": (b"HGETALL", b"{}"),
    b"list": (b"LRANGE", b"{}", b"0", b"-1"),
    b"set": (b"SMEMBERS", b"{}"),
    b"zset": (b"ZRANGE", b"{}", b"0", b"-1", b"WITHSCORES"),
    b"stream": (b"XRANGE", b"{}", b"-", b"+"),
}


def _flat(reply: Reply) -> bytes:
    if isinstance(reply, list):
        return b"\n".join(_flat(item) for item in reply)
    return reply if isinstance(reply, bytes) else str(reply).encode()


def dump(port: int, *, database: int = 0, login: Login | None = None) -> dict[bytes, bytes]:
    """Read every key of a database and its value; what has members gives them as lines."""
    found: dict[bytes, bytes] = {}
    with Connection(port, login) as connection:
        if database:
            connection.command("SELECT", database)
        keys = connection.command("KEYS", "*")
        assert isinstance(keys, list)
        for key in keys:
            assert isinstance(key, bytes)
            kind = connection.command("TYPE", key)
            assert isinstance(kind, bytes)
            if kind == b"none":  # it expired since
                continue
            value = connection.command(*(key if word == b"{}" else word for word in _READ[kind]))
            if value is not None:
                found[key] = _flat(value)
    return found


class RedisServer:
    """One server on a loopback port, which may end, hang and come back on the same port with the same settings."""

    def __init__(
        self,
        folder: Path,
        settings: str = SETTINGS,
        *,
        port: int | None = None,
        login: Login | None = None,
        as_sentinel: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._login = login
        self._folder = folder
        self._config = folder / "redis.conf"
        self._config.write_text(settings.replace("{port}", str(self.port)).replace("{folder}", str(folder)))
        self._command: list[str | Path] = ["redis-server", self._config, *(["--sentinel"] if as_sentinel else [])]
        self._peer: Peer | None = None

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Where and how to reach it."""
        if self._login:
            return f"rediss://{self._login.user}:{self._login.password}@{self.address}/0"
        return f"redis://{self.address}/0"

    @property
    def peer(self) -> Peer:
        """Its process, which has a `pid` and a `log`."""
        if self._peer is None:
            raise PeerError("redis-server was not started")
        return self._peer

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        """It alone: what sentinels and clusters have several of."""
        return (self,)

    @property
    def running(self) -> bool:
        """Tell whether its process is there, be it hung or not."""
        return self._peer is not None and self._peer.running

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        if self.running:
            raise PeerError("redis-server runs already")
        self._peer = Peer(self._command, log=self._folder / "log", environment={"LC_ALL": "C"}, folder=self._folder)
        self._peer.wait_ready(self._answers)

    def stop(self) -> None:
        """Let it end in good order; one that hung goes on first, and one that ended is left alone."""
        if self.running:
            self.resume()
            self.peer.stop()

    def kill(self) -> None:
        """End it at once."""
        self.peer.kill()

    def pause(self) -> None:
        """Make it hang: connections are still accepted, nothing is answered."""
        self.peer.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause()`."""
        self.peer.send(signal.SIGCONT)

    def command(self, *words: str | bytes | int) -> Reply:
        """Send one command and give its answer."""
        return command(self.port, *words, login=self._login)

    def info(self, section: str) -> dict[str, str]:
        """Read one section of what it tells about itself."""
        return _fields(self.command("INFO", section))

    def dump(self, *, database: int = 0) -> dict[bytes, bytes]:
        """Read every key and its value."""
        return dump(self.port, database=database, login=self._login)

    def _answers(self) -> bool:
        with suppress(OSError, RefusedError):
            return self.command("PING") == b"PONG"
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _fields(reply: Reply) -> dict[str, str]:
    assert isinstance(reply, bytes)
    lines = reply.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def redis(folder: Path, *, port: int | None = None) -> Iterator[RedisServer]:
    """Run one server that keeps nothing over its end and trusts whoever comes."""
    with RedisServer(folder, port=port) as server:
        yield server


class TlsRedis(RedisServer):
    """A server with TLS and one account, which sees no key and no channel but the gateway's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.user = "gateway"
        self.password = secrets.token_hex(16)
        self.ca_file = certificates(folder)
        settings = TLS_SETTINGS.replace("{user}", self.user).replace("{password}", self.password)
        settings = SETTINGS + settings.replace("{prefix}", PREFIX)
        super().__init__(folder, settings, login=Login(self.user, self.password, self.ca_file))


@contextmanager
def tls_redis(folder: Path) -> Iterator[TlsRedis]:
    """Run one server that speaks nothing but TLS and knows nobody but `gateway`."""
    with TlsRedis(folder) as server:
        yield server


@dataclass(frozen=True)
class Sentinel:
    """A master and its replica, watched by three sentinels, two of which decide."""

    master: RedisServer
    replica: RedisServer
    sentinels: tuple[RedisServer, ...]

    @property
    def url(self) -> str:
        """Where and how to reach whichever of the two is the master."""
        return f"redis+sentinel://{','.join(one.address for one in self.sentinels)}/{MASTER_NAME}/0"

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        """All that run here."""
        return (self.master, self.replica, *self.sentinels)

    @property
    def current(self) -> int | None:
        """The port of the master, if the sentinels that run agree on it."""
        answers = [one.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME) for one in self._running()]
        ports = {int(answer[1]) for answer in answers if isinstance(answer, list) and isinstance(answer[1], bytes)}
        return ports.pop() if len(ports) == 1 else None

    def complete(self) -> bool:
        """Tell whether every sentinel that runs knows the replica and the two other sentinels."""
        return all(
            ",status=ok," in watched and watched.endswith(",slaves=1,sentinels=3")
            for watched in (one.info("sentinel").get("master0", "") for one in self._running())
        )

    def _running(self) -> list[RedisServer]:
        return [one for one in self.sentinels if one.running]


@contextmanager
def sentinel(folder: Path) -> Iterator[Sentinel]:
    """Run a master, a replica and three sentinels that would replace the one by the other."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(folder / "master"))
        replicates = f"{SETTINGS}replicaof {HOST} {master.port}\n"
        replica = stack.enter_context(RedisServer(folder / "replica", replicates))
        # Sentinels ask a master for its replicas when they start, and then only every ten seconds.
        eventually(lambda: "slave0" in master.info("replication"), "the master knows its replica")
        eventually(lambda: replica.info("replication")["master_link_status"] == "up", "the replica is up to date")
        settings = SENTINEL_SETTINGS.replace("{name}", MASTER_NAME).replace("{watched}", str(master.port))
        watching = Sentinel(
            master,
            replica,
            tuple(
                stack.enter_context(RedisServer(folder / f"sentinel-{number}", settings, as_sentinel=True))
                for number in range(3)
            ),
        )
        eventually(watching.complete, "the sentinels know each other and the replica", within=30)
        yield watching


@dataclass(frozen=True)
class Cluster:
    """Masters that share the slots between them; there are no replicas."""

    nodes: tuple[RedisServer, ...]

    @property
    def url(self) -> str:
        """Where and how to reach it."""
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        """All that run here."""
        return self.nodes

    def ok(self) -> bool:
        """Tell whether every node knows all others and serves."""
        return all(self._ok(_fields(node.command("CLUSTER", "INFO"))) for node in self.nodes)

    def dump(self) -> dict[bytes, bytes]:
        """Read every key and its value from all nodes."""
        return {key: value for node in self.nodes for key, value in node.dump().items()}

    def _ok(self, info: dict[str, str]) -> bool:
        return (
            info["cluster_state"] == "ok"
            and info["cluster_known_nodes"] == str(len(self.nodes))
            and info["cluster_slots_ok"] == str(SLOTS)
        )


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run three masters and join them to a cluster."""
    with ExitStack() as stack:
        buses = [free_port() for _ in range(3)]
        settings = [SETTINGS + CLUSTER_SETTINGS.replace("{bus}", str(bus)) for bus in buses]
        nodes = tuple(
            stack.enter_context(RedisServer(folder / f"node-{number}", text)) for number, text in enumerate(settings)
        )
        bounds = [number * SLOTS // len(nodes) for number in range(len(nodes) + 1)]
        for number, node in enumerate(nodes):
            node.command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].command("CLUSTER", "MEET", HOST, node.port, bus)
        joined = Cluster(nodes)
        eventually(joined.ok, "the nodes have become a cluster", within=30)
        yield joined


def certificates(folder: Path) -> Path:
    """Write a CA, and a key and a certificate of it for 127.0.0.1 and localhost; gives the CA's certificate."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    now = dt.datetime.now(dt.UTC)
    issued = (
        x509.CertificateBuilder()
        .issuer_name(ca_name)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )
    # Python 3.13 is strict: a CA says that it may sign, and what it signed says by which key.
    ca = (
        issued.subject_name(ca_name)
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_MAY_SIGN, critical=True)
        .add_extension(identifier, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        issued.subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    return ca_file


_MAY_SIGN = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
