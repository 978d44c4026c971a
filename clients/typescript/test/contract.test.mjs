// What the client promises over gRPC and over gRPC-web, against a live server on a
// real engine. The stage is set by tests/it/clients/contract.rs.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
import { connect as connectWeb } from "@container-svc/client/web";
import { retryIdempotent } from "../dist/retry.js";

const run = promisify(execFile);

const stage = (name) => process.env[`CONTRACT_${name}`];
const openNode = (token, address = stage("ADDRESS"), options = {}) => {
  const client = connect(address, { token, ...options });
  after(() => client.close());
  return client;
};
const overWeb = (token) => connectWeb(stage("ADDRESS"), { token });
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

for (const [way, open] of [["grpc", openNode], ["web", overWeb]]) {
  const client = open(stage("TOKEN"));

  test(`${way}: a run is created, then unchanged, then replaced with its reasons`, async () => {
    const wanted = request(`${way}-run`);
    assert.equal((await client.containers.runContainer(wanted)).action, RunAction.CREATED);
    const again = await client.containers.runContainer(wanted);
    assert.deepEqual([again.action, again.started], [RunAction.UNCHANGED, false]);
    const changed = { ...wanted, envs: [{ key: "A", value: "b" }] };
    const replaced = await client.containers.runContainer(changed);
    assert.equal(replaced.action, RunAction.REPLACED);
    assert.deepEqual(replaced.differingFields, ["envs"]);
  });

  test(`${way}: a list comes in pages`, async () => {
    const labels = [{ key: "contract", value: stage("NAME") + way }];
    const made = [];
    for (const name of [`${way}-1`, `${way}-2`, `${way}-3`]) {
      made.push((await client.containers.runContainer({ ...request(name), labels })).id);
    }
    const seen = [];
    let [pages, pageToken] = [0, ""];
    do {
      const label = `contract=${stage("NAME")}${way}`;
      const page = await client.containers.listContainers({ label, pageSize: 2, pageToken });
      seen.push(...page.containers.map((container) => container.id));
      pageToken = page.nextPageToken;
      pages += 1;
    } while (pageToken !== "");
    assert.deepEqual([seen.sort(), pages], [made.sort(), 2]);
  });

  test(`${way}: a tail follows until it is cancelled`, async () => {
    const script = "n=0; while n=$((n+1)); do echo $n; sleep 0.1; done";
    const { id } = await client.containers.runContainer(request(`${way}-tail`, script));
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

  test(`${way}: a build tells the step that failed`, async () => {
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

  test(`${way}: a pull tells its progress`, async () => {
    const last = (await all(client.images.pullImage({ name: stage("PULL") }))).at(-1);
    assert.ok(last.done && last.imageId.startsWith("sha256:"));
    assert.ok(last.progress.layersDone > 0);
    await client.images.removeImage({ name: stage("PULL") });
  });

  test(`${way}: without a token nobody is served`, async () => {
    for (const [token, reason] of [[undefined, "NO_TOKEN"], ["wrong", "BAD_TOKEN"]]) {
      const error = await refused(Code.Unauthenticated, () => open(token).node.getHost({}));
      assert.equal(error.reason, reason);
    }
  });

  test(`${way}: what a token lacks is named`, async () => {
    const viewer = open(stage("VIEWER"));
    const run = () => viewer.containers.runContainer(request(`${way}-denied`));
    const error = await refused(Code.PermissionDenied, run);
    assert.equal(error.reason, "PERMISSION_MISSING");
    assert.equal(error.metadata.permission, "container-svc:container:run");
  });

  test(`${way}: a deadline ends a call`, async () => {
    const watch = () => all(client.containers.watchContainers({}, { timeoutMs: 300 }));
    await refused(Code.DeadlineExceeded, watch);
  });

  test(`${way}: wrong fields are named`, async () => {
    const wrong = { ports: [{ internal: 70000 }] };
    const error = await refused(Code.InvalidArgument, () => client.containers.runContainer(wrong));
    const fields = error.violations.map((violation) => violation.field);
    assert.ok(fields.includes("image") && fields.includes("ports[0].internal"), fields.join());
  });
}

test("TLS is spoken with the authorities that are trusted", async () => {
  const ca = await readFile(stage("CA"));
  const trusted = openNode(stage("TOKEN"), stage("TLS"), { ca });
  assert.notEqual((await trusted.node.getHost({})).host, "");
  const stranger = openNode(stage("TOKEN"), stage("TLS"), { retries: false });
  await assert.rejects(stranger.node.getHost({}), /certificate/);
});

test("a tail is refused by the service, and not followed for ever", async () => {
  const nobody = { name: `${stage("NAME")}nobody` };
  const error = await refused(Code.NotFound, () => all(followLogs(openNode(stage("TOKEN")), nobody)));
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
  const { stdout } = await run(process.execPath, words, { env });
  assert.equal(stdout, "one\ntwo\nexit code 7\n");
});

/** A project of its own with the package as npm packs it; where it is. */
async function project() {
  const folder = await mkdtemp(join(tmpdir(), "contract-"));
  after(() => rm(folder, { recursive: true }));
  const modules = join(folder, "node_modules");
  const own = join(modules, "@container-svc/client");
  await mkdir(own, { recursive: true });
  await run("npm", ["pack", "--ignore-scripts", "--pack-destination", folder]);
  const archive = join(folder, "container-svc-client-0.1.0.tgz");
  await run("tar", ["xzf", archive, "-C", own, "--strip-components=1"]);
  for (const name of ["@bufbuild", "@connectrpc", "@types"]) {
    await symlink(new URL(`../node_modules/${name}`, import.meta.url).pathname, join(modules, name));
  }
  await writeFile(join(folder, "package.json"), '{"type": "module"}');
  return folder;
}

test("the lines of the README work, and are typed, with the package alone", async () => {
  const [, lines] = (await readFile("README.md", "utf8")).match(/```ts\n(.*?)```/s);
  assert.ok(lines.trim().split("\n").length <= 10, "ten lines");
  const name = `${stage("NAME")}readme`;
  const script = [
    ["http://127.0.0.1:11337", stage("ADDRESS")],
    ["nginx:1.27", stage("IMAGE")],
    ['"web"', JSON.stringify(name)],
  ].reduce((text, [from, to]) => {
    assert.ok(text.includes(from), from);
    return text.replace(from, to);
  }, `const token: string = ${JSON.stringify(stage("TOKEN"))};\n${lines}`);
  const folder = await project();
  await writeFile(join(folder, "lines.ts"), script);
  const words = ["--strict", "--module", "NodeNext", "--target", "ES2022", "--types", "node"];
  const tsc = new URL("../node_modules/.bin/tsc", import.meta.url).pathname;
  await run(tsc, [...words, "lines.ts"], { cwd: folder });

  const child = spawn(process.execPath, ["lines.js"], { cwd: folder, stdio: ["ignore", "pipe", 2] });
  after(() => child.kill());
  const client = openNode(stage("TOKEN"));
  const visit = async () => {
    const told = await client.containers.getContainer({ name }).catch(() => undefined);
    const port = told?.container.ports[0]?.host;
    await fetch(`http://127.0.0.1:${port}/`).catch(() => undefined);
  };
  // Each visit is a line of its log, which the lines of the README print.
  const visits = setInterval(visit, 200);
  after(() => clearInterval(visits));
  for await (const printed of child.stdout) {
    assert.match(printed.toString(), /response:200/);
    break;
  }
  clearInterval(visits);
});
