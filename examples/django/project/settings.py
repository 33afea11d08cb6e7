"""Settings of the example. No broker, no result backend, no CELERY_ anything: what is left is the database."""

import os
from urllib.parse import unquote, urlparse

DATABASE_URL = urlparse(os.environ["DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": DATABASE_URL.path[1:],
        "USER": unquote(DATABASE_URL.username or ""),
        "PASSWORD": unquote(DATABASE_URL.password or ""),
        "HOST": DATABASE_URL.hostname or "",
        "PORT": DATABASE_URL.port or "",
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["pgtick", "shop"]
SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
TEST_RUNNER = "project.testing.Runner"
USE_TZ = True
