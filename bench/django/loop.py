"""The four credit tasks as Django code usually has them: one transaction and a few ORM calls for each row.

Usage: loop.py URL TASK ROWS, with TASK one of allocate, sync, release, pending. It makes its own tables, fills them, and prints rows a
second. Django and psycopg2 are Debian's python3-django and python3-psycopg2.
"""

import sys
import time
import uuid
from datetime import timedelta
from urllib.parse import urlparse

import django
from django.conf import settings

URL, TASK, ROWS = urlparse(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings.configure(
    INSTALLED_APPS=[],
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": URL.path[1:],
            "USER": URL.username,
            "PASSWORD": URL.password,
            "HOST": URL.hostname,
            "PORT": URL.port,
            "CONN_MAX_AGE": None,
        }
    },
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402
from django.db.models import F  # noqa: E402
from django.utils import timezone  # noqa: E402


class Account(models.Model):
    user_id = models.UUIDField(primary_key=True)
    balance = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)

    class Meta:
        app_label = "orm"


class Hold(models.Model):
    account = models.ForeignKey(Account, on_delete=models.PROTECT)
    amount = models.BigIntegerField()
    status = models.CharField(max_length=20, default="open", db_index=True)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        app_label = "orm"


class Transaction(models.Model):
    account = models.ForeignKey(Account, on_delete=models.PROTECT)
    type = models.CharField(max_length=20)
    amount = models.BigIntegerField()
    balance_after = models.BigIntegerField(null=True)
    status = models.CharField(max_length=20, default="COMPLETED", db_index=True)
    period = models.DateField(null=True)
    synced = models.BooleanField(default=False, db_index=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        app_label = "orm"


class Usage(models.Model):
    transaction_id = models.BigIntegerField(primary_key=True)
    user_id = models.UUIDField()
    type = models.CharField(max_length=20)
    amount = models.BigIntegerField()

    class Meta:
        app_label = "orm"


def fill():
    with connection.schema_editor() as editor:
        for model in (Account, Hold, Transaction, Usage):
            editor.create_model(model)
    accounts = Account.objects.bulk_create([Account(user_id=uuid.uuid4(), balance=1000, held=5) for _ in range(ROWS)])
    past = timezone.now() - timedelta(hours=1)
    if TASK == "release":
        Hold.objects.bulk_create([Hold(account=a, amount=5, expires_at=past) for a in accounts])
    elif TASK == "pending":
        Transaction.objects.bulk_create([Transaction(account=a, type="addition", amount=3, status="PENDING", created_at=past) for a in accounts])
    elif TASK == "sync":
        Transaction.objects.bulk_create([Transaction(account=a, type="deduction", amount=-3, balance_after=997) for a in accounts])


def release():
    for hold in Hold.objects.filter(status="open", expires_at__lte=timezone.now()).iterator():
        with transaction.atomic():
            account = Account.objects.select_for_update().get(pk=hold.account_id)
            account.held = F("held") - hold.amount
            account.save(update_fields=["held"])
            hold.status = "expired"
            hold.save(update_fields=["status"])
            Transaction.objects.create(account_id=hold.account_id, type="release", amount=0)


def allocate():
    month = timezone.now().date().replace(day=1)
    for account in Account.objects.all().iterator():
        with transaction.atomic():
            account = Account.objects.select_for_update().get(pk=account.pk)
            if Transaction.objects.filter(account=account, type="allocation", period=month).exists():
                continue
            account.balance += 100
            account.save(update_fields=["balance"])
            Transaction.objects.create(account=account, type="allocation", amount=100, balance_after=account.balance, period=month)


def pending():
    for entry in Transaction.objects.filter(status="PENDING").iterator():
        with transaction.atomic():
            account = Account.objects.select_for_update().get(pk=entry.account_id)
            account.balance += entry.amount
            account.save(update_fields=["balance"])
            entry.status, entry.balance_after = "COMPLETED", account.balance
            entry.save(update_fields=["status", "balance_after"])


def sync():
    for entry in Transaction.objects.filter(synced=False, status="COMPLETED").select_related("account").iterator():
        with transaction.atomic():
            Usage.objects.update_or_create(
                transaction_id=entry.pk, defaults={"user_id": entry.account_id, "type": entry.type, "amount": entry.amount}
            )
            entry.synced = True
            entry.save(update_fields=["synced"])


fill()
with connection.cursor() as cursor:
    cursor.execute("analyze")
began = time.monotonic()
{"release": release, "allocate": allocate, "pending": pending, "sync": sync}[TASK]()
print(ROWS / (time.monotonic() - began))
