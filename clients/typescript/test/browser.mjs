// The page in a real Chromium, driven for tests/it/clients/browser.rs: prints
// "listed", "following" and "lost" as they happen, and at last how many lines it has.
//
//     node test/browser.mjs CHROMIUM URL CONTAINER LINES
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const [browser, address, token, name, lines] = process.argv.slice(2);
const folder = new URL("../example/browser/", import.meta.url);
const html = await readFile(new URL("index.html", folder));
const bundle = await build({
  entryPoints: [new URL("page.ts", folder).pathname],
  bundle: true,
  format: "esm",
  write: false,
});

// A server of its own, so that the browser asks across origins.
const server = createServer((request, answer) => {
  const script = request.url.startsWith("/page.js");
  answer.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  answer.end(script ? bundle.outputFiles[0].text : html);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const chrome = await chromium.launch({
  executablePath: browser,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
try {
  const page = await chrome.newPage();
  page.on("pageerror", (error) => console.error(error));
  const asked = new URLSearchParams({ address, token, follow: name });
  await page.goto(`http://127.0.0.1:${server.address().port}/?${asked}`);
  await page.waitForFunction((n) => document.querySelector("td")?.textContent === n, name);
  console.log("listed");
  const state = (text) =>
    page.waitForFunction(
      (wanted) => document.querySelector("#state").textContent.startsWith(wanted),
      text,
    );
  const shows = (count) =>
    page.waitForFunction(
      (wanted) => document.querySelector("#log").textContent.split("\n").length > wanted,
      count,
    );
  await state("following");
  await shows(5);
  console.log("following");
  await state("lost");
  console.log("lost");
  await state("following");
  await shows(Number(lines));
  const log = await page.textContent("#log");
  const wanted = Array.from({ length: Number(lines) }, (_, n) => `line ${n + 1}\n`).join("");
  assert.equal(log, wanted, "every line once, in order");
  console.log(`${lines} lines`);
} finally {
  await chrome.close();
  server.close();
}
