"""Django's test runner, with pgtick in the test database."""

import os
import subprocess
from urllib.parse import urlparse

from django.db import connection
from django.test.runner import DiscoverRunner


class Runner(DiscoverRunner):
    def setup_databases(self, **options):
        old = super().setup_databases(**options)
        url = urlparse(os.environ["DATABASE_URL"])._replace(path="/" + connection.settings_dict["NAME"]).geturl()
        done = subprocess.run([os.environ.get("PGTICK", "pgtick"), "migrate"], env={**os.environ, "DATABASE_URL": url}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return old
