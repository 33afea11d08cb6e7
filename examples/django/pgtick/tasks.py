"""Tasks that use Django, for examples/worker-python/worker.py: copy that file beside manage.py, and import this in worker processes only."""

from functools import wraps

from django.db import close_old_connections

import worker


def task(name):
    """As worker.task, for functions that use the ORM: the connections of Django are looked after as in a request."""

    def register(function):
        @wraps(function)
        def run(job):
            close_old_connections()
            try:
                return function(job)
            finally:
                close_old_connections()

        worker.task(name)(run)
        return function

    return register
