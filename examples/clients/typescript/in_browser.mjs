// Opens the page in a Chromium without a window, and tells what it told: node in_browser.mjs CHROMIUM URL

import { chromium } from "playwright-core";

const TIMEOUT_MS = 60_000;

const [executablePath, url] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  // In a container, and as root, there is no sandbox to be had.
  chromiumSandbox: false,
  args: [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(`page: ${error}`));
  page.on("console", (message) => console.error(`page: ${message.text()}`));
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector("#outcome").value !== "", null, { timeout: TIMEOUT_MS });
  for (const line of await page.locator("#told li").allTextContents()) {
    console.log(line);
  }
  const outcome = await page.locator("#outcome").textContent();
  if (outcome !== "done") {
    throw new Error(outcome);
  }
} finally {
  await browser.close();
}
