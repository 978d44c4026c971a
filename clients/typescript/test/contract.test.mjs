// What the client promises in Node, against a live server on a real engine. The
// stage is set by tests/it/clients/contract.rs.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { after, test } from "node:test";
import { promisify } from "node:util";

import { Code, createRouterTransport, ConnectError, createClient } from "@connectrpc/connect";

import {
  BuildService,
  ContainerService,
  explain,
  followLogs,
  RunAction,
} from "@container-svc/client";
import { connect } from "@container-svc/client/node";
import { retryIdempotent } from "../dist/retry.js";

const stage = (name) => process.env[`CONTRACT_${name}`];
const open = (token, address = stage("ADDRESS"), options = {}) => {
  const client = connect(address, { token, ...options });
  after(() => client.close());
  return client;
};
const client = open(stage("TOKEN"));
const request = (name, script = "sleep 1000") => ({
  image: stage("IMAGE"),
  names: [stage("NAME") + name],
  command: ["sh", "-c", script],
});

/** What a call is refused with. */
async function refused(code, call) {
  const error = await call().then(
    (answer) => assert.fail(`it answered ${JSON.stringify(answer)}`),
    explain,
  );
  assert.equal(error.code, code, error.message);
  return error;
}

async function all(stream, seen = []) {
  for await (const message of stream) seen.push(message);
  return seen;
}

test("a run is created, then unchanged, then replaced with its reasons", async () => {
  const wanted = request("run");
  assert.equal((await client.containers.runContainer(wanted)).action, RunAction.CREATED);
  const again = await client.containers.runContainer(wanted);
  assert.deepEqual([again.action, again.started], [RunAction.UNCHANGED, false]);
  const changed = { ...wanted, envs: [{ key: "A", value: "b" }] };
  const replaced = await client.containers.runContainer(changed);
  assert.equal(replaced.action, RunAction.REPLACED);
  assert.deepEqual(replaced.differingFields, ["envs"]);
});

test("a list comes in pages", async () => {
  const labels = [{ key: "contract", value: stage("NAME") }];
  const made = [];
  for (const name of ["page-1", "page-2", "page-3"]) {
    made.push((await client.containers.runContainer({ ...request(name), labels })).id);
  }
  const seen = [];
  let [pages, pageToken] = [0, ""];
  do {
    const label = `contract=${stage("NAME")}`;
    const page = await client.containers.listContainers({ label, pageSize: 2, pageToken });
    seen.push(...page.containers.map((container) => container.id));
    pageToken = page.nextPageToken;
    pages += 1;
  } while (pageToken !== "");
  assert.deepEqual([seen.sort(), pages], [made.sort(), 2]);
});

test("a tail follows until it is cancelled", async () => {
  const script = "n=0; while n=$((n+1)); do echo $n; sleep 0.1; done";
  const { id } = await client.containers.runContainer(request("tail", script));
  const leave = new AbortController();
  const seen = [];
  const read = async () => {
    const tail = { containerId: id, lastLines: 10_000 };
    for await (const message of client.logs.tailLogs(tail, { signal: leave.signal })) {
      seen.push(...message.logs.map((line) => line.content));
      if (seen.length >= 5) leave.abort();
    }
  };
  await refused(Code.Canceled, read);
  assert.ok(seen.length >= 5);
  assert.deepEqual(seen, seen.map((_, n) => String(n + 1)));
});

test("a build tells the step that failed", async () => {
  const build = { name: `${stage("NAME")}build`, contextPath: stage("BUILD") };
  const events = [];
  const error = await refused(Code.FailedPrecondition, () =>
    all(client.builds.buildImageStream(build), events),
  );
  assert.equal(error.metadata.exitCode, "7");
  const { value: failed } = events.at(-1).event;
  assert.deepEqual([failed.exitCode, failed.step.number], [7, 3]);
  const output = events.flatMap(({ event }) => (event.case === "log" ? [...event.value.data] : []));
  assert.match(Buffer.from(output).toString(), /about to fail/);
});

test("a pull tells its progress", async () => {
  const last = (await all(client.images.pullImage({ name: stage("PULL") }))).at(-1);
  assert.ok(last.done && last.imageId.startsWith("sha256:"));
  assert.ok(last.progress.layersDone > 0);
});

test("without a token nobody is served", async () => {
  for (const [token, reason] of [[undefined, "NO_TOKEN"], ["wrong", "BAD_TOKEN"]]) {
    const error = await refused(Code.Unauthenticated, () => open(token).node.getHost({}));
    assert.equal(error.reason, reason);
  }
});

test("what a token lacks is named", async () => {
  const viewer = open(stage("VIEWER"));
  const run = () => viewer.containers.runContainer(request("denied"));
  const error = await refused(Code.PermissionDenied, run);
  assert.equal(error.reason, "PERMISSION_MISSING");
  assert.equal(error.metadata.permission, "container-svc:container:run");
});

test("a deadline ends a call", async () => {
  const watch = () => all(client.containers.watchContainers({}, { timeoutMs: 300 }));
  await refused(Code.DeadlineExceeded, watch);
});

test("wrong fields are named", async () => {
  const wrong = { ports: [{ internal: 70000 }] };
  const error = await refused(Code.InvalidArgument, () => client.containers.runContainer(wrong));
  const fields = error.violations.map((violation) => violation.field);
  assert.ok(fields.includes("image") && fields.includes("ports[0].internal"), fields.join());
});

test("TLS is spoken with the authorities that are trusted", async () => {
  const ca = await readFile(stage("CA"));
  const trusted = open(stage("TOKEN"), stage("TLS"), { ca });
  assert.notEqual((await trusted.node.getHost({})).host, "");
  const stranger = open(stage("TOKEN"), stage("TLS"), { retries: false });
  await assert.rejects(stranger.node.getHost({}), /certificate/);
});

test("a tail is refused by the service, and not followed for ever", async () => {
  const nobody = { name: `${stage("NAME")}nobody` };
  const error = await refused(Code.NotFound, () => all(followLogs(client, nobody)));
  assert.notEqual(error.reason, "");
});

test("only idempotent calls are repeated", async () => {
  let [runs, builds] = [0, 0];
  const absent = () => {
    throw new ConnectError("not now", Code.Unavailable);
  };
  const routes = ({ service }) => {
    service(ContainerService, { runContainer: () => (++runs < 3 ? absent() : {}) });
    service(BuildService, { buildImage: () => ++builds && absent() });
  };
  const interceptors = [retryIdempotent];
  const transport = createRouterTransport(routes, { transport: { interceptors } });
  await createClient(ContainerService, transport).runContainer({});
  const build = () => createClient(BuildService, transport).buildImage({});
  await refused(Code.Unavailable, build);
  assert.deepEqual([runs, builds], [3, 1]);
});

test("the example tells lines and exit code", async () => {
  const script = "echo one; sleep 1; echo two; exit 7";
  const words = ["example/run.mjs", stage("IMAGE"), "sh", "-c", script];
  const env = {
    ...process.env,
    CONTAINER_SVC_ADDRESS: stage("ADDRESS"),
    CONTAINER_SVC_TOKEN: stage("TOKEN"),
  };
  const { stdout } = await promisify(execFile)(process.execPath, words, { env });
  assert.equal(stdout, "one\ntwo\nexit code 7\n");
});
