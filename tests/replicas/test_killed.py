"""One replica dies without a word: the other goes on with what it had begun."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.replicas.conftest import in_front, inside
from tests.support import images
from tests.support.peers import eventually
from tests.support.people import BOB, CAROL, PRIVATE
from tests.support.wire import authorization

if TYPE_CHECKING:
    from pathlib import Path

    from tests.replicas.conftest import Replicas
    from tests.support.containers import Containers
    from tests.support.wire import Answer, Wire

CONTENT = images.noise(4 * 1024 * 1024)
DIGEST = images.sha256(CONTENT)
HALF = len(CONTENT) // 2


def held(state: Answer) -> int:
    """How many bytes an answer says to have; none and one have the same Range."""
    last = int(state.header("Range").removeprefix("0-"))
    return last + 1 if last else 0


def send_rest(wire: Wire, location: str) -> Answer | None:
    """Ask how far an upload is and send the rest, as a client does; gives an answer only when all is there."""
    state = wire.get(location).expect(204)
    offset = held(state)
    answer = wire.append(inside(state.location), CONTENT[offset:], start=offset)
    # For as long as the dead one's claim is believed, and once where the registry dropped what it had.
    return None if answer.status in {409, 416} else answer.expect(202)


def test_upload_goes_on(plain: Replicas) -> None:
    """After a kill -9 amid a chunk the other replica says truthfully how far the upload is, and takes the rest."""
    first, second = plain.wires(CAROL)
    location = inside(first.append(inside(first.start_upload(PRIVATE)), CONTENT[:HALF]).expect(202).location)
    before = plain.begun(PRIVATE)
    connection = first.connect()
    connection.putrequest("PATCH", location)
    for name, value in {**authorization(CAROL), "Content-Length": str(len(CONTENT) - HALF)}.items():
        connection.putheader(name, value)
    connection.endheaders(CONTENT[HALF:-1])
    eventually(lambda: plain.begun(PRIVATE) > before, "some of the chunk is in the registry")
    plain.first.kill()
    connection.close()
    done = eventually(lambda: send_rest(second, location), "the other replica takes the rest")
    second.close_upload(inside(done.location), DIGEST).expect(201)
    assert plain.second.wire(BOB).get(f"/v2/{PRIVATE}/blobs/{DIGEST}").expect(200).body == CONTENT


def test_push_goes_on(plain: Replicas, containers: Containers, tmp_path: Path) -> None:
    """A push through nginx whose gateway is killed amid a layer ends well when it is tried again."""
    image = images.image(images.noise(20_000_000))
    with in_front(plain, tmp_path, all_to_the_first=True) as front:
        trust = front.trusted(tmp_path)
        containers.login(front.host, CAROL, certificates=trust)
        source, target = images.layout(tmp_path / "layout", "1", image), f"docker://{front.host}/{PRIVATE}:killed"
        copy = ("copy", "--retry-times", "3", "--dest-cert-dir", trust, source, target)
        with ThreadPoolExecutor() as pool:
            with plain.way.held_up(after=5_000_000):
                push = pool.submit(containers.skopeo, *copy)
                plain.way.wait()
                plain.first.kill()
            broken = push.exception()
        # skopeo tries again by itself, unless its write to the connection is what failed first.
        if broken is not None:
            assert "unexpected HTTP status" not in str(broken)
            containers.skopeo(*copy)
        found = containers.skopeo("inspect", "--cert-dir", trust, "--format", "{{.Digest}}", target)
    assert found.stdout.strip() == image.manifest.digest
