"""The credit ledger from Django. Each call is safe to repeat: the same key means the same request."""

from collections import namedtuple

from django.db import DatabaseError, connection

Balance = namedtuple("Balance", "balance held available")


class NotEnough(Exception):
    """The user has fewer credits than that; the message says how many."""


def open_account(user_id, tier="standard"):
    call("credits.open_account(%s, %s)", user_id, tier)


def grant(user_id, amount, key, description=None):
    return call("credits.grant(%s, %s, %s, %s)", user_id, amount, key, description)[0]


def charge(user_id, amount, key, endpoint=None):
    return call("credits.charge(%s, %s, %s, %s)", user_id, amount, key, endpoint)[0]


def hold(user_id, amount, lasts, key):
    """Sets credits aside for so long (a timedelta); returns the hold's id."""
    return call("credits.hold(%s, %s, %s, %s)", user_id, amount, lasts, key)[0]


def capture(hold_id, amount=None):
    """Charges what a hold has set aside, all of it or a part; the rest is released."""
    return call("credits.capture(%s, %s)", hold_id, amount)[0]


def release(hold_id, why=None):
    return call("credits.release(%s, %s)", hold_id, why)[0]


def balance(user_id):
    return Balance(*call("credits.balance(%s)", user_id))


def call(function, *args):
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"select * from {function}", args)
            return cursor.fetchone()
    except DatabaseError as error:
        if getattr(error.__cause__, "pgcode", None) == "TK101":  # docs/errors.md has the others
            raise NotEnough(error.__cause__.diag.message_primary) from error
        raise
