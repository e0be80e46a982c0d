// A program with OpenAI's SDK: see sdk_openai.py.
import { spawnSync } from "node:child_process";
import OpenAI from "openai";

const model = "claude-sonnet-5-5";
const parameters = { type: "object", properties: { command: { type: "string" } }, required: ["command"] };
const tools = [{ type: "function", function: { name: "shell", description: "Run a command.", parameters } }];
const client = new OpenAI();
let signal;

async function chat(prompt, ...prefill) {
  const messages = [{ role: "user", content: prompt }, ...prefill];
  const answer = await client.chat.completions.create({ model, messages }, { signal });
  console.log(answer.choices[0].message.content);
}

const prefill = (prompt) => chat(prompt, { role: "assistant", content: "Once upon" });

async function stream(prompt) {
  const messages = [{ role: "user", content: prompt }];
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true }, { signal })) {
    process.stdout.write(chunk.choices[0]?.delta.content ?? "");
  }
  signal.throwIfAborted();
}

async function responses(prompt) {
  for await (const event of await client.responses.create({ model, input: prompt, stream: true }, { signal })) {
    if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
  }
  signal.throwIfAborted();
}

async function loop(prompt) {
  const messages = [{ role: "user", content: prompt }];
  for (let calls = [null]; calls.length > 0; ) {
    calls = [];
    const request = { model, messages, tools, stream: true };
    for await (const chunk of await client.chat.completions.create(request, { signal })) {
      const delta = chunk.choices[0]?.delta;
      process.stdout.write(delta?.content ?? "");
      for (const piece of delta?.tool_calls ?? []) {
        calls[piece.index] ??= { id: piece.id, type: "function", function: { name: piece.function.name, arguments: "" } };
        calls[piece.index].function.arguments += piece.function.arguments ?? "";
      }
    }
    messages.push({ role: "assistant", tool_calls: calls });
    for (const call of calls) {
      const result = spawnSync(JSON.parse(call.function.arguments).command, { shell: true, encoding: "utf8" });
      messages.push({ role: "tool", tool_call_id: call.id, content: result.stdout || "done" });
    }
  }
}

const [mode, ...prompts] = process.argv.slice(2);
for (const prompt of prompts) {
  const controller = new AbortController();
  signal = controller.signal;
  process.once("SIGINT", () => controller.abort());
  try {
    await { chat, prefill, stream, responses, loop }[mode](prompt);
    process.exitCode = 0;
  } catch (error) {
    console.log(`${error.constructor.name}: ${error.message}`);
    process.exitCode = 1;
  }
  process.removeAllListeners("SIGINT");
  console.log();
}
