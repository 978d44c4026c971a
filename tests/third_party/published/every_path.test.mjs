// 1Backend's own client, as it is published, through every documented path. Each
// answer is checked twice: as the client reads it, and in the bytes, since the Go
// client of the same version refuses a field too many or too few where the contract
// says STRICT. The stage is set by tests/it/clients/published.rs.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Configuration, ContainerSvcApi, ResponseError } from "@1backend/client";

const stage = (name) => process.env[`CONTRACT_${name}`];
let raw; // the last answer: status, headers, text
const fetchApi = async (url, init) => {
  const answer = await fetch(url, init);
  raw = { status: answer.status, type: answer.headers.get("content-type") };
  raw.text = await answer.clone().text();
  return answer;
};
const api = (token) =>
  new ContainerSvcApi(
    new Configuration({ basePath: stage("ADDRESS"), apiKey: `Bearer ${token}`, fetchApi }),
  );
const client = api(stage("TOKEN"));

/** The fields of each strict message; those in the second list may be absent. */
const STRICT = {
  isRunning: [["isRunning"], []],
  summary: [["status", "logs", "summary"], []],
  daemonInfo: [["available"], ["address", "error"]],
  host: [["host"], []],
  pullable: [["pullable"], []],
  log: [["id", "nodeId", "containerId", "createdAt", "content"], []],
  port: [["internal", "host"], []],
  pair: [["key", "value"], []],
  keep: [["path"], ["readOnly"]],
  asset: [["envVarKey", "url"], []],
};

function strict(kind, item) {
  const [needed, optional] = STRICT[kind];
  const fields = Object.keys(item);
  assert.deepEqual(fields.filter((field) => !optional.includes(field)).sort(), [...needed].sort(), kind);
  for (const [field, value] of Object.entries(item)) assert.notEqual(value, null, `${kind}.${field}`);
}

/** What was answered, in the bytes. */
function answered() {
  assert.equal(raw.status, 200, raw.text);
  assert.equal(raw.type, "application/json");
  return JSON.parse(raw.text);
}

const name = `${stage("NAME")}published`;
const spec = {
  names: [name, `${name}-alias`],
  image: stage("IMAGE"),
  hash: `${name}-hash`,
  ports: [{ internal: 80, host: 0 }],
  envs: [{ key: "EMPTY", value: "" }],
  labels: [{ key: "team", value: "a" }],
  keeps: [{ path: "/data" }, { path: "/fixed", readOnly: true }],
  assets: [{ envVarKey: "MODEL", url: stage("ASSET") }],
  capabilities: {},
};

test("runContainer", async () => {
  for (const started of [true, false]) {
    const told = await client.runContainer({ body: spec });
    assert.equal(told.started, started);
    assert.equal(told.ports.length, 1);
    assert.ok(told.ports[0].internal === 80 && told.ports[0].host > 0 && told.ports[0].host < 65536);
    strict("port", answered().ports[0]);
  }
});

test("listContainers", async () => {
  const { containers } = await client.listContainers({ body: { limit: 1000 } });
  const mine = containers.find((container) => container.names.includes(name));
  assert.deepEqual([mine.names, mine.image, mine.hash], [spec.names, spec.image, spec.hash]);
  assert.deepEqual([mine.status, mine.runtime], ["running", "docker"]);
  assert.deepEqual(mine.keeps.map((keep) => keep.path), ["/data", "/fixed"]);
  assert.deepEqual(mine.capabilities.gpuEnabled, false);
  for (const field of ["cpu", "memoryMB", "diskMB"]) assert.equal(typeof mine.resources[field], "number");
  for (const field of ["mode", "ipAddress", "macAddress"]) assert.equal(typeof mine.network[field], "string");
  const told = answered().containers.find((container) => container.id === mine.id);
  told.ports.forEach((port) => strict("port", port));
  [...told.labels, ...told.envs].forEach((pair) => strict("pair", pair));
  told.keeps.forEach((keep) => strict("keep", keep));
  assert.equal(told.assets.length, 1);
  told.assets.forEach((asset) => strict("asset", asset));
  for (const volume of told.volumes) {
    assert.deepEqual(Object.keys(volume).sort(), ["destination", "readOnly", "source"]);
  }
  const one = await client.listContainers({ body: { containerId: mine.id, nodeId: mine.nodeId } });
  assert.deepEqual(one.containers.map((container) => container.id), [mine.id]);
});

test("containerIsRunning", async () => {
  for (const by of [{ name }, { name: `${name}-alias` }, { hash: spec.hash }]) {
    assert.equal((await client.containerIsRunning(by)).isRunning, true);
    strict("isRunning", answered());
  }
  assert.equal((await client.containerIsRunning({ name: `${name}-nobody` })).isRunning, false);
  await assert.rejects(client.containerIsRunning({}), (error) => error.response.status === 400);
});

test("containerSummary", async () => {
  const told = await client.containerSummary({ name, lines: 10 });
  assert.match(told.status, new RegExp(`^Name: ${name}`, "m"));
  assert.ok(told.summary.includes(told.status.split("\n")[0]));
  strict("summary", answered());
});

test("listContainerLogs", async () => {
  const writer = `${name}-writer`;
  const command = ["sh", "-c", "echo one; echo two; sleep 1000"];
  // The published request has no command, so this container is made directly.
  const made = await fetch(`${stage("ADDRESS")}/container-svc/container`, {
    method: "PUT",
    headers: { Authorization: `Bearer ${stage("TOKEN")}` },
    body: JSON.stringify({ names: [writer], image: spec.image, command }),
  });
  const { id } = await made.json();
  let logs = [];
  const deadline = Date.now() + 20_000;
  while (logs.length < 2) {
    assert.ok(Date.now() < deadline, "the lines are collected");
    ({ logs } = await client.listContainerLogs({ body: { containerId: id, limit: 10 } }));
  }
  assert.deepEqual(logs.map((log) => log.content).sort(), ["one", "two"]);
  for (const log of answered().logs) {
    strict("log", log);
    assert.ok(!Number.isNaN(Date.parse(log.createdAt)) && log.containerId === id);
  }
});

test("containerDaemonInfo", async () => {
  assert.equal((await client.containerDaemonInfo()).available, true);
  strict("daemonInfo", answered());
});

test("getHost", async () => {
  assert.match((await client.getHost()).host, /^[^/:]+$/);
  strict("host", answered());
});

test("imagePullable", async () => {
  const pullable = stage("PULL");
  for (const [imageName, wanted] of [[pullable, true], [`${pullable}-none`, false]]) {
    // The client escapes the name: its slashes are %2F, its colons %3A.
    assert.equal((await client.imagePullable({ imageName })).pullable, wanted, imageName);
    strict("pullable", answered());
  }
});

test("buildImage", async () => {
  const body = { name: `${name}-built`, contextPath: stage("GOOD_BUILD"), dockerfilePath: "Dockerfile" };
  assert.equal(typeof (await client.buildImage({ body })), "object");
  answered();
  const failing = { name: `${name}-failed`, contextPath: stage("BUILD") };
  await assert.rejects(client.buildImage({ body: failing }), (error) => {
    assert.ok(error instanceof ResponseError);
    const told = JSON.parse(raw.text);
    assert.equal(raw.status, 400);
    assert.equal(raw.type, "application/json");
    assert.match(told.error, /code: 7/);
    return true;
  });
});

test("stopContainer", async () => {
  assert.deepEqual(await client.stopContainer({ body: { name } }), {});
  assert.equal(raw.text, "{}");
  assert.equal((await client.containerIsRunning({ name })).isRunning, false);
});

test("a wrong token and a weak one", async () => {
  for (const [token, status] of [["wrong", 401], [stage("VIEWER"), 403]]) {
    await assert.rejects(api(token).runContainer({ body: spec }), (error) => {
      assert.equal(error.response.status, status);
      const told = JSON.parse(raw.text);
      assert.deepEqual(Object.keys(told).sort(), ["code", "details", "error", "message"]);
      assert.equal(told.details[0]["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
      return true;
    });
  }
});
