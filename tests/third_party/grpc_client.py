"""The Python gRPC client, with stubs that protoc made a moment ago."""

import os
import sys
import unittest

import grpc

sys.path.insert(0, os.environ["STUBS"])
from containersvc.v1 import container_pb2, container_service_pb2 as pb  # noqa: E402
from containersvc.v1 import container_service_pb2_grpc as rpc  # noqa: E402
from containersvc.v1 import log_pb2, log_service_pb2, log_service_pb2_grpc  # noqa: E402

ADDRESS = os.environ["ADDRESS"].removeprefix("http://")
NAME = os.environ["PREFIX"] + "-grpc"
AUTH = [("authorization", "Bearer " + os.environ["TOKEN"])]


class GrpcClient(unittest.TestCase):
    def setUp(self):
        channel = grpc.insecure_channel(ADDRESS)
        self.addCleanup(channel.close)
        self.stub = rpc.ContainerServiceStub(channel)
        self.logs = log_service_pb2_grpc.LogServiceStub(channel)

    def run_container(self, name=NAME, **more):
        request = pb.RunContainerRequest(image=os.environ["IMAGE"], names=[name], **more)
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

    def test_a_tail_has_history_and_then_what_comes_and_can_be_cancelled(self):
        name = NAME + "-tail"
        script = "n=0; while n=$((n + 1)); do echo tick $n; sleep 0.1; done"
        id = self.run_container(name, command=["sh", "-c", script]).id
        request = log_service_pb2.TailLogsRequest(name=name, view=log_pb2.LOG_VIEW_FULL)
        request.since.FromSeconds(0)
        tail = self.logs.TailLogs(request, metadata=AUTH, timeout=30)
        seen, caught_up, cursor = [], False, ""
        while not caught_up or len(seen) < 20:
            message = next(tail)
            caught_up |= message.type == log_service_pb2.TAIL_EVENT_TYPE_CAUGHT_UP
            seen += message.logs
            cursor = message.cursor
        tail.cancel()
        self.fails(grpc.StatusCode.CANCELLED, next, tail)
        # From the first line on, each once, in order.
        expected = [f"tick {n + 1}" for n in range(len(seen))]
        self.assertEqual([log.content for log in seen], expected)
        self.assertEqual([log.position for log in seen], list(range(len(seen))))
        self.assertEqual({log.container_id for log in seen}, {id})
        self.assertEqual({log.stream for log in seen}, {log_pb2.LOG_STREAM_STDOUT})
        # Another one goes on where that one was left.
        request = log_service_pb2.TailLogsRequest(name=name, cursor=cursor)
        again = self.logs.TailLogs(request, metadata=AUTH, timeout=30)
        following = next(log for message in again for log in message.logs)
        self.assertEqual(following.content, f"tick {len(seen) + 1}")
        again.cancel()

    def test_logs_are_listed_strictly_unless_more_is_asked_for(self):
        self.run_container(NAME + "-list", command=["sh", "-c", "echo hello; sleep 1000"])
        request = log_service_pb2.TailLogsRequest(name=NAME + "-list")
        request.since.FromSeconds(0)
        next(m for m in self.logs.TailLogs(request, metadata=AUTH, timeout=30) if m.logs)
        request = log_service_pb2.ListLogsRequest(name=NAME + "-list")
        (log,) = self.logs.ListLogs(request, metadata=AUTH, timeout=20).logs
        self.assertEqual(log.content, "hello")
        for field in ("stream", "position", "raw", "continues", "gap"):
            self.assertFalse(log.HasField(field), field)

    def test_bytes_that_are_no_message_are_an_invalid_argument(self):
        channel = grpc.insecure_channel(ADDRESS)
        self.addCleanup(channel.close)
        call = channel.unary_unary("/containersvc.v1.LogService/ListLogs")
        self.fails(grpc.StatusCode.INVALID_ARGUMENT, call, b"\x0a\xff", metadata=AUTH, timeout=20)

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
