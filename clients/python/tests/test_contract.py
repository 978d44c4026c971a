"""What the client promises, against a live server on a real engine.

The stage is set by tests/it/clients/contract.rs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile
from collections.abc import Awaitable, Callable
from concurrent import futures
from pathlib import Path

import grpc

from containersvc import AsyncClient, Client, Error
from containersvc.v1 import (
    build_service_pb2 as builds,
    build_service_pb2_grpc as builds_grpc,
    container_pb2 as types,
    container_service_pb2 as containers,
    container_service_pb2_grpc as containers_grpc,
    image_service_pb2 as images,
    log_service_pb2 as logs,
    node_service_pb2 as node,
)

ADDRESS = os.environ["CONTRACT_ADDRESS"]
TOKEN = os.environ["CONTRACT_TOKEN"]
IMAGE = os.environ["CONTRACT_IMAGE"]
NAME = os.environ["CONTRACT_NAME"]
PACKAGE = Path(__file__).parent.parent


def request(name: str, script: str = "sleep 1000") -> containers.RunContainerRequest:
    return containers.RunContainerRequest(
        image=IMAGE, names=[NAME + name], command=["sh", "-c", script]
    )


class Case(unittest.TestCase):
    def refused(self, code: grpc.StatusCode, call: Callable[[], object]) -> Error:
        with self.assertRaises(Error) as raised:
            call()
        self.assertEqual(raised.exception.code, code, raised.exception)
        return raised.exception


class Contract(Case):
    def setUp(self) -> None:
        self.client = self.enterContext(Client(ADDRESS, TOKEN))

    def run_one(self, request: containers.RunContainerRequest) -> containers.RunContainerResponse:
        return self.client.containers.RunContainer(request, timeout=60)

    def test_a_run_is_created_then_unchanged_then_replaced_with_its_reasons(self) -> None:
        wanted = request("run")
        self.assertEqual(self.run_one(wanted).action, containers.RUN_ACTION_CREATED)
        again = self.run_one(wanted)
        self.assertEqual((again.action, again.started), (containers.RUN_ACTION_UNCHANGED, False))
        wanted.envs.add(key="A", value="b")
        replaced = self.run_one(wanted)
        self.assertEqual(replaced.action, containers.RUN_ACTION_REPLACED)
        self.assertEqual(list(replaced.differing_fields), ["envs"])

    def test_a_list_comes_in_pages(self) -> None:
        made = []
        for name in ("page-1", "page-2", "page-3"):
            wanted = request(name)
            wanted.labels.add(key="contract", value=NAME)
            made.append(self.run_one(wanted).id)
        seen, pages, token = [], 0, ""
        while pages == 0 or token:
            page = self.client.containers.ListContainers(
                containers.ListContainersRequest(
                    label=f"contract={NAME}", page_size=2, page_token=token
                )
            )
            seen += [container.id for container in page.containers]
            pages, token = pages + 1, page.next_page_token
        self.assertEqual((sorted(seen), pages), (sorted(made), 2))

    def test_a_tail_follows_until_it_is_cancelled(self) -> None:
        script = "n=0; while n=$((n+1)); do echo $n; sleep 0.1; done"
        id = self.run_one(request("tail", script)).id
        tail = self.client.logs.TailLogs(logs.TailLogsRequest(container_id=id, last_lines=10_000))
        seen: list[str] = []

        def read() -> None:
            for message in tail:
                seen.extend(line.content for line in message.logs)
                if len(seen) >= 5:
                    tail.cancel()

        self.refused(grpc.StatusCode.CANCELLED, read)
        self.assertEqual(seen, [str(n + 1) for n in range(len(seen))])
        self.assertGreaterEqual(len(seen), 5)

    def test_a_build_tells_the_step_that_failed(self) -> None:
        asked = builds.BuildImageStreamRequest(
            name=NAME + "build", context_path=os.environ["CONTRACT_BUILD"]
        )
        events: list[builds.BuildImageStreamResponse] = []
        read = lambda: events.extend(self.client.builds.BuildImageStream(asked, timeout=60))
        refused = self.refused(grpc.StatusCode.FAILED_PRECONDITION, read)
        self.assertEqual(refused.metadata["exitCode"], "7")
        failed = events[-1].failed
        self.assertEqual((failed.exit_code, failed.step.number), (7, 3))
        self.assertIn(b"about to fail", b"".join(event.log.data for event in events))

    def test_a_pull_tells_its_progress(self) -> None:
        asked = images.PullImageRequest(name=os.environ["CONTRACT_PULL"])
        *_, last = self.client.images.PullImage(asked, timeout=60)
        self.assertTrue(last.done and last.image_id.startswith("sha256:"), last)
        self.assertGreater(last.progress.layers_done, 0)

    def test_without_a_token_nobody_is_served(self) -> None:
        for token, reason in ((None, "NO_TOKEN"), ("wrong", "BAD_TOKEN")):
            with Client(ADDRESS, token) as client:
                call = lambda: client.node.GetHost(node.GetHostRequest())
                refused = self.refused(grpc.StatusCode.UNAUTHENTICATED, call)
                self.assertEqual(refused.reason, reason)

    def test_what_a_token_lacks_is_named(self) -> None:
        with Client(ADDRESS, os.environ["CONTRACT_VIEWER"]) as viewer:
            call = lambda: viewer.containers.RunContainer(request("denied"))
            refused = self.refused(grpc.StatusCode.PERMISSION_DENIED, call)
        self.assertEqual(refused.reason, "PERMISSION_MISSING")
        self.assertEqual(refused.metadata["permission"], "container-svc:container:run")

    def test_a_deadline_ends_a_call(self) -> None:
        watch = self.client.containers.WatchContainers(
            containers.WatchContainersRequest(), timeout=0.3
        )
        self.refused(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(watch))

    def test_wrong_fields_are_named(self) -> None:
        wrong = containers.RunContainerRequest(ports=[types.PortMapping(internal=70000)])
        refused = self.refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.run_one(wrong))
        fields = {violation.field for violation in refused.violations}
        self.assertLessEqual({"image", "ports[0].internal"}, fields)

    def test_tls_is_spoken_with_the_authorities_that_are_trusted(self) -> None:
        address = os.environ["CONTRACT_TLS"]
        with Client(address, TOKEN, ca=os.environ["CONTRACT_CA"]) as client:
            self.assertTrue(client.node.GetHost(node.GetHostRequest()).host)
        with Client(address, TOKEN) as stranger:
            call = lambda: stranger.node.GetHost(node.GetHostRequest())
            self.refused(grpc.StatusCode.UNAVAILABLE, call)

    def test_the_example_tells_lines_and_exit_code(self) -> None:
        script = "echo one; sleep 1; echo two; exit 7"
        example = PACKAGE / "example" / "run.py"
        out = subprocess.run(
            [sys.executable, example, IMAGE, "sh", "-c", script],
            env={**os.environ, "CONTAINER_SVC_ADDRESS": ADDRESS, "CONTAINER_SVC_TOKEN": TOKEN},
            capture_output=True,
            text=True,
        )
        self.assertEqual(out.stdout, "one\ntwo\nexit code 7\n", out.stderr)


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.client = await self.enterAsyncContext(AsyncClient(ADDRESS, TOKEN))

    async def refused(self, code: grpc.StatusCode, call: Awaitable[object]) -> Error:
        with self.assertRaises(Error) as raised:
            await call
        self.assertEqual(raised.exception.code, code, raised.exception)
        return raised.exception

    async def test_a_run_is_created_then_unchanged_then_replaced_with_its_reasons(self) -> None:
        wanted, run = request("async-run"), self.client.containers.RunContainer
        self.assertEqual((await run(wanted)).action, containers.RUN_ACTION_CREATED)
        self.assertEqual((await run(wanted)).action, containers.RUN_ACTION_UNCHANGED)
        wanted.envs.add(key="A", value="b")
        replaced = await run(wanted)
        self.assertEqual(replaced.action, containers.RUN_ACTION_REPLACED)
        self.assertEqual(list(replaced.differing_fields), ["envs"])

    async def test_a_list_comes_in_pages(self) -> None:
        made = []
        for name in ("async-1", "async-2", "async-3"):
            wanted = request(name)
            wanted.labels.add(key="contract", value=NAME + "async")
            made.append((await self.client.containers.RunContainer(wanted)).id)
        seen, pages, token = [], 0, ""
        while pages == 0 or token:
            page = await self.client.containers.ListContainers(
                containers.ListContainersRequest(
                    label=f"contract={NAME}async", page_size=2, page_token=token
                )
            )
            seen += [container.id for container in page.containers]
            pages, token = pages + 1, page.next_page_token
        self.assertEqual((sorted(seen), pages), (sorted(made), 2))

    async def test_a_tail_follows_until_it_is_cancelled(self) -> None:
        script = "n=0; while n=$((n+1)); do echo $n; sleep 0.1; done"
        id = (await self.client.containers.RunContainer(request("async-tail", script))).id
        tail = self.client.logs.TailLogs(logs.TailLogsRequest(container_id=id, last_lines=10_000))
        seen: list[str] = []
        async for message in tail:
            seen.extend(line.content for line in message.logs)
            if len(seen) >= 5:
                break
        self.assertTrue(tail.cancel())
        self.assertEqual(seen, [str(n + 1) for n in range(len(seen))])

    async def test_a_build_tells_the_step_that_failed(self) -> None:
        asked = builds.BuildImageStreamRequest(
            name=NAME + "async-build", context_path=os.environ["CONTRACT_BUILD"]
        )
        events: list[builds.BuildImageStreamResponse] = []

        async def read() -> None:
            async for event in self.client.builds.BuildImageStream(asked, timeout=60):
                events.append(event)

        refused = await self.refused(grpc.StatusCode.FAILED_PRECONDITION, read())
        self.assertEqual(refused.metadata["exitCode"], "7")
        failed = events[-1].failed
        self.assertEqual((failed.exit_code, failed.step.number), (7, 3))

    async def test_a_pull_tells_its_progress(self) -> None:
        name = os.environ["CONTRACT_PULL"]
        told = self.client.images.PullImage(images.PullImageRequest(name=name), timeout=60)
        last = [message async for message in told][-1]
        self.assertTrue(last.done and last.progress.layers_done > 0, last)
        # The other client is to find nothing of it.
        await self.client.images.RemoveImage(images.RemoveImageRequest(name=name))

    async def test_without_a_token_nobody_is_served(self) -> None:
        for token, reason in ((None, "NO_TOKEN"), ("wrong", "BAD_TOKEN")):
            async with AsyncClient(ADDRESS, token) as client:
                call = client.node.GetHost(node.GetHostRequest())
                refused = await self.refused(grpc.StatusCode.UNAUTHENTICATED, call)
                self.assertEqual(refused.reason, reason)

    async def test_what_a_token_lacks_is_named(self) -> None:
        async with AsyncClient(ADDRESS, os.environ["CONTRACT_VIEWER"]) as viewer:
            call = viewer.containers.RunContainer(request("async-denied"))
            refused = await self.refused(grpc.StatusCode.PERMISSION_DENIED, call)
        self.assertEqual(refused.metadata["permission"], "container-svc:container:run")

    async def test_a_deadline_ends_a_call(self) -> None:
        async def read() -> None:
            watch = containers.WatchContainersRequest()
            async for _ in self.client.containers.WatchContainers(watch, timeout=0.3):
                pass

        await self.refused(grpc.StatusCode.DEADLINE_EXCEEDED, read())

    async def test_wrong_fields_are_named(self) -> None:
        wrong = self.client.containers.RunContainer(containers.RunContainerRequest())
        refused = await self.refused(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        self.assertEqual(refused.violations[0].field, "image")


class Package(unittest.TestCase):
    def test_the_lines_of_the_readme_work_with_the_wheel_alone(self) -> None:
        text = (PACKAGE / "README.md").read_text()
        found = re.search("```python\n(.*?)```", text, re.DOTALL)
        assert found is not None
        lines = found[1]
        self.assertLessEqual(len(lines.splitlines()), 10)
        for there, ours in (
            ("http://127.0.0.1:11337", ADDRESS),
            ('open("admin.token").read()', repr(TOKEN)),
            ("nginx:1.27", IMAGE),
            ('"web"', repr(f"{NAME}readme")),
        ):
            self.assertIn(there, lines)
            lines = lines.replace(there, ours)
        with tempfile.TemporaryDirectory() as folder:
            # Building writes beside the sources.
            unwanted = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
            shutil.copytree(PACKAGE, f"{folder}/source", ignore=unwanted)
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
            build += ["--no-build-isolation", "--wheel-dir", folder, f"{folder}/source"]
            subprocess.run(build, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            site = Path(folder, "site")
            zipfile.ZipFile(wheel).extractall(site)
            for name in ("py.typed", "v1/container_service_pb2.pyi", "v1/log_service_pb2_grpc.pyi"):
                self.assertTrue((site / "containersvc" / name).exists(), name)
            out = subprocess.run(
                [sys.executable, "-c", "import containersvc; print(containersvc)\n" + lines],
                env={**os.environ, "PYTHONPATH": str(site)},
                capture_output=True,
                text=True,
            )
        self.assertIn(str(site), out.stdout, out.stderr)
        self.assertIn("internal: 80", out.stdout, out.stderr)


class Absent(containers_grpc.ContainerServiceServicer, builds_grpc.BuildServiceServicer):
    """Answers the first calls with UNAVAILABLE."""

    def __init__(self) -> None:
        self.runs = self.builds = 0

    def RunContainer(self, request, context):  # type: ignore[no-untyped-def]
        self.runs += 1
        if self.runs < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return containers.RunContainerResponse()

    def BuildImage(self, request, context):  # type: ignore[no-untyped-def]
        self.builds += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")


def absent() -> tuple[Absent, str, grpc.Server]:
    """The service, where it is, and what stops it."""
    service = Absent()  # type: ignore[abstract]
    server = grpc.server(futures.ThreadPoolExecutor(2))
    containers_grpc.add_ContainerServiceServicer_to_server(service, server)
    builds_grpc.add_BuildServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return service, f"http://127.0.0.1:{port}", server


class Retries(Case):
    def test_only_idempotent_calls_are_repeated(self) -> None:
        service, address, server = absent()
        self.addCleanup(server.stop, None)
        with Client(address) as client:
            client.containers.RunContainer(containers.RunContainerRequest())
            build = lambda: client.builds.BuildImage(builds.BuildImageRequest())
            self.refused(grpc.StatusCode.UNAVAILABLE, build)
        self.assertEqual((service.runs, service.builds), (3, 1))


class AsyncRetries(unittest.IsolatedAsyncioTestCase):
    async def test_only_idempotent_calls_are_repeated(self) -> None:
        service, address, server = absent()
        self.addCleanup(server.stop, None)
        async with AsyncClient(address) as client:
            await client.containers.RunContainer(containers.RunContainerRequest())
            with self.assertRaises(Error) as refused:
                await client.builds.BuildImage(builds.BuildImageRequest())
            self.assertEqual(refused.exception.code, grpc.StatusCode.UNAVAILABLE)
        self.assertEqual((service.runs, service.builds), (3, 1))


if __name__ == "__main__":
    unittest.main()
