# SPDX-License-Identifier: Apache-2.0
"""On one machine without a GPU, all that Ray, TransferQueue, vLLM and torch listen on is reached through the loopback interface alone.

Nothing of it asks for a password, and Ray runs what it is sent. A run on a cluster (RAY_ADDRESS) needs the network and is left as it is;
so is a variable that the user has set.
"""

import os
import socket
from typing import Any

LOOPBACK = "127.0.0.1"
# Ray's switch for systems whose firewall asks about each listener. If it is off, a node is 127.0.0.1, for verl and TransferQueue too.
_RAY_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
ENVIRONMENT = {
    _RAY_SWITCH: "0",
    "VLLM_HOST_IP": LOOPBACK,
    "GLOO_SOCKET_IFNAME": "lo",
}


def install() -> None:
    """Set the environment of this process and its children, and have torch's stores listen on the address that they are known by."""
    if os.environ.get("RAY_ADDRESS"):
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from wrapt import register_post_import_hook

    register_post_import_hook(_patch_store, "torch.distributed.rendezvous")
    # verl imports Ray before this, and Ray reads its switch when it is imported.
    register_post_import_hook(_keep_ray_local, "ray._private.ray_constants")


def _keep_ray_local(module: Any) -> None:
    module.ENABLE_RAY_CLUSTER = os.environ[_RAY_SWITCH] == "1"


def _patch_store(module: Any) -> None:
    """torch's store listens on all addresses, unless it is given a socket that listens already."""
    store = module.TCPStore

    def local_store(host_name: str, port: int, world_size: int | None = None, is_master: bool = False, **options: Any) -> Any:
        if is_master and host_name in (LOOPBACK, "localhost") and "master_listen_fd" not in options:
            listener = socket.socket()
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((LOOPBACK, port))
                listener.listen(128)
            except OSError:
                # This process may have a store on that port, which torch finds itself; if another has the port, torch says so.
                listener.close()
            else:
                options["master_listen_fd"] = listener.detach()
        return store(host_name, port, world_size, is_master, **options)

    module.TCPStore = local_store
