import socket
from contextlib import ExitStack, closing

import pytest

from swarm.errors import SetupError
from swarm.node.listeners import another_port, open_listeners


def test_both_families_listen_on_one_port() -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(closing(one)) for one in open_listeners(("127.0.0.1", "::1"), 0)]
        ports = {listener.getsockname()[1] for listener in listeners}
        assert len(ports) == 1
        for listener in listeners:
            socket.create_connection(listener.getsockname()[:2], timeout=5).close()


def test_a_port_that_one_family_has_lost_is_refused_and_the_other_let_go() -> None:
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"port {port} is in use on ::1: .*--port {another_port(port)} "):
            open_listeners(("127.0.0.1", "::1"), port)
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(("taken", "proposed"), [(17615, 17617), (65533, 65535), (65534, 65532), (65535, 65533)])
def test_the_port_proposed_instead_is_one_and_not_that_for_invitations(taken: int, proposed: int) -> None:
    assert another_port(taken) == proposed
