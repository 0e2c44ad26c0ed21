// What the tests share: sandboxes that are killed at the end, and waiting for a condition.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'

import { Sandbox } from 'e2b'

export const apiUrl = process.env.E2B_API_URL
export const apiKey = process.env.E2B_API_KEY
export const sandboxUrl = process.env.E2B_SANDBOX_URL

export const pauses = { onTimeout: 'pause', autoResume: false }
export const wakes = { onTimeout: 'pause', autoResume: true }

const sdk = readFileSync(createRequire(import.meta.url).resolve('e2b'), 'utf8')

/**
 * For tests that are run with older SDKs too (`cargo xtask compat`): false, or why the test is skipped, which is that one of the names
 * occurs nowhere in the installed package.
 */
export function needs(...names) {
  const missing = names.find((name) => !sdk.includes(name))
  return missing ? `this SDK has no ${missing}` : false
}

/** Makes a sandbox that is killed after the test `t`. */
export async function make(t, options = {}) {
  const sandbox = await Sandbox.create(options)
  t.after(() => sandbox.kill())
  return sandbox
}

/** The first true value of `check()`; fails when there is none before the deadline. */
export async function eventually(check, deadlineMs = 10_000) {
  const end = Date.now() + deadlineMs
  for (;;) {
    const value = await check()
    if (value) return value
    if (Date.now() > end) throw new Error(`still ${value} after ${deadlineMs} ms`)
    await sleep(50)
  }
}

/** A request to a port inside a sandbox. */
export function request(sandbox, port, path = '/', options = {}) {
  const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port), ...options.headers }
  return fetch(sandboxUrl + path, { ...options, headers })
}

/** A request to the control API. */
export function api(path, options = {}) {
  const headers = { 'X-API-Key': apiKey, 'Content-Type': 'application/json', ...options.headers }
  return fetch(apiUrl + path, { ...options, headers })
}
