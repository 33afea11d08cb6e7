"""What a view calls."""

from datetime import timedelta

from django.db import transaction

import credits
import pgtick
from pgtick.models import Job

from .models import Render

PRICE = 10


def order_render(user_id, prompt):
    """The order, the credits set aside for it and its job come to be together; without enough credits none does."""
    with transaction.atomic():
        render = Render.objects.create(user_id=user_id, prompt=prompt)
        render.hold_id = credits.hold(user_id, PRICE, timedelta(hours=1), f"render-{render.id}")
        render.job_id = pgtick.enqueue("shop.render", {"render": render.id}, owner_id=user_id, max_attempts=5, timeout=timedelta(minutes=10))
        render.save()
    return render


def status(render):
    """What Celery's AsyncResult was asked for."""
    job = Job.objects.get(pk=render.job_id)
    return {"state": job.state, "progress": job.progress, "note": job.note, "result": job.result, "error": job.last_error and job.last_error["message"]}
