import uuid
from types import SimpleNamespace

from django.db import DatabaseError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test import SimpleTestCase, TestCase

import credits
import pgtick
from pgtick.models import Job, Schedule

from . import orders, tasks
from .models import Render


class Orders(TestCase):
    def setUp(self):
        self.user = uuid.uuid4()
        credits.open_account(self.user)
        credits.grant(self.user, 25, "start")

    def test_an_order_has_its_hold_and_its_job(self):
        render = orders.order_render(self.user, "a red fox")
        job = Job.objects.get(pk=render.job_id)
        self.assertEqual((job.task, job.state, job.args), ("shop.render", "ready", {"render": render.id}))
        self.assertEqual(job.owner_id, self.user)
        self.assertEqual(credits.balance(self.user), (25, 10, 15))
        self.assertEqual(orders.status(render)["state"], "ready")

    def test_without_enough_credits_there_is_no_order_and_no_job(self):
        with self.assertRaisesMessage(credits.NotEnough, "10 needed, 5 available"), transaction.atomic():
            for n in range(3):
                orders.order_render(self.user, f"fox {n}")
        self.assertEqual(Render.objects.count(), 0)
        self.assertEqual(Job.objects.filter(task="shop.render").count(), 0)

    def test_a_cancelled_job_can_be_retried(self):
        render = orders.order_render(self.user, "a red fox")
        self.assertEqual(pgtick.cancel(render.job_id), "cancelled")
        self.assertEqual(pgtick.retry(render.job_id), "ready")

    def test_a_task_is_a_function(self):
        render = orders.order_render(self.user, "a red fox")
        with connection.cursor() as cursor:  # as a worker would: the job must be claimed
            cursor.execute("select pgtick.register('test', '{default}', '{shop.render}')")
            cursor.execute("select id, fence, args from pgtick.claim(%s, '{default}', '{shop.render}', 1)", cursor.fetchone())
            id, fence, _ = cursor.fetchone()
        tasks.render(SimpleNamespace(id=id, fence=fence, args={"render": render.id}, progress=lambda *_: None, check=lambda: None))
        render.refresh_from_db()
        self.assertEqual(render.picture, "a picture of a red fox")
        self.assertEqual(credits.balance(self.user), (18, 0, 18))
        self.assertEqual(orders.status(render)["state"], "done")

    def test_a_wrong_option_is_named(self):
        with self.assertRaisesMessage(TypeError, "no option countdown"):
            pgtick.enqueue("shop.render", countdown=5)
        with self.assertRaisesMessage(DatabaseError, "priority"), transaction.atomic():
            pgtick.enqueue("shop.render", priority=10)

    def test_the_four_schedules_are_there(self):
        self.assertEqual(
            list(Schedule.objects.order_by("name").values_list("name", "cron")),
            [
                ("cleanup-expired-credit-holds", "0 */3 * * *"),
                ("periodic-credit-allocation", "0 0 1 * *"),
                ("process-pending-credit-transactions", "*/15 * * * *"),
                ("sync-credit-usage-with-supabase", "*/10 * * * *"),
            ],
        )

    def test_views_are_not_written(self):
        render = orders.order_render(self.user, "a red fox")
        with self.assertRaises(TypeError):
            Job.objects.get(pk=render.job_id).save()


class OutsideOfATransaction(SimpleTestCase):
    databases = {"default"}

    def test_finish_in_transaction_is_refused(self):
        with self.assertRaises(TransactionManagementError):
            pgtick.finish_in_transaction(SimpleNamespace(id=1, fence=1))
