"""pgtick's views, to read: Django neither creates nor changes them."""

from django.db import models


class View(models.Model):
    class Meta:
        abstract = True

    def save(self, *args, **kwargs):
        raise TypeError("this is a view: use pgtick.enqueue, cancel and retry")

    def delete(self, *args, **kwargs):
        raise TypeError("jobs are not deleted, they expire: use pgtick.cancel")


class Job(View):
    id = models.BigIntegerField(primary_key=True)
    task = models.TextField()
    queue = models.TextField()
    state = models.TextField()  # ready, running, done, failed, cancelled
    args = models.JSONField()
    attempt = models.IntegerField()
    max_attempts = models.IntegerField()
    run_at = models.DateTimeField()
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    schedule = models.TextField(null=True)
    owner_id = models.UUIDField(null=True)
    progress = models.FloatField(null=True)
    note = models.TextField(null=True)
    result = models.JSONField(null=True)
    last_error = models.JSONField(null=True)

    class Meta:
        managed = False
        db_table = '"pgtick"."jobs"'


class Schedule(View):
    id = models.BigIntegerField(primary_key=True)
    name = models.TextField()
    cron = models.TextField()
    time_zone = models.TextField()
    task = models.TextField()
    next_at = models.DateTimeField(null=True)
    paused_at = models.DateTimeField(null=True)
    last_slot = models.DateTimeField(null=True)
    last_fate = models.TextField(null=True)  # enqueued, caught_up, run_now, skipped_overlap, skipped_paused, missed …
    last_state = models.TextField(null=True)  # of its job

    class Meta:
        managed = False
        db_table = '"pgtick"."schedules"'


class Slot(View):
    slot = models.DateTimeField(primary_key=True)  # Django wants one column; it is unique within a schedule
    schedule = models.TextField()
    fate = models.TextField()
    reason = models.TextField(null=True)
    job = models.ForeignKey(Job, null=True, on_delete=models.DO_NOTHING, db_constraint=False)

    class Meta:
        managed = False
        db_table = '"pgtick"."slots"'
