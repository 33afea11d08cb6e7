from django.core.management.base import BaseCommand

import shop.tasks  # noqa: F401 - registers them
import worker


class Command(BaseCommand):
    help = "Run jobs until SIGTERM. Settings: DATABASE_URL, QUEUES, WORKERS, LEASE, POLL, GRACE."

    def handle(self, *args, **options):
        worker.main()
