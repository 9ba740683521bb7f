// Runs a WebAssembly program of the target wasm32-wasip1 as if it were one of this machine: `node wasi.mjs FILE ARGUMENTS…`.
// It sees the environment and no files.

import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const [file, ...rest] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: [file, ...rest], env: process.env, returnOnExit: true });
const program = await WebAssembly.instantiate(await readFile(file), wasi.getImportObject());
process.exitCode = wasi.start(program.instance);
