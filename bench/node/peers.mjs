// A side of the benchmark that runs in Node: node peers.mjs graphile|pgboss, with DATABASE_URL. It takes orders from stdin as JSON lines
// and answers each with a line. After {"do": "work"} it says every few milliseconds what has run, until stdin ends.
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'

const url = process.env.DATABASE_URL
const connections = 10
const pad = 'x'.repeat(72)

// The one clock that two processes share to the microsecond.
const microseconds = () => Number(process.hrtime.bigint() / 1000n)
const args = stamped => ({ stamp: stamped ? microseconds() : 0, pad })

// started is what a task calls in its first line.
const seen = { done: 0, took: [] }
const started = ({ stamp }) => {
  if (stamp) seen.took.push(microseconds() - stamp)
  seen.done++
}

const makers = { graphile, pgboss }

async function graphile () {
  const { run, makeWorkerUtils, Logger } = await import('graphile-worker')
  const logger = new Logger(() => () => {})
  const pool = new pg.Pool({ connectionString: url, max: connections })
  // Without listeners an error would end the process.
  pool.on('error', () => {})
  pool.on('connect', client => client.on('error', () => {}))
  let utils
  return {
    batch: 10000,
    open: async () => { utils ??= await makeWorkerUtils({ pgPool: pool, logger }) },
    setup: () => utils.migrate(),
    bulk: all => utils.addJobs(all.map(payload => ({ identifier: 'noop', payload }))),
    enqueue: payload => utils.addJob('noop', payload),
    async work () {
      const runner = await run({
        pgPool: pool,
        logger,
        noHandleSignals: true,
        taskList: { noop: started },
        preset: {
          worker: {
            concurrentJobs: 100,
            maxPoolSize: connections,
            pollInterval: 2000,
            localQueue: { size: 2000 },
            completeJobBatchDelay: 10,
            failJobBatchDelay: 10
          }
        }
      })
      return () => runner.stop()
    }
  }
}

async function pgboss () {
  const { PgBoss } = await import('pg-boss')
  const queue = 'noop'
  const make = options => {
    const boss = new PgBoss({ connectionString: url, max: connections, schedule: false, ...options })
    boss.on('error', e => console.error('pg-boss:', e.message))
    return boss
  }
  let producer
  return {
    batch: 5000,
    open: async () => { producer ??= await make({ supervise: false }).start() },
    setup: () => producer.createQueue(queue, { notify: true }),
    bulk: all => producer.insert(queue, all.map(data => ({ data }))),
    enqueue: data => producer.send(queue, data),
    async work () {
      const boss = await make({ useListenNotify: true }).start()
      await boss.work(queue, { batchSize: 1000, localConcurrency: 2, burstWhenBatchFull: true, pollingIntervalSeconds: 2 }, async jobs => {
        for (const job of jobs) started(job.data)
      })
      return () => boss.stop({ graceful: true })
    }
  }
}

const orders = {
  async setup () {
    await side.open()
    await side.setup()
  },
  async bulk ({ jobs }) {
    await side.open()
    for (let n = jobs; n > 0; n -= side.batch) {
      await side.bulk(Array.from({ length: Math.min(n, side.batch) }, () => args(false)))
    }
  },
  // So many clients enqueue one job after the other, each with a pause between two starts.
  async produce ({ clients, milliseconds, every, stamped }) {
    await side.open()
    const begin = performance.now()
    let jobs = 0
    const client = async () => {
      for (let n = 0; performance.now() - begin < milliseconds; n++) {
        const early = begin + n * every - performance.now()
        if (every && early > 0) await sleep(early)
        await side.enqueue(args(stamped))
        jobs++
      }
    }
    await Promise.all(Array.from({ length: clients }, client))
    return { jobs, milliseconds: performance.now() - begin }
  },
  async work () {
    stop = await side.work()
    setInterval(report, 5)
  }
}

function report () {
  if (seen.done) say({ done: seen.done, took: seen.took })
  seen.done = 0
  seen.took = []
}

const say = answer => process.stdout.write(JSON.stringify(answer) + '\n')
let stop = () => {}
const side = await makers[process.argv[2]]()
say({})
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  try {
    say(await orders[order.do](order) ?? {})
  } catch (e) {
    say({ error: String(e) })
  }
}
await stop()
report()
process.stdout.end(() => process.exit(0))
