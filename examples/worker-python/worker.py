#!/usr/bin/env python3
"""A pgtick worker in one file, to copy: Python 3.9 or later and psycopg 3 (Debian: python3-psycopg). The contract is docs/protocol.md.

Run it as it is, with the two tasks at its end, or import it: register your tasks with @task and call main(). Settings come from the
environment: DATABASE_URL; LISTEN_DATABASE_URL, a direct connection where DATABASE_URL leads to a pooler in transaction mode; QUEUES;
WORKERS (tasks at a time); LEASE, POLL and GRACE in seconds; NAME.

It does not keep rates (pgtick.set_limit with a rate): it leaves tasks that have one to workers that do. How many run at once the database keeps.

The main thread claims and reports, one thread renews the lease, one listens, WORKERS threads run tasks. Threads take turns, so a busy task
stops none of the others; only C code that keeps the interpreter's lock for longer than the lease would.
"""
import json, os, queue, re, signal, socket, sys, threading, traceback  # noqa: E401
from time import monotonic, sleep

import psycopg
from psycopg.rows import dict_row

TASKS = {}  # name -> (function, whether it gets a transaction)


def task(name, transaction=False):
    """Registers function(job), or function(job, tx), whose effects through tx and whose completion commit together, or not at all."""
    def register(function):
        TASKS[name] = function, transaction
        return function
    return register


class Permanent(Exception):
    """Raise it to fail the job for good. Any other error is tried again."""


class Snooze(Exception):
    """Raise Snooze(seconds) to run again later; the attempt does not count."""


class Stopped(Exception):
    """The attempt must end: cancelled, timed_out, shutdown, or fenced (another worker has the job)."""


class Job:
    def __init__(self, notes, row):
        self.__dict__.update(row)  # id, fence, task, args, attempt, max_attempts, timeout, checkpoint
        self.notes, self.key, self.deadline = notes, (row["id"], row["fence"]), monotonic() + row["timeout"]
        self.reason, self.stopped = None, threading.Event()

    def stop(self, reason):
        self.reason = self.reason or reason
        self.stopped.set()

    def check(self):
        """Call it now and then in a long task: nobody can stop a Python thread from outside."""
        if self.reason:
            raise Stopped(self.reason)

    def sleep(self, seconds):
        self.stopped.wait(seconds)
        self.check()

    def progress(self, done, note=None):
        self.notes.rows("select pgtick.progress(%s, %s, %s::real, %s::text)", self.id, self.fence, done, note)

    def save_checkpoint(self, state):
        self.notes.rows("select pgtick.checkpoint(%s, %s, %s::text::jsonb)", self.id, self.fence, to_json(state))


class Db:
    """One connection, opened when it is needed, and anew after it broke. No prepared statements, so a pooler does no harm."""
    def __init__(self, url):
        self.url, self.conn, self.lock = url, None, threading.Lock()

    def open(self):
        with self.lock:
            if self.conn is None or self.conn.closed:
                self.conn = psycopg.connect(self.url, autocommit=True, row_factory=dict_row, prepare_threshold=None, connect_timeout=10,
                                            keepalives_idle=20, tcp_user_timeout=20000, application_name="pgtick worker.py")
            return self.conn

    def rows(self, sql, *args):
        return self.open().execute(sql, args).fetchall()

    def value(self, sql, *args):
        return next(iter(self.rows(sql, *args)[0].values()))


class Worker:
    def __init__(self):
        self.url, self.listen_url = database("DATABASE_URL"), database("LISTEN_DATABASE_URL", os.environ.get("DATABASE_URL"))
        self.queues, self.name = (os.environ.get("QUEUES") or "default").split(","), os.environ.get("NAME") or socket.gethostname()
        self.workers, self.lease = int(number("WORKERS", 4, 1, 1000)), number("LEASE", 30, 1, 3600)
        self.poll, self.grace = number("POLL", 5, 0.1, 3000), number("GRACE", 25, 0, 3600)
        self.control, self.beats, self.notes, self.local = Db(self.url), Db(self.url), Db(self.url), threading.local()
        self.runner, self.held, self.lock = None, {}, threading.Lock()  # held: Jobs by key, until the database has taken their outcomes
        self.work, self.inbox = queue.SimpleQueue(), queue.SimpleQueue()  # jobs for the task threads; calls for the main thread
        self.nudge, self.beat_soon, self.pending, self.reconcile_at = threading.Event(), False, [], []
        self.look_at = self.rescue_at = self.retry_at = self.stop_at = self.armed_until = self.rates_at = 0
        self.serves, self.left_out, self.anew = [], [], False  # left_out: tasks that have a rate; anew: register again, since that has changed
        self.number, self.pause, self.troubles = None, 0.001, 0  # number: of our sleep(), while others know that we sleep

    def run(self):
        check_address(self.control)
        self.register()
        for target in [self.beat, self.listen] + [self.run_tasks] * self.workers:
            threading.Thread(target=target, daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.asked_to_stop)
        while not (self.stop_at and self.drained()):
            try:
                if monotonic() >= self.retry_at:
                    self.turn()
                    self.troubles = 0
            except psycopg.Error as error:
                self.trouble(error)
            self.wait()
        self.control.rows("select pgtick.leave(%s)", self.runner)  # gives back what is still held
        log("stopped")

    def turn(self):
        if self.anew and not self.held and self.runner is not None:
            self.control.rows("select pgtick.leave(%s)", self.runner)
            self.runner = None
        if self.runner is None:
            self.register()
        self.report()
        now = monotonic()
        if now >= self.rates_at:
            self.look_at_rates()
        if self.reconcile_at and now >= self.reconcile_at[0]:
            self.control.rows("select pgtick.reconcile(%s, %s::bigint[], %s::bigint[])", self.runner, *columns(self.held))
            self.reconcile_at.pop(0)
        if now >= self.rescue_at:
            self.control.rows("select pgtick.rescue()")
            self.rescue_at = now + self.lease / 3
        if now >= self.look_at and len(self.held) < self.workers and not self.stop_at:
            self.look()

    def wait(self):
        """Until something is due, or somebody calls."""
        due = min([self.rescue_at, self.rates_at, self.look_at if len(self.held) < self.workers else self.rescue_at, *self.reconcile_at[:1]])
        if self.pending or self.stop_at:
            due = monotonic() + 0.02
        try:
            self.inbox.get(timeout=max(0.001, max(due, self.retry_at) - monotonic()))()
            while True:
                self.inbox.get_nowait()()
        except queue.Empty:
            pass

    def register(self):
        """Under all tasks; where some turn out to have a rate anew without them, so that nobody takes this worker for one that serves them."""
        serves, self.left_out = list(TASKS), []
        while True:
            runner = self.control.value("select pgtick.register(%s::text, %s::text[], %s::text[], make_interval(secs => %s), 'worker.py', %s::int)",
                                        self.name, self.queues, serves, self.lease, self.workers)
            rated = self.rated(runner)
            if not rated:
                break
            self.control.rows("select pgtick.leave(%s)", runner)
            self.left_out, serves = self.left_out + rated, [name for name in serves if name not in rated]
            log(f"left to workers that keep rates: {', '.join(rated)}")
            if not serves:
                refuse("all of its tasks have a rate, and it keeps none: take the limits away (pgtick.remove_limit), or run them by pgtick work", 1)
        self.runner, self.serves, self.anew, self.rates_at = runner, serves, False, monotonic() + 60
        self.number, self.look_at = None, 0
        log(f"registered as runner {self.runner}")

    def rated(self, runner):
        """Which of a runner's tasks have a rate, that who runs them has to keep."""
        return [row["task"] for row in self.control.rows("select distinct task from pgtick.limit_rules(%s) where task is not null order by task", runner)]

    def look_at_rates(self):
        rated = self.rated(self.runner)
        self.serves = [name for name in self.serves if name not in rated]  # at once; the rest when nothing is held
        self.anew, self.rates_at = self.anew or bool(rated), monotonic() + 60

    def rates_changed(self):
        self.rates_at, self.anew = 0, self.anew or bool(self.left_out)  # one may have been taken away

    def look(self):
        """One look for jobs; where there are none, one step further to sleep: say so, settle, ask when the next job is due."""
        now = monotonic()
        if not self.serves:
            self.look_at = now + self.poll
            return
        if now + self.poll > self.armed_until:
            self.number = None  # a sleep must never last longer than was said
        settled = self.number and self.control.value("select pgtick.settled(%s::text::xid8)", self.number)
        if self.claim():
            if self.number:
                self.control.rows("select pgtick.awake(%s)", self.runner)
            self.number, self.look_at = None, now
        elif not self.number:
            self.number = self.control.value("select pgtick.sleep(%s, make_interval(secs => %s))::text", self.runner, self.poll + 300)
            self.armed_until, self.look_at, self.pause = now + self.poll + 300, now, 0.001
        else:
            wait = self.control.value("select extract(epoch from pgtick.next_run_at(%s) - pgtick.now())::float8", self.runner) if settled else 0
            if wait is not None and wait <= 0:  # an older transaction is open, or somebody has the job locked
                wait = self.pause = min(2 * self.pause, 1)
            self.look_at = monotonic() + min(self.poll, wait or self.poll)

    def claim(self):
        try:
            rows = self.control.rows("select id, fence, task, args, attempt, max_attempts, extract(epoch from timeout)::float8 as timeout, checkpoint"
                                     " from pgtick.claim(%s, %s::text[], %s::text[], %s::int)",
                                     self.runner, self.queues, self.serves, self.workers - len(self.held))
        except psycopg.Error as error:
            if error.sqlstate not in ("TK002", "TK003"):  # it may be good without its answer, or even reach the server late
                self.reconcile_at = [monotonic(), monotonic() + self.lease]
            raise
        for job in [Job(self.notes, row) for row in rows]:
            with self.lock:
                self.held[job.key] = job
            if self.stop_at:
                self.pending.append((job, "released", None, None, None))  # asked to stop meanwhile: it never began
            else:
                self.work.put(job)
        self.nudge.set()  # there may be an earlier deadline now
        return rows

    def report(self):
        self.drop(job for job, outcome, *_ in self.pending if not outcome)  # its own transaction has ended it, or another worker has it
        self.pending = [report for report in self.pending if report[1] and report[0].key in self.held]
        answers = list(self.finish(self.pending)) if self.pending else []  # after an error all stay: a report may be repeated
        self.pending = [report for report, accepted in answers if accepted is None]  # somebody has the row locked: ask again
        for (job, outcome, *_), accepted in answers:
            if accepted is False:
                log(f"job {job.id}: {outcome} was refused, the claim is gone")
        self.drop(job for (job, *_), accepted in answers if accepted is not None)

    def drop(self, jobs):
        for job in jobs:
            with self.lock:
                self.held.pop(job.key, None)
            self.look_at = 0

    def finish(self, reports):
        jobs, outcomes, results, errors, delays = map(list, zip(*reports))
        try:
            answers = self.control.rows(
                "select f.accepted from pgtick.finish(%s, %s::bigint[], %s::bigint[], %s::text[], %s::text[]::jsonb[], %s::text[]::jsonb[],"
                " (select array_agg(pgtick.now() + make_interval(secs => d.delay) order by d.place) from unnest(%s::float8[])"
                " with ordinality as d(delay, place))) with ordinality as f(job_id, accepted, place) order by f.place",
                self.runner, *columns(job.key for job in jobs), outcomes, results, errors, delays)
        except psycopg.DataError as error:  # one of them can't be stored: it fails, and holds up no other
            if len(reports) > 1:
                return [answer for report in reports for answer in self.finish([report])]
            return self.finish([(jobs[0], "failed", None, describe(error), None)])
        return zip(reports, [answer["accepted"] for answer in answers])

    def lost(self, runner):
        """The database has declared this runner dead: its jobs are others' now."""
        with self.lock:
            if runner is None or self.runner != runner:
                return
            held, self.held, self.runner = self.held, {}, None
        log(f"runner {runner} was declared dead, with {len(held)} jobs; registering anew")
        for job in held.values():
            job.stop("fenced")
        self.inbox.put(lambda: None)

    def trouble(self, error):
        if error.sqlstate == "TK002":
            return self.lost(self.runner)
        log(f"the database refused or did not answer: {error.sqlstate or ''} {str(error).strip()}")
        self.beat_soon = error.sqlstate == "TK003"  # the lease has run out: renew it
        self.nudge.set()
        self.retry_at, self.troubles = monotonic() + min(2, 0.05 * 2 ** self.troubles), min(self.troubles + 1, 6)

    def asked_to_stop(self, number, _frame):
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        self.stop_at = monotonic()
        self.inbox.put(lambda: log(f"stopping: {len(self.held)} jobs held, {self.grace:g} s for them to end"))

    def drained(self):
        """Tasks may end within the grace; then they are told to; what still does not goes back, and whatever it then does is refused."""
        over = monotonic() - self.stop_at - self.grace
        for job in list(self.held.values()) if over > 0 else []:
            job.stop("shutdown")
            if over > 5 and job.key not in [report[0].key for report in self.pending]:
                self.pending.append((job, "released", None, describe(Stopped("shutdown")), None))
        return not self.held or over > 10

    # The other threads.

    def beat(self):
        """Renews the lease, whatever tasks do, and tells attempts to stop. Whether time is up, too, the database judges."""
        beat_at = 0
        while True:
            with self.lock:
                runner, held = self.runner, dict(self.held)
            due = min([beat_at] + [job.deadline for job in held.values() if not job.reason])
            if runner is None or not self.beat_soon and due > monotonic():
                self.nudge.wait(0.1 if runner is None else due - monotonic())
                self.nudge.clear()
                continue
            self.beat_soon, beat_at = False, monotonic() + self.lease * 0.3
            try:
                for stop in self.beats.rows("select job_id, fence, reason from pgtick.heartbeat(%s, %s::bigint[], %s::bigint[])", runner, *columns(held)):
                    held[stop["job_id"], stop["fence"]].stop(stop["reason"])
            except psycopg.Error as error:
                beat_at = monotonic() + min(1, self.lease / 10)
                self.lost(runner) if error.sqlstate == "TK002" else log(f"no heartbeat: {str(error).strip()}")
            for job in held.values():
                job.deadline = max(job.deadline, monotonic() + 0.1)  # by the database's clock it is not over: ask again

    def listen(self):
        """A notification is a hint: without any the same jobs are found by polling."""
        while True:
            try:
                with psycopg.connect(self.listen_url, autocommit=True, connect_timeout=10, keepalives_idle=20) as conn:
                    conn.execute("listen pgtick")
                    conn.execute("listen pgtick_stop")
                    conn.execute("listen pgtick_limits")
                    log("listening")
                    self.inbox.put(self.rates_changed)
                    self.inbox.put(self.look_now)  # what was announced before, nobody heard
                    for note in conn.notifies():
                        if note.channel == "pgtick" and note.payload in self.queues:
                            self.inbox.put(self.look_now)
                        elif note.channel == "pgtick_limits":
                            self.inbox.put(self.rates_changed)
                        elif note.channel == "pgtick_stop" and note.payload in (str(self.runner), ""):
                            self.beat_soon = True
                            self.nudge.set()
            except psycopg.Error as error:
                log(f"not listening, polling every {self.poll:g} s: {str(error).strip()}")
            sleep(2)

    def look_now(self):
        self.look_at = 0

    def run_tasks(self):
        while True:
            job = self.work.get()
            report = (job, *self.attempt(job))
            self.inbox.put(lambda report=report: self.pending.append(report))

    def attempt(self, job):
        """Runs a task; returns outcome, result, error and delay to report. The outcome None: there is nothing to say."""
        if job.reason:
            return "cancelled" if job.reason == "cancelled" else "released", None, None, None  # it never started
        function, transaction = TASKS[job.task]
        try:
            if transaction:
                self.in_transaction(job, function)
                return None, None, None, None
            return "done", to_json(function(job)), None, None
        except BaseException as error:  # sys.exit() in a task is a failed attempt, too
            if job.reason == "fenced" or getattr(error, "sqlstate", None) == "TK001":
                log(f"job {job.id}: another worker has it, what this attempt did in its transaction is undone")
                return None, None, None, None
            if isinstance(error, Snooze):
                return "snoozed", None, None, float(error.args[0])
            for_good = isinstance(error, Permanent) or getattr(error, "sqlstate", None) in ("TK022", "TK023")  # a rule of the task forbids it
            if for_good and not isinstance(error, Permanent):
                self.gate_refused(job, error)
            told = {"cancelled": "cancelled", "shutdown": "released"}.get(job.reason, "error")
            return "failed" if for_good else told, None, describe(error), None

    def in_transaction(self, job, function):
        """When the commit's answer gets lost, that is an error as any other: error is reported, never done, and the database knows better."""
        self.local.db = getattr(self.local, "db", None) or Db(self.url)
        with self.local.db.open().transaction(), self.local.db.conn.cursor() as tx:
            idle = max(1, int((job.deadline - monotonic()) * 1000))  # the locks of a frozen worker end with its session
            tx.execute("select set_config('idle_in_transaction_session_timeout', %s::text, true), pgtick.watch_rows()", [str(idle)])
            result = function(job, tx)
            tx.execute("select pgtick.finish_in_transaction(%s, %s, %s::text::jsonb)", [job.id, job.fence, to_json(result)])

    def gate_refused(self, job, error):
        """The job's schedule is paused until somebody has looked."""
        try:
            self.notes.rows("select pgtick.gate_refused(%s, %s, %s)", job.id, job.fence, str(error))
        except psycopg.Error as failed:
            log(f"job {job.id}: its schedule could not be paused: {str(failed).strip()}")


def columns(keys):
    return map(list, zip(*keys)) if (keys := list(keys)) else ([], [])


def to_json(value):
    return None if value is None else json.dumps(value, allow_nan=False)


def describe(error):
    """As jsonb can hold it: no NUL, no half characters."""
    texts = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return json.dumps(dict(zip(("message", "stack"), (text.replace("\0", "\ufffd").encode("utf-8", "replace").decode() for text in texts))))


def log(text):
    print(f"worker: {text}", file=sys.stderr, flush=True)


def check_address(db):
    """A copy of the database is left alone: it knows under which address workers may work."""
    info = db.open().info
    host, found = info.host.lower().rstrip("."), re.fullmatch(r"db\.([a-z0-9]+)\.supabase\.[a-z.]+", info.host.lower())
    project = found[1] if found else info.user.partition(".")[2] if ".pooler.supabase." in host and "." in info.user else host
    local = re.fullmatch(r"|localhost|[/@].*|127\..*|::1", project)
    db.rows("select pgtick.check_address(%s::text)", f"{'localhost' if local else project}/{info.dbname}")


def number(name, default, low, high):
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not low <= float(text) <= high:
        refuse(f"{name}: {text!r} is not a number from {low} to {high}")
    return float(text)


def database(name, default=None):
    url = os.environ.get(name) or default
    try:
        psycopg.conninfo.conninfo_to_dict(url or "-")
    except psycopg.Error:  # whose text may hold the password
        refuse(f"{name} is not set, or no PostgreSQL URL: write postgres://user:password@host:5432/name")
    return url


def refuse(why, code=2):
    log(why)
    sys.exit(code)


def main():
    """Works until SIGTERM or SIGINT, then exits: 0 stopped in order; 1 the database refused; 2 wrong settings, or no such database."""
    try:
        Worker().run()
    except psycopg.Error as error:
        hint = {"3F000": " (run pgtick migrate)", "42501": " (log in as a member of pgtick_runner)"}.get(error.sqlstate, "")
        refuse(f"the database that DATABASE_URL names can't be used: {str(error).strip()}{hint}", 1 if error.sqlstate else 2)


if __name__ == "__main__":
    @task("email.welcome")
    def welcome(job):
        job.progress(0.5, "here the mail would be sent")
        return {"sent_to": job.args["user"]}

    @task("subscription.renew", transaction=True)
    def renew(job, tx):
        tx.execute("update public.subscriptions set paid_until = paid_until + interval '1 month' where id = %s", [job.args["subscription"]])

    main()
