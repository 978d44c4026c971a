"""The Python gRPC client, with stubs that protoc made a moment ago."""

import os
import sys
import unittest

import grpc

sys.path.insert(0, os.environ["STUBS"])
from containersvc.v1 import container_pb2, container_service_pb2 as pb  # noqa: E402
from containersvc.v1 import container_service_pb2_grpc as rpc  # noqa: E402

ADDRESS = os.environ["ADDRESS"].removeprefix("http://")
NAME = os.environ["PREFIX"] + "-grpc"
AUTH = [("authorization", "Bearer " + os.environ["TOKEN"])]


class GrpcClient(unittest.TestCase):
    def setUp(self):
        channel = grpc.insecure_channel(ADDRESS)
        self.addCleanup(channel.close)
        self.stub = rpc.ContainerServiceStub(channel)

    def run_container(self, name=NAME):
        request = pb.RunContainerRequest(image=os.environ["IMAGE"], names=[name])
        request.ports.add(internal=80, host=0)
        return self.stub.RunContainer(request, metadata=AUTH, timeout=60)

    def fails(self, code, call, *args, **kwargs):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())

    def test_a_second_run_is_unchanged(self):
        first, second = self.run_container(), self.run_container()
        self.assertIn(first.action, (pb.RUN_ACTION_CREATED, pb.RUN_ACTION_UNCHANGED))
        self.assertEqual(second.action, pb.RUN_ACTION_UNCHANGED)
        self.assertFalse(second.started)
        self.assertEqual(first.id, second.id)
        self.assertEqual(first.ports[0].host, second.ports[0].host)
        self.assertRegex(first.hash, "^v1:[0-9a-f]{64}$")

    def test_pages_hold_every_container_once(self):
        made = {self.run_container(f"{NAME}-{n}").id for n in range(3)}
        seen, token = [], ""
        while True:
            request = pb.ListContainersRequest(managed_only=True, page_size=2, page_token=token)
            page = self.stub.ListContainers(request, metadata=AUTH, timeout=20)
            self.assertLessEqual(len(page.containers), 2)
            seen += [c.id for c in page.containers]
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(len(seen), len(set(seen)))
        self.assertLessEqual(made, set(seen))

    def test_a_watch_lists_syncs_and_can_be_cancelled(self):
        id = self.run_container().id
        events = self.stub.WatchContainers(
            pb.WatchContainersRequest(name=NAME), metadata=AUTH, timeout=30
        )
        first = next(events)
        self.assertEqual(first.type, pb.WATCH_EVENT_TYPE_ADDED)
        self.assertEqual(first.container.id, id)
        self.assertEqual(first.container.state, container_pb2.CONTAINER_STATE_RUNNING)
        synced = next(events)
        self.assertEqual(synced.type, pb.WATCH_EVENT_TYPE_SYNCED)
        self.assertTrue(synced.cursor)
        events.cancel()
        self.fails(grpc.StatusCode.CANCELLED, next, events)

    def test_nobody_enters_without_a_token(self):
        request = pb.ListContainersRequest()
        code = grpc.StatusCode.UNAUTHENTICATED
        self.fails(code, self.stub.ListContainers, request, timeout=20)
        wrong = [("authorization", "Bearer wrong")]
        self.fails(code, self.stub.ListContainers, request, metadata=wrong, timeout=20)

    def test_a_deadline_ends_a_watch(self):
        events = self.stub.WatchContainers(pb.WatchContainersRequest(), metadata=AUTH, timeout=1)
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, list, events)

    def test_a_wrong_request_is_an_invalid_argument(self):
        code = grpc.StatusCode.INVALID_ARGUMENT
        self.fails(code, self.stub.RunContainer, pb.RunContainerRequest(), metadata=AUTH, timeout=20)


if __name__ == "__main__":
    unittest.main()
