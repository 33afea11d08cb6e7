"""The tasks of the conformance test, for examples/worker-python/worker.py. tasks.ts and gorunner_test.go have the same."""

import os
import time

from worker import Permanent, Snooze, main, task


def wait_at_gate(job):
    job.progress(0.5, "at the gate")
    while not os.path.exists(job.args["gate"]):
        job.sleep(0.02)


@task("conf.echo")
def echo(job):
    return {"said": job.args["say"]}


@task("conf.flaky")
def flaky(job):
    if job.attempt == 1:
        job.save_checkpoint({"at": 7})
        raise RuntimeError("did not work \0 this time")
    return job.checkpoint


@task("conf.permanent")
def permanent(job):
    raise Permanent("never will")


@task("conf.snooze")
def snooze(job):
    if job.attempt == 1:
        raise Snooze(1)


@task("conf.unstorable")
def unstorable(job):
    return {"text": "a\0b"}


@task("conf.busy")
def busy(job):
    until = time.monotonic() + job.args["ms"] / 1000
    while time.monotonic() < until:
        pass


@task("conf.gate")
def gate(job):
    wait_at_gate(job)
    return {"attempt": job.attempt}


@task("conf.effect", transaction=True)
def effect(job, tx):
    tx.execute("insert into public.effects (job_id, attempt) values (%s, %s)", [job.id, job.attempt])
    wait_at_gate(job)
    return {"attempt": job.attempt}


@task("conf.effect_then_fail", transaction=True)
def effect_then_fail(job, tx):
    tx.execute("insert into public.effects (job_id, attempt) values (%s, %s)", [job.id, job.attempt])
    raise RuntimeError("after the effect")


main()
