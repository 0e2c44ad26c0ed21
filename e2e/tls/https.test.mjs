// The official JavaScript client over HTTPS.

import assert from 'node:assert/strict'
import { connect } from 'node:http2'
import { after, before, test } from 'node:test'

import { Sandbox } from 'e2b'

import { domain, inhabited } from './support.mjs'

let sandbox
before(async () => {
  sandbox = await inhabited()
})
after(() => sandbox?.kill())

test('the domain and the authority are all that a client needs', async (t) => {
  const own = await Sandbox.create()
  t.after(() => own.kill())
  assert.equal((await own.commands.run('echo hello')).stdout, 'hello\n')
  await own.files.write('a.txt', 'text')
  assert.equal(await own.files.read('a.txt'), 'text')
  assert.equal(own.getHost(3000), `3000-${own.sandboxId}.${domain}`)
})

test('a page behind getHost', async () => {
  assert.match(await (await fetch(`https://${sandbox.getHost(8001)}/`)).text(), /a page/)
})

test('a page over HTTP/2', async () => {
  const session = connect(`https://${sandbox.getHost(8001)}`)
  try {
    const stream = session.request({ ':path': '/' })
    const status = new Promise((resolve, reject) => {
      stream.on('response', (headers) => resolve(headers[':status']))
      stream.on('error', reject)
    })
    assert.equal(await status, 200)
    assert.equal(session.alpnProtocol, 'h2')
  } finally {
    session.destroy()
  }
})

test('signed links', async () => {
  await sandbox.files.write('signed.txt', 'signed')
  assert.equal(await (await fetch(await sandbox.downloadUrl('signed.txt', { useSignatureExpiration: 60 }))).text(), 'signed')

  const body = new FormData()
  body.append('file', new Blob(['uploaded']), 'up.txt')
  const answer = await fetch(await sandbox.uploadUrl('up.txt', { useSignatureExpiration: 60 }), { method: 'POST', body })
  assert.equal(answer.status, 200)
  assert.equal(await sandbox.files.read('up.txt'), 'uploaded')
})
