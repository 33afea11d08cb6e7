// A pgtick worker in one file, to copy: Node 22.18 or later, which runs TypeScript as it is, and the package pg. The contract is docs/protocol.md.
//
// Run it as it is, with the two tasks at its end, or import it: register your tasks with task() and transactionalTask(), and call main().
// Settings come from the environment: DATABASE_URL; LISTEN_DATABASE_URL, a direct connection where DATABASE_URL leads to a pooler in
// transaction mode; QUEUES; WORKERS (tasks at a time); LEASE, POLL and GRACE in seconds; NAME.
//
// It does not keep rates (pgtick.set_limit with a rate): it leaves tasks that have one to workers that do. How many run at once the database keeps.
//
// Everything runs in one event loop, but for the heartbeat: it has a thread and a connection of its own, so that a task that computes for a
// minute without an await does not cost the lease.
import { hostname } from 'node:os'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker as Thread, workerData } from 'node:worker_threads'
import pg from 'pg'

type Row = Record<string, any>
type Reason = 'cancelled' | 'timed_out' | 'fenced' | 'shutdown'
type Claim = { id: string; fence: string; deadline: number }
type Report = { job: Job; outcome: string; result?: string | undefined; error?: string; delay?: number }
type Task = { run: (job: Job, tx: pg.ClientBase) => unknown; transaction: boolean }

const tasks = new Map<string, Task>()
/** Registers a task. */
export function task(name: string, run: (job: Job) => unknown): void { tasks.set(name, { run, transaction: false }) }
/** Registers a task whose effects through tx and whose completion commit together, or not at all. */
export function transactionalTask(name: string, run: (job: Job, tx: pg.ClientBase) => unknown): void { tasks.set(name, { run, transaction: true }) }

/** Throw it to fail the job for good. Any other error is tried again. */
export class Permanent extends Error {}
/** Throw it to run again later; the attempt does not count. */
export class Snooze extends Error {
  seconds: number
  constructor(seconds: number) { super(`again in ${seconds} s`); this.seconds = seconds }
}
/** Why job.signal aborts: cancelled, timed_out, shutdown, or fenced (another worker has the job). */
export class Stopped extends Error {}

export class Job {
  id = ''; fence = ''; task = ''; args: any; attempt = 0; max_attempts = 0; timeout = 0; checkpoint: any
  reason: Reason | undefined
  deadline: number
  private controller = new AbortController()
  private pool: pg.Pool
  constructor(pool: pg.Pool, row: Row) { Object.assign(this, row); this.pool = pool; this.deadline = now() + this.timeout * 1000 }
  /** Give it to whatever waits, and ask it with throwIfAborted() in a long loop. */
  get signal(): AbortSignal { return this.controller.signal }
  stop(reason: Reason): void { this.reason ??= reason; this.controller.abort(new Stopped(this.reason)) }
  async progress(done: number, note?: string): Promise<void> { await this.pool.query('select pgtick.progress($1, $2, $3::real, $4)', [this.id, this.fence, done, note]) }
  async saveCheckpoint(state: unknown): Promise<void> { await this.pool.query('select pgtick.checkpoint($1, $2, $3::text::jsonb)', [this.id, this.fence, toJSON(state)]) }
}

/** One connection, opened when it is needed, and anew after it broke. No prepared statements, so a pooler does no harm. */
class Db {
  private client: pg.Client | undefined
  private config: pg.ClientConfig
  constructor(config: pg.ClientConfig) { this.config = config }
  async open(): Promise<pg.Client> {
    if (this.client) return this.client
    const client = new pg.Client(this.config)
    for (const event of ['error', 'end'] as const) client.on(event, () => { if (this.client === client) this.client = undefined })
    await client.connect()
    return this.client = client
  }
  async rows(sql: string, ...args: unknown[]): Promise<Row[]> {
    const client = await this.open()
    try {
      return (await client.query(sql, args)).rows
    } catch (error) {
      if (!codeOf(error)) { this.client = undefined; client.end().catch(() => {}) } // no answer in time: what it may still say is not for us
      throw error
    }
  }
  async value(sql: string, ...args: unknown[]): Promise<any> { return Object.values((await this.rows(sql, ...args))[0] ?? {})[0] }
}

class Worker {
  queues = (process.env.QUEUES || 'default').split(',')
  name = process.env.NAME || hostname()
  workers = Math.floor(number('WORKERS', 4, 1, 1000)); lease = number('LEASE', 30, 1, 3600); poll = number('POLL', 5, 0.1, 3000); grace = number('GRACE', 25, 0, 3600)
  config = { ...database('DATABASE_URL'), query_timeout: Math.max(1000, this.lease * 1000 / 6) } // no statement of control waits longer than that
  listenConfig = database('LISTEN_DATABASE_URL', process.env.DATABASE_URL)
  control = new Db(this.config)
  pool = new pg.Pool({ ...database('DATABASE_URL'), max: this.workers + 2 })
  beat: Thread | undefined
  runner: string | null = null
  held = new Map<string, Job>() // until the database has taken their outcomes
  pending: Report[] = []
  reconcileAt: number[] = []
  lookAt = 0; rescueAt = 0; retryAt = 0; stopAt = 0; armedUntil = 0; pause = 1; troubles = 0
  serves: string[] = []
  leftOut: string[] = [] // tasks that have a rate
  anew = false // register again, since that has changed
  ratesAt = 0
  number = '' // of our sleep(), while others know that we sleep
  call = (): void => {} // ends wait()
  called = false

  async run(): Promise<void> {
    await checkAddress(await this.control.open(), this.control)
    await this.register()
    this.pool.on('error', () => {}) // of a connection that nobody uses
    this.beat = new Thread(new URL(import.meta.url), { workerData: { beat: true, config: this.config, lease: this.lease } })
    this.beat.on('message', ({ stops, gone }: { stops?: Row[]; gone?: string }) => {
      for (const stop of stops ?? []) this.held.get(key(stop))?.stop(stop.reason)
      if (gone) this.lost(gone)
    })
    this.beat.on('error', (error) => { log(`the heartbeat has ended, so must this worker: ${error}`); process.exit(1) })
    this.tell()
    void this.listen()
    for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => { // a second one ends the process at once
      log(`stopping: ${this.held.size} jobs held, ${this.grace} s for them to end`)
      this.stopAt = now(); this.wake()
    })
    while (!(this.stopAt && this.drained())) {
      try {
        if (now() >= this.retryAt) { await this.turn(); this.troubles = 0 }
      } catch (error) {
        this.trouble(error)
      }
      await this.wait()
    }
    await this.control.rows('select pgtick.leave($1)', this.runner) // gives back what is still held
    log('stopped')
  }

  async turn(): Promise<void> {
    if (this.anew && this.held.size === 0 && this.runner) {
      await this.control.rows('select pgtick.leave($1)', this.runner)
      this.runner = null
      this.tell()
    }
    if (!this.runner) await this.register()
    await this.report()
    if (now() >= this.ratesAt) await this.lookAtRates()
    if (now() >= (this.reconcileAt[0] ?? Infinity)) {
      await this.control.rows('select pgtick.reconcile($1, $2, $3)', this.runner, ...columns(this.held.values()))
      this.reconcileAt.shift()
    }
    if (now() >= this.rescueAt) {
      await this.control.rows('select pgtick.rescue()')
      this.rescueAt = now() + this.lease * 1000 / 3
    }
    if (now() >= this.lookAt && this.held.size < this.workers && !this.stopAt) await this.look()
  }

  /** Until something is due, or somebody calls. */
  async wait(): Promise<void> {
    let due = Math.min(this.rescueAt, this.ratesAt, this.held.size < this.workers ? this.lookAt : Infinity, this.reconcileAt[0] ?? Infinity)
    if (this.pending.length > 0 || this.stopAt) due = now() + 20
    if (!this.called) await new Promise<void>((done) => {
      const timer = setTimeout(done, Math.max(1, Math.max(due, this.retryAt) - now()))
      this.call = () => { clearTimeout(timer); done() }
    })
    this.called = false
  }
  wake(): void { this.called = true; this.call() }
  lookNow(): void { this.lookAt = 0; this.wake() }

  /** Under all tasks; where some turn out to have a rate anew without them, so that nobody takes this worker for one that serves them. */
  async register(): Promise<void> {
    let serves = [...tasks.keys()], runner: string
    this.leftOut = []
    for (;;) {
      runner = await this.control.value(`select pgtick.register($1, $2, $3, make_interval(secs => $4), 'worker.ts', $5)`,
        this.name, this.queues, serves, this.lease, this.workers)
      const rated = await this.rated(runner)
      if (rated.length === 0) break
      await this.control.rows('select pgtick.leave($1)', runner)
      this.leftOut.push(...rated)
      serves = serves.filter((name) => !rated.includes(name))
      log(`left to workers that keep rates: ${rated.join(', ')}`)
      if (serves.length === 0) refuse('all of its tasks have a rate, and it keeps none: take the limits away (pgtick.remove_limit), or run them by pgtick work', 1)
    }
    this.runner = runner; this.serves = serves; this.anew = false; this.ratesAt = now() + 60_000
    this.number = ''; this.lookAt = 0
    log(`registered as runner ${this.runner}`)
    this.tell()
  }

  /** Which of a runner's tasks have a rate, that who runs them has to keep. */
  async rated(runner: string | null): Promise<string[]> {
    return (await this.control.rows('select distinct task from pgtick.limit_rules($1) where task is not null order by task', runner)).map((row) => row.task)
  }

  async lookAtRates(): Promise<void> {
    this.ratesAt = now() + 60_000
    const rated = await this.rated(this.runner)
    this.serves = this.serves.filter((name) => !rated.includes(name)) // at once; the rest when nothing is held
    if (rated.length > 0) this.anew = true
  }

  ratesChanged(): void {
    this.ratesAt = 0
    if (this.leftOut.length > 0) this.anew = true // one may have been taken away
    this.wake()
  }

  /** The heartbeat's thread hears whom and what it is to keep alive. */
  tell(soon = false): void {
    this.beat?.postMessage({ runner: this.runner, soon, held: [...this.held.values()].map(({ id, fence, deadline }): Claim => ({ id, fence, deadline })) })
  }

  /** One look for jobs; where there are none, one step further to sleep: say so, settle, ask when the next job is due. */
  async look(): Promise<void> {
    const began = now(), poll = this.poll * 1000
    if (this.serves.length === 0) { this.lookAt = began + poll; return }
    if (began + poll > this.armedUntil) this.number = '' // a sleep must never last longer than was said
    const settled = this.number && await this.control.value('select pgtick.settled($1::text::xid8)', this.number)
    if (await this.claim() > 0) {
      if (this.number) await this.control.rows('select pgtick.awake($1)', this.runner)
      this.number = ''; this.lookAt = 0
    } else if (!this.number) {
      this.number = await this.control.value('select pgtick.sleep($1, make_interval(secs => $2))::text', this.runner, this.poll + 300)
      this.armedUntil = began + poll + 300_000; this.lookAt = 0; this.pause = 1
    } else {
      const seconds: number | null = settled ? await this.control.value('select extract(epoch from pgtick.next_run_at($1) - pgtick.now())::float8', this.runner) : 0
      let wait = seconds === null ? poll : seconds * 1000
      if (wait <= 0) wait = this.pause = Math.min(2 * this.pause, 1000) // an older transaction is open, or somebody has the job locked
      if (!this.called) this.lookAt = now() + Math.min(poll, wait) // called meanwhile: look again at once
    }
  }

  async claim(): Promise<number> {
    if (this.stopAt) return 0
    let rows: Row[]
    try {
      rows = await this.control.rows(`select id, fence, task, args, attempt, max_attempts, extract(epoch from timeout)::float8 as timeout, checkpoint
        from pgtick.claim($1, $2, $3, $4)`, this.runner, this.queues, this.serves, this.workers - this.held.size)
    } catch (error) { // it may be good without its answer, or even reach the server late
      if (!['TK002', 'TK003'].includes(codeOf(error))) this.reconcileAt = [now(), now() + this.lease * 1000]
      throw error
    }
    for (const job of rows.map((row) => new Job(this.pool, row))) {
      this.held.set(key(job), job)
      if (this.stopAt) this.pending.push({ job, outcome: 'released' }) // asked to stop meanwhile: it never began
      else void this.attempt(job).then((report) => { this.pending.push(report); this.wake() })
    }
    if (rows.length > 0) this.tell()
    return rows.length
  }

  /** Runs a task; an empty outcome says that there is nothing to report. */
  async attempt(job: Job): Promise<Report> {
    const { run, transaction } = tasks.get(job.task)!
    try {
      if (!transaction) return { job, outcome: 'done', result: toJSON(await run(job, undefined as never)) }
      await this.inTransaction(job, run)
      return { job, outcome: '' }
    } catch (error) {
      if (job.reason === 'fenced' || codeOf(error) === 'TK001') {
        log(`job ${job.id}: another worker has it, what this attempt did in its transaction is undone`)
        return { job, outcome: '' }
      }
      if (error instanceof Snooze) return { job, outcome: 'snoozed', delay: error.seconds }
      const told = job.reason === 'cancelled' ? 'cancelled' : job.reason === 'shutdown' ? 'released' : 'error'
      const refused = ['TK022', 'TK023'].includes(codeOf(error)) // a rule of the task forbids it
      if (refused) await this.gateRefused(job, error)
      const forGood = error instanceof Permanent || refused
      return { job, outcome: forGood ? 'failed' : told, error: describe(error) }
    }
  }

  /** When the commit's answer gets lost, that is an error as any other: error is reported, never done, and the database knows better. */
  async inTransaction(job: Job, run: Task['run']): Promise<void> {
    const tx = await this.pool.connect()
    let broken: Error | undefined
    tx.on('error', () => {}) // the query under way fails as well
    try {
      await tx.query('begin') // the locks of a frozen worker end with its session:
      await tx.query(`select set_config('idle_in_transaction_session_timeout', $1, true), pgtick.watch_rows()`, [String(Math.max(1, Math.floor(job.deadline - now())))])
      const result = await run(job, tx)
      await tx.query('select pgtick.finish_in_transaction($1, $2, $3::text::jsonb)', [job.id, job.fence, toJSON(result)])
      await tx.query('commit')
    } catch (error) {
      await tx.query('rollback').catch((failed: Error) => { broken = failed })
      throw error
    } finally {
      tx.release(broken)
    }
  }

  /** The job's schedule is paused until somebody has looked. */
  async gateRefused(job: Job, error: unknown): Promise<void> {
    await this.pool.query('select pgtick.gate_refused($1, $2, $3)', [job.id, job.fence, messageOf(error)])
      .catch((failed: Error) => log(`job ${job.id}: its schedule could not be paused: ${failed.message}`))
  }

  async report(): Promise<void> {
    this.drop(this.pending.filter((r) => !r.outcome)) // its own transaction has ended it, or another worker has it
    const batch = this.pending = this.pending.filter((r) => r.outcome && this.held.has(key(r.job)))
    if (batch.length === 0) return
    const answers = await this.finish(batch) // after an error all stay: a report may be repeated
    this.pending = [...answers.filter((a) => a.accepted === null).map((a) => a.report), ...this.pending.slice(batch.length)] // null: ask again
    for (const { report, accepted } of answers) if (accepted === false) log(`job ${report.job.id}: ${report.outcome} was refused, the claim is gone`)
    this.drop(answers.filter((a) => a.accepted !== null).map((a) => a.report))
  }

  drop(reports: Report[]): void {
    for (const { job } of reports) { this.held.delete(key(job)); this.lookAt = 0 }
    if (reports.length > 0) this.tell()
  }

  async finish(batch: Report[]): Promise<{ report: Report; accepted: boolean | null }[]> {
    try {
      const rows = await this.control.rows(`select f.accepted from pgtick.finish($1, $2, $3, $4, $5::text[]::jsonb[], $6::text[]::jsonb[],
          (select array_agg(pgtick.now() + make_interval(secs => d.delay) order by d.place) from unnest($7::float8[]) with ordinality as d(delay, place)))
        with ordinality as f(job_id, accepted, place) order by f.place`, this.runner, ...columns(batch.map((r) => r.job)),
      batch.map((r) => r.outcome), batch.map((r) => r.result ?? null), batch.map((r) => r.error ?? null), batch.map((r) => r.delay ?? null))
      return batch.map((report, i) => ({ report, accepted: rows[i]!.accepted }))
    } catch (error) {
      if (!codeOf(error).startsWith('22')) throw error // one of them can't be stored: it fails, and holds up no other
      if (batch.length === 1) return this.finish([{ job: batch[0]!.job, outcome: 'failed', error: describe(error) }])
      const answers = []
      for (const report of batch) answers.push(...await this.finish([report]))
      return answers
    }
  }

  /** The database has declared this runner dead: its jobs are others' now. */
  lost(runner: string | null): void {
    if (!runner || runner !== this.runner) return
    log(`runner ${runner} was declared dead, with ${this.held.size} jobs; registering anew`)
    for (const job of this.held.values()) job.stop('fenced')
    this.held.clear(); this.runner = null
    this.tell(); this.wake()
  }

  trouble(error: unknown): void {
    if (codeOf(error) === 'TK002') return this.lost(this.runner)
    log(`the database refused or did not answer: ${codeOf(error)} ${messageOf(error)}`)
    if (codeOf(error) === 'TK003') this.tell(true) // the lease has run out: renew it
    this.retryAt = now() + Math.min(2000, 50 * 2 ** this.troubles++)
  }

  /** Tasks may end within the grace; then they are told to; what still does not goes back, and whatever it then does is refused. */
  drained(): boolean {
    const over = now() - this.stopAt - this.grace * 1000
    for (const job of over > 0 ? this.held.values() : []) {
      job.stop('shutdown')
      if (over > 5000 && !this.pending.some((r) => r.job === job)) this.pending.push({ job, outcome: 'released', error: describe(new Stopped('shutdown')) })
    }
    return this.held.size === 0 || over > 10_000
  }

  /** A notification is a hint: without any the same jobs are found by polling. */
  async listen(): Promise<void> {
    const client = new pg.Client(this.listenConfig)
    try {
      const ended = new Promise((_, fail) => { client.on('error', fail); client.on('end', () => fail(new Error('the connection has ended'))) })
      ended.catch(() => {})
      client.on('notification', ({ channel, payload }) => {
        if (channel === 'pgtick' && this.queues.includes(payload ?? '')) this.lookNow()
        if (channel === 'pgtick_limits') this.ratesChanged()
        if (channel === 'pgtick_stop' && (!payload || payload === this.runner)) this.tell(true)
      })
      await client.connect()
      await client.query('listen pgtick; listen pgtick_stop; listen pgtick_limits')
      log('listening')
      this.ratesChanged()
      this.lookNow() // what was announced before, nobody heard
      await ended
    } catch (error) {
      log(`not listening, polling every ${this.poll} s: ${messageOf(error)}`)
    }
    client.end().catch(() => {})
    setTimeout(() => void this.listen(), 2000)
  }
}

/** Renews the lease, whatever tasks do, and passes on which attempts must stop. Whether time is up, too, the database judges. */
async function keepAlive(config: pg.ClientConfig, lease: number): Promise<void> {
  const db = new Db(config)
  let state = { runner: null as string | null, soon: false, held: [] as Claim[] }, nudge = (): void => {}, beatAt = 0
  const port = parentPort!
  let told = new Set<string>() // to stop
  port.on('message', (next: typeof state) => {
    state = { ...next, soon: next.soon || state.soon }
    told = new Set(next.held.map(key).filter((k) => told.has(k)))
    nudge()
  })
  for (;;) {
    const wait = state.soon ? 0 : Math.min(beatAt, ...state.held.filter((c) => !told.has(key(c))).map((c) => c.deadline)) - now()
    if (!state.runner || wait > 0) {
      await new Promise<void>((done) => { const timer = setTimeout(done, Math.min(wait > 0 ? wait : 1000, 60_000)); nudge = () => { clearTimeout(timer); done() } })
      continue
    }
    const { runner, held } = state
    state.soon = false; beatAt = now() + lease * 300
    try {
      const stops = await db.rows('select job_id as id, fence, reason from pgtick.heartbeat($1, $2, $3)', runner, ...columns(held))
      for (const stop of stops) told.add(key(stop))
      if (stops.length > 0) port.postMessage({ stops })
    } catch (error) {
      beatAt = now() + Math.min(1000, lease * 100)
      if (codeOf(error) === 'TK002') { port.postMessage({ gone: runner }); if (state.runner === runner) state.runner = null }
      else log(`no heartbeat: ${messageOf(error)}`)
    }
    for (const c of held) c.deadline = Math.max(c.deadline, now() + 100) // by the database's clock it is not over: ask again
  }
}

const now = (): number => Number(process.hrtime.bigint() / 1000n) / 1000 // milliseconds, the same in both threads, never set back
const key = (claim: { id?: string; fence?: string }): string => `${claim.id}/${claim.fence}`
const columns = (claims: Iterable<{ id: string; fence: string }>): [string[], string[]] => [[...claims].map((c) => c.id), [...claims].map((c) => c.fence)]
const codeOf = (error: unknown): string => error instanceof pg.DatabaseError ? error.code ?? '' : ''
const messageOf = (error: unknown): string => error instanceof AggregateError ? error.errors.map(messageOf).join(', ') : error instanceof Error ? error.message : String(error)
const toJSON = (value: unknown): string | undefined => JSON.stringify(value)
const log = (text: string): void => console.error(`worker: ${text}`)

/** As jsonb can hold it: no NUL, no half characters. */
function describe(error: unknown): string {
  const clean = (text: string): string => text.replaceAll('\0', '\ufffd').toWellFormed()
  return JSON.stringify({ message: clean(messageOf(error)), stack: error instanceof Error ? clean(error.stack ?? '') : undefined })
}

/** A copy of the database is left alone: it knows under which address workers may work. */
async function checkAddress(client: pg.Client, db: Db): Promise<void> {
  const host = client.host.toLowerCase().replace(/\.$/, ''), user = client.user ?? ''
  const project = /^db\.([a-z0-9]+)\.supabase\.[a-z.]+$/.exec(host)?.[1] ?? (host.includes('.pooler.supabase.') && user.includes('.') ? user.slice(user.indexOf('.') + 1) : host)
  await db.rows('select pgtick.check_address($1)', `${/^(localhost|[/@].*|127\..*|::1|)$/.test(project) ? 'localhost' : project}/${client.database}`)
}

function number(name: string, standard: number, low: number, high: number): number {
  const text = process.env[name] || String(standard), value = Number(text)
  if (!(value >= low && value <= high)) refuse(`${name}: ${JSON.stringify(text)} is not a number from ${low} to ${high}`)
  return value
}

function database(name: string, standard?: string): pg.ClientConfig {
  const connectionString = process.env[name] || standard || ''
  if (!/^postgres(ql)?:$/.test(URL.parse(connectionString)?.protocol ?? '')) refuse(`${name} is not set, or no PostgreSQL URL: write postgres://user:password@host:5432/name`)
  return { connectionString, application_name: 'pgtick worker.ts', connectionTimeoutMillis: 10_000, keepAlive: true }
}

function refuse(why: string, code = 2): never {
  log(why)
  process.exit(code)
}

/** Works until SIGTERM or SIGINT, then exits: 0 stopped in order; 1 the database refused; 2 wrong settings, or no such database. */
export async function main(): Promise<void> {
  try {
    await new Worker().run()
    process.exit(0)
  } catch (error) {
    const hint = { '3F000': ' (run pgtick migrate)', '42501': ' (log in as a member of pgtick_runner)' }[codeOf(error)] ?? ''
    refuse(`the database that DATABASE_URL names can't be used: ${messageOf(error)}${hint}`, codeOf(error) ? 1 : 2)
  }
}

if (!isMainThread && workerData?.beat) {
  await keepAlive(workerData.config, workerData.lease)
} else if (isMainThread && process.argv[1] === fileURLToPath(import.meta.url)) {
  task('email.welcome', async (job) => {
    await job.progress(0.5, 'here the mail would be sent')
    return { sent_to: job.args.user }
  })
  transactionalTask('subscription.renew', async (job, tx) => {
    await tx.query(`update public.subscriptions set paid_until = paid_until + interval '1 month' where id = $1`, [job.args.subscription])
  })
  await main()
}
