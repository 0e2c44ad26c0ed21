import { Sandbox } from 'e2b'

const sandbox = await Sandbox.create({
  timeoutMs: 5 * 60 * 1000,
  lifecycle: {
    onTimeout: 'pause',     // pause instead of kill on timeout
    autoResume: true,        // wake on activity
  },
})

// Use the sandbox — it auto-pauses when idle, auto-resumes when needed
const result = await sandbox.commands.run('echo "Hello from a persistent sandbox"')
console.log(result.stdout)
