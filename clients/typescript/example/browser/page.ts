// The page: a table of containers, and the log of one, which goes on after the
// server was away.
import { followLogs } from "@container-svc/client";
import { connect } from "@container-svc/client/web";

const asked = new URLSearchParams(location.search);
const client = connect(asked.get("address") ?? location.origin, {
  token: asked.get("token") ?? undefined,
});
const part = (id: string) => document.getElementById(id)!;

async function list(): Promise<void> {
  const { containers } = await client.containers.listContainers({ managedOnly: true });
  for (const { names, image, status } of containers) {
    const row = document.createElement("tr");
    for (const text of [names[0] ?? "", image, status]) {
      row.appendChild(document.createElement("td")).textContent = text;
    }
    part("containers").append(row);
  }
}

async function follow(name: string): Promise<void> {
  const onLost = () => (part("state").textContent = "lost; trying again");
  const messages = followLogs(client, { name, lastLines: 10_000 }, { onLost });
  for await (const message of messages) {
    part("state").textContent = "following";
    for (const line of message.logs) part("log").append(line.content, "\n");
  }
}

async function show(): Promise<void> {
  await list();
  const name = asked.get("follow");
  if (name !== null) await follow(name);
}

show().catch((error: unknown) => (part("state").textContent = String(error)));
