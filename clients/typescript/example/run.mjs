// Runs a container, prints what it writes until it ends, and its exit code.
//
//     node example/run.mjs IMAGE COMMAND...
import { ContainerState, followLogs, RestartPolicy, TailEventType } from "@container-svc/client";
import { connect } from "@container-svc/client/node";

const [image, ...command] = process.argv.slice(2);
if (command.length === 0) throw new Error("usage: run.mjs IMAGE COMMAND...");

const client = connect(process.env.CONTAINER_SVC_ADDRESS, {
  token: process.env.CONTAINER_SVC_TOKEN,
});

async function follow(id) {
  const request = { containerId: id, lastLines: 10_000, heartbeat: { seconds: 1n } };
  let ended = false;
  for await (const message of followLogs(client, request)) {
    for (const line of message.logs) console.log(line.content);
    if (message.type !== TailEventType.HEARTBEAT) continue;
    // A second of silence. Once more after its end, and all has come.
    const { container } = await client.containers.getContainer({ id });
    if (ended) return container.exitCode;
    ended = container.state === ContainerState.EXITED;
  }
}

const { id } = await client.containers.runContainer({
  image,
  names: [`example-typescript-${process.pid}-${Date.now()}`],
  command,
  restartPolicy: RestartPolicy.NEVER,
});
try {
  console.log("exit code", await follow(id));
} finally {
  await client.containers.removeContainer({ id, force: true });
  client.close();
}
