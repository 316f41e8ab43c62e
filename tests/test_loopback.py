# SPDX-License-Identifier: Apache-2.0
"""What the CPU backend does so that nothing listens to the network; tests/e2e/test_training.py looks at a whole run."""

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from critic_r1_verl.cpu import loopback


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for torch.distributed.rendezvous. made: what its TCPStore was called with."""
    module = SimpleNamespace(made=[])

    def store(host_name: str, port: int, world_size: Any, is_master: bool, **options: Any) -> None:
        module.made.append((host_name, port, is_master, options))

    module.TCPStore = store
    loopback._patch_store(module)
    return module


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((loopback.LOOPBACK, 0))
        return probe.getsockname()[1]


def test_a_store_listens_on_the_address_that_it_is_known_by(stores: SimpleNamespace) -> None:
    port = free_port()
    stores.TCPStore(host_name="127.0.0.1", port=port, world_size=2, is_master=True, multi_tenant=True)
    ((host, _, is_master, options),) = stores.made
    with socket.socket(fileno=options.pop("master_listen_fd")) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
        socket.create_connection(("127.0.0.1", port), 5).close()
    assert (host, is_master, options) == ("127.0.0.1", True, {"multi_tenant": True})


def test_other_stores_are_left_as_they_are(stores: SimpleNamespace) -> None:
    with socket.socket() as taken:
        taken.bind((loopback.LOOPBACK, 0))
        taken.listen()
        for host, port, is_master in (("192.0.2.7", 1, True), ("127.0.0.1", 1, False), ("127.0.0.1", taken.getsockname()[1], True)):
            stores.TCPStore(host_name=host, port=port, world_size=2, is_master=is_master)
    assert [options for *_, options in stores.made] == [{}] * 3


@pytest.mark.parametrize("cluster", [False, True])
def test_a_cluster_keeps_the_network(monkeypatch: pytest.MonkeyPatch, cluster: bool) -> None:
    given = {"GLOO_SOCKET_IFNAME": "eth0"} | ({"RAY_ADDRESS": "192.0.2.7:6379"} if cluster else {})
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("wrapt.register_post_import_hook", lambda *_: None)
    loopback.install()
    assert environment == (given if cluster else loopback.ENVIRONMENT | given)
