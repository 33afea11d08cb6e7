// A worker that may be frozen (zombies.go): node zombies.mjs FORM enqueue JOBS, or FORM zombie|second POINT SLOTS, with DATABASE_URL. It says
// what its tasks do in lines of JSON on stdout, "go" on stdin lets them go on, and it stops when stdin ends.
import { createInterface } from 'node:readline'
import { EventEmitter } from 'node:events'
import pg from 'pg'

const [form, role, point, slots] = process.argv.slice(2)
const connectionString = process.env.DATABASE_URL
const max = Number(slots) + 10
const insert = 'insert into effects (job_id, by) values ($1, $2)'

const say = line => process.stdout.write(JSON.stringify(line) + '\n')
let go
const gone = new Promise(resolve => { go = resolve })

// at waits here where this is the point.
async function at (here, job) {
  if (here !== point) return
  say({ held: String(job) })
  await gone
}

// ended tells what the task has heard.
async function ended (job, task) {
  try {
    say({ ended: String(job), said: await task() ?? 'committed' })
  } catch (e) {
    say({ ended: String(job), said: e.message })
    throw e
  }
}

const before = 'before the effect'
const commit = 'before the commit'

// plain is the effect in a transaction of its own, with what may be to do last before its commit.
async function plain (client, job, last = async () => {}) {
  await client.query('begin')
  try {
    await client.query(insert, [String(job), role])
    await at(commit, job)
    const said = await last({ executeSql: (text, values) => client.query(text, values) })
    await client.query('commit')
    return said
  } catch (e) {
    await client.query('rollback')
    throw e
  }
}

async function withClient (pool, f) {
  const client = await pool.connect()
  try {
    return await f(client)
  } finally {
    client.release()
  }
}

async function graphile () {
  const { run, makeWorkerUtils, Logger } = await import('graphile-worker')
  const logger = new Logger(() => (level, message) => { if (level === 'error' || level === 'warning') console.error(level, message) })
  if (role === 'enqueue') {
    const utils = await makeWorkerUtils({ connectionString, logger })
    await utils.migrate()
    for (let n = 0; n < Number(point); n++) await utils.addJob('effect', {})
    return () => utils.release()
  }
  const events = new EventEmitter()
  for (const kind of ['job:success', 'job:error']) events.on(kind, () => console.error('graphile-worker\'s event:', kind))
  const effect = (payload, { job, withPgClient }) => ended(job.id, async () => {
    await at(before, job.id)
    return withPgClient(client => plain(client, job.id))
  })
  const preset = { worker: { connectionString, concurrentJobs: Number(slots), maxPoolSize: max, pollInterval: 1000 } }
  const runner = await run({ taskList: { effect }, preset, events, logger, noHandleSignals: true })
  return () => runner.stop()
}

async function pgboss () {
  const { PgBoss } = await import('pg-boss')
  const queue = 'effect'
  const boss = new PgBoss({ connectionString, max, schedule: false, supervise: role !== 'enqueue', superviseIntervalSeconds: 2, monitorIntervalSeconds: 2 })
  boss.on('error', e => console.error('pg-boss\'s event: error', e.message))
  boss.on('warning', e => console.error('pg-boss\'s event: warning', e.message))
  await boss.start()
  if (role === 'enqueue') {
    await boss.createQueue(queue, form.endsWith('expire') ? { expireInSeconds: 10 } : { heartbeatSeconds: 10 })
    if (Number(point)) await boss.insert(queue, Array.from({ length: Number(point) }, () => ({ data: {} })))
    return () => boss.stop()
  }
  const pool = new pg.Pool({ connectionString, max })
  const own = last => ([job]) => ended(job.id, async () => {
    await at(before, job.id)
    return withClient(pool, client => plain(client, job.id, db => last?.(job, db)))
  })
  const handlers = {
    'pgboss-transactional': ([job], tx) => ended(job.id, async () => {
      await at(before, job.id)
      await tx.executeSql(insert, [job.id, role])
      await at(commit, job.id)
      return 'the handler returned'
    }),
    'pgboss-checked': own(async (job, db) => {
      const { affected } = await boss.complete(queue, job, null, { db })
      if (affected !== 1) throw new Error(`complete() affected ${affected || 'none'}`)
    }),
    'pgboss-complete': own(async (job, db) => {
      const { affected } = await boss.complete(queue, job.id, null, { db })
      return `committed, complete() affected ${affected || 'none'}`
    }),
    'pgboss-plain': own()
  }
  await boss.work(queue, { localConcurrency: Number(slots), pollingIntervalSeconds: 0.5, transactional: form.startsWith('pgboss-transactional') }, handlers[form.replace('-expire', '')])
  return () => boss.stop({ graceful: true })
}

const stop = await (form.startsWith('graphile') ? graphile() : pgboss())
if (role !== 'enqueue') {
  for await (const line of createInterface({ input: process.stdin })) if (line === 'go') go()
}
await stop()
process.exit(0)
