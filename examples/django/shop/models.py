from django.db import models


class Render(models.Model):
    """A picture that somebody has ordered."""

    user_id = models.UUIDField()
    prompt = models.TextField()
    hold_id = models.BigIntegerField(null=True)
    job_id = models.BigIntegerField(null=True)
    picture = models.TextField(null=True)
