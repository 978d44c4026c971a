"""Runs a container, prints what it writes until it ends, and its exit code.

    python example/run.py IMAGE COMMAND...
"""

import os
import sys
import time

from google.protobuf.duration_pb2 import Duration

from containersvc import Client
from containersvc.v1 import container_pb2, container_service_pb2, health_pb2, log_service_pb2


def follow(client: Client, id: str) -> int:
    tail = client.logs.TailLogs(
        log_service_pb2.TailLogsRequest(
            container_id=id, last_lines=10_000, heartbeat=Duration(seconds=1)
        )
    )
    ended = False
    for message in tail:
        for line in message.logs:
            print(line.content)
        if message.type != log_service_pb2.TAIL_EVENT_TYPE_HEARTBEAT:
            continue
        # A second of silence. Once more after its end, and all has come.
        request = container_service_pb2.GetContainerRequest(id=id)
        container = client.containers.GetContainer(request).container
        if ended:
            tail.cancel()
            return container.exit_code
        ended = container.state == container_pb2.CONTAINER_STATE_EXITED
    raise RuntimeError("the tail ended before the container")


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: run.py IMAGE COMMAND...")
    address, token = os.environ["CONTAINER_SVC_ADDRESS"], os.environ["CONTAINER_SVC_TOKEN"]
    with Client(address, token) as client:
        ran = client.containers.RunContainer(
            container_service_pb2.RunContainerRequest(
                image=sys.argv[1],
                names=[f"example-python-{time.time_ns()}"],
                command=sys.argv[2:],
                restart_policy=health_pb2.RESTART_POLICY_NEVER,
            )
        )
        try:
            print("exit code", follow(client, ran.id))
        finally:
            client.containers.RemoveContainer(
                container_service_pb2.RemoveContainerRequest(id=ran.id, force=True)
            )


if __name__ == "__main__":
    main()
