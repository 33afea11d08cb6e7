"""What a worker runs: manage.py work."""

from django.db import transaction

import credits
import pgtick
from pgtick.tasks import task

from .models import Render


@task("shop.render")
def render(job):
    order = Render.objects.get(pk=job.args["render"])
    job.progress(0.5, "half of it is drawn")
    picture = f"a picture of {order.prompt}"
    job.check()  # raises when the job was cancelled, its time is up, or another worker has it
    with transaction.atomic():  # the picture, its price and the end of the job: all, or nothing
        order.picture = picture
        order.save()
        credits.capture(order.hold_id, 7)
        pgtick.finish_in_transaction(job, {"length": len(picture)})
