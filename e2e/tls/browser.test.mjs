// A browser: pages behind getHost, scripts that call the API and the agent from another origin, downloads, WebSockets.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { chromium } from 'playwright-core'

import { domain, inhabited } from './support.mjs'

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

let sandbox, home, browser
before(async () => {
  sandbox = await inhabited()
  home = await mkdtemp(join(tmpdir(), 'browser-'))
  // Trusted as `dormouse ca` says.
  const database = join(home, '.pki/nssdb')
  await mkdir(database, { recursive: true })
  const certutil = (...options) => execFileSync('certutil', ['-d', `sql:${database}`, ...options])
  certutil('-N', '--empty-password')
  certutil('-A', '-t', 'C,,', '-n', 'Dormouse', '-i', process.env.NODE_EXTRA_CA_CERTS)
  browser = await chromium.launchPersistentContext(join(home, 'profile'), {
    executablePath: '/usr/bin/chromium',
    args: flags,
    env: { ...process.env, HOME: home },
    acceptDownloads: true,
    timeout: 120_000,
  })
  browser.setDefaultTimeout(60_000)
})
after(async () => {
  await browser?.close()
  await sandbox?.kill()
  await rm(home, { recursive: true, force: true })
})

async function page(t) {
  const page = await browser.newPage()
  t.after(() => page.close())
  const answer = await page.goto(`https://${sandbox.getHost(8001)}/`)
  return { page, answer }
}

test('a page opens without a warning, over HTTP/2', async (t) => {
  const { page: opened, answer } = await page(t)
  assert.equal(answer.status(), 200)
  assert.equal(await opened.title(), 'inside')
  assert.match((await answer.securityDetails()).issuer, /Dormouse local CA/)
  assert.equal(await opened.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2')
  assert.equal(await opened.evaluate(() => window.isSecureContext), true)
})

test('a script calls the API from another origin', async (t) => {
  const { page: opened } = await page(t)
  const [status, ids] = await opened.evaluate(
    async ([url, key]) => {
      const answer = await fetch(url, { headers: { 'X-API-Key': key } })
      return [answer.status, (await answer.json()).map((sandbox) => sandbox.sandboxID)]
    },
    [`https://api.${domain}/v2/sandboxes`, process.env.E2B_API_KEY],
  )
  assert.equal(status, 200)
  assert.ok(ids.includes(sandbox.sandboxId))
})

test('a script calls the agent from another origin, and loads up and down by signed links', async (t) => {
  await sandbox.files.write('signed.txt', 'signed')
  const { page: opened } = await page(t)
  const links = [await sandbox.downloadUrl('signed.txt'), await sandbox.uploadUrl('up.txt')]
  const result = await opened.evaluate(async ([download, upload]) => {
    const body = new FormData()
    body.append('file', new Blob(['from a page']), 'up.txt')
    const uploaded = await fetch(upload, { method: 'POST', body })
    // A header of its own makes the browser ask first.
    const downloaded = await fetch(download, { headers: { 'X-Own': 'header' } })
    return [uploaded.status, await downloaded.text()]
  }, links)
  assert.deepEqual(result, [200, 'signed'])
  assert.equal(await sandbox.files.read('up.txt'), 'from a page')
})

test('a signed link opens', async (t) => {
  await sandbox.files.write('report.bin', 'for you')
  const link = await sandbox.downloadUrl('report.bin')
  const { page: opened } = await page(t)
  const [download] = await Promise.all([
    opened.waitForEvent('download'),
    opened.evaluate((link) => {
      location.href = link
    }, link),
  ])
  assert.equal(download.suggestedFilename(), 'report.bin')
  assert.equal(await readFile(await download.path(), 'utf8'), 'for you')
})

test('a WebSocket', async (t) => {
  const { page: opened } = await page(t)
  const echoed = await opened.evaluate(
    (url) =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(url)
        socket.onopen = () => socket.send('hello')
        socket.onmessage = ({ data }) => resolve(data)
        socket.onerror = () => reject(new Error('the WebSocket failed'))
      }),
    `wss://${sandbox.getHost(8000)}/ws`,
  )
  assert.equal(echoed, 'hello')
})
