import os
from unittest import mock

from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError
from django.test import TestCase, override_settings
from django.urls import reverse

from .models import Entry
from .version import RELEASE_NOTE, VERSION

# Neither a collected manifest nor a folder for uploads is needed to run the tests.
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}


@override_settings(STORAGES=STORAGES)
class GuestbookTests(TestCase):
    def sign(self, **fields):
        return self.client.post(reverse("guestbook:sign"), {"name": "Ada", "message": "Hello.", **fields}, follow=True)

    def test_empty_guestbook_invites(self):
        self.assertContains(self.client.get("/"), "Nobody has signed yet")

    def test_entry_appears_on_the_front_page(self):
        response = self.sign(message="<b>Hello</b>")
        self.assertContains(response, "Thank you, Ada.")
        self.assertContains(response, "&lt;b&gt;Hello&lt;/b&gt;")

    def test_attachment_is_stored_and_linked(self):
        response = self.sign(attachment=SimpleUploadedFile("poem.txt", b"Roses are red"))
        entry = Entry.objects.get()
        self.assertContains(response, f'href="{entry.attachment.url}"')
        self.assertEqual(entry.attachment.read(), b"Roses are red")

    def test_refused_entries_are_not_stored(self):
        page = SimpleUploadedFile("page.html", b"<script></script>")
        for fields in ({"name": ""}, {"message": ""}, {"attachment": page}):
            with self.subTest(fields=fields):
                self.assertContains(self.sign(**fields), "errorlist")
        self.assertFalse(Entry.objects.exists())

    def test_hidden_entry_is_not_listed(self):
        Entry.objects.create(name="Eve", message="Buy now", hidden=True)
        self.assertNotContains(self.client.get("/"), "Buy now")

    def test_pages_hold_ten_entries(self):
        Entry.objects.bulk_create(Entry(name=f"Guest {number}", message="Hello") for number in range(11))
        self.assertEqual(len(self.client.get("/").context["entry_list"]), 10)
        self.assertEqual(len(self.client.get("/?page=2").context["entry_list"]), 1)

    def test_admin_lists_entries(self):
        Entry.objects.create(name="Eve", message="Buy now", hidden=True)
        self.client.force_login(get_user_model().objects.create_superuser("admin"))
        self.assertContains(self.client.get(reverse("admin:guestbook_entry_changelist")), "Eve")


class OperationTests(TestCase):
    def test_health(self):
        self.assertContains(self.client.get("/healthz"), "ok")

    def test_health_without_database(self):
        with mock.patch.object(Entry.objects, "exists", side_effect=OperationalError):
            self.assertEqual(self.client.get("/healthz").status_code, 503)

    def test_release(self):
        with mock.patch.dict(os.environ, {"DJANGO_RELEASE": "0001-abc"}):
            answer = self.client.get("/release").json()
        self.assertEqual(answer, {"release": "0001-abc", "pid": os.getpid(), "version": VERSION, "note": RELEASE_NOTE})

    def test_slow_waits(self):
        with mock.patch("time.sleep") as sleep:
            self.assertEqual(self.client.get("/slow?seconds=2.5").json()["seconds"], 2.5)
        sleep.assert_called_once_with(2.5)

    def test_slow_is_bounded(self):
        for seconds in ("31", "-1", "nan", "long", ""):
            with self.subTest(seconds=seconds), mock.patch("time.sleep") as sleep:
                self.assertEqual(self.client.get("/slow", {"seconds": seconds}).status_code, 400)
                sleep.assert_not_called()
