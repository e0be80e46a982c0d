// A program with Anthropic's SDK: see sdk_openai.py.
import { spawnSync } from "node:child_process";
import Anthropic from "@anthropic-ai/sdk";

const given = { model: "claude-sonnet-5-5", max_tokens: 1000 };
const input_schema = { type: "object", properties: { command: { type: "string" } }, required: ["command"] };
const tools = [{ name: "shell", description: "Run a command.", input_schema }];
const client = new Anthropic();
let signal;

async function chat(prompt, ...prefill) {
  const messages = [{ role: "user", content: prompt }, ...prefill];
  const answer = await client.messages.create({ ...given, messages }, { signal });
  console.log(answer.content.map((block) => block.text ?? "").join(""));
}

const prefill = (prompt) => chat(prompt, { role: "assistant", content: "Once upon" });

const read = (request) =>
  client.messages
    .stream({ ...given, ...request }, { signal })
    .on("text", (text) => process.stdout.write(text))
    .finalMessage();

const stream = (prompt) => read({ messages: [{ role: "user", content: prompt }] });

async function loop(prompt) {
  const messages = [{ role: "user", content: prompt }];
  while (messages.at(-1).role === "user") {
    const { content } = await read({ messages, tools });
    messages.push({ role: "assistant", content });
    const results = content.filter((block) => block.type === "tool_use").map((block) => {
      const result = spawnSync(block.input.command, { shell: true, encoding: "utf8" });
      return { type: "tool_result", tool_use_id: block.id, content: result.stdout || "done" };
    });
    if (results.length > 0) messages.push({ role: "user", content: results });
  }
}

const [mode, ...prompts] = process.argv.slice(2);
for (const prompt of prompts) {
  const controller = new AbortController();
  signal = controller.signal;
  process.once("SIGINT", () => controller.abort());
  try {
    await { chat, prefill, stream, loop }[mode](prompt);
    process.exitCode = 0;
  } catch (error) {
    console.log(`${error.constructor.name}: ${error.message}`);
    process.exitCode = 1;
  }
  process.removeAllListeners("SIGINT");
  console.log();
}
