from pathlib import PurePosixPath

from django.core.validators import FileExtensionValidator
from django.db import models

ATTACHMENT_EXTENSIONS = ["gif", "jpeg", "jpg", "pdf", "png", "txt", "webp"]


class Entry(models.Model):
    name = models.CharField(max_length=80)
    message = models.TextField(max_length=2000)
    attachment = models.FileField(
        upload_to="attachments/%Y/%m/",
        blank=True,
        validators=[FileExtensionValidator(ATTACHMENT_EXTENSIONS)],
        help_text="A picture, a PDF or a text file.",
    )
    hidden = models.BooleanField(default=False, help_text="Hidden entries are seen in the admin only.")
    created = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-created", "-pk"]
        verbose_name_plural = "entries"

    def __str__(self):
        return f"{self.name}, {self.created:%Y-%m-%d}"

    @property
    def attachment_name(self):
        return PurePosixPath(self.attachment.name).name
