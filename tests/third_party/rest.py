"""Every documented path with requests, field by field.

A strict message has exactly these fields, or clients that are out there break.
"""

import gzip
import io
import json
import os
import tarfile
import time
import unittest
from urllib.parse import quote

import requests

ADDRESS = os.environ["ADDRESS"]
IMAGE = os.environ["IMAGE"]
PREFIX = os.environ["PREFIX"]
NAME = PREFIX + "-rest"
BEARER = {"Authorization": "Bearer " + os.environ["TOKEN"]}
BASE = "/container-svc"

MAY_BE_ABSENT = {
    "PortMapping": {"protocol", "hostAddress"},
    "Keep": {"readOnly"},
    "DaemonInfo": {"address", "error"},
}


def call(method, path, body=None, headers=BEARER, **kwargs):
    return requests.request(method, ADDRESS + BASE + path, json=body, headers=headers, timeout=60, **kwargs)


def spec(name=NAME, **more):
    # As a real caller sends it: an empty value, empty capabilities, no hash.
    return {
        "image": IMAGE,
        "names": [name],
        "ports": [{"internal": 80, "host": 0}],
        "envs": [{"key": "EMPTY", "value": ""}],
        "capabilities": {},
        **more,
    }


class Rest(unittest.TestCase):
    def good(self, method, path, body=None, **kwargs):
        answer = call(method, path, body, **kwargs)
        self.assertEqual(answer.status_code, 200, f"{method} {path}: {answer.text}")
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        return answer.json()

    def bad(self, status, part, method, path, body=None, **kwargs):
        answer = call(method, path, body, **kwargs)
        text = answer.text
        self.assertEqual(answer.status_code, status, f"{method} {path} {str(body)[:200]}: {text}")
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        error = answer.json()
        self.assertEqual(set(error), {"error", "code", "message", "details"})
        self.assertEqual(error["error"], error["message"])
        self.assertIsInstance(error["code"], int)
        self.assertIsInstance(error["details"], list)
        self.assertIn(part, error["message"] + json.dumps(error["details"]))
        return answer

    def strict(self, item, fields, kind=None):
        optional = MAY_BE_ABSENT.get(kind, set())
        self.assertEqual(set(item) - optional, set(fields), f"{kind}: {item}")
        self.assertNotIn(None, item.values())

    # The paths that are documented.

    def test_events_are_listed_and_watched(self):
        self.good("PUT", "/container", spec())
        page = self.good("POST", "/events", {"name": NAME, "pageSize": 1, "order": "EVENT_ORDER_OLDEST_FIRST"})
        self.assertEqual(set(page), {"events", "nextPageToken"})
        event = page["events"][0]
        named = {"id", "nodeId", "at", "kind", "name", "containerId", "hash", "image", "message"}
        self.assertLessEqual(named, set(event))
        path = f"/events/watch?name={NAME}&last=1&noFollow=true"
        lines = call("GET", path).text.splitlines()
        self.assertEqual(json.loads(lines[0])["result"]["type"], "EVENT_MESSAGE_TYPE_EVENT")
        self.bad(400, "pageSize", "POST", "/events", {"pageSize": 5000})

    def test_put_and_post_run_a_container(self):
        for method in ("PUT", "POST"):
            answer = self.good(method, "/container", spec())
            self.assertIs(type(answer["started"]), bool)
            self.assertEqual(len(answer["ports"]), 1)
            # The caller named no protocol and no address, so none comes back.
            self.assertEqual(set(answer["ports"][0]), {"internal", "host"})
            self.assertEqual(answer["ports"][0]["internal"], 80)
            self.assertGreater(answer["ports"][0]["host"], 0)
        self.assertFalse(answer["started"])
        self.assertEqual(answer["action"], "RUN_ACTION_UNCHANGED")

    def test_stop_answers_an_empty_object(self):
        name = NAME + "-stop"
        id = self.good("PUT", "/container", spec(name))["id"]
        for key in ({"name": name}, {"id": id}, {"id": id[:16]}):
            self.assertEqual(self.good("PUT", "/container/stop", key), {})
        self.assertEqual(
            self.good("GET", f"/container/is-running?name={name}"), {"isRunning": False}
        )

    def test_is_running_by_name_and_by_either_hash(self):
        name, alias, own = NAME + "-hash", NAME + "-alias", PREFIX + "-own-hash"
        computed = self.good("PUT", "/container", spec(names=[name, alias], hash=own))["hash"]
        for query in (f"name={name}", f"name={alias}", f"hash={own}", f"hash={quote(computed)}"):
            answer = self.good("GET", f"/container/is-running?{query}")
            self.assertEqual(answer, {"isRunning": True}, query)
        # Names match exactly.
        self.assertEqual(
            self.good("GET", f"/container/is-running?name={name[:-1]}"), {"isRunning": False}
        )

    def test_summary(self):
        self.good("PUT", "/container", spec())
        for lines in ("", "&lines=5", "&lines=0"):
            answer = self.good("GET", f"/container/summary?name={NAME}{lines}")
            self.strict(answer, {"status", "logs", "summary"})
            self.assertTrue(all(type(value) is str for value in answer.values()))
        keys = [line.split(": ")[0].rstrip(":") for line in answer["status"].strip().split("\n")]
        self.assertEqual(
            keys, ["ID", "Name", "Image", "State", "Status", "Created", "Started", "Ports"]
        )

    def test_list(self):
        self.good("PUT", "/container", spec())
        containers = self.good("POST", "/containers", {"limit": 1000})["containers"]
        mine = [c for c in containers if NAME in c["names"]]
        self.assertEqual(len(mine), 1)
        c = mine[0]
        fields = """id nodeId names image ports hash labels assets envs keeps volumes status
            runtime resources capabilities network""".split()
        self.assertLessEqual(set(fields), set(c))
        self.assertEqual(c["nodeId"], PREFIX)
        self.assertEqual(c["names"], [NAME])
        self.assertEqual((c["image"], c["status"], c["runtime"]), (IMAGE, "running", "docker"))
        self.assertLessEqual({"cpu", "memoryMB", "diskMB"}, set(c["resources"]))
        self.assertIn("gpuEnabled", c["capabilities"])
        self.assertLessEqual({"mode", "ipAddress", "macAddress"}, set(c["network"]))
        self.assertIn({"key": "EMPTY", "value": ""}, c["envs"])
        for port in c["ports"]:
            self.strict(port, {"internal", "host"}, "PortMapping")
        for item in c["labels"] + c["envs"]:
            self.strict(item, {"key", "value"})
        one = self.good("POST", "/containers", {"containerId": c["id"][:12]})["containers"]
        self.assertEqual([x["id"] for x in one], [c["id"]])
        self.assertEqual(
            self.good("POST", "/containers", {"nodeId": "another"})["containers"], []
        )
        self.assertEqual(len(self.good("POST", "/containers", {"limit": 1})["containers"]), 1)

    def test_daemon_info(self):
        answer = self.good("GET", "/daemon/info")
        self.strict(answer, {"available"}, "DaemonInfo")
        self.assertIs(answer["available"], True)

    def test_host(self):
        answer = self.good("GET", "/host")
        self.strict(answer, {"host"})
        self.assertTrue(answer["host"])
        self.assertNotIn("/", answer["host"])

    def test_image_names_come_in_every_form(self):
        # A registry that refuses is not an answer; that it was asked shows the routing.
        image = "127.0.0.1:9/team/app:1"
        for form in (quote(image, safe=""), quote(image, safe="/"), image):
            answer = self.bad(503, "127.0.0.1:9", "GET", f"/image/{form}/pullable")
            self.assertEqual(answer.json()["code"], 14)

    # What containers wrote.

    def printed(self, what, lines=3):
        """A container of its own that wrote so many lines, and its id."""
        script = f"for n in $(seq {lines}); do echo line $n; done; echo trouble >&2; sleep 1000"
        name = f"{NAME}-{what}"
        id = self.good("PUT", "/container", spec(name, command=["sh", "-c", script]))["id"]
        deadline = time.monotonic() + 20
        while len(self.good("POST", "/logs", {"containerId": id})["logs"]) < lines + 1:
            self.assertLess(time.monotonic(), deadline, "the lines are collected")
            time.sleep(0.05)
        return name, id

    def test_a_log_line_has_the_documented_fields_and_no_others(self):
        name, id = self.printed("log")
        logs = self.good("POST", "/logs", {"nodeId": PREFIX, "containerId": id, "limit": 100})["logs"]
        self.assertEqual({log["content"] for log in logs}, {"line 1", "line 2", "line 3", "trouble"})
        for log in logs:
            self.strict(log, {"id", "nodeId", "containerId", "createdAt", "content"})
            self.assertTrue(all(type(value) is str for value in log.values()), log)
            self.assertEqual((log["nodeId"], log["containerId"]), (PREFIX, id))
            self.assertRegex(log["createdAt"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
        self.assertEqual(len({log["id"] for log in logs}), len(logs))

    def test_logs_are_filtered_ordered_and_paged(self):
        name, id = self.printed("filter")
        by_name = {"name": name, "streams": ["LOG_STREAM_STDOUT"], "order": "LOG_ORDER_OLDEST_FIRST"}
        lines = ["line 1", "line 2", "line 3"]
        seen, token = [], ""
        while True:
            page = self.good("POST", "/logs", {**by_name, "pageSize": 2, "pageToken": token})
            self.assertEqual(set(page), {"logs", "nextPageToken", "previousPageToken"})
            self.assertLessEqual(len(page["logs"]), 2)
            seen += [log["content"] for log in page["logs"]]
            token = page["nextPageToken"]
            if not token:
                break
        self.assertEqual(seen, lines)
        newest = {"containerId": id, "streams": ["LOG_STREAM_STDOUT"], "limit": 1}
        self.assertEqual([x["content"] for x in self.good("POST", "/logs", newest)["logs"]], lines[2:])
        found = self.good("POST", "/logs", {"name": name, "containsIgnoreCase": "TROUBLE", "view": "LOG_VIEW_FULL"})
        (trouble,) = found["logs"]
        self.assertEqual((trouble["content"], trouble["stream"]), ("trouble", "LOG_STREAM_STDERR"))
        self.assertIn("position", trouble)
        self.assertEqual(self.good("POST", "/logs", {"name": name, "nodeId": "another"})["logs"], [])

    def test_logs_outlive_their_container(self):
        name, id = self.printed("gone")
        self.good("DELETE", f"/container?name={name}&force=true")
        for key in ({"containerId": id}, {"name": name}):
            self.assertEqual(len(self.good("POST", "/logs", key)["logs"]), 4, key)

    def test_a_wrong_question_about_logs_names_its_field(self):
        _, id = self.printed("wrong")
        cases = [
            ("regex", {"regex": "a("}),
            ("pageSize", {"pageSize": -1}),
            ("pageSize", {"pageSize": 10001}),
            ("limit", {"limit": -1}),
            ("pageToken", {"pageToken": "no-token"}),
            ("streams", {"streams": ["LOG_STREAM_UNSPECIFIED"]}),
            ("since", {"since": "yesterday"}),
            ("until", {"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}),
        ]
        for part, body in cases:
            with self.subTest(part=part, body=body):
                self.bad(400, part, "POST", "/logs", {"containerId": id, **body})
        self.bad(404, "nobody", "POST", "/logs", {"name": PREFIX + "-nobody"})
        for query in ("lastLines=many", "lastLines=1&since=2026-01-01T00:00:00Z", "cursor=x", "maxLag=-1"):
            with self.subTest(query=query):
                self.bad(400, "", "GET", f"/logs/tail?containerId={id}&{query}")

    def test_a_tail_is_a_line_of_json_a_message(self):
        name, id = self.printed("tail")
        query = f"/logs/tail?name={name}&lastLines=10&noFollow=true"
        answer = call("GET", query)
        self.assertEqual((answer.status_code, answer.headers["Content-Type"]), (200, "application/json"))
        messages = [json.loads(line)["result"] for line in answer.text.splitlines()]
        logs = [log for message in messages for log in message["logs"]]
        self.assertEqual(len(logs), 4)
        for log in logs:
            self.strict(log, {"id", "nodeId", "containerId", "createdAt", "content"})
        self.assertEqual(messages[-1]["type"], "TAIL_EVENT_TYPE_CAUGHT_UP")
        # It goes on after its cursor, and there is nothing more.
        cursor = quote(messages[-1]["cursor"])
        again = call("GET", f"/logs/tail?name={name}&cursor={cursor}&noFollow=true").text
        self.assertNotIn("line", again)

    def test_a_tail_follows_as_server_sent_events(self):
        name = NAME + "-follow"
        script = "n=0; while n=$((n + 1)); do echo tick $n; sleep 0.2; done"
        self.good("PUT", "/container", spec(name, command=["sh", "-c", script]))
        headers = {**BEARER, "Accept": "text/event-stream"}
        seen = []
        with call("GET", f"/logs/tail?name={name}", headers=headers, stream=True) as answer:
            self.assertEqual(answer.headers["Content-Type"], "text/event-stream")
            for line in answer.iter_lines(chunk_size=1):
                if line.startswith(b"data: "):
                    message = json.loads(line[6:])["result"]
                    seen += [int(log["content"].split()[1]) for log in message["logs"]]
                if len(seen) >= 5:
                    break
        self.assertEqual(seen, list(range(seen[0], seen[0] + len(seen))))

    def test_assets_are_told_and_refused_by_their_field(self):
        self.assertEqual(self.good("GET", "/assets"), {"assets": [], "nextPageToken": ""})
        self.bad(404, "no asset", "DELETE", "/asset?id=0123456789abcdef0123456789abcdef")
        asset = {"envVarKey": "A", "url": "https://169.254.169.254/latest"}
        self.bad(400, "link-local", "PUT", "/container", spec(assets=[asset]))
        run = {"run": spec(assets=[asset])}
        self.bad(400, "assets[0].url", "POST", "/container/stream", run)

    def test_builds_are_answered_in_json(self):
        # This server reads no folder of the node, so none of these builds.
        for path, method in (("/image", "PUT"), ("/image/build", "POST")):
            answer = call(method, path, {})
            self.assertEqual(answer.status_code, 400, answer.text)
            self.assertEqual(answer.headers["Content-Type"], "application/json")

    def test_an_uploaded_context_is_built_once(self):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            text = f"FROM {IMAGE}\n".encode()
            about = tarfile.TarInfo("Dockerfile")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text))
        answer = call("POST", "/image/context", data=packed.getvalue())
        self.assertEqual(answer.status_code, 200, answer.text)
        name = NAME + "-uploaded:1"
        build = {"name": name, "source": {"uploadId": answer.json()["uploadId"]}}
        self.assertTrue(self.good("PUT", "/image", build)["imageId"].startswith("sha256:"))
        self.bad(404, "upload", "PUT", "/image", build)
        self.assertEqual(call("DELETE", f"/image?name={name}").status_code, 200)
        self.bad(400, "archive", "POST", "/image/context", data=b"no archive " * 100)

    # Bad input.

    def test_a_wrong_request_names_its_field(self):
        port = {"internal": 80, "host": 0}
        cases = [
            ("image", {"names": [NAME + "-bad"]}),
            ("image", spec(image="")),
            ("image", spec(image="UPPER/Case::x")),
            ("ports", spec(ports=[{"internal": 65536, "host": 0}])),
            ("ports", spec(ports=[{"internal": 80, "host": 70000}])),
            ("ports", spec(ports=[{"internal": 0, "host": 0}])),
            ("ports", spec(ports=[{"internal": -1, "host": 0}])),
            ("ports", spec(ports=[port, port])),
            ("ports", spec(ports=[{"internal": 80, "host": 8080}, {"internal": 81, "host": 8080}])),
            ("envs", spec(envs=[{"key": "A=B", "value": "x"}])),
            ("envs", spec(envs=[{"key": "", "value": "x"}])),
            ("names", spec(names=["no spaces allowed"])),
            ("names", spec(names=["/slash"])),
            ("names", spec(names=[NAME + "-bad", NAME + "-bad"])),
            ("image", spec(image=5)),
            ("names", spec(names="not-a-list")),
            ("internal", spec(ports=[{"internal": "many", "host": 0}])),
            ("gpuEnabled", spec(capabilities={"gpuEnabled": "perhaps"})),
        ]
        for part, body in cases:
            with self.subTest(part=part, body=body):
                self.assertEqual(self.bad(400, part, "PUT", "/container", body).json()["code"], 3)

    def test_malformed_json_is_a_400(self):
        for data in (b"{", b"[]", b'"text"', b"\xff\xfe", b'{"image":}'):
            self.bad(400, "", "PUT", "/container", data=data)

    def test_a_body_over_the_limit_is_refused(self):
        body = json.dumps(spec(labels=[{"key": "k", "value": "x" * (64 << 20)}]))
        try:
            answer = call("PUT", "/container", data=body)
        except requests.exceptions.ConnectionError:
            return  # hung up on while it still sent
        self.assertIn(answer.status_code, (400, 413, 429), answer.text[:200])

    def test_unknown_fields_are_discarded(self):
        self.good("PUT", "/container", spec(somethingNew={"a": [1]}))

    def test_nobody_is_not_found(self):
        none = PREFIX + "-nobody"
        for query in (f"hash={none}", f"name={none}"):
            self.bad(404, none, "GET", f"/container/summary?{query}")
            self.bad(404, none, "GET", f"/container?{query}")
            self.assertEqual(
                self.good("GET", f"/container/is-running?{query}"), {"isRunning": False}
            )
        self.bad(404, none, "PUT", "/container/stop", {"name": none})
        self.bad(404, none, "DELETE", f"/container?name={none}")

    def test_neither_hash_nor_name_is_a_400(self):
        for path in ("/container/is-running", "/container/summary", "/container"):
            self.bad(400, "", "GET", path)
        self.bad(400, "", "PUT", "/container/stop", {})

    def test_lines_that_are_no_number_are_a_400(self):
        self.bad(400, "lines", "GET", f"/container/summary?name={NAME}&lines=ten")

    def test_unknown_paths_and_methods_answer_in_json(self):
        self.bad(404, "", "GET", "/nothing-here")
        answer = call("DELETE", "/containers")
        self.assertEqual(answer.status_code, 405)
        self.assertEqual(answer.headers["Allow"], "POST")
        self.assertEqual(answer.headers["Content-Type"], "application/json")

    # Around the paths.

    def test_gzip_bodies_are_accepted(self):
        headers = {**BEARER, "Content-Encoding": "gzip", "Content-Type": "application/json"}
        data = gzip.compress(json.dumps(spec()).encode())
        self.assertTrue(self.good("PUT", "/container", data=data, headers=headers)["ports"])
        self.bad(400, "", "PUT", "/container", data=b"not gzip", headers=headers)

    def test_options_needs_no_token(self):
        answer = call("OPTIONS", "/container", headers={})
        self.assertLess(answer.status_code, 300, answer.text)

    def test_without_a_token_every_path_is_a_401(self):
        paths = [
            ("PUT", "/container"), ("POST", "/container"), ("PUT", "/container/stop"),
            ("GET", "/container"), ("DELETE", "/container"), ("POST", "/containers"),
            ("GET", "/container/is-running?name=x"), ("GET", "/container/summary?name=x"),
            ("GET", "/containers/watch"), ("GET", "/daemon/info"), ("GET", "/host"),
            ("GET", "/node"), ("POST", "/logs"), ("GET", "/logs/tail"), ("GET", "/image/x/pullable"), ("POST", "/image/pull"),
            ("GET", "/tokens"), ("POST", "/token"), ("DELETE", "/token/x"),
        ]  # fmt: skip
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            for method, path in paths:
                with self.subTest(method=method, path=path, headers=headers):
                    body = {} if method in ("PUT", "POST") else None
                    answer = self.bad(401, "", method, path, body, headers=headers)
                    self.assertTrue(answer.headers["WWW-Authenticate"].startswith("Bearer"))
                    self.assertEqual(answer.json()["code"], 16)

    def test_a_viewer_may_look_and_not_touch(self):
        made = self.good("POST", "/token", {"name": PREFIX, "grantSet": "viewer"})
        headers = {"Authorization": "Bearer " + made["secret"]}
        self.good("POST", "/containers", {}, headers=headers)
        self.good("POST", "/logs", {}, headers=headers)
        answer = self.bad(403, "container-svc:container:run", "PUT", "/container", spec(), headers=headers)
        self.assertEqual(answer.json()["code"], 7)
        self.good("DELETE", f"/token/{PREFIX}")
        self.bad(401, "", "POST", "/containers", {}, headers=headers)

    def test_openapi_is_open(self):
        document = requests.get(ADDRESS + "/openapi.json", timeout=20).json()
        self.assertTrue(document["openapi"].startswith("3.1"))
        self.assertIn(BASE + "/container", document["paths"])


if __name__ == "__main__":
    unittest.main()
