"""pgtick from Django: jobs are rows, written in your transaction."""

import json

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections
from django.db.transaction import TransactionManagementError

OPTIONS = {
    "queue", "priority", "run_at", "max_attempts", "timeout", "owner_id", "unique_key", "unique_for", "unique_states", "on_conflict", "retry_policy",
}


def enqueue(task, args=None, using="default", **options):
    """Enqueues a job and returns its id. In transaction.atomic() it is there when the rest is, or not at all. Options: docs/jobs.md."""
    unknown = set(options) - OPTIONS
    if unknown:
        raise TypeError(f"enqueue: no option {', '.join(sorted(unknown))}; there are {', '.join(sorted(OPTIONS))}")
    if "retry_policy" in options:
        options["retry_policy"] = json.dumps(options["retry_policy"])
    named = "".join(f", p_{name} => %s" for name in options)
    return call(f"select pgtick.enqueue(%s, %s::jsonb{named})", task, json.dumps(args or {}, cls=DjangoJSONEncoder), *options.values(), using=using)


def cancel(job_id, using="default"):
    """The state after it: cancelled, running (it is told), or the one in which it had ended."""
    return call("select pgtick.cancel(%s)", job_id, using=using)


def retry(job_id, using="default"):
    """A failed or cancelled job once more."""
    return call("select pgtick.retry(%s)", job_id, using=using)


def run_now(schedule, using="default"):
    """Makes a job of a schedule at once and returns its id."""
    return call("select pgtick.run_now(%s)", schedule, using=using)


def finish_in_transaction(job, result=None, using="default"):
    """Last in a task's transaction.atomic(): what it wrote and the end of its job commit together, or not at all."""
    if not connections[using].in_atomic_block:
        raise TransactionManagementError("finish_in_transaction belongs into transaction.atomic(), after the task's writes")
    call("select pgtick.finish_in_transaction(%s, %s, %s::jsonb)", job.id, job.fence, json.dumps(result, cls=DjangoJSONEncoder), using=using)


def call(sql, *args, using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchone()[0]
