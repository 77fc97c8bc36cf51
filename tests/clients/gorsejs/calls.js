// Calls the unmodified client as a JSON list of [method, ...arguments] on its input says; tells what each gave.
const { Gorse } = require("gorsejs");

async function main() {
  const text = require("fs").readFileSync(0, "utf8");
  const { endpoint, secret, calls } = JSON.parse(text);
  const client = new Gorse({ endpoint, secret });
  const told = [];
  for (const [method, ...args] of calls) {
    try {
      told.push(await client[method](...args));
    } catch (error) {
      told.push({ error: error.name, code: error.code, message: error.message });
    }
  }
  console.log(JSON.stringify(told));
}

main();
